"""Scores of many runs in the same resamples of the same patients, and their scores with two sides' places swapped.

Where `bootstrap.py` draws for one run, and may so draw all alike lesions in one sum, here each replicate draws clusters
that all runs share: what is left of a difference between two runs is then no longer whose patients were drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesionforge import bootstrap, metrics
from lesionforge.metrics import Curve, Floats

MEASURES: dict[str, Callable[[Curve], Floats]] = {
    metrics.PAUC: metrics.pauc_of,
    metrics.ROC_AUC: metrics.roc_auc_of,
    metrics.AVERAGE_PRECISION: metrics.average_precision_of,
    metrics.SENSITIVITY_AT_90: lambda curve: metrics.sensitivity_at_specificity_of(curve, 90),
    metrics.SENSITIVITY_AT_95: lambda curve: metrics.sensitivity_at_specificity_of(curve, 95),
}
SAME = 1e-12  # differences of scores nearer than this are equal; what is left of rounding


class Lesions(NamedTuple):
    """The lesions that all runs scored; clusters are numbered from 0 without gaps."""

    malignant: NDArray[np.bool_]  # (N,)
    clusters: NDArray[np.int64]  # (N,) each lesion's patient, or one of its own where the patient is unknown


class Places(NamedTuple):
    """Where a run puts the lesions, 3G + 1 places as in `bootstrap.CountTable`, split by what is fast to sum.

    Clusters of several lesions are summed by a matrix product, those of one lesion (K1 in all) one by one.
    """

    place: NDArray[np.int64]  # (E,) of the lesions of clusters with several
    row: NDArray[np.int64]  # (E,) their cluster among those
    lone_place: NDArray[np.int64]  # (K1,)
    num_cuts: int


class Clusters(NamedTuple):
    """Which clusters hold several lesions, and which lesion each of the others is."""

    several: NDArray[np.int64]  # (K2,) clusters
    lone: NDArray[np.int64]  # (K1,) clusters
    row: NDArray[np.int64]  # (N,) place of a lesion's cluster among `several`, -1 for lone ones
    lone_lesion: NDArray[np.int64]  # (K1,) the lesion of each lone cluster


def clusters_by_class(lesions: Lesions) -> tuple[int, int]:
    """How many clusters hold a malignant lesion, and how many a benign one."""
    held = lesions.malignant, ~lesions.malignant
    malignant, benign = (len(np.unique(lesions.clusters[each])) for each in held)
    return malignant, benign


def points(lesions: Lesions, scores: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """Each measure of each run, (C,), from their scores (C, N)."""
    curves = [metrics.curve_of(lesions.malignant, run) for run in scores]
    return {name: np.array([float(MEASURES[name](curve)) for curve in curves]) for name in names}


def replicates(
    lesions: Lesions, scores: Floats, names: Sequence[str], num_replicates: int, seed: int
) -> dict[str, Floats]:
    """Each measure of each run in each replicate, (R, C); NaN where it is undefined.

    A replicate draws as many clusters as there are, with replacement, the same ones for all runs.

    Args:
        scores: (C, N)
    """
    clusters = split_clusters(lesions.clusters)
    placed = [places(lesions, clusters, run, metrics.cuts_of(lesions.malignant, run)) for run in scores]
    found = {name: np.empty((num_replicates, len(scores))) for name in names}
    for rows, drawn in draws(clusters, num_replicates, seed):
        for column, run in enumerate(placed):
            curve = bootstrap.curve_of_places(totals(clusters, run, drawn), run.num_cuts)
            for name in names:
                found[name][rows, column] = MEASURES[name](curve)
    return found


def left_out(lesions: Lesions, scores: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """Each measure of each run without each cluster that holds a malignant lesion, in turn, (M, C)."""
    clusters = split_clusters(lesions.clusters)
    order = np.concatenate([clusters.several, clusters.lone])
    columns = np.flatnonzero(np.isin(order, lesions.clusters[lesions.malignant]))
    found = {name: np.empty((len(columns), len(scores))) for name in names}
    placed = [places(lesions, clusters, run, metrics.cuts_of(lesions.malignant, run)) for run in scores]
    for rows in pieces(len(columns), len(order)):
        times = np.ones((rows.stop - rows.start, len(order)))
        times[np.arange(len(times)), columns[rows]] = 0
        for column, run in enumerate(placed):
            curve = bootstrap.curve_of_places(totals(clusters, run, times), run.num_cuts)
            for name in names:
                found[name][rows, column] = MEASURES[name](curve)
    return found


def swapped(
    lesions: Lesions, scores: Floats, others: Floats, names: Sequence[str], num_permutations: int, seed: int
) -> dict[str, Floats]:
    """The mean difference of two sides, (P,), when a fair coin for each cluster decides which side gets whose places.

    Were the two sides alike, each cluster's places could as well be the other's (Bandos, Rockette and Gur 2005). A
    place is the lesion's rank within its run, so the sides need not score on one scale.

    Args:
        scores, others: (S, N), paired in their order; a cluster's coin is the same for all pairs
    """
    clusters = split_clusters(lesions.clusters)
    pairs = []
    for mine, theirs in zip(scores, others, strict=True):
        ranks = ranks_of(mine), ranks_of(theirs)
        cuts = np.unique(np.concatenate([rank[lesions.malignant] for rank in ranks]))
        pairs.append([places(lesions, clusters, rank, cuts) for rank in ranks])
    found = {name: np.zeros(num_permutations) for name in names}
    for rows, coins in coin_flips(clusters, num_permutations, seed):
        for mine, theirs in pairs:
            for here, there, sign in ((mine, theirs, 1), (theirs, mine, -1)):
                total = totals(clusters, here, 1 - coins) + totals(clusters, there, coins)
                curve = bootstrap.curve_of_places(total, here.num_cuts)
                for name in names:
                    found[name][rows] += sign * MEASURES[name](curve) / len(pairs)
    return found


def permutation_p(differences: Floats, found: float) -> float:
    """The share of permutations whose difference is as far from zero as the one found, which counts as one of them."""
    return float((1 + np.count_nonzero(np.abs(differences) >= abs(found) - SAME)) / (1 + len(differences)))


# ------------------------------------------------------------------------------------------------------------- counts


def split_clusters(clusters: NDArray[np.int64]) -> Clusters:
    sizes = np.bincount(clusters)
    several, lone = np.flatnonzero(sizes > 1), np.flatnonzero(sizes == 1)
    row_of = np.full(len(sizes), -1)
    row_of[several] = np.arange(len(several))
    lesion_of = np.empty(len(sizes), np.int64)
    lesion_of[clusters] = np.arange(len(clusters))
    return Clusters(several, lone, row_of[clusters], lesion_of[lone])


def places(lesions: Lesions, clusters: Clusters, scores: Floats, cuts: Floats) -> Places:
    place = bootstrap.places_of(lesions.malignant, scores, cuts)
    together = clusters.row >= 0
    return Places(place[together], clusters.row[together], place[clusters.lone_lesion], len(cuts))


def totals(clusters: Clusters, run: Places, drawn: Floats) -> Floats:
    """How many lesions lie at each place when each cluster counts `drawn` times, (R, K) -> (R, 3G + 1)."""
    num_places = 3 * run.num_cuts + 1
    total = np.zeros((len(drawn), num_places))
    num_several = len(clusters.several)
    if num_several:
        of_several = drawn[:, :num_several]
        width = max(1, bootstrap.NUMBERS_AT_ONCE // num_several)
        for first in range(0, num_places, width):
            size = min(width, num_places - first)
            held = (run.place >= first) & (run.place < first + size) if size < num_places else slice(None)
            cell = run.row[held] * size + run.place[held] - first
            counts = np.bincount(cell, minlength=num_several * size).reshape(num_several, size)
            total[:, first : first + size] = of_several @ counts.astype(np.float64)  # sums of whole numbers: exact
    if len(clusters.lone):
        for row, times in enumerate(drawn[:, num_several:]):
            total[row] += np.bincount(run.lone_place, times, num_places)
    return total


def draws(clusters: Clusters, num_replicates: int, seed: int) -> Iterator[tuple[slice, Floats]]:
    """Rows of replicates, and how often each draws each cluster, (R, K): those of several lesions, then the others."""
    rng = np.random.default_rng(seed)
    num_clusters = len(clusters.several) + len(clusters.lone)
    for rows in pieces(num_replicates, num_clusters):
        size = rows.stop - rows.start
        drawn = rng.integers(num_clusters, size=(size, num_clusters)) + num_clusters * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters)
        yield rows, times.astype(np.float64)


def coin_flips(clusters: Clusters, num_permutations: int, seed: int) -> Iterator[tuple[slice, Floats]]:
    """Rows of permutations, and each cluster's coin in them, (P, K), 0 or 1."""
    rng = np.random.default_rng(seed)
    num_clusters = len(clusters.several) + len(clusters.lone)
    for rows in pieces(num_permutations, num_clusters):
        yield rows, rng.integers(2, size=(rows.stop - rows.start, num_clusters)).astype(np.float64)


def pieces(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Slices of rows whose matrices stay small."""
    at_once = max(1, bootstrap.NUMBERS_AT_ONCE // num_columns)
    for start in range(0, num_rows, at_once):
        yield slice(start, min(start + at_once, num_rows))


def ranks_of(scores: Floats) -> Floats:
    """Ranks from 0, ties sharing their mean rank, (N,)."""
    values, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del values
    return (np.cumsum(counts) - (counts + 1) / 2)[index]
