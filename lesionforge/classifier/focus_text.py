"""The lesion focus of several runs in words: a table, and sentences that say no more than the intervals."""

import polars as pl

from lesionforge import bootstrap, tables
from lesionforge.bootstrap import Estimate
from lesionforge.classifier import focus
from lesionforge.classifier.focus_tables import COARSE, MEAN_OF, is_mostly_empty, is_too_coarse
from lesionforge.classifier.saliency import CNN

UNCHANGED = 0.5  # mean rank correlation with random weights' maps from which on they count as unchanged, our choice
MOST_PAIRS = 3  # that are told one by one; of more, how many can be told apart
FINEST = 3  # decimals of a difference in points, where fewer would print it as 0
AGAINST = {
    tables.OVER_AREA: "the lesion's share of the image",
    tables.OVER_RANDOM: "the same model with random weights",
}


def as_text(summary: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """The tables for a terminal, and what may be said."""
    parts = []
    for (method,), own in summary.group_by(tables.METHOD, maintain_order=True):
        some = own.row(0, named=True)
        header = (
            f"{method}: share of the map inside the lesion, mean of {some[tables.NUM_IMAGES]} lesions "
            f"({some[tables.NUM_MALIGNANT]} malignant, {some[tables.NUM_BENIGN]} benign) with 95 % interval; "
            f"{some[tables.MASK]} masks"
        )
        titles = (
            "run", "kind", "focus", "malignant", "benign", "area", "random weights", "perfect map", "cells",
            "rank corr.", "empty", "no mask",
        )  # fmt: skip
        cells = [titles, *(row_of_text(row) for row in own.iter_rows(named=True))]
        widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
        lines = [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        findings = findings_of(own, pairs.filter(pl.col(tables.METHOD) == method))
        parts.append("\n".join([header, *lines, *(f"  - {finding}" for finding in findings)]))
    return "\n\n".join(parts)


def row_of_text(row: dict) -> tuple[str, ...]:
    focus_text = percent(row[tables.FOCUS])
    low, high = row[f"{tables.FOCUS}_{tables.LOW}"], row[f"{tables.FOCUS}_{tables.HIGH}"]
    if low is not None:
        focus_text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    correlation = row[tables.RANK_CORRELATION]
    return (
        row[tables.RUN], row[tables.KIND], focus_text, percent(row[tables.FOCUS_MALIGNANT]),
        percent(row[tables.FOCUS_BENIGN]), percent(row[tables.AREA_SHARE]), percent(row[tables.RANDOM_FOCUS]),
        percent(row[tables.PERFECT_FOCUS]),
        f"{row[tables.CELLS]} x {row[tables.CELLS]}",
        "-" if correlation is None else f"{correlation:.2f}", str(row[tables.NUM_EMPTY]),
        str(row[tables.NUM_WITHOUT_MASK]),
    )  # fmt: skip


def findings_of(summary: pl.DataFrame, pairs: pl.DataFrame) -> list[str]:
    """Sentences on one method: each run against a blind map and against random weights, then the pairs."""
    found = []
    for row in summary.iter_rows(named=True):
        name, size = row[tables.RUN], f"{row[tables.CELLS]} x {row[tables.CELLS]} cells"
        perfect, area = row[tables.PERFECT_FOCUS], row[tables.AREA_SHARE]
        coarse = perfect is not None and area is not None and is_too_coarse(perfect, area)
        if coarse:
            found.append(
                f"{name}: WARNING, its maps have {size}, and even a perfect one would put only "
                f"{percent(perfect)} in the lesion: too coarse to say where it looks, left out of what is compared"
            )
        for column, against in ({} if coarse else AGAINST).items():
            difference = estimate_in(row, column)
            if difference.estimate is not None:
                found.append(f"{name}: {sentence(difference, against)}")
        if row[tables.RANK_CORRELATION] is not None and row[tables.RANK_CORRELATION] >= UNCHANGED:
            found.append(
                f"{name}: WARNING, its maps hardly change when its weights are random (rank correlation "
                f"{row[tables.RANK_CORRELATION]:.2f}): they show the architecture and the image, not what was learned"
            )
        found += [f"{name}: {finding}" for finding in findings_of_gaps(row)]
    pairs = pairs.filter(pl.col(tables.VERDICT) != COARSE)
    found += findings_of_pairs(pairs)
    if len(pairs):
        found.append("intervals are over lesions: the same models trained again may look elsewhere")
    if summary[tables.CELLS].n_unique() > 1:
        found.append("maps of fewer cells cannot follow a small lesion: compare each run with its perfect map as well")
    return found


def findings_of_gaps(row: dict) -> list[str]:
    """Sentences on the lesions of a run that are not measured: without a mask, or without a map."""
    found = []
    num_images, num_empty, num_without = (
        row[name] for name in (tables.NUM_IMAGES, tables.NUM_EMPTY, tables.NUM_WITHOUT_MASK)
    )
    if num_empty:
        left_out = ", and the run from the means" if is_mostly_empty(num_empty, num_images - num_without) else ""
        is_left_out = "is positive nowhere and is" if num_empty == 1 else "are positive nowhere and are"
        found.append(f"{num_empty} of {num_images - num_without} maps {is_left_out} left out{left_out}")
    if num_without:
        is_left_out = "has no mask and is" if num_without == 1 else "have no mask and are"
        found.append(f"{num_without} of {num_images} lesions {is_left_out} left out")
    return found


def findings_of_pairs(pairs: pl.DataFrame) -> list[str]:
    """Sentences on the paired differences; of many runs only the means of the kinds, and how many differ."""
    of_kinds = pl.col(tables.RUN) == MEAN_OF.format(CNN)
    of_runs = pairs.filter(~of_kinds)
    told = pairs if len(of_runs) <= MOST_PAIRS else pairs.filter(of_kinds)
    found = [
        f"{row[tables.RUN]}: {sentence(estimate_in(row, tables.DIFFERENCE), row[tables.OTHER_RUN])}, "
        f"on the same {row[tables.NUM_IMAGES]} lesions"
        for row in told.iter_rows(named=True)
    ]
    if len(of_runs) > MOST_PAIRS:
        num_apart = of_runs[tables.VERDICT].is_in([focus.HIGHER, focus.LOWER]).sum()
        by_chance = (1 - bootstrap.LEVEL) * len(of_runs)
        found.append(
            f"{num_apart} of {len(of_runs)} pairs of runs can be told apart, about {by_chance:.1f} would be by chance; "
            "the table of pairs holds them all"
        )
    return found


def estimate_in(row: dict, name: str) -> Estimate:
    return Estimate(row[name], row[f"{name}_{tables.LOW}"], row[f"{name}_{tables.HIGH}"], 0)


def sentence(difference: Estimate, against: str) -> str:
    """focus is higher than X by 3.1 points [+1.0, +5.2]"""
    if difference.estimate is None:
        return f"focus cannot be compared with that of {against}"
    word = focus.verdict(difference)
    numbers = [100 * number for number in difference[:3] if number is not None]
    digits = num_decimals(numbers, word)
    size, *bounds = (f"{round(number, digits) + 0.0:+.{digits}f}" for number in numbers)  # + 0.0: no -0.0
    interval = f" points [{', '.join(bounds)}]" if bounds else " points"
    if not round(max(map(abs, numbers)), digits):
        size, interval = f"less than {10.0**-digits:.{digits}f}", " points"
    if not bounds:
        return f"focus differs from {against} by {size}{interval} ({word})"
    if word == focus.ALIKE:
        return f"focus {word} from {against} ({size}{interval})"
    return f"focus is {word} than {against} by {size.lstrip('+-')}{interval}"


def num_decimals(points: list[float], word: str) -> int:
    """Decimals that leave of a difference and its interval what the word rests on: a bound is then not printed as 0,
    nor are all of them."""
    legible = points if word in (focus.HIGHER, focus.LOWER) else [max(points, key=abs)]
    return next((digits for digits in range(1, FINEST) if all(round(point, digits) for point in legible)), FINEST)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def of_a_map(lesion_focus: float, area_share: float) -> str:
    """What stands below one map in a figure."""
    if area_share == 0:
        return "no mask"
    return "no positive map" if lesion_focus != lesion_focus else f"{100 * lesion_focus:.0f} % in the lesion"
