"""Axes of a drawing: scales, round ticks, a panel with its grid."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lesionforge.reporting.drawing import FAINT, INK, MUTED, Label, Mark, Path, in_width

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # between ticks, times a power of ten


class Scale(NamedTuple):
    """Values to pixels, in a straight line or by the logarithm; what lies outside is drawn at the border."""

    low: float
    high: float
    start: float  # pixel of `low`
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


class Panel(NamedTuple):
    """A plot's rectangle with its scales."""

    left: float
    top: float
    width: float
    height: float
    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x.place(x), self.y.place(y)


def panel(
    left: float, top: float, width: float, height: float, x: tuple[float, float], y: tuple[float, float],
    is_log: bool = False,
) -> Panel:  # fmt: skip
    """A panel whose y axis goes up."""
    return Panel(left, top, width, height, Scale(*x, left, left + width, is_log), Scale(*y, top + height, top, is_log))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, `most` at most."""
    if not high > low:
        return [low]
    raw = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in STEPS:
        step = factor * power
        first = math.ceil(low / step - 1e-9)
        found = [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
        if len(found) <= most:
            return found
    return [low, high]


def powers(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`."""
    return [10.0**i for i in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]


def rounded(low: float, high: float, room: float = 0.06) -> tuple[float, float]:
    """A range with some room at both ends."""
    span = (high - low) or abs(high) or 1.0
    return low - room * span, high + room * span


def tick_text(value: float) -> str:
    text = f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    if value and text in ("0", "-0", ""):
        text = f"{value:.0e}".replace("e-0", "e-")
    return text.replace("-", "−") if text != "-0" else "0"


def grid(
    frame: Panel,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_text: Callable[[float], str] = tick_text,
    y_text: Callable[[float], str] = tick_text,
) -> list[Mark]:
    """Lines and numbers of a panel, behind all else."""
    marks: list[Mark] = []
    bottom, right = frame.top + frame.height, frame.left + frame.width
    for value in y_ticks:
        y = frame.y.place(value)
        marks.append(Path([(frame.left, y), (right, y)], FAINT, 1))
        marks.append(Label(frame.left - 7, y + 3.8, y_text(value), 11, MUTED, "end"))
    for value in x_ticks:
        x = frame.x.place(value)
        marks.append(Path([(x, frame.top), (x, bottom)], FAINT, 1))
        marks.append(Label(x, bottom + 16, x_text(value), 11, MUTED, "middle"))
    return marks


def names(frame: Panel, title: str = "", x_name: str = "", y_name: str = "") -> list[Mark]:
    """A panel's title and the names of its axes."""
    marks: list[Mark] = []
    middle = frame.left + frame.width / 2
    if title:
        marks.append(Label(frame.left, frame.top - 9, in_width(title, 13, frame.width), 13, INK, bold=True))
    if x_name:
        marks.append(Label(middle, frame.top + frame.height + 34, x_name, 11.5, MUTED, "middle"))
    if y_name:
        marks.append(Label(frame.left - 44, frame.top + frame.height / 2, y_name, 11.5, MUTED, "middle", upward=True))
    return marks
