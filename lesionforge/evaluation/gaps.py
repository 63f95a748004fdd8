"""The equal-opportunity gap: how much the sensitivity at the threshold differs between groups (Hardt et al. 2016).

It is the largest minus the smallest of several estimates, so it is above zero by chance alone, the more so the smaller
the groups; what chance gives is measured by dealing the same outcomes to the same group sizes anew, patient by patient.

For the same reason percentiles of the bootstrap are no interval of it: they hardly ever hold a gap of zero. Each pair's
signed difference has a fair one, and at Bonferroni's level all of them hold at once. Where they do, the true gap is at
least the largest lower end of the pairs' absolute differences, and at most the largest upper end.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesionforge import bootstrap
from lesionforge.evaluation import student
from lesionforge.evaluation.attributes import Rows
from lesionforge.metrics import Floats

NUMBERS_AT_ONCE = bootstrap.NUMBERS_AT_ONCE


class Gap(NamedTuple):
    estimate: bootstrap.Estimate  # its interval held the true gap in 94 % of simulated studies or more
    by_chance: float | None  # mean gap were groups alike
    p_value: float | None  # share of such gaps as large as this one
    smallest: int  # number of the group
    largest: int


def gap_of(point: Floats, replicates: Floats, num_patients: NDArray[np.int64], chance: Floats) -> Gap:
    """The gap between G groups, two at least.

    Args:
        point: (G,) sensitivities.
        replicates: (R, G), NaN where a group has no malignant lesion.
        num_patients: (G,) that the malignant lesions of each group are from.
        chance: (P,) gaps by chance.
    """
    found = float(point.max() - point.min())
    defined = ~np.isnan(replicates).any(axis=1)
    low, high = interval(point, replicates[defined], num_patients) if defined.any() else (None, None)
    p_value = (1 + np.count_nonzero(chance >= found - 1e-12)) / (1 + len(chance))
    return Gap(
        bootstrap.Estimate(found, low, high, int((~defined).sum())),
        float(chance.mean()),
        float(p_value),
        int(point.argmin()),
        int(point.argmax()),
    )


def interval(point: Floats, replicates: Floats, num_patients: NDArray[np.int64]) -> tuple[float, float]:
    """The gap's ends, from t intervals of all pairs' differences at Bonferroni's level.

    A difference's variance is the bootstrap's, or, where it is more, that of two independent shares with two successes
    and two failures added (Agresti and Coull 1998), each of as many lesions as the bootstrap makes of it, at least one
    a patient: where all lesions of a group were found no replicate differs, and yet its sensitivity is not known to be
    1.
    """
    pairs = list(combinations(range(len(point)), 2))
    of_group = np.var(replicates, axis=0)
    number = np.maximum(num_patients, point * (1 - point) / np.where(of_group > 0, of_group, np.inf))
    added = (number * point + 2) / (number + 4)
    least = added * (1 - added) / (number + 4)
    low, high = 0.0, 0.0
    for one, other in pairs:
        variance = max(float(np.var(replicates[:, one] - replicates[:, other])), float(least[one] + least[other]))
        df = sum(least[[one, other]]) ** 2 / sum(
            (least**2 / np.maximum(num_patients - 1, 1))[[one, other]]
        )  # Welch 1947
        half = student.quantile(1 - (1 - bootstrap.LEVEL) / 2 / len(pairs), float(df)) * math.sqrt(variance)
        difference = float(abs(point[one] - point[other]))
        low, high = max(low, difference - half), max(high, difference + half)
    return low, min(high, 1.0)


def gaps_by_chance(
    groups: Sequence[Rows], clusters: NDArray[np.int64], outcomes: Floats, num_permutations: int, seed: int
) -> Floats:
    """The gap when group labels are dealt anew, (P, A).

    Patients are put in two random orders, independently; outcomes are read in the one, labels in the other, each
    patient's lesions together. So group sizes stay, lesions of a patient stay neighbours, and label and outcome are
    independent.

    Args:
        groups: rows of each group's malignant lesions; no lesion in two.
        clusters: (N,) of all lesions.
        outcomes: (A, N) share of an average's runs that call the lesion malignant.
    """
    rows = np.concatenate(groups)
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    _, patient = np.unique(clusters[rows], return_inverse=True)
    sizes = np.bincount(labels).astype(np.float64)
    held = outcomes[:, rows]  # (A, M)
    rng = np.random.default_rng(seed)
    found = np.empty((num_permutations, len(outcomes)))
    at_once = max(1, NUMBERS_AT_ONCE // (len(rows) * len(outcomes)))
    for start in range(0, num_permutations, at_once):
        size = min(at_once, num_permutations - start)
        keys = rng.random((2, size, patient.max() + 1))[:, :, patient]  # (2, P, M)
        of_outcome, of_label = np.argsort(keys, axis=2, kind="stable")
        dealt, drawn = labels[of_label], held[:, of_outcome]  # (P, M), (A, P, M)
        shares = np.stack([(drawn * (dealt == group)).sum(axis=2) / sizes[group] for group in range(len(groups))])
        found[start : start + size] = (shares.max(axis=0) - shares.min(axis=0)).T
    return found
