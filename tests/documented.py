"""The commands that README.md and docs/*.md show, and the output that a page shows under them.

A ```bash block holds commands; a ```text block right after it holds lines of what they print.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$\n*(?:^ *```text\n(.*?)^ *```$)?", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^```yaml\n# (\S+\.yaml)\n.*?^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    commands: list[list[str]]  # the words of each, without comments
    output: list[str]  # lines that the page shows of what they print


def blocks_of(text: str) -> list[Block]:
    """The ```bash blocks of a page, in order."""
    return [
        Block([shlex.split(line, comments=True) for line in lines_of(found[2])], (found[3] or "").splitlines())
        for found in FENCE.finditer(text)
        if found[1] == "bash"
    ]


def files_of(text: str) -> dict[str, str]:
    """What ```yaml blocks hold whose first line names their file."""
    return {found[1]: found[0].removeprefix("```yaml\n").removesuffix("```") for found in FILE.finditer(text)}


def lines_of(script: str) -> list[str]:
    """Its commands, continued lines joined; comments and empty lines left out."""
    joined = re.sub(r"\\\n\s*", " ", script)
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def blocks() -> dict[str, list[Block]]:
    """By page; pages without a command are left out."""
    found = {name: blocks_of(page.read_text()) for name, page in PAGES.items()}
    return {name: page for name, page in found.items() if page}


def is_ours(words: list[str]) -> bool:
    return words[0] == "lesionforge"


def parted(words: list[str]) -> tuple[list[str], str | None]:
    """A command without its redirection, and the file that its output goes to."""
    if ">" in words:
        return words[: words.index(">")], words[words.index(">") + 1]
    return words, None


def with_options(words: list[str], changes: dict[str, list[str] | None]) -> list[str]:
    """A command with some options set anew: the words of each, or None to leave it away."""
    kept: list[str] = []
    skipping = False
    for word in words:
        if word.startswith("--"):
            option = word.partition("=")[0]
            skipping = any(option in (name, name.replace("--", "--no-", 1)) for name in changes)
        if not skipping:
            kept.append(word)
    for name, values in changes.items():
        if values is not None:
            kept += [name, *values]
    return kept


def changes(text: str) -> dict[str, list[str] | None]:
    """What `with_options` takes, as one would type it; `-` as the only word leaves an option away."""
    found: dict[str, list[str] | None] = {}
    for part in re.split(r"(?:^|\s+)(?=--)", text.strip()):
        if part:
            name, *values = shlex.split(part)
            found[name] = None if values == ["-"] else values
    return found


def value_of(words: list[str], option: str) -> str | None:
    """The first word of an option, None where the command has none."""
    return words[words.index(option) + 1] if option in words else None


def alike(line: str) -> str:
    """A line with what differs from run to run left out: numbers, and how wide a column is."""
    return " ".join(re.sub(r"-?\d[\d,.:]*(e-?\d+)?", "0", line).split())
