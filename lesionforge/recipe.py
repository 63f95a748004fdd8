"""Recipes: the shipped ones, and how a YAML file is read into settings and the lines they stand on.

Recipes are YAML 1.2 (`1e-4` is a number, `no` and `off` are words), without aliases and tags; a key may stand once.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lesionforge.config import FLOAT, INTEGER
from lesionforge.errors import BadInput

MOST_BYTES = 2**20  # our choice: a thousand times the longest recipe

Key = tuple[str, ...]  # ("optim", "lr")


class Recipe(NamedTuple):
    name: str  # as an error names it
    settings: dict[str, Any]
    lines: dict[Key, int]  # where each key stands


# ---------------------------------------------------------------------------------------------------- shipped recipes


def shipped() -> dict[str, str]:
    """Name and text of each recipe in the package."""
    folder = resources.files("lesionforge") / "recipes"
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")] if folder.is_dir() else []
    return {file.name.removesuffix(".yaml"): file.read_text("utf-8") for file in sorted(files, key=lambda f: f.name)}


def shipped_text(name: str) -> str:
    recipes = shipped()
    if name not in recipes:
        listed = ", ".join(recipes) + did_you_mean(name, recipes)
        raise BadInput(f"unknown recipe '{name}'; expected a path that ends in .yaml, or one of {listed}")
    return recipes[name]


def first_sentence(text: str) -> str:
    """The first sentence of the comment at a recipe's head."""
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#") or (head and not line.strip("# ")):
            break
        head.append(line.lstrip("#").strip())
    return re.split(r"(?<=[.!?])\s", " ".join(head).strip(), maxsplit=1)[0]


def find_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by the name of a shipped one, or from a file."""
    path = Path(name_or_path)
    if path.is_dir():
        raise BadInput(f"recipe {path}: found a folder, expected a YAML file such as {path / 'config.yaml'}")
    if path.suffix in (".yaml", ".yml") or path.is_file() or len(path.parts) > 1:
        return read_recipe(path)
    return parse_recipe(shipped_text(name_or_path), name_or_path)


# ----------------------------------------------------------------------------------------------------------- the YAML


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema, and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  none of YAML 1.1's: no `off`, no 1:30, no dates

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="found an alias (*name), write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value
        if node.tag == "tag:yaml.org,2002:int":
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", INTEGER, list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z"), _first)
for _tag in ("int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.number)


def read_recipe(path: Path) -> Recipe:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"recipe {path}: found {path.stat().st_size:,} bytes, expected a recipe under 1 MiB")
        return parse_recipe(path.read_bytes().decode("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        names = shipped()
        hint = f"; the shipped recipe is called {path.stem}" if path.stem in names else did_you_mean(path.stem, names)
        raise BadInput(f"recipe {path}: no such file{hint}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"recipe {path}: found bytes that are not UTF-8, expected a YAML text file") from error
    except OSError as error:
        raise BadInput(f"recipe {path}: cannot be read ({error.strerror})") from error


def parse_recipe(text: str, name: str) -> Recipe:
    """Parse YAML whose root is a mapping.

    Raises:
        BadInput: empty, not YAML, not a mapping, a key twice, a key that is not a word.
    """
    try:
        loader = Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise BadInput(f"recipe {name}: the file is empty, expected `key: value` lines")
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            raise BadInput(f"recipe {name}: found {kind}, expected `key: value` lines")
        lines = dict(key_lines(root, name))
        return Recipe(name, loader.construct_document(root), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        tabs = "; indent with spaces, not tabs" if "\\t" in str(error.problem) else ""
        raise BadInput(f"recipe {name}{line}: not valid YAML, {error.problem or error.context}{tabs}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = str(error).strip().splitlines()[0]
        raise BadInput(f"recipe {name}: not valid YAML, {what}") from error


def key_lines(node: yaml.Node, name: str, prefix: Key = ()) -> Iterator[tuple[Key, int]]:
    """The line of each key, nested lists as positions; refuses a key twice and a key that is not a word."""
    if isinstance(node, yaml.SequenceNode):
        for position, child in enumerate(node.value):
            yield from key_lines(child, name, (*prefix, str(position)))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, child in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise BadInput(f"recipe {name} line {line}: found a key that is not a word, expected `key: value`")
        dotted = ".".join((*prefix, key.value))
        if key.value in seen:
            raise BadInput(f"recipe {name}: {dotted} stands twice, on lines {seen[key.value]} and {line}; keep one")
        seen[key.value] = line
        yield (*prefix, key.value), line
        yield from key_lines(child, name, (*prefix, key.value))


def scalar(word: str) -> Any:
    """A word of the command line as YAML 1.2 reads it; a list or mapping in brackets too; `none` is null."""
    if word.lower() == "none":
        return None
    if not word or word != word.strip():
        return word
    loader = Loader(word if word[0] in "[{" else "")
    if word[0] in "[{":
        try:
            return loader.get_single_data()
        except (yaml.YAMLError, ValueError, RecursionError):
            return word
    try:
        return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, word, (True, False)), word))
    except ValueError:
        return word


def did_you_mean(word: str, among: Sequence[str] | Mapping[str, Any], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(word, list(among), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""
