"""Every table of a report as three files: CSV with the bare values, Markdown and LaTeX as a reader sees them.

An estimate is shown with its interval in one cell, `0.096 (0.062 to 0.149)`. LaTeX needs the package booktabs.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from lesionforge import tables
from lesionforge.files import write_whole

ENDINGS = (".csv", ".md", ".tex")
NOTHING = "-"  # a cell without a value
DIGITS = 3  # after the point, where the caller does not say
SMALLEST_P = 0.001
P_VALUES = (tables.P_VALUE, tables.P_HOLM, tables.PERMUTATION_P)
INTERVAL = {tables.ESTIMATE: (tables.LOW, tables.HIGH)}  # column -> the ends of its interval

LATEX_WORDS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "\u2212": "$-$", "\u00d7": r"$\times$", "\u00b1": r"$\pm$", "\u2264": r"$\leq$", "\u2265": r"$\geq$",
    "\u2248": r"$\approx$", "\u2260": r"$\neq$", "\u2192": r"$\rightarrow$", "\u2190": r"$\leftarrow$",
    "\u00b0": r"\textdegree{}", "\u00b5": r"$\mu$", "\u03bc": r"$\mu$", "\u03b1": r"$\alpha$", "\u03b2": r"$\beta$",
    "\u0394": r"$\Delta$", "\u03c3": r"$\sigma$", "\u2013": "--", "\u2014": "---", "\u2026": r"\ldots{}",
    "\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": "''", "\u2022": r"\textbullet{}", "\u00b2": r"$^{2}$",
    "\u00b3": r"$^{3}$", "\u00a0": "~",
}  # fmt: skip
LONG_CELL = 16  # letters; a longer cell is broken into lines where the table is too wide for a page
LETTERS_A_LINE = 100  # of a page, in small print
MOST_ROWS = 35  # or lines of words, that surely fit a page; a longer table breaks over pages
MARKDOWN_MARKS = re.compile(r"([\\|`*_{}\[\]<>#~$])")


class Shown(NamedTuple):
    """A table as a reader sees it: text without any mark-up."""

    titles: list[str]
    rows: list[list[str]]
    is_number: list[bool]  # a column that stands to the right


def write_table_files(
    folder: Path,
    name: str,
    table: pl.DataFrame | Sequence[Mapping[str, Any]],
    caption: str,
    titles: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
    intervals: Mapping[str, tuple[str, str]] = INTERVAL,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write NAME.csv (all columns, values in full), NAME.md and NAME.tex (columns of `titles`, as `shown`).

    Args:
        table: a frame, or rows as mappings from column to value.
        titles: column -> its heading, in the order of the columns; None shows all under their own names.
        digits: column -> digits after the point.
        intervals: column -> columns of the ends of its interval, which then stand in its cell.
        notes: sentences below the table.

    Returns: the three paths.
    """
    if not isinstance(table, pl.DataFrame):
        table = pl.DataFrame(list(table), infer_schema_length=None)
    paths = [folder / f"{name}{ending}" for ending in ENDINGS]
    tables.write_table(paths[0], table)
    found = shown(table, titles, digits, intervals)
    for path, text in zip(
        paths[1:], (as_markdown(found, caption, notes), as_latex(found, caption, name, notes)), strict=True
    ):
        with write_whole(path, "wb") as file:
            file.write(text.encode())
    return paths


def shown(
    table: pl.DataFrame,
    titles: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
    intervals: Mapping[str, tuple[str, str]] = INTERVAL,
) -> Shown:
    """The cells of a table in words; the report's page is made of the same ones."""
    intervals = {name: ends for name, ends in intervals.items() if {name, *ends} <= set(table.columns)}
    ends = {end for pair in intervals.values() for end in pair}
    titles = titles if titles is not None else {name: name for name in table.columns if name not in ends}
    if unknown := [name for name in titles if name not in table.columns]:
        raise ValueError(f"titles of columns that the table lacks: {unknown}; it has {table.columns}")
    columns = []
    for name in titles:
        places = (digits or {}).get(name, DIGITS)
        values = table[name].to_list()
        if name in intervals:
            low, high = (table[end].to_list() for end in intervals[name])
            columns.append([with_interval(*cell, places) for cell in zip(values, low, high, strict=True)])
        elif name in P_VALUES:
            columns.append([p_value(value) for value in values])
        else:
            columns.append([cell(value, places) for value in values])
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Shown(list(titles.values()), rows, [table[name].dtype.is_numeric() for name in titles])


