"""The lesion focus of several runs: from one row a lesion to a row a run, and paired differences."""

from itertools import combinations

import numpy as np
import polars as pl

from lesionforge import bootstrap, tables
from lesionforge.bootstrap import Estimate
from lesionforge.classifier import focus
from lesionforge.classifier.saliency import CNN, TRANSFORMER

OFTEN_ENOUGH = 0.5  # share of a run's lesions that need a map for it to count for its kind, our choice
TOO_COARSE = 2.0  # a perfect map's focus, in areas of the lesion, below which nothing can be said; our choice
COARSE = "maps too coarse to tell"  # a verdict
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
        has_map, has_mask = ~np.isnan(values[tables.FOCUS]), values[tables.AREA_SHARE] > 0
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
                tables.NUM_BENIGN: int((own[tables.TARGET] == 0).sum()),
                tables.NUM_EMPTY: int((~has_map & has_mask).sum()),
                tables.NUM_WITHOUT_MASK: int((~has_mask).sum()),
                **as_columns(estimates),
                **{
                    name: mean_of_known(values[tables.FOCUS][own[tables.TARGET].eq_missing(target).to_numpy()])
                    for name, target in ((tables.FOCUS_MALIGNANT, 1), (tables.FOCUS_BENIGN, 0))
                },
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
        coarse = {name for name in kinds if has_coarse_maps(by_run[(name,)])}
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
                    tables.VERDICT: COARSE if coarse & {one, other} else focus.verdict(found),
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
    """Whether a run has maps of most of the lesions with a mask, of enough cells to follow them."""
    has_map = ~np.isnan(lesions.filter(pl.col(tables.AREA_SHARE) > 0)[tables.FOCUS].to_numpy())
    return len(has_map) > 0 and not is_mostly_empty((~has_map).sum(), len(has_map)) and not has_coarse_maps(lesions)


def is_mostly_empty(num_empty: int, num_with_mask: int) -> bool:
    return num_empty > (1 - OFTEN_ENOUGH) * num_with_mask


def has_coarse_maps(lesions: pl.DataFrame) -> bool:
    """As the run's row of the summary has it: of the lesions with a map."""
    known = lesions.filter(pl.col(tables.FOCUS).is_not_nan())
    perfect, area = (mean_of_known(known[name].to_numpy()) for name in (tables.PERFECT_FOCUS, tables.AREA_SHARE))
    return perfect is not None and area is not None and is_too_coarse(perfect, area)


def is_too_coarse(perfect_focus: float, area_share: float) -> bool:
    return perfect_focus < TOO_COARSE * area_share
