"""Intervals: the patient-clustered percentile bootstrap of every score in `metrics.py`; numpy only.

A replicate draws as many clusters as there are, with replacement: patients (all lesions of a patient come together,
because they look alike), and each lesion whose patient is unknown as a cluster of its own. Classes are not stratified:
how many malignant lesions a study finds is a part of its chance, so it varies between replicates.

The trick: a score depends only on counts of lesions at and between the cuts (`metrics.Curve`). Each patient is one row
of such counts, the drawn multiplicities are a matrix, and their product is every replicate's curve at once, exactly as
if the drawn patients' lesions had been written out again. Lesions of unknown patients that lie at the same place are
alike, so their multiplicities are drawn in one sum (a multinomial's parts add up to a multinomial).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lesionforge import metrics
from lesionforge.metrics import Floats

LEVEL = 0.95
NUMBERS_AT_ONCE = 4_000_000  # 32 MB of float64: the matrices are worked through in pieces of this size


class Estimate(NamedTuple):
    """A score, its 95 % interval, and how many replicates it was undefined in; None where it is undefined."""

    estimate: float | None
    low: float | None
    high: float | None
    num_left_out: int


class CountTable(NamedTuple):
    """Counts of lesions by kind of cluster (K: each known patient, then each place of unknown patients' lesions).

    E entries, sorted by place; a place is one of 3G + 1: malignant on cut 0..G-1, then benign below cut 0, on cut 0,
    between cuts 0 and 1, on cut 1, ..., above all cuts.
    """

    num_lesions: Floats  # (E,) above 0
    kind: NDArray[np.int64]  # (E,)
    place: NDArray[np.int64]  # (E,)
    num_clusters: Floats  # (K,) how many clusters are of this kind; 1 for a patient
    retrieved: Floats | None  # (K,) malignant lesions among the patient's 15 highest; None where a patient is unknown
    num_cuts: int  # G
    threshold_cut: int | None


def estimates(
    targets: ArrayLike,
    scores: ArrayLike,
    patients: NDArray[np.int64] | None = None,
    threshold: float | None = None,
    num_replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every score of `metrics.SCORES` with its 95 % percentile interval.

    `patients` (N,) numbers each lesion's patient from 0, -1 where unknown; None: all unknown, so the bootstrap is by
    image. Replicates in which a score is undefined (a class is missing, nothing is called malignant) are left out of
    its interval and counted. Where either class comes from a single cluster there is no interval: no replicate could
    show how that class varies.

    Raises:
        BadInput: as `metrics.pauc`.
    """
    table = count(targets, scores, patients, threshold)
    point = scores_of(table, table.num_clusters[None])
    replicates = replicate(table, num_replicates, seed) if min(clusters_by_class(table)) > 1 else {}
    return {name: estimate(float(point[name][0]), replicates.get(name)) for name in metrics.SCORES}


def clusters_by_class(table: CountTable) -> tuple[int, int]:
    """How many clusters hold a malignant lesion, and how many a benign one."""
    is_malignant = table.place < table.num_cuts
    kinds = [np.unique(table.kind[held]) for held in (is_malignant, ~is_malignant)]
    malignant, benign = (int(table.num_clusters[kind].sum()) for kind in kinds)
    return malignant, benign


def estimate(point: float, replicates: Floats | None) -> Estimate:
    if np.isnan(point) or replicates is None:
        return Estimate(metrics.number(point), None, None, 0)
    defined = replicates[~np.isnan(replicates)]
    num_left_out = len(replicates) - len(defined)
    if not len(defined):
        return Estimate(point, None, None, num_left_out)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(point, float(low), float(high), num_left_out)


def count(
    targets: ArrayLike, scores: ArrayLike, patients: NDArray[np.int64] | None = None, threshold: float | None = None
) -> CountTable:
    """Count each patient's lesions at and between the cuts."""
    malignant, scores = metrics.checked(targets, scores)
    if patients is None:
        patients = np.full(len(scores), -1)
    cuts = metrics.cuts_of(malignant, scores, () if threshold is None else (threshold,))
    num_cuts = len(cuts)
    place = places_of(malignant, scores, cuts)

    known = patients >= 0
    num_patients = int(patients.max(initial=-1)) + 1
    at_place = np.bincount(place[~known], minlength=3 * num_cuts + 1)
    alone = np.flatnonzero(at_place)  # each is a kind of its own
    num_clusters = np.concatenate([np.ones(num_patients), at_place[alone]])
    num_kinds = len(num_clusters)
    cell, in_cell = np.unique(place[known] * num_kinds + patients[known], return_counts=True)
    cell = np.concatenate([cell, alone * num_kinds + num_patients + np.arange(len(alone))])
    order = np.argsort(cell)
    num_lesions = np.concatenate([in_cell.astype(np.float64), np.ones(len(alone))])[order]
    place, kind = np.divmod(cell[order], num_kinds)
    if len(np.unique(kind)) < num_kinds:
        raise ValueError(f"patients must be numbered from 0 without gaps; found {num_patients} with some unused")
    retrieved: Floats | None = None
    if known.all():
        found = metrics.retrieved(malignant, scores, patients)
        retrieved = np.bincount(patients[malignant], found, num_patients).astype(np.float64)
    cut = None if threshold is None else int(np.searchsorted(cuts, threshold))
    return CountTable(num_lesions, kind, place, num_clusters, retrieved, num_cuts, cut)


def places_of(malignant: NDArray[np.bool_], scores: Floats, cuts: Floats) -> NDArray[np.int64]:
    """Each lesion's place among the 3G + 1 of `CountTable`, (N,); malignant lesions must lie on cuts."""
    above = np.searchsorted(cuts, scores, side="left")  # (N,) the first cut that is not below the score
    on = np.append(cuts, np.nan)[above] == scores
    return np.where(malignant, above, len(cuts) + 2 * above + on)


def replicate(table: CountTable, num_replicates: int, seed: int) -> dict[str, Floats]:
    """Each score in each replicate, (R,); NaN where it is undefined."""
    rng = np.random.default_rng(seed)
    num_clusters = int(table.num_clusters.sum())
    at_once = max(1, NUMBERS_AT_ONCE // max(len(table.num_clusters), 3 * table.num_cuts + 1))
    pieces = []
    for start in range(0, num_replicates, at_once):
        size = min(at_once, num_replicates - start)
        drawn = rng.multinomial(num_clusters, table.num_clusters / num_clusters, size=size)  # (size, K)
        pieces.append(scores_of(table, drawn.astype(np.float64)))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in metrics.SCORES}


def scores_of(table: CountTable, drawn: Floats) -> dict[str, Floats]:
    """Each score of resamples in which kind k was drawn `drawn[:, k]` times, (R, K) -> (R,)."""
    total = np.zeros((len(drawn), 3 * table.num_cuts + 1))
    used, column = np.unique(table.place, return_inverse=True)
    width = max(1, NUMBERS_AT_ONCE // drawn.shape[1])
    for first in range(0, len(used), width):
        places = used[first : first + width]
        entries = slice(*np.searchsorted(column, [first, first + len(places)]))
        counts = np.zeros((drawn.shape[1], len(places)))
        counts[table.kind[entries], column[entries] - first] = table.num_lesions[entries]
        total[:, places] = drawn @ counts  # sums of whole numbers: exact, whatever the order of adding
    curve = curve_of_places(total, table.num_cuts)
    retrieved = None if table.retrieved is None else drawn @ table.retrieved
    return metrics.all_scores_of(curve, table.threshold_cut, retrieved)


def curve_of_places(total: Floats, num_cuts: int) -> metrics.Curve:
    """The curves of resamples, from how many lesions lie at each place, (R, 3G + 1)."""
    malignant, benign = np.split(total, [num_cuts], axis=1)  # (R, G), (R, 2G + 1)
    running = np.cumsum(benign, axis=1)
    below, equal = running[:, 0:-1:2], benign[:, 1::2]
    return metrics.Curve(malignant, below, equal, malignant.sum(axis=1), running[:, -1])


def clusters_of(patients: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each lesion's cluster, numbered from 0: its patient, or one of its own where the patient is unknown (-1)."""
    unknown = patients < 0
    num_patients = int(patients.max(initial=-1)) + 1
    return np.where(unknown, num_patients + np.cumsum(unknown) - 1, patients)


def resampled_sums(sums: Floats, num_replicates: int, seed: int) -> Floats:
    """What the drawn clusters of each replicate add up to, (R, M), from what each cluster holds, (K, M).

    For measures that are ratios of sums over lesions, as those of calibration are.
    """
    rng, num_clusters = np.random.default_rng(seed), len(sums)
    at_once = max(1, NUMBERS_AT_ONCE // num_clusters)
    pieces = []
    for start in range(0, num_replicates, at_once):
        size = min(at_once, num_replicates - start)
        drawn = rng.integers(num_clusters, size=(size, num_clusters)) + num_clusters * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters)
        pieces.append(times.astype(np.float64) @ sums)
    return np.concatenate(pieces)
