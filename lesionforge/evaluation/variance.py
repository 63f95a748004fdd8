"""What a mean over trained runs would have been with other patients and other seeds: two variances, kept apart.

The score of a run is a draw of chance twice: which patients stood in the part, and which seed trained it. With S runs a
side, s_g^2 the sample variance of side g's scores on the same lesions and C the covariance of the runs' scores over the
bootstrap's replicates of the patients,

    V = V_patient + sum over sides of s_g^2 / S_g

where V_patient is made of covariances between *different* runs only: what the patients do to all seeds alike. What they
do to one seed only is in s_g^2 already. So V is unbiased; adding the bootstrap's variance of the mean to s_g^2 / S_g
would count that part twice. Sides are not paired by seed: equal seeds share the initial weights, hardly more.

The interval is the difference +- t sqrt(V). Its degrees of freedom follow Satterthwaite (1946) from those of the parts:
S_g - 1 for a side's seeds, and for the patients 2 V^2 / var(V) by the clusters' jackknife influences. For pAUC this is
far below their number, since the fifth of the malignant lesions that scores lowest decides it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lesionforge.evaluation import student
from lesionforge.metrics import Floats

LEVEL = 0.95
LEAST_CLUSTERS = 5  # malignant ones, below which no interval is given; our choice
FEWEST_DF = 1.0


class Runs(NamedTuple):
    """One score of the runs of one side in one fold."""

    points: Floats  # (S,)
    replicates: Floats  # (R, S) over the patients, drawn alike for all sides of the fold
    left_out: Floats  # (M, S) without each malignant cluster in turn


class Part(NamedTuple):
    """A piece of a variance, and the degrees of freedom that it is known with."""

    variance: float
    df: float


class Spread(NamedTuple):
    """How far a difference, or a mean, may be off."""

    se_patient: float
    se_seed: float | None  # None where it cannot be known: one seed and one fold
    se: float
    df: float
    seeds: str  # where the seed variance is from: one of the names below


OWN, BORROWED, FOLDS, UNKNOWN = "own", "borrowed", "folds", "unknown"

Fold = Sequence[tuple[int, Runs]]  # (+1, arm) and (-1, reference), or the arm alone


def estimate(folds: Sequence[Fold]) -> float:
    """The mean over folds of the mean over seeds, side minus side."""
    return float(np.mean([sum(sign * runs.points.mean() for sign, runs in fold) for fold in folds]))


def spread(folds: Sequence[Fold]) -> Spread:
    """Standard errors of `estimate` and their degrees of freedom."""
    seeds, source = seed_parts(folds)
    patients = [patient_part(fold, source in (OWN, BORROWED)) for fold in folds]
    if source == FOLDS:
        each = [estimate([fold]) for fold in folds]
        more = float(np.var(each, ddof=1)) - float(np.mean([part.variance for part in patients]))
        seeds = [Part(max(more, 0.0) / len(folds), len(folds) - 1)]
    of_patients = [Part(part.variance / len(folds) ** 2, part.df) for part in patients]
    parts = [*of_patients, *seeds]
    variance, patient = (sum(part.variance for part in some) for some in (parts, of_patients))
    noise = sum(part.variance**2 / part.df for part in parts)
    return Spread(
        se_patient=math.sqrt(patient),
        se_seed=None if source == UNKNOWN else math.sqrt(sum(part.variance for part in seeds)),
        se=math.sqrt(variance),
        df=variance**2 / noise if noise > 0 else FEWEST_DF,
        seeds=source,
    )


def seed_parts(folds: Sequence[Fold]) -> tuple[list[Part], str]:
    """The seeds' share of the variance, each side's pooled over folds; a side of single runs borrows the other's."""
    sums, dfs, factors = [], [], []
    for side in range(len(folds[0])):
        points = [fold[side][1].points for fold in folds]
        sums.append(sum(float(((each - each.mean()) ** 2).sum()) for each in points))
        dfs.append(sum(len(each) - 1 for each in points))
        factors.append(sum(1 / len(each) for each in points) / len(folds) ** 2)
    if all(dfs):
        return [Part(total / df * k, df) for total, df, k in zip(sums, dfs, factors, strict=True)], OWN
    if any(dfs):
        return [Part(sum(sums) / sum(dfs) * sum(factors), sum(dfs))], BORROWED
    return [], FOLDS if len(folds) > 1 else UNKNOWN


def patient_part(fold: Fold, seeds_are_known: bool) -> Part:
    """The patients' share of the variance in one fold: of covariances between different runs where seeds are known."""
    drawn = np.concatenate([runs.replicates for _, runs in fold], axis=1)
    signs = np.concatenate([np.full(len(runs.points), sign / len(runs.points)) for sign, runs in fold])
    side = np.repeat(np.arange(len(fold)), [len(runs.points) for _, runs in fold])
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    covariance = np.atleast_2d(np.cov(drawn, rowvar=False))
    weights = np.outer(signs, signs)
    if seeds_are_known:
        sizes = np.bincount(side)[side]
        own = np.eye(len(side), dtype=bool)
        alike = (side[:, None] == side) & ~own & (sizes > 1)
        weights = np.where(own & (sizes > 1), 0, weights)
        weights = np.where(alike, weights * sizes / np.maximum(sizes - 1, 1), weights)
    influence = sum(sign * runs.left_out.mean(axis=1) for sign, runs in fold)
    return Part(max(float((weights * covariance).sum()), 0.0), df_of(np.asarray(influence)))


def df_of(left_out: Floats) -> float:
    """Degrees of freedom of a variance that clusters make up, from the estimate without each of them, (M,).

    A variance that is a sum of squared influences u of M clusters varies by sum u^4 - (sum u^2)^2 / M; normal
    influences give M. At most M - 1.
    """
    u = left_out[~np.isnan(left_out)]
    u = u - u.mean() if len(u) else u
    squares, fourth = float((u**2).sum()), float((u**4).sum())
    most = max(len(u) - 1.0, FEWEST_DF)
    noise = fourth - squares**2 / max(len(u), 1)
    return float(np.clip(2 * squares**2 / noise, FEWEST_DF, most)) if noise > 0 else most


def interval(value: float, found: Spread) -> tuple[float, float]:
    """The 95 % interval of a difference."""
    half = student.quantile((1 + LEVEL) / 2, found.df) * found.se
    return value - half, value + half


def interval_within(value: float, found: Spread, largest: float) -> tuple[float, float]:
    """The 95 % interval of a score in [0, largest], by t on its log-odds, since near a border a score is skewed."""
    share = value / largest
    if not 0 < share < 1:
        low, high = interval(value, found)
        return max(low, 0.0), min(high, largest)
    half = student.quantile((1 + LEVEL) / 2, found.df) * found.se / largest / (share * (1 - share))
    odds = math.log(share / (1 - share))
    low, high = (largest / (1 + math.exp(min(-(odds + sign * half), 700.0))) for sign in (-1, 1))
    return low, high


def p_value(value: float, found: Spread) -> float | None:
    """Two-sided; None where nothing varied and yet a difference stands."""
    if found.se == 0:
        return 1.0 if value == 0 else None
    return student.two_sided_p(value / found.se, found.df)
