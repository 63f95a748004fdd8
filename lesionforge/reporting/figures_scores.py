"""Figures of scores: every arm with its interval, differences, CNNs against transformers, the synthetic share."""

import math
from typing import TYPE_CHECKING

from lesionforge.reporting import frames
from lesionforge.reporting.collected import PRIMARY
from lesionforge.reporting.drawing import MUTED, Dot, Drawing, Label, Mark, Path, legend, series_of
from lesionforge.reporting.forest import Group, Point, Row, forest
from lesionforge.reporting.mixes import Mix, mix_of_arm
from lesionforge.reporting.results import NAMES, Estimate
from lesionforge.reporting.words import decimals, in_interval, signed

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected
    from lesionforge.reporting.results import Results

CHANCE = 0.02  # of the pAUC
KINDS = ("CNN", "transformer", "ensemble", "other")
PANEL, GAP, LEFT = 296.0, 66.0, 62.0


def colours_of(collected: "Collected") -> dict[str, tuple[str, str]]:
    """(colour, dash) of each arm; the reference has the grey one."""
    others = [arm for arm in collected.arms if arm != collected.reference]
    return {collected.reference: series_of(0)} | {arm: series_of(i + 1) for i, arm in enumerate(others)}


def point_of(one: Estimate, colour: str) -> Point:
    seeds = f"; {len(one.values)} seeds: {', '.join(decimals(v) for v in one.values)}" if len(one.values) > 1 else ""
    tip = f"{one.model} · {one.arm}: {in_interval(one.estimate, one.low, one.high)}{seeds}"
    values = one.values if len(one.values) > 1 else ()
    return Point(one.estimate, one.low, one.high, values, colour, tip)


def overview(collected: "Collected", results: "Results") -> Drawing:
    """The primary score of every model on every arm."""
    colours = colours_of(collected)
    groups = []
    for model in collected.models:
        rows = []
        for arm in collected.arms:
            if not collected.of(model, arm):
                continue
            one = results.estimate(model, arm, PRIMARY)
            own = collected.arms[arm].get("compared_with") or collected.reference
            is_lined = own == collected.reference
            name = f"{arm} (reference)" if arm == collected.reference else arm if is_lined else f"{arm} (against {own})"
            points = [point_of(one, colours[arm][0])] if one else []
            rows.append(Row(name, points, in_interval(one.estimate, one.low, one.high) if one else "–",
                            is_lined=is_lined))  # fmt: skip
        reference = results.estimate(model, collected.reference, PRIMARY)
        line = reference.estimate if reference and len(rows) > 1 else None
        groups.append(Group(model, rows, line))
    alt = "Primary score of every model and arm with 95 % intervals: " + "; ".join(
        f"{model} {arm} {in_interval(one.estimate, one.low, one.high)}"
        for model in collected.models for arm in collected.arms if (one := results.estimate(model, arm, PRIMARY))
    )  # fmt: skip
    return forest(
        "overview", "Primary score of every model and arm", alt, groups, f"{NAMES[PRIMARY]}, higher is better",
        lines=[(CHANCE, "chance")], text_name="estimate [95 % interval]",
    )  # fmt: skip


def differences(collected: "Collected", results: "Results") -> Drawing | None:
    """Paired differences to what each arm, or model, is compared with; None where nothing was compared."""
    colours = colours_of(collected)
    found = results.of(PRIMARY)
    references = {(one.against, one.reference) for one in found}
    groups = []
    for model in dict.fromkeys(one.model for one in found):
        rows = []
        for one in (one for one in found if one.model == model):
            quiet = one.is_quiet
            text = in_interval(one.difference, one.low, one.high, signed)
            name = one.arm if len(references) == 1 else f"{one.arm} − {one.reference}"
            tip = f"{model}, {one.arm} against {one.reference}: {text}; {one.row.get('verdict') or ''}"
            colour = "s0" if quiet else colours.get(one.arm, ("s1", ""))[0]
            rows.append(Row(name, [Point(one.difference, one.low, one.high, (), colour, tip)], text, quiet))
        if rows:
            groups.append(Group(model, rows))
    if not groups:
        return None
    to = f" to {found[0].reference}" if len(references) == 1 else ""
    alt = f"Difference of {NAMES[PRIMARY]}{to}, paired on the same lesions; grey where no difference is claimed"
    return forest(
        "differences", "Paired differences", alt, groups, f"difference of {NAMES[PRIMARY]}{to}",
        lines=[(0.0, "no difference")], text_name="difference [95 % interval]",
    )  # fmt: skip


