"""Lesion focus and its statistics, against hand counts, scipy and a bootstrap written as a loop."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from lesionforge.bootstrap import Estimate, clusters_of
from lesionforge.classifier.focus import (
    ALIKE,
    HIGHER,
    LOWER,
    UNKNOWN,
    lesion_focus,
    mean_with_interval,
    rank_correlation,
    verdict,
)


def test_focus_is_the_share_of_positive_energy() -> None:
    heat = np.array([[1.0, 2.0], [-5.0, 1.0]], np.float32)
    mask = np.array([[False, True], [True, False]])
    assert lesion_focus(heat, mask) == 2 / 4
    assert lesion_focus(np.ones((10, 10)), np.eye(10, dtype=bool)) == pytest.approx(0.1)  # a blind map: the area
    assert lesion_focus(heat * 1e-30, mask) == pytest.approx(0.5)


def test_nothing_positive_or_no_mask_is_unknown() -> None:
    assert np.isnan(lesion_focus(-np.ones((2, 2)), np.ones((2, 2), bool)))
    assert np.isnan(lesion_focus(np.ones((2, 2)), np.zeros((2, 2), bool)))


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 6, (8, 8)).astype(float)  # with ties
    other = one + rng.normal(0, 3, (8, 8))
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic, abs=1e-12)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert np.isnan(rank_correlation(one, np.zeros((8, 8))))


def test_interval_of_the_mean_is_the_clustered_bootstraps() -> None:
    """A paired difference of two runs, patients of 1 to 4 lesions, one unknown value, three unknown patients."""
    rng = np.random.default_rng(1)
    patients = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 6, 7, 7, -1, -1, -1])
    shared = rng.normal(size=9)[patients]
    difference = 0.3 + shared + rng.normal(0, 0.2, len(patients))
    difference[4] = np.nan
    clusters = clusters_of(patients)
    found = mean_with_interval(difference, clusters, 20_000, 0)
    means = []
    for _ in range(4_000):
        drawn = rng.integers(0, 11, 11)
        values = np.concatenate([difference[clusters == cluster] for cluster in drawn])
        means.append(np.nanmean(values))
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.estimate == pytest.approx(np.nanmean(difference))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)
    assert found == mean_with_interval(difference, clusters, 20_000, 0)
    assert found != mean_with_interval(difference, clusters, 20_000, 1)


def test_a_pair_that_moves_together_has_a_narrow_difference() -> None:
    rng = np.random.default_rng(2)
    one = rng.normal(0.4, 0.2, 40)
    other = one - 0.02 + rng.normal(0, 0.005, 40)
    clusters = np.arange(40)
    apart = [mean_with_interval(values, clusters, 1000, 0) for values in (one, other)]
    assert apart[0].low < apart[1].high  # type: ignore[operator]
    assert verdict(mean_with_interval(one - other, clusters, 1000, 0)) == HIGHER


def test_too_little_gives_no_interval() -> None:
    assert mean_with_interval(np.array([0.5, 0.7]), np.array([0, 0]), 100, 0) == Estimate(0.6, None, None, 0)
    assert mean_with_interval(np.full(3, np.nan), np.arange(3), 100, 0).estimate is None
    assert verdict(Estimate(0.6, None, None, 0)) == UNKNOWN


def test_verdicts() -> None:
    assert verdict(Estimate(0.2, 0.1, 0.3, 0)) == HIGHER
    assert verdict(Estimate(-0.2, -0.3, -0.1, 0)) == LOWER
    assert verdict(Estimate(0.1, -0.1, 0.3, 0)) == ALIKE
