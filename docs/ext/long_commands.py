"""Long commands are broken before an option, with the backslash that a shell wants, so that no page cuts them off."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

WIDEST = 104  # columns of a code block in the theme
LANGUAGES = ("bash", "console")


def broken(line: str) -> str:
    """`lesionforge train --a b --c d` => two lines, the second indented; a comment at the end stays whole."""
    if len(line) <= WIDEST or " --" not in line or "  #" in line:
        return line
    pieces = line.replace(" --", "\0--").split("\0")
    rows = [pieces[0]]
    for piece in pieces[1:]:
        if len(rows[-1]) + 1 + len(piece) <= WIDEST - 2:
            rows[-1] += f" {piece}"
        else:
            rows.append(f"    {piece}")
    return " \\\n".join(row.rstrip() for row in rows)


def break_long_commands(app: Sphinx, doctree: nodes.document) -> None:
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") in LANGUAGES:
            text = "\n".join(broken(line) for line in block.astext().split("\n"))
            block.rawsource, block.children = text, [nodes.Text(text)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", break_long_commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