def cell(value: Any, digits: int = DIGITS) -> str:
    """A value in words: 1,581; 0.096; yes; text on one line; `-` for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        text = f"{value:,.{digits}f}"
        return text.lstrip("-") if not float(text.replace(",", "")) else text  # no -0.000
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(one, digits) for one in value)
    return one_line(str(value))


def with_interval(estimate: float | None, low: float | None, high: float | None, digits: int = DIGITS) -> str:
    """`0.096 (0.062 to 0.149)`, or the estimate alone where there is no interval."""
    ends = [cell(end, digits) for end in (low, high)]
    shown_estimate = cell(estimate, digits)
    return shown_estimate if NOTHING in (shown_estimate, *ends) else f"{shown_estimate} ({ends[0]} to {ends[1]})"


def p_value(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


def one_line(text: str) -> str:
    """Text without line ends, tabs and control characters."""
    spaced = "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in text)
    return " ".join(spaced.split())


# ------------------------------------------------------------------------------------------------------------ Markdown


def as_markdown(found: Shown, caption: str, notes: Sequence[str] = ()) -> str:
    """A table as GitHub and MyST read it, its caption above and its notes below."""
    rules = ["---:" if right else "---" for right in found.is_number]
    lines = [markdown_row(map(in_markdown, found.titles)), markdown_row(rules)]
    lines += [markdown_row(map(in_markdown, row)) for row in found.rows]
    below = [f"- {in_markdown(note)}" for note in notes]
    pieces = [f"**{in_markdown(caption)}**", "\n".join(lines), "\n".join(below)]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def in_markdown(text: str) -> str:
    """Text in which no letter is a mark: | ends no cell, _ and * slant nothing, < opens no tag."""
    return MARKDOWN_MARKS.sub(r"\\\1", one_line(text).replace("&", "&amp;"))


# --------------------------------------------------------------------------------------------------------------- LaTeX


def as_latex(found: Shown, caption: str, name: str, notes: Sequence[str] = ()) -> str:
    """A table with booktabs' rules, a caption and the label tab:NAME; a long one breaks over pages.

    Long cells are broken into lines, so that the table fits the page.
    """
    num_letters = sum(len(word) for row in found.rows for word in row)
    is_long = max(len(found.rows), num_letters / LETTERS_A_LINE) > MOST_ROWS
    packages = ["booktabs", *(["longtable"] if is_long else []), *(["array"] if any(widths_of(found)) else [])]
    head = rf"\caption{{{in_latex(caption)}}}", rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', name)}}}"
    body = [latex_row(row) for row in found.rows]
    lines = [
        rf"% Needs \usepackage{{{','.join(packages)}}} and, under pdfLaTeX, \usepackage[T1]{{fontenc}} and",
        r"% \usepackage{textcomp}; names in scripts other than Latin need XeLaTeX or LuaLaTeX.",
    ]
    below = [rf"\par\smallskip\footnotesize {in_latex(note)}" for note in notes]
    if is_long:
        lines += [r"\begingroup\small", rf"\begin{{longtable}}{{{columns_of(found)}}}", f"{''.join(head)} \\\\"]
        lines += [r"\toprule", latex_row(found.titles), r"\midrule", r"\endfirsthead"]
        lines += [r"\toprule", latex_row(found.titles), r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
        lines += [*body, r"\end{longtable}", *below, r"\endgroup"]
    else:
        lines += [r"\begin{table}[htbp]", r"\centering\small", *head, rf"\begin{{tabular}}{{{columns_of(found)}}}"]
        lines += [r"\toprule", latex_row(found.titles), r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
        lines += [*below, r"\end{table}"]
    return "\n".join(lines) + "\n"


def columns_of(found: Shown) -> str:
    """The column letters: r for numbers, l for short words, p for words that need lines."""
    widths = widths_of(found)
    letters = [
        rf">{{\raggedright\arraybackslash}}p{{{width:.2f}\linewidth}}" if width else "r" if right else "l"
        for width, right in zip(widths, found.is_number, strict=True)
    ]
    return f"@{{}}{''.join(letters)}@{{}}"


def widths_of(found: Shown) -> list[float]:
    """The share of the line of each column whose words need lines; 0 for the others, which are as wide as they are."""
    longest = [max(map(len, column)) for column in zip(found.titles, *found.rows, strict=True)]
    is_wide = [length > LONG_CELL and not right for length, right in zip(longest, found.is_number, strict=True)]
    narrow = sum(length + 2 for length, wide in zip(longest, is_wide, strict=True) if not wide)
    wanted = [min(length, LETTERS_A_LINE) if wide else 0 for length, wide in zip(longest, is_wide, strict=True)]
    if narrow + sum(wanted) + 2 * len(wanted) <= LETTERS_A_LINE:
        return [0.0] * len(wanted)
    room = max(1 - narrow / LETTERS_A_LINE - 0.02 * sum(is_wide), 0.3)
    return [room * each / max(sum(wanted), 1) for each in wanted]


def latex_row(cells: Sequence[str]) -> str:
    """A row; the empty group before it keeps a cell that begins with [ or * from being read as an option of `\\\\`."""
    return f"    {{}}{' & '.join(map(in_latex, cells))} \\\\"


def in_latex(text: str) -> str:
    """Text in which no letter is a command; letters beyond Latin stay as they are."""
    return "".join(LATEX_WORDS.get(letter, letter) for letter in one_line(text))
