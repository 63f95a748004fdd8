"""pAUC, sensitivity and specificity of many runs in many groups of lesions, in the same resamples of all patients.

A replicate draws patients from all lesions, and every group, run and arm is measured on those: a difference between
two arms is then paired, and how many lesions a group has varies as it would in another study. Runs that differ in seed
count as one by their mean; over folds, whose lesions differ, sensitivity and specificity are of all lesions together
and pAUC is the mean over folds, weighted by their malignant lesions (scores of two models share no scale).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesionforge import bootstrap, metrics
from lesionforge.evaluation import paired
from lesionforge.evaluation.attributes import Rows
from lesionforge.metrics import Floats

FEW_LESIONS = 4  # lesions a patient, our choice: below it summing lesion by lesion is faster than by a matrix product
SCORES = (metrics.PAUC, metrics.RECALL, metrics.SPECIFICITY)


class Scored(NamedTuple):
    """What a run says of the lesions of one set; a set is the lesions of one fold, or all."""

    lesions: int  # number of the set
    scores: Floats  # (n,) in the order of the set
    threshold: float | None


class Population(NamedTuple):
    """All lesions, and the sets in which runs scored them; sets share no lesion."""

    malignant: NDArray[np.bool_]  # (N,)
    clusters: NDArray[np.int64]  # (N,) from 0 without gaps
    sets: tuple[Rows, ...]


class Part(NamedTuple):
    """A group's lesions in one set, and where each run puts them."""

    clusters: paired.Clusters
    columns: Rows  # of the drawn multiplicities: the group's clusters, several then lone
    malignant: Floats  # (K,) malignant lesions of each
    places: "dict[int, paired.Places | Ordered]"  # by run


class Ordered(NamedTuple):
    """A run's lesions in the order of their scores: what a sum along them needs to give the curve of `metrics`."""

    benign: Rows  # column of each lesion's cluster
    malignant: Rows
    starts: Rows  # (G,) the first malignant lesion on each cut
    below: Rows  # (G,) benign lesions below the cut
    below_or_equal: Rows  # (G,)


class Sums(NamedTuple):
    """What the clusters of a group hold, (K, 4A): for each average, malignant lesions found, malignant lesions, benign
    lesions left alone, benign lesions; a lesion counts by the share of runs that call it malignant."""

    columns: Rows
    held: Floats


class Measured(NamedTuple):
    """Scores by name; NaN where undefined. A averages of runs, G groups, R replicates."""

    point: dict[str, Floats]  # (A, G)
    replicates: dict[str, Floats]  # (R, A, G)
    left_out: dict[str, Floats]  # (M, A, G) without each of the clusters that hold a malignant lesion
    malignant_clusters: Rows  # (M,)


def measure(
    population: Population,
    runs: Sequence[Scored],
    averages: Sequence[Sequence[int]],
    groups: Sequence[Rows],
    with_pauc: Sequence[bool],
    num_replicates: int,
    seed: int,
) -> Measured:
    """Every score of every average of runs in every group.

    Args:
        averages: numbers of the runs that count as one.
        groups: rows of each group's lesions.
        with_pauc: whether a group's pAUC is wanted; it costs most, and is undefined with hardly any benign lesions.
    """
    clusters = paired.split_clusters(population.clusters)
    column_of = np.empty(len(clusters.several) + len(clusters.lone), np.int64)
    column_of[np.concatenate([clusters.several, clusters.lone])] = np.arange(len(column_of))
    called = [called_shares(population, runs, members) for members in averages]
    prepared = [
        (
            sums_of(population, called, rows, column_of),
            [part_of(population, runs, number, rows, column_of) for number in range(len(population.sets))]
            if wanted
            else [],
        )
        for rows, wanted in zip(groups, with_pauc, strict=True)
    ]

    def scores_in(drawn: Floats) -> dict[str, Floats]:
        found = {name: np.full((len(drawn), len(averages), len(groups)), np.nan) for name in SCORES}
        for group, (sums, parts) in enumerate(prepared):
            recall, specificity = shares(sums, drawn)
            found[metrics.RECALL][:, :, group], found[metrics.SPECIFICITY][:, :, group] = recall, specificity
            if parts:
                found[metrics.PAUC][:, :, group] = paucs(parts, runs, averages, drawn)
        return found

    point = {name: values[0] for name, values in scores_in(np.ones((1, len(column_of)))).items()}
    replicates = {name: np.empty((num_replicates, len(averages), len(groups))) for name in SCORES}
    for rows, drawn in paired.draws(clusters, num_replicates, seed):
        for name, values in scores_in(drawn).items():
            replicates[name][rows] = values
    without = np.unique(population.clusters[population.malignant])
    left_out = {name: np.empty((len(without), len(averages), len(groups))) for name in SCORES}
    for rows in paired.pieces(len(without), len(column_of)):
        drawn = np.ones((rows.stop - rows.start, len(column_of)))
        drawn[np.arange(len(drawn)), column_of[without[rows]]] = 0
        for name, values in scores_in(drawn).items():
            left_out[name][rows] = values
    return Measured(point, replicates, left_out, without)


