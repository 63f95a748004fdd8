"""The equal-opportunity gap: how much the sensitivity at the threshold differs between groups (Hardt et al. 2016).

It is the largest minus the smallest of several estimates, so it is above zero by chance alone, the more so the smaller
the groups; what chance gives is measured by dealing the same outcomes to the same group sizes anew, patient by patient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesionforge import bootstrap
from lesionforge.evaluation.attributes import Rows
from lesionforge.metrics import Floats

NUMBERS_AT_ONCE = bootstrap.NUMBERS_AT_ONCE


class Gap(NamedTuple):
    estimate: bootstrap.Estimate
    by_chance: float | None  # mean gap were groups alike
    p_value: float | None  # share of such gaps as large as this one
    smallest: int  # number of the group
    largest: int


def gap_of(point: Floats, replicates: Floats, chance: Floats) -> Gap:
    """The gap between G groups, two at least.

    Args:
        point: (G,) sensitivities.
        replicates: (R, G), NaN where a group has no malignant lesion; a replicate needs two groups.
        chance: (P,) gaps by chance.
    """
    found = float(point.max() - point.min())
    defined = ~np.isnan(replicates)
    high = np.where(defined, replicates, -np.inf).max(axis=1)
    low = np.where(defined, replicates, np.inf).min(axis=1)
    enough = defined.sum(axis=1) > 1
    gaps = np.full(len(replicates), np.nan)
    gaps[enough] = high[enough] - low[enough]
    p_value = (1 + np.count_nonzero(chance >= found - 1e-12)) / (1 + len(chance))
    return Gap(
        bootstrap.estimate(found, gaps), float(chance.mean()), float(p_value), int(point.argmin()), int(point.argmax())
    )


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
