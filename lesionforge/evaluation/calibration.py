"""How far scores can be taken for probabilities: Brier score, expected calibration error, log-loss, calibration in the
large, with intervals, and the bins of a reliability diagram.

All of them are ratios of sums over lesions, so a replicate of the bootstrap is the sums of the patients drawn for it
(`bootstrap.resampled_sums`). Bins are cut once, on the sample, and stay where they are in every replicate.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesionforge import bootstrap
from lesionforge.metrics import Floats

BRIER, LOG_LOSS, ECE, ECE_EQUAL_WIDTH = "brier", "log_loss", "ece", "ece_equal_width"
MEAN_SCORE, IN_THE_LARGE = "mean_score", "score_to_prevalence"
MEASURES = (BRIER, LOG_LOSS, ECE, ECE_EQUAL_WIDTH, MEAN_SCORE, IN_THE_LARGE)

FEWEST_IN_BIN = 25  # lesions of a bin of the reliability diagram, our choice
RAW, CROSS_FITTED = "raw", ", cross-fitted"  # names of versions of the scores


def equal_mass_bins(scores: Floats, num_bins: int) -> NDArray[np.int64]:
    """The bin of each score, 0..num_bins-1, cut at quantiles; tied scores share a bin, so some may stay empty."""
    edges = np.quantile(scores, np.linspace(0, 1, num_bins + 1)[1:-1])
    return np.searchsorted(edges, scores, side="left")


def equal_width_bins(scores: Floats, num_bins: int) -> NDArray[np.int64]:
    """The bin of each score in [0, 1], 0..num_bins-1, all as wide (Naeini et al. 2015; Guo et al. 2017)."""
    return np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], scores, side="left")


def halving_bins(scores: Floats) -> NDArray[np.int64]:
    """The lower half, the next quarter, the next eighth, ...: at a prevalence of 0.1 % what matters is at the top."""
    num_cuts = max(int(np.log2(len(scores) / FEWEST_IN_BIN)), 1)
    edges = np.quantile(scores, 1 - 0.5 ** np.arange(1, num_cuts + 1))
    return np.searchsorted(edges, scores, side="left")


class Sums(NamedTuple):
    """What each cluster adds to the measures; K clusters, B bins; leading axes may also be replicates."""

    num: Floats  # (K,) lesions
    malignant: Floats  # (K,)
    score: Floats  # (K,)
    squared_error: Floats  # (K,)
    log_loss: Floats  # (K,) NaN where the sum is infinite
    gaps: Floats  # (K, B) score minus target by bin of equal mass
    gaps_equal_width: Floats  # (K, B)


def sums_of(targets: NDArray[Any], scores: Floats, clusters: NDArray[np.int64], num_bins: int) -> Sums:
    malignant = targets == 1

    def by_cluster(values: Floats) -> Floats:
        return np.bincount(clusters, values).astype(np.float64)

    def gaps(bins: NDArray[np.int64]) -> Floats:
        num_cells = (int(clusters.max()) + 1) * num_bins
        by_cell = np.bincount(clusters * num_bins + bins, scores - malignant, num_cells)
        return by_cell.astype(np.float64).reshape(-1, num_bins)

    with np.errstate(divide="ignore"):
        log_loss = -np.where(malignant, np.log(scores), np.log1p(-scores))
    return Sums(
        by_cluster(np.ones(len(scores))),
        by_cluster(malignant.astype(np.float64)),
        by_cluster(scores),
        by_cluster((scores - malignant) ** 2),
        by_cluster(log_loss if np.isfinite(log_loss).all() else np.full(len(scores), np.nan)),
        gaps(equal_mass_bins(scores, num_bins)),
        gaps(equal_width_bins(scores, num_bins)),
    )


def measures_of(sums: Sums) -> dict[str, Floats]:
    """Each of `MEASURES` from the sums over the lesions of each replicate, (R,); NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        in_the_large = np.where(sums.malignant > 0, sums.score / sums.malignant, np.nan)
    return {
        BRIER: sums.squared_error / sums.num,
        LOG_LOSS: sums.log_loss / sums.num,
        ECE: np.abs(sums.gaps).sum(axis=-1) / sums.num,
        ECE_EQUAL_WIDTH: np.abs(sums.gaps_equal_width).sum(axis=-1) / sums.num,
        MEAN_SCORE: sums.score / sums.num,
        IN_THE_LARGE: in_the_large,
    }


class Measured(NamedTuple):
    scores: dict[str, bootstrap.Estimate]  # each of MEASURES
    ece_by_chance: float | None  # what a calibrated score would show on as many lesions; None without replicates


