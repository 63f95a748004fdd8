"""What sections are made of: tables, drawings, pictures, notes. All text that comes from outside is escaped here."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from lesionforge.reporting import svg
from lesionforge.reporting.drawing import Drawing
from lesionforge.reporting.table_files import INTERVAL, NOTHING, shown

COMMAND = re.compile("`([^`]+)`")
HYPHEN = re.compile(r"(?<!\w)-(?=\d)")
MOST_ROWS = 400  # of a table in the page, our choice: more are in its files
SHORT, LONG = 14, 40  # characters of a cell


class Table(NamedTuple):
    """A table for the page and for the files tables/NAME.csv, .md and .tex."""

    name: str
    caption: str
    rows: Sequence[Mapping[str, Any]]
    titles: Mapping[str, str]  # column -> heading
    digits: Mapping[str, int] = {}
    intervals: Mapping[str, tuple[str, str]] = INTERVAL
    notes: Sequence[str] = ()


class Section(NamedTuple):
    """A chapter of the page, with what is written beside it as files."""

    anchor: str
    title: str
    html: str
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    short: str = ""  # the title in the navigation


class Image(NamedTuple):
    """An encoded picture in the page."""

    data: bytes
    caption: str = ""  # text
    about: str = ""  # for those who cannot see it, and when it is enlarged
    mark: str = ""  # kept, dropped, ...: a badge


def text(words: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{f' class={kind}' if kind else ''}>{in_html(words)}</p>"


def in_html(words: str) -> str:
    """Text as HTML; a number and its percent sign stay on one line, `commands` are set as such."""
    return COMMAND.sub(r"<code>\1</code>", escape(words).replace(" %", "\N{NO-BREAK SPACE}%"))


def missing(words: str) -> str:
    """What a section lacks, and how it is had."""
    return f'<p class="missing">{in_html(words)}</p>'


def warning(words: str) -> str:
    return f'<p class="warning">{in_html(words)}</p>'


def details(summary: str, inside: str, is_printed: bool = True) -> str:
    """What is folded; paper shows it open, or not at all where it is long and lies in a file."""
    kind = "" if is_printed else ' class="long"'
    return f"<details{kind}><summary>{in_html(summary)}</summary>{inside}</details>"


def drawing(one: Drawing, caption: str = "") -> str:
    """A figure with what it shows, as text, below."""
    under = f"<figcaption>{in_html(caption)}</figcaption>" if caption else ""
    return f'<figure id="fig-{escape(one.name)}"><div class="scroll">{svg.inline(one)}</div>{under}</figure>'


def table(one: Table, marked: Mapping[int, str] | None = None, sortable: bool = True) -> str:
    """A table that a click on a heading sorts.

    Args:
        marked: row number -> class of the row.
    """
    from polars import DataFrame

    frame = DataFrame([dict(row) for row in one.rows], infer_schema_length=None)
    if not len(frame):
        return ""
    found = shown(frame, one.titles, one.digits, one.intervals)
    heads = "".join(
        f'<th scope="col"{number_class(is_number)}>'
        + (f"<button>{in_html(title)}</button>" if sortable else escape(title))
        + "</th>"
        for title, is_number in zip(found.titles, found.is_number, strict=True)
    )
    lines = []
    for i, row in enumerate(found.rows[:MOST_ROWS]):
        cells = []
        for name, words, is_number in zip(one.titles, row, found.is_number, strict=True):
            value = one.rows[i].get(name)
            key = f' data-v="{value!r}"' if is_number and value is not None else ""
            kind = number_class(is_number) or text_class(words)
            cells.append(f"<td{kind}{key}>{in_cell(words, is_number)}</td>")
        row_kind = (marked or {}).get(i)
        lines.append(f"<tr{f' class={row_kind}' if row_kind else ''}>{''.join(cells)}</tr>")
    more = len(one.rows) - MOST_ROWS
    rest = [f"{more:,} more rows are in tables/{one.name}.csv."] if more > 0 else []
    notes = "".join(f"<li>{in_html(note)}</li>" for note in (*rest, *one.notes))
    under = f'<ul class="notes">{notes}</ul>' if notes else ""
    style = " class=sortable" if sortable else ""
    return (
        f'<figure class="table" id="tab-{escape(one.name)}"><figcaption>{in_html(one.caption)}</figcaption>'
        '<div class="scroll">'
        f"<table{style}><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{under}</figure>"
    )


def number_class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def text_class(words: str) -> str:
    """Short text is not broken, long text gets a wide column."""
    return " class=s" if len(words) <= SHORT else " class=w" if len(words) > LONG else ""


def in_cell(words: str, is_number: bool) -> str:
    """A cell's text, with true minus signs, its interval in a quieter colour."""
    if words == NOTHING:
        return "–"
    if is_number:
        words = HYPHEN.sub("\N{MINUS SIGN}", words)
    head, bracket, tail = words.partition(" (")
    if bracket and tail.endswith(")") and " to " in tail:
        return f"{escape(head)} <span class=q>({escape(tail)}</span>"
    return escape(words)


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows if value)
    return f"<dl class=facts>{inside}</dl>" if inside else ""


def source(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def plate(one: Image, name: str = "") -> str:
    """A large picture on white, which a click enlarges."""
    anchor = f' id="fig-{escape(name)}"' if name else ""
    return (
        f'<figure class="plate"{anchor}><button class="zoom" aria-label="enlarge"><img '
        f'alt="{escape(one.about or one.caption)}" src="{source(one.data)}"></button>'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
    )


def images(shown_images: Sequence[Image], kind: str = "lesions") -> str:
    """Small pictures in a grid, which a click enlarges."""
    cells = []
    for one in shown_images:
        badge = f'<span class="badge {escape(one.mark.split()[0])}">{escape(one.mark)}</span>' if one.mark else ""
        caption = f"<figcaption>{badge}{lines(one.caption)}</figcaption>" if one.caption or badge else ""
        cells.append(
            f'<figure><button class="zoom" aria-label="enlarge"><img '
            f'alt="{escape(one.about or one.caption)}" '
            f'src="{source(one.data)}"></button>{caption}</figure>'
        )
    return f'<div class="{kind}">{"".join(cells)}</div>'


def lines(words: str) -> str:
    return "<br>".join(escape(line) for line in words.split("\n"))


def code(words: str) -> str:
    """A block of commands with a button that copies it."""
    return f'<div class="code"><button class="copy" hidden>copy</button><pre><code>{escape(words)}</code></pre></div>'
