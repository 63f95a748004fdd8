"""The lesion focus of several runs: from one row a lesion to a row a run, paired differences, and words."""

from itertools import combinations

import numpy as np
import polars as pl

from lesionforge import bootstrap, tables
from lesionforge.bootstrap import Estimate
from lesionforge.classifier import focus
from lesionforge.classifier.saliency import CNN, TRANSFORMER

UNCHANGED = 0.5  # mean rank correlation with random weights' maps from which on they count as unchanged, our choice
OFTEN_ENOUGH = 0.5  # share of a run's lesions that need a map for it to count for its kind, our choice
TOO_COARSE = 2.0  # a perfect map's focus, in areas of the lesion, below which nothing can be said; our choice
MOST_PAIRS = 3  # that are told one by one; of more, how many can be told apart
AGAINST = {
    tables.OVER_AREA: "the lesion's share of the image",
    tables.OVER_RANDOM: "the same model with random weights",
}
MEAN_OF = "mean of {}s"  # how the runs of a kind are called together


class Bootstrap:
    """The same resamples of patients for every column of values, of lesions in one order."""

    def __init__(self, lesions: pl.DataFrame, num_replicates: int, seed: int) -> None:
        number = pl.col(tables.PATIENT_ID).rank("dense").cast(pl.Int64) - 1
        self.clusters = bootstrap.clusters_of(lesions.select(number.fill_null(-1)).to_series().to_numpy())
        self.num_replicates, self.seed = num_replicates, seed

    def mean(self, values: np.ndarray) -> Estimate:
        return focus.mean_with_interval(values, self.clusters, self.num_replicates, self.seed)


def summarise(lesions: pl.DataFrame, num_replicates: int, seed: int) -> pl.DataFrame:
    """A row for each run and method.

    Args:
        lesions: a row for each run, method and lesion, the lesions in the same order in each.
    """
    rows = []
    for (run_name, kind, method, mask), own in lesions.group_by(
        tables.RUN, tables.KIND, tables.METHOD, tables.MASK, maintain_order=True
    ):
        boot = Bootstrap(own, num_replicates, seed)
        values = {name: own[name].to_numpy() for name in (
            tables.FOCUS, tables.AREA_SHARE, tables.PERFECT_FOCUS, tables.RANDOM_FOCUS, tables.RANK_CORRELATION,
        )}  # fmt: skip
        has_map = ~np.isnan(values[tables.FOCUS])
        if has_map.any():  # what the focus stands beside is of the same lesions
            for name in (tables.AREA_SHARE, tables.PERFECT_FOCUS, tables.RANDOM_FOCUS):
                values[name] = np.where(has_map, values[name], np.nan)
        estimates = {
            tables.FOCUS: boot.mean(values[tables.FOCUS]),
            tables.OVER_AREA: boot.mean(values[tables.FOCUS] - values[tables.AREA_SHARE]),
            tables.OVER_RANDOM: boot.mean(values[tables.FOCUS] - values[tables.RANDOM_FOCUS]),
        }
        rows.append(
            {
                tables.RUN: run_name,
                tables.KIND: kind,
                tables.METHOD: method,
                tables.MASK: mask,
                tables.CELLS: own[tables.CELLS][0],
                tables.NUM_IMAGES: len(own),
                tables.NUM_MALIGNANT: int((own[tables.TARGET] == 1).sum()),
                tables.NUM_EMPTY: int(np.isnan(values[tables.FOCUS]).sum()),
                **as_columns(estimates),
                **{
                    name: mean_of_known(values[name])
                    for name in (
                        tables.AREA_SHARE, tables.PERFECT_FOCUS, tables.RANDOM_FOCUS, tables.RANK_CORRELATION,
                    )
                },
            }
        )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def as_columns(estimates: dict[str, Estimate]) -> dict[str, float | None]:
    return {
        column: value
        for name, found in estimates.items()
        for column, value in (
            (name, found.estimate), (f"{name}_{tables.LOW}", found.low), (f"{name}_{tables.HIGH}", found.high),
        )
    }  # fmt: skip