def measure(
    targets: NDArray[Any],
    scores: Floats,
    patients: NDArray[np.int64] | None = None,
    num_bins: int = 15,
    num_replicates: int = 1000,
    seed: int = 0,
) -> Measured:
    """Each of `MEASURES` with its 95 % interval, clustered by patient as `bootstrap.estimates` does it.

    brier                mean of (score - target)^2 (Brier 1950)
    log_loss             mean of -log of the probability given to what was so; None where that is 0 for a lesion
    ece                  mean over lesions of |mean score - share of malignant lesions| of their bin, bins of equal mass
    ece_equal_width      the same with bins of equal width in [0, 1], the field's first form
    mean_score           to be held against the prevalence
    score_to_prevalence  mean score over prevalence: calibration in the large, 1 where neither too high nor too low

    Args:
        scores: in [0, 1]  # (N,)
        patients: from 0, -1 where unknown  # (N,)
    """
    clusters = bootstrap.clusters_of(np.full(len(scores), -1) if patients is None else patients)
    sums = sums_of(targets, scores, clusters, num_bins)
    whole = Sums(*(column.sum(axis=0, keepdims=True) for column in sums))
    point = {name: float(value[0]) for name, value in measures_of(whole).items()}
    if any(len(np.unique(clusters[targets == target])) < 2 for target in (0, 1)):
        return Measured({name: bootstrap.estimate(point[name], None) for name in MEASURES}, None)
    drawn = resampled(sums, num_replicates, seed)
    replicates = measures_of(drawn)
    found = {name: bootstrap.estimate(point[name], replicates[name]) for name in MEASURES}
    noise = ece_noise(drawn.gaps, drawn.num, whole.gaps, whole.num)
    found[ECE] = ece_interval(found[ECE], noise)
    noise_equal_width = ece_noise(drawn.gaps_equal_width, drawn.num, whole.gaps_equal_width, whole.num)
    found[ECE_EQUAL_WIDTH] = ece_interval(found[ECE_EQUAL_WIDTH], noise_equal_width)
    return Measured(found, float(noise.mean()))


def resampled(sums: Sums, num_replicates: int, seed: int) -> Sums:
    """The sums of each replicate, (R,) and (R, B), from those of each cluster."""
    columns = [column.reshape(len(column), -1) for column in sums]  # (K, 1) or (K, B)
    drawn = bootstrap.resampled_sums(np.concatenate(columns, axis=1), num_replicates, seed)
    pieces = np.split(drawn, np.cumsum([column.shape[1] for column in columns])[:-1], axis=1)
    return Sums(*(piece if column.ndim == 2 else piece[:, 0] for piece, column in zip(pieces, sums, strict=True)))


def ece_noise(drawn_gaps: Floats, drawn_num: Floats, gaps: Floats, num: Floats) -> Floats:
    """The ECE that each replicate would have, were the gap of every bin 0, so that only chance is left; (R,)."""
    noise: Floats = np.abs(drawn_gaps / drawn_num[:, None] - gaps / num[:, None]).sum(axis=1)
    return noise


def ece_interval(percentile: bootstrap.Estimate, noise: Floats) -> bootstrap.Estimate:
    """The interval of an ECE, for which the percentile one is wrong.

    Chance keeps an ECE above 0, and drawing again adds as much once more, so the percentile interval of a calibrated
    score lies wholly above the truth. The basic interval (Davison and Hinkley 1997, 5.2) mirrors the replicates at the
    estimate; its lower end is 0 where chance alone explains the estimate, and its upper end not below the estimate.
    Held the truth in 86 to 98 % of 200 simulated studies each, the percentile interval in 0 to 94 % (our measurement).
    """
    estimate, low, high, _ = percentile
    if estimate is None or low is None or high is None:
        return percentile
    explained = estimate <= np.quantile(noise, (1 + bootstrap.LEVEL) / 2)
    return percentile._replace(
        low=0.0 if explained else max(2 * estimate - high, 0.0), high=max(2 * estimate - low, estimate)
    )


def reliability(
    targets: NDArray[Any], scores: Floats, patients: NDArray[np.int64], num_replicates: int, seed: int
) -> list[dict[str, Any]]:
    """The bins of a reliability diagram: mean score and share of malignant lesions with its 95 % interval.

    In a bin without malignant lesions every replicate has a share of 0, so its upper end is that of the exact binomial
    interval, 1 - 0.025^(1/n), as if its lesions were independent.
    """
    clusters = bootstrap.clusters_of(patients)
    bins = halving_bins(scores)
    num_bins = int(bins.max()) + 1
    cell, size = clusters * num_bins + bins, (int(clusters.max()) + 1) * num_bins
    num, malignant = (
        np.bincount(cell, values, size).reshape(-1, num_bins) for values in (np.ones(len(scores)), targets)
    )
    drawn = bootstrap.resampled_sums(np.concatenate([num, malignant], axis=1), num_replicates, seed)
    with np.errstate(invalid="ignore"):
        shares = drawn[:, num_bins:] / drawn[:, :num_bins]  # (R, B)
    rows = []
    for i in np.flatnonzero(num.sum(axis=0)):
        held, found = float(num[:, i].sum()), float(malignant[:, i].sum())
        low, high = np.nanquantile(shares[:, i], [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2])
        if not found:
            high = 1 - ((1 - bootstrap.LEVEL) / 2) ** (1 / held)
        mean_score = float(scores[bins == i].mean())
        row = {"num_images": int(held), "num_malignant": int(found), "mean_score": mean_score, "share": found / held}
        rows.append(row | {"low": float(low), "high": float(high)})
    return rows
