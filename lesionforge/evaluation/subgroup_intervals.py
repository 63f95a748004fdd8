"""Intervals of subgroups: over patients and, where an arm has several seeds, over seeds too, as in compare.

Of runs whose lesions differ by fold the patients are resampled alone (percentiles).
"""

from collections.abc import Sequence

import numpy as np

from lesionforge import bootstrap, metrics
from lesionforge.evaluation import variance
from lesionforge.evaluation.attributes import Rows
from lesionforge.evaluation.subgroup_runs import Read
from lesionforge.evaluation.subgroup_scores import Measured
from lesionforge.evaluation.variance import Spread

LARGEST = {metrics.PAUC: 1 - metrics.MIN_TPR}  # of a score; others reach 1

Side = tuple[int, list[int]]  # sign, and the numbers of its runs


def spread_of(found: Read, held: Measured, sides: Sequence[Side], name: str, group: int, rows: Rows) -> Spread | None:
    """How far a mean over seeds, or a difference of two, may be off; None where percentiles must do.

    Args:
        held: whose first averages are the runs, one by one.
        group: its number in `held`; rows: its lesions.
    """
    members = [member for _, some in sides for member in some]
    if len({found.runs[member].lesions for member in members}) > 1:
        return None
    if np.isnan(held.point[name][members, group]).any():
        return None
    clusters = found.population.clusters[rows[found.population.malignant[rows]]]
    here = np.isin(held.malignant_clusters, clusters)
    fold = [
        (
            sign,
            variance.Runs(
                held.point[name][some, group],
                held.replicates[name][:, some, group],
                held.left_out[name][here][:, some, group],
            ),
        )
        for sign, some in sides
    ]
    return variance.spread([fold])


def estimate_of(value: float, replicates: metrics.Floats, spread: Spread | None, name: str) -> bootstrap.Estimate:
    """A score with its interval."""
    found = bootstrap.estimate(value, replicates)
    if spread is None or found.low is None:
        return found
    low, high = variance.interval_within(value, spread, LARGEST.get(name, 1.0))
    return found._replace(low=low, high=high)


def difference_of(value: float, replicates: metrics.Floats, spread: Spread | None, name: str) -> bootstrap.Estimate:
    """A difference of two arms with its interval, no wider than differences can be."""
    found = bootstrap.estimate(value, replicates)
    if spread is None or found.low is None:
        return found
    low, high = variance.interval(value, spread)
    most = LARGEST.get(name, 1.0)
    return found._replace(low=max(low, -most), high=min(high, most))
