"""A figure as a list of marks in a plane of pixels, y down: drawn once, written as SVG, PNG and into the page.

A colour is a role (ink, muted, series 3), so that the page can show the same drawing light and dark.
"""

from collections.abc import Sequence
from typing import NamedTuple

Point = tuple[float, float]

INK, MUTED, FAINT, PAPER, BAND, ACCENT, WARN = "ink", "muted", "faint", "paper", "band", "accent", "warn"
NUM_SERIES = 8  # colours that readers tell apart; more series take them again with dashes
SERIES = tuple(f"s{i}" for i in range(NUM_SERIES))  # s0 is the reference's

# Each role on light and on dark paper. The series are chosen to differ in lightness too, for colour-blind readers.
LIGHT = {
    INK: "#1c2126", MUTED: "#626b75", FAINT: "#dfe3e7", PAPER: "#ffffff", BAND: "#f0f4f8", ACCENT: "#14618f",
    WARN: "#a8480a", "s0": "#5a6470", "s1": "#1f6fb2", "s2": "#c8501f", "s3": "#218164", "s4": "#9a3f86",
    "s5": "#a87505", "s6": "#2f97bf", "s7": "#6a4bb0",
}  # fmt: skip
DARK = {
    INK: "#e8eaed", MUTED: "#9aa4ae", FAINT: "#30373e", PAPER: "#15191d", BAND: "#1e252c", ACCENT: "#74b9e6",
    WARN: "#f0a35e", "s0": "#aab3bd", "s1": "#6cb2f0", "s2": "#f08a5d", "s3": "#5fc7a2", "s4": "#dc90cb",
    "s5": "#e0b34a", "s6": "#85d3ef", "s7": "#b7a0ea",
}  # fmt: skip
DASHES = ("", "6 3", "2 3", "8 3 2 3")

CHARACTER_WIDTH = 0.54  # of the font size, the mean of sans-serif letters and digits


class Path(NamedTuple):
    """A line, or an area where `fill` is given."""

    points: Sequence[Point]
    stroke: str | None = INK
    width: float = 1.5
    dash: str = ""
    fill: str | None = None
    opacity: float = 1.0
    tip: str = ""  # what a reader sees on pointing at it
    step: bool = False


class Dot(NamedTuple):
    x: float
    y: float
    radius: float = 4.0
    fill: str | None = INK  # None: open, in the colour of the paper
    stroke: str = INK
    tip: str = ""


class Label(NamedTuple):
    x: float
    y: float  # of the base line
    text: str
    size: float = 12.0
    colour: str = INK
    anchor: str = "start"  # start, middle, end
    bold: bool = False
    upward: bool = False  # turned by 90 degrees, reading up


class Picture(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    data: bytes  # JPEG or PNG
    tip: str = ""


Mark = Path | Dot | Label | Picture


class Drawing(NamedTuple):
    """A figure: `name` is its file's, `alt` says to those who cannot see it what it shows."""

    name: str
    title: str
    alt: str
    width: float
    height: float
    marks: Sequence[Mark]


def text_width(text: str, size: float) -> float:
    """About how wide a text is, in pixels."""
    return CHARACTER_WIDTH * size * len(text)


def in_width(text: str, size: float, width: float) -> str:
    """The text, its middle left out where it is wider than `width`: names of runs differ at their ends."""
    most = max(int(width / (CHARACTER_WIDTH * size)), 6)
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def series_of(position: int) -> tuple[str, str]:
    """(colour, dash) of the series at a position."""
    return SERIES[position % NUM_SERIES], DASHES[position // NUM_SERIES % len(DASHES)]


def legend(entries: Sequence[tuple[str, str, str]], x: float, y: float, width: float) -> tuple[list[Mark], float]:
    """Lines of samples and names, and how high they are together.

    Args:
        entries: (name, colour, dash).
        width: pixels after which a new line begins.
    """
    marks: list[Mark] = []
    left, line = x, 0
    for name, colour, dash in entries:
        room = 26 + text_width(name, 12) + 18
        if left > x and left + room > x + width:
            left, line = x, line + 1
        middle = y + 18 * line
        marks.append(Path([(left, middle), (left + 20, middle)], colour, 2.5, dash))
        marks.append(Label(left + 26, middle + 4, name, 12, INK))
        left += room
    return marks, 18.0 * (line + 1) if entries else 0.0
