"""Figure of the learning curve: the score against the real malignant lesions, without and with synthetic ones."""

from typing import TYPE_CHECKING

from lesionforge.reporting import frames
from lesionforge.reporting.collected import PRIMARY
from lesionforge.reporting.drawing import MUTED, Dot, Drawing, Label, Mark, Path, legend
from lesionforge.reporting.figures_scores import CHANCE, GAP, LEFT, PANEL, point_of
from lesionforge.reporting.mixes import Mix, mix_of_arm
from lesionforge.reporting.results import NAMES
from lesionforge.reporting.words import in_interval

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected
    from lesionforge.reporting.results import Results

HEIGHT, PER_ROW = 210.0, 2
ASIDE = 4.0  # pixels between the two lines' dots, so that their intervals are seen
LINES = {False: ("real lesions alone", "s0", ""), True: ("with synthetic lesions", "s1", "6 3")}


def learning_curve(collected: "Collected", results: "Results") -> Drawing | None:
    """A line without and one with synthetic lesions; None unless two arms of a line differ in their real lesions."""
    mixes = {arm: mix for arm in collected.arms if (mix := mix_of_arm(collected, arm)) is not None}
    counts = [{m.real_malignant for m in mixes.values() if bool(m.synthetic_malignant) == which} for which in LINES]
    found = [one for m in collected.models for arm in mixes if (one := results.estimate(m, arm, PRIMARY))]
    if max(map(len, counts)) < 2 or not found:
        return None
    models = list(dict.fromkeys(one.model for one in found))
    used = [which for which in LINES if any(bool(mixes[one.arm].synthetic_malignant) == which for one in found)]
    named, top = legend([LINES[which] for which in used], LEFT, 12, 690)
    values = [value for one in found for value in (one.estimate, one.low, one.high) if value is not None]
    y_range = frames.rounded(min([CHANCE, *values]), max(values))
    marks: list[Mark] = list(named)
    bottom = top
    most = max(mixes[one.arm].real_malignant for one in found)
    for i, model in enumerate(models):
        left, y = LEFT + (PANEL + GAP) * (i % PER_ROW), top + 40 + 300.0 * (i // PER_ROW)
        frame = frames.panel(left, y, PANEL, HEIGHT, (0, most * 1.06), y_range)
        marks += frames.grid(frame, [], frames.ticks(*y_range))
        marks += places_of(frame, sorted({mixes[one.arm].real_malignant for one in found}))
        y_name = NAMES[PRIMARY] if i % PER_ROW == 0 else ""
        marks += frames.names(frame, model, "real malignant lesions in the mix", y_name)
        for which in used:
            marks += line_of(frame, model, which, mixes, results)
        bottom = y + HEIGHT + 44
    alt = "Score against the number of real malignant lesions: " + "; ".join(
        f"{one.model} {mixes[one.arm].real_malignant:,} real and {mixes[one.arm].synthetic_malignant:,} synthetic: "
        f"{in_interval(one.estimate, one.low, one.high)}" for one in found
    )  # fmt: skip
    width = LEFT + (PANEL + GAP) * min(len(models), PER_ROW) - GAP + 14
    return Drawing("learning-curve", "Scores against the real malignant lesions", alt, max(width, 430), bottom, marks)


def places_of(frame: frames.Panel, counts: list[int]) -> list[Mark]:
    """A grid line at each count; its number where there is room."""
    marks: list[Mark] = []
    last = -100.0
    for count in counts:
        x = frame.x.place(count)
        marks.append(Path([(x, frame.top), (x, frame.top + frame.height)], "faint", 1))
        if x - last > 30:
            marks.append(Label(x, frame.top + frame.height + 16, f"{count:,}", 11, MUTED, "middle"))
            last = x
    return marks


def line_of(
    frame: frames.Panel, model: str, which: bool, mixes: dict[str, Mix], results: "Results"
) -> list[Mark]:  # fmt: skip
    """Dots of one model with or without synthetic lesions; arms with as many real ones (controls) are not joined."""
    marks: list[Mark] = []
    line: dict[int, tuple[float, float]] = {}
    _, colour, dash = LINES[which]
    for arm, mix in mixes.items():
        one = results.estimate(model, arm, PRIMARY)
        if one is None or bool(mix.synthetic_malignant) != which:
            continue
        x, y = frame.x.place(mix.real_malignant) + (ASIDE if which else -ASIDE), frame.y.place(one.estimate)
        point = point_of(one, colour)
        line.setdefault(mix.real_malignant, (x, y))
        if one.low is not None and one.high is not None:
            marks.append(Path([(x, frame.y.place(one.low)), (x, frame.y.place(one.high))], colour, 2, tip=point.tip))
        marks.append(Dot(x, y, 4.6, colour if one.low is not None else None, colour, point.tip))
    joined = [line[count] for count in sorted(line)]
    return ([Path(joined, colour, 1.4, dash)] if len(joined) > 1 else []) + marks