def by_kind(collected: "Collected", results: "Results") -> Drawing | None:
    """Figure 4b: scores of CNNs and of transformers; None where no model's kind is known."""
    colours = colours_of(collected)
    groups = []
    for kind in KINDS:
        rows = []
        for model, facts in collected.models.items():
            if (facts.get("kind") or "other") != kind:
                continue
            found = [one for arm in collected.arms if (one := results.estimate(model, arm, PRIMARY))]
            parameters = collected.parameters_of(model)
            label = f"{model} ({parameters:.3g} M)" if parameters else model
            text = in_interval(found[0].estimate, found[0].low, found[0].high) if len(found) == 1 else ""
            rows.append(Row(label, [point_of(one, colours[one.arm][0]) for one in found], text))
        if rows:
            titles = {"CNN": "CNNs", "transformer": "Transformers", "ensemble": "Ensembles", "other": "Kind not known"}
            groups.append(Group(titles[kind], rows))
    if not any(group.title in ("CNNs", "Transformers") for group in groups):
        return None
    entries = [(arm, *colours[arm]) for arm in collected.arms] if len(collected.arms) > 1 else []
    return forest(
        "figure-4b", "Scores of CNNs and transformers", f"{NAMES[PRIMARY]} of each model, grouped by its kind", groups,
        f"{NAMES[PRIMARY]} on part {collected.part}", lines=[(CHANCE, "chance")], entries=entries,
    )  # fmt: skip


def by_synthetic(collected: "Collected", results: "Results") -> Drawing | None:
    """Figure 6: the score against the number of synthetic malignant images in the mix; None where none has any."""
    mixes = {arm: mix for arm in collected.arms if (mix := mix_of_arm(collected, arm)) is not None}
    most = max((mix.synthetic_malignant for mix in mixes.values()), default=0)
    if not most:
        return None
    unit = max([mix.real_malignant for mix in mixes.values()] + [1])

    def place(mix: Mix) -> float:
        return math.log2(1 + mix.synthetic_malignant / unit)

    models = [m for m in collected.models if any(results.estimate(m, arm, PRIMARY) for arm in mixes)]
    if not models:
        return None
    colours = colours_of(collected)
    named, top = legend([(arm, *colours[arm]) for arm in mixes], LEFT, 12, 690)
    found = [one for m in models for arm in mixes if (one := results.estimate(m, arm, PRIMARY))]
    values = [v for one in found for v in (one.estimate, one.low, one.high) if v is not None]
    y_range = frames.rounded(min([CHANCE, *values]), max(values))
    marks: list[Mark] = list(named)
    counts = sorted({mix.synthetic_malignant for mix in mixes.values()})
    per_row = 2
    bottom = top
    for i, model in enumerate(models):
        left, y = LEFT + (PANEL + GAP) * (i % per_row), top + 40 + (300.0) * (i // per_row)
        frame = frames.panel(left, y, PANEL, 210, (-0.25, math.log2(1 + most / unit) + 0.25), y_range)
        marks += frames.grid(frame, [], frames.ticks(*y_range))
        for count in counts:
            x = frame.x.place(math.log2(1 + count / unit))
            marks.append(Path([(x, y), (x, y + 210)], "faint", 1))
            marks.append(Label(x, y + 226, f"{count:,}", 11, MUTED, "middle"))
        marks += frames.names(
            frame, model, "synthetic malignant images in the mix", NAMES[PRIMARY] if i % 2 == 0 else ""
        )
        marks += points_by_synthetic(frame, model, mixes, place, results, colours)
        bottom = y + 210 + 44
    alt = "Score against the number of synthetic malignant images: " + "; ".join(
        f"{one.model} {mixes[one.arm].synthetic_malignant:,}: {in_interval(one.estimate, one.low, one.high)}"
        for one in found
    )
    width = LEFT + (PANEL + GAP) * min(len(models), per_row) - GAP + 14
    return Drawing("figure-6", "Scores against the synthetic share", alt, max(width, 430), bottom, marks)


def points_by_synthetic(
    frame: frames.Panel, model: str, mixes: dict[str, Mix], place: "object", results: "Results",
    colours: dict[str, tuple[str, str]],
) -> list[Mark]:  # fmt: skip
    """Dots of one model; arms with the same real images and augmentation are joined, controls stand beside."""
    marks: list[Mark] = []
    reference = next(iter(mixes.values()))
    line, beside = [], dict[float, int]()
    assert callable(place)
    for arm, mix in mixes.items():
        one = results.estimate(model, arm, PRIMARY)
        if one is None:
            continue
        value = place(mix)
        x = frame.x.place(value) + 11 * beside.get(value, 0)
        beside[value] = beside.get(value, 0) + 1
        y = frame.y.place(one.estimate)
        point = point_of(one, colours[arm][0])
        if one.low is not None and one.high is not None:
            ends = [(x, frame.y.place(one.low)), (x, frame.y.place(one.high))]
            marks.append(Path(ends, point.colour, 2.2, tip=point.tip))
        marks.append(Dot(x, y, 5, point.colour if one.low is not None else None, point.colour, point.tip))
        if mix.real_malignant == reference.real_malignant and beside[value] == 1:
            line.append((x, y))
    if len(line) > 1:
        marks.insert(0, Path(sorted(line), MUTED, 1.2, "2 3"))
    return marks