def mean_of_known(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def compare(lesions: pl.DataFrame, num_replicates: int, seed: int) -> pl.DataFrame:
    """Paired differences in focus, run less other run, of all pairs of each method; then CNNs less transformers.

    A lesion counts where both maps are positive somewhere. For the means of the kinds it counts where all maps are;
    runs without maps of half of the lesions, and of too few cells to follow them, are left out.
    """
    rows = []
    for (method,), own in lesions.group_by(tables.METHOD, maintain_order=True):
        by_run = own.partition_by(tables.RUN, as_dict=True, maintain_order=True)
        values = {str(name): rows_of_run[tables.FOCUS].to_numpy() for (name,), rows_of_run in by_run.items()}
        kinds = {str(name): rows_of_run[tables.KIND][0] for (name,), rows_of_run in by_run.items()}
        pairs = list(combinations(values, 2))
        counted = {name: kinds[name] for name in kinds if counts_for_its_kind(by_run[(name,)])}
        if {CNN, TRANSFORMER} <= set(counted.values()):
            for kind in (CNN, TRANSFORMER):
                values[MEAN_OF.format(kind)] = np.mean(
                    [values[name] for name in counted if counted[name] == kind], axis=0
                )
            pairs.append((MEAN_OF.format(CNN), MEAN_OF.format(TRANSFORMER)))
        boot = Bootstrap(next(iter(by_run.values())), num_replicates, seed)
        for one, other in pairs:
            difference = values[one] - values[other]
            found = boot.mean(difference)
            rows.append(
                {
                    tables.METHOD: method,
                    tables.RUN: one,
                    tables.OTHER_RUN: other,
                    **as_columns({tables.DIFFERENCE: found}),
                    tables.NUM_IMAGES: int((~np.isnan(difference)).sum()),
                    tables.VERDICT: focus.verdict(found),
                }
            )
    texts, counts = (tables.METHOD, tables.RUN, tables.OTHER_RUN, tables.VERDICT), (tables.NUM_IMAGES,)
    names = [
        tables.METHOD,
        tables.RUN,
        tables.OTHER_RUN,
        *as_columns({tables.DIFFERENCE: Estimate(None, None, None, 0)}),
    ]
    schema = {
        name: pl.String if name in texts else pl.Int64 if name in counts else pl.Float64
        for name in (*names, tables.NUM_IMAGES, tables.VERDICT)
    }
    return pl.DataFrame(rows, schema=schema)


def counts_for_its_kind(lesions: pl.DataFrame) -> bool:
    """Whether a run has maps of most of its lesions, of enough cells to follow them."""
    empty = np.isnan(lesions[tables.FOCUS].to_numpy()).mean() > 1 - OFTEN_ENOUGH
    perfect, area = (mean_of_known(lesions[name].to_numpy()) for name in (tables.PERFECT_FOCUS, tables.AREA_SHARE))
    return not empty and perfect is not None and area is not None and not is_too_coarse(perfect, area)


def is_too_coarse(perfect_focus: float, area_share: float) -> bool:
    return perfect_focus < TOO_COARSE * area_share


def as_text(summary: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """The tables for a terminal, and what may be said."""
    parts = []
    for (method,), own in summary.group_by(tables.METHOD, maintain_order=True):
        some = own.row(0, named=True)
        header = (
            f"{method}: share of the map inside the lesion, mean of {some[tables.NUM_IMAGES]} lesions "
            f"({some[tables.NUM_MALIGNANT]} malignant) with 95 % interval; {some[tables.MASK]} masks"
        )
        titles = ("run", "kind", "focus", "area", "random weights", "perfect map", "cells", "rank corr.", "empty")
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
        row[tables.RUN], row[tables.KIND], focus_text, percent(row[tables.AREA_SHARE]),
        percent(row[tables.RANDOM_FOCUS]), percent(row[tables.PERFECT_FOCUS]),
        f"{row[tables.CELLS]} x {row[tables.CELLS]}",
        "-" if correlation is None else f"{correlation:.2f}", str(row[tables.NUM_EMPTY]),
    )  # fmt: skip


def findings_of(summary: pl.DataFrame, pairs: pl.DataFrame) -> list[str]:
    """Sentences on one method: each run against a blind map and against random weights, then the pairs."""
    found = []
    for row in summary.iter_rows(named=True):
        name, size = row[tables.RUN], f"{row[tables.CELLS]} x {row[tables.CELLS]} cells"
        if row[tables.PERFECT_FOCUS] is not None and is_too_coarse(row[tables.PERFECT_FOCUS], row[tables.AREA_SHARE]):
            found.append(
                f"{name}: WARNING, its maps have {size}, and even a perfect one would put only "
                f"{percent(row[tables.PERFECT_FOCUS])} in the lesion: too coarse to say where it looks, left out "
                "of the means"
            )
        for column, against in AGAINST.items():
            difference = estimate_in(row, column)
            if difference.estimate is not None:
                found.append(f"{name}: {sentence(difference, against)}")
        if row[tables.RANK_CORRELATION] is not None and row[tables.RANK_CORRELATION] >= UNCHANGED:
            found.append(
                f"{name}: WARNING, its maps hardly change when its weights are random (rank correlation "
                f"{row[tables.RANK_CORRELATION]:.2f}): they show the architecture and the image, not what was learned"
            )
        if num_empty := row[tables.NUM_EMPTY]:
            left_out = ", and the run from the means" if num_empty > (1 - OFTEN_ENOUGH) * row[tables.NUM_IMAGES] else ""
            found.append(
                f"{name}: {num_empty} of {row[tables.NUM_IMAGES]} maps are positive nowhere, or their lesion has no "
                f"mask; they are left out{left_out}"
            )
    found += findings_of_pairs(pairs)
    if len(pairs):
        found.append("intervals are over lesions: the same models trained again may look elsewhere")
    if summary[tables.CELLS].n_unique() > 1:
        found.append("maps of fewer cells cannot follow a small lesion: compare each run with its perfect map as well")
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
    """higher than X by 3.1 points [1.0, 5.2]"""
    word = focus.verdict(difference)
    if difference.estimate is None:
        return f"focus cannot be compared with that of {against}"
    points = f"{abs(100 * difference.estimate):.1f} points"
    if difference.low is None or difference.high is None:
        return f"focus differs from {against} by {100 * difference.estimate:+.1f} points ({word})"
    interval = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    if word == focus.ALIKE:
        return f"focus {word} from {against} ({100 * difference.estimate:+.1f} points {interval})"
    return f"focus is {word} than {against} by {points} {interval}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
