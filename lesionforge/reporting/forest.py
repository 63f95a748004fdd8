"""Dots with intervals in rows, one below another: scores of arms, differences, subgroups."""

from collections.abc import Sequence
from typing import NamedTuple

from lesionforge.reporting import frames
from lesionforge.reporting.drawing import (
    FAINT,
    INK,
    MUTED,
    Dot,
    Drawing,
    Label,
    Mark,
    Path,
    in_width,
    legend,
    text_width,
)

WIDTH = 760.0
TOP, BOTTOM = 14.0, 46.0
ROW, GROUP = 24.0, 30.0  # pixels
FEWER_PIXELS_FROM = 24  # rows


class Point(NamedTuple):
    """One dot. Where there is no interval the dot is open: nothing is known about its precision."""

    estimate: float
    low: float | None = None
    high: float | None = None
    values: Sequence[float] = ()  # of single seeds, drawn as small ticks
    colour: str = "s1"
    tip: str = ""


class Row(NamedTuple):
    label: str
    points: Sequence[Point]
    text: str = ""  # to the right of the plot
    is_quiet: bool = False
    is_lined: bool = True  # whether the group's line goes through it


class Group(NamedTuple):
    title: str
    rows: Sequence[Row]
    line: float | None = None  # a value to compare with, drawn through the rows that are compared with it


def forest(
    name: str, title: str, alt: str, groups: Sequence[Group], x_name: str, lines: Sequence[tuple[float, str]] = (),
    entries: Sequence[tuple[str, str, str]] = (), includes: Sequence[float] = (), text_name: str = "",
) -> Drawing:  # fmt: skip
    """A forest plot.

    Args:
        lines: (value, word) of vertical lines through all, such as chance or no difference.
        entries: of the legend, as `drawing.legend` takes them.
        includes: values that the axis has to show.
    """
    rows = [row for group in groups for row in group.rows]
    left = min(max([text_width(row.label, 12.5) for row in rows] + [60]) + 18, 250.0)
    right = min(max([text_width(row.text, 12) for row in rows] + [0]) + 14, 190.0)
    row_height = ROW if len(rows) <= FEWER_PIXELS_FROM else 19.0
    named, top = legend(entries, left, 12, WIDTH - left)
    top = TOP + (top + 6 if entries else 0)
    if lines or text_name:
        top += 14
    height = sum(GROUP * bool(group.title) + sum(height_of(row, row_height) for row in group.rows) for group in groups)
    low, high = frames.rounded(*range_of(rows, [value for value, _ in lines], includes))
    frame = frames.panel(left, top, WIDTH - left - right, height + 6, (low, high), (0, 1))
    marks: list[Mark] = [*named, *frames.grid(frame, frames.ticks(low, high, 7), [])]
    marks += frames.names(frame, x_name=x_name)
    for value, word in lines:
        x = frame.x.place(value)
        marks.append(Path([(x, frame.top - 2), (x, frame.top + frame.height)], MUTED, 1, "3 3"))
        marks.append(Label(x, frame.top - 7, word, 11, MUTED, "middle"))
    if text_name:
        marks.append(Label(WIDTH - 2, frame.top - 7, text_name, 11, MUTED, "end"))
    y = frame.top + 3
    for group in groups:
        if group.title:
            marks.append(Path([(0, y + 6), (WIDTH, y + 6)], FAINT, 1))
            marks.append(Label(0, y + 22, in_width(group.title, 13, left + frame.width), 13, INK, bold=True))
        y += GROUP * bool(group.title)
        for row in group.rows:
            if group.line is not None and row.is_lined:
                x = frame.x.place(group.line)
                marks.append(Path([(x, y), (x, y + height_of(row, row_height))], "s0", 1, "1 3"))
            marks += row_of(frame, row, y, height_of(row, row_height), left)
            y += height_of(row, row_height)
    return Drawing(name, title, alt, WIDTH, frame.top + frame.height + BOTTOM, marks)


def height_of(row: Row, one: float) -> float:
    return max(one, 11.0 * len(row.points) + 10)


def range_of(rows: Sequence[Row], lines: Sequence[float], includes: Sequence[float]) -> tuple[float, float]:
    values = [*lines, *includes]
    for row in rows:
        for point in row.points:
            values += [value for value in (point.estimate, point.low, point.high, *point.values) if value is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def row_of(frame: frames.Panel, row: Row, y: float, height: float, left: float) -> list[Mark]:
    middle = y + height / 2
    colour = MUTED if row.is_quiet else INK
    marks: list[Mark] = [Label(8, middle + 4, in_width(row.label, 12.5, left - 14), 12.5, colour)]
    if row.text:
        marks.append(Label(WIDTH - 2, middle + 4, row.text, 12, colour, "end"))
    step = 11.0
    for i, point in enumerate(row.points):
        marks += point_of(frame, point, middle + step * (i - (len(row.points) - 1) / 2))
    if not row.points:
        marks.append(Label(frame.left + 8, middle + 4, "no runs with scores", 11, MUTED))
    return marks


def point_of(frame: frames.Panel, point: Point, y: float) -> list[Mark]:
    marks: list[Mark] = []
    x = frame.x.place(point.estimate)
    if point.low is not None and point.high is not None:
        ends = frame.x.place(point.low), frame.x.place(point.high)
        marks.append(Path([(ends[0], y), (ends[1], y)], point.colour, 2.2, tip=point.tip))
    for value in point.values:
        place = frame.x.place(value)
        marks.append(Path([(place, y - 5.5), (place, y + 5.5)], point.colour, 1, opacity=0.55))
    is_sure = point.low is not None
    marks.append(Dot(x, y, 4.6, point.colour if is_sure else None, point.colour, point.tip))
    return marks
