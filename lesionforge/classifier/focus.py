"""Lesion focus: the share of a heat map that lies in the lesion, with intervals and paired differences; numpy only.

A map without any opinion has the lesion's share of the image as its focus, so that share is always given beside it.
Intervals are of the mean over lesions, by the patient-clustered percentile bootstrap of `bootstrap.py`: patients are
drawn with replacement with all their lesions, a lesion of an unknown patient is a patient of its own. One seed draws
the same patients for every run, so a difference between runs is paired by lesion.
"""

import numpy as np

from lesionforge.bootstrap import Estimate, estimate, resampled_sums

FEWEST_CLUSTERS = 10  # percentile intervals of fewer patients are too narrow; our choice
HIGHER, LOWER, ALIKE, UNKNOWN = "higher", "lower", "cannot be told apart", "too few patients to tell"


def lesion_focus(heat: np.ndarray, mask: np.ndarray) -> float:
    """Share of the map's positive energy inside the mask, in [0, 1].

    NaN of a map that is positive nowhere, and of an empty mask.

    Args:
        heat: (H, W) floating, signed or not; what is below 0 counts as 0.
        mask: (H, W) bool.
    """
    positive = np.maximum(heat.astype(np.float64), 0.0)
    total = positive.sum()
    return float(positive[mask].sum() / total) if total > 0 and mask.any() else float("nan")


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two maps, ties at their mean rank; NaN where either is constant."""
    ranks = [mean_ranks(values) - (values.size - 1) / 2 for values in (one, other)]
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / scale) if scale > 0 else float("nan")


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties share their mean; flattened."""
    _, place, count = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[place]


def mean_with_interval(values: np.ndarray, clusters: np.ndarray, num_replicates: int, seed: int) -> Estimate:
    """Mean of the values that are known, with its interval; `num_left_out` counts replicates that drew none of them.

    Args:
        values: (N,) float64, one a lesion; NaN where unknown.
        clusters: (N,) int64, each lesion's cluster from 0, as `bootstrap.clusters_of` gives it.
    """
    known = ~np.isnan(values)
    if not known.any():
        return Estimate(None, None, None, 0)
    num_clusters = int(clusters.max()) + 1
    sums = np.bincount(clusters[known], values[known], num_clusters)
    counts = np.bincount(clusters[known], minlength=num_clusters)
    mean = float(values[known].mean())
    if (counts > 0).sum() < FEWEST_CLUSTERS:
        return estimate(mean, None)
    drawn = resampled_sums(np.stack([sums, counts.astype(np.float64)], axis=1), num_replicates, seed)  # (R, 2)
    return estimate(mean, drawn[:, 0] / np.where(drawn[:, 1] > 0, drawn[:, 1], np.nan))


def verdict(difference: Estimate) -> str:
    """What may be said of a difference: higher, lower, or that it cannot be told apart from none."""
    if difference.low is None or difference.high is None:
        return UNKNOWN
    return HIGHER if difference.low > 0 else LOWER if difference.high < 0 else ALIKE