def called_shares(population: Population, runs: Sequence[Scored], members: Sequence[int]) -> tuple[Floats, Floats]:
    """The share of runs that call each lesion malignant, and 1 where any run with a threshold scored it; both (N,)."""
    times, asked = np.zeros((2, len(population.malignant)))
    for member in members:
        run = runs[member]
        if run.threshold is not None:
            rows = population.sets[run.lesions]
            times[rows] += run.scores >= run.threshold
            asked[rows] += 1
    return times / np.maximum(asked, 1), (asked > 0).astype(np.float64)


def sums_of(
    population: Population, called: Sequence[tuple[Floats, Floats]], rows: Rows, column_of: NDArray[np.int64]
) -> Sums:
    clusters, of_row = np.unique(population.clusters[rows], return_inverse=True)
    malignant = population.malignant[rows]
    held = [
        np.bincount(of_row, weights, len(clusters))
        for share, covered in called
        for weights in (
            malignant * share[rows],
            malignant * covered[rows],
            ~malignant * (covered - share)[rows],
            ~malignant * covered[rows],
        )
    ]
    return Sums(column_of[clusters], np.stack(held, axis=1))


def shares(sums: Sums, drawn: Floats) -> tuple[Floats, Floats]:
    """Sensitivity and specificity, each (R, A)."""
    total = (drawn[:, sums.columns] @ sums.held).reshape(len(drawn), -1, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total[..., 0] / total[..., 1], total[..., 2] / total[..., 3]


def part_of(
    population: Population, runs: Sequence[Scored], number: int, rows: Rows, column_of: NDArray[np.int64]
) -> Part:
    in_set, inside, _ = np.intersect1d(population.sets[number], rows, assume_unique=True, return_indices=True)
    clusters, of_row = np.unique(population.clusters[in_set], return_inverse=True)
    lesions = paired.Lesions(population.malignant[in_set], of_row)
    split = paired.split_clusters(of_row)
    order = np.concatenate([split.several, split.lone])
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    are_few = len(in_set) <= FEW_LESIONS * len(clusters)
    places = {
        at: ordered(lesions.malignant, scores, position[of_row])
        if are_few
        else paired.places(lesions, split, scores, metrics.cuts_of(lesions.malignant, scores))
        for at, run in enumerate(runs)
        if run.lesions == number and len(scores := run.scores[inside])
    }
    held = np.bincount(of_row, lesions.malignant, len(clusters))
    return Part(split, column_of[clusters[order]], held[order], places)


def ordered(malignant: NDArray[np.bool_], scores: Floats, columns: Rows) -> Ordered:
    by_score = np.argsort(scores, kind="stable")
    malignant, scores, columns = malignant[by_score], scores[by_score], columns[by_score]
    benign = scores[~malignant]
    cuts, starts = np.unique(scores[malignant], return_index=True)
    below, below_or_equal = (np.searchsorted(benign, cuts, side=side) for side in ("left", "right"))
    return Ordered(columns[~malignant], columns[malignant], starts, below, below_or_equal)


def curve_of(part: Part, places: paired.Places | Ordered, drawn: Floats) -> metrics.Curve:
    """The curve of each resample: by places where patients have many lesions, else lesion by lesion."""
    if isinstance(places, paired.Places):
        return bootstrap.curve_of_places(paired.totals(part.clusters, places, drawn), places.num_cuts)
    benign = np.zeros((len(drawn), len(places.benign) + 1))
    np.cumsum(drawn[:, places.benign], axis=1, out=benign[:, 1:])
    malignant = drawn[:, places.malignant]
    on_cuts = np.add.reduceat(malignant, places.starts, axis=1) if len(places.starts) else malignant
    below = benign[:, places.below]
    return metrics.Curve(on_cuts, below, benign[:, places.below_or_equal] - below, malignant.sum(axis=1), benign[:, -1])


def paucs(parts: Sequence[Part], runs: Sequence[Scored], averages: Sequence[Sequence[int]], drawn: Floats) -> Floats:
    """pAUC of each average, (R, A)."""
    of_run: dict[int, Floats] = {}
    num_malignant = []
    for part in parts:
        here = drawn[:, part.columns]
        num_malignant.append(here @ part.malignant)
        for at, places in part.places.items():
            of_run[at] = metrics.pauc_of(curve_of(part, places, here))
    found = np.full((len(drawn), len(averages)), np.nan)
    for column, members in enumerate(averages):
        area, weight = np.zeros((2, len(drawn)))
        for number in sorted({runs[member].lesions for member in members}):
            same_lesions = [of_run[at] for at in members if runs[at].lesions == number and at in of_run]
            if same_lesions:
                mean = np.mean(same_lesions, axis=0)
                defined = ~np.isnan(mean)
                area += np.where(defined, mean, 0) * num_malignant[number]
                weight += defined * num_malignant[number]
        with np.errstate(invalid="ignore"):
            found[:, column] = area / weight
    return found
