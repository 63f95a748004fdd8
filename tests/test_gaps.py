"""The equal-opportunity gap, by hand, and what chance alone makes of it."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from lesionforge import bootstrap
from lesionforge.evaluation.gaps import gap_of, gaps_by_chance


def test_a_gap_by_hand() -> None:
    replicates = np.array([[0.5, 0.9, 0.7], [0.5, 0.9, 0.7], [np.nan, np.nan, 0.5]])
    gap = gap_of(np.array([0.5, 0.9, 0.7]), replicates, np.array([50, 20, 30]), np.array([0.1, 0.2, 0.4, 0.5]))
    assert np.isclose(gap.estimate.estimate, 0.4)
    assert gap.estimate.num_left_out == 1
    # groups 0 and 1 decide both ends; that no resample differs does not make them certain
    least = np.array([0.5 * 0.5 / 54, (20 / 24) * (4 / 24) / 24])
    se = np.sqrt(least.sum())
    half = stats.t.ppf(1 - 0.025 / 3, least.sum() ** 2 / (least**2 / [49, 19]).sum()) * se
    assert np.allclose([gap.estimate.low, gap.estimate.high], [0.4 - half, 0.4 + half])
    assert (gap.smallest, gap.largest) == (0, 1)
    assert np.isclose(gap.by_chance, 0.3)
    assert np.isclose(gap.p_value, 3 / 5)


def test_chance_equals_the_list_of_all_deals() -> None:
    """Two groups of 2 and 3 lesions, each of its own patient: all ten deals are as likely."""
    outcomes = np.array([[1.0, 1.0, 0.0, 0.0, 1 / 3]])
    dealt = [
        abs(outcomes[0, list(first)].mean() - np.delete(outcomes[0], first).mean())
        for first in combinations(range(5), 2)
    ]
    found = gaps_by_chance([np.array([0, 1]), np.array([2, 3, 4])], np.arange(5), outcomes, 20_000, 0)
    assert abs(found.mean() - np.mean(dealt)) < 0.005
    assert set(np.round(found[:, 0], 9)) == set(np.round(dealt, 9))


def test_lesions_of_a_patient_are_dealt_together() -> None:
    """Two patients of two lesions, alike within each: whole patients change places, so the gap is 1 in every deal."""
    groups = [np.array([0, 1]), np.array([2, 3])]
    outcomes = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = gaps_by_chance(groups, np.array([0, 0, 1, 1]), outcomes, 200, 0)
    assert (found == [1.0, 0.0]).all()
    alone = gaps_by_chance(groups, np.arange(4), outcomes, 4000, 0)
    assert abs(alone[:, 0].mean() - 1 / 3) < 0.03


def test_rows_are_of_all_lesions_and_a_seed_repeats() -> None:
    outcomes = np.array([[9.0, 1.0, 9.0, 0.0, 1.0]])
    groups, clusters = [np.array([1]), np.array([3, 4])], np.array([5, 7, 2, 7, 0])
    found = gaps_by_chance(groups, clusters, outcomes, 500, 3)
    assert set(found[:, 0]) == {0.5, 1.0}
    assert gaps_by_chance(groups, clusters, outcomes, 500, 3).tolist() == found.tolist()


def test_no_more_false_alarms_than_the_level() -> None:
    """Groups alike in truth, lesions in patients that are alike within: p below 0.05 in about 5 % of studies."""
    rng = np.random.default_rng(0)
    alarms, num_studies = 0, 400
    for study in range(num_studies):
        patients = np.repeat(np.arange(40), 2)
        hard = rng.random(40)[patients]
        outcomes = (rng.random(80) < hard).astype(float)[None]
        label = rng.integers(3, size=40)[patients]
        groups = [np.flatnonzero(label == group) for group in range(3)]
        shares = np.array([outcomes[0, group].mean() for group in groups])
        chance = gaps_by_chance(groups, patients, outcomes, 199, study)
        alarms += gap_of(shares, shares[None], np.full(3, 30), chance[:, 0]).p_value <= 0.05
    assert 0.02 <= alarms / num_studies <= 0.08


def coverage(sensitivities, num_patients, lesions_each, likeness=0.5, num_studies=300, num_replicates=200):
    """Share of studies whose interval holds the true gap, and of those whose percentiles of the gap do.

    A patient's lesions are all found or all missed with the probability `likeness`, else each by itself.
    """
    rng = np.random.default_rng(0)
    true, num_groups = max(sensitivities) - min(sensitivities), len(sensitivities)
    group = np.repeat(np.arange(num_groups), num_patients)
    held = percentiles = 0
    for study in range(num_studies):
        shape = (len(group), lesions_each)
        draws = np.where(rng.random(len(group))[:, None] < likeness, rng.random((len(group), 1)), rng.random(shape))
        found = (draws < np.array(sensitivities)[group][:, None]).sum(axis=1) / lesions_each
        of_group = np.eye(num_groups)[group]
        point = (found @ of_group) / of_group.sum(axis=0)
        drawn = bootstrap.resampled_sums(np.hstack([of_group * found[:, None], of_group]), num_replicates, study)
        replicates = drawn[:, :num_groups] / np.where(drawn[:, num_groups:] > 0, drawn[:, num_groups:], np.nan)
        estimate = gap_of(point, replicates, np.array(num_patients), np.zeros(1)).estimate
        held += estimate.low <= true <= estimate.high
        low, high = np.nanquantile(replicates.max(axis=1) - replicates.min(axis=1), [0.025, 0.975])
        percentiles += low <= true <= high
    return held / num_studies, percentiles / num_studies


@pytest.mark.parametrize(
    ("sensitivities", "num_patients", "lesions_each"),
    [
        ((0.8, 0.8, 0.8), (30, 30, 30), 1),
        ((0.9, 0.75, 0.6), (30, 30, 30), 1),
        ((0.95, 0.65), (12, 40), 3),
        ((0.7, 0.7, 0.7, 0.7, 0.7, 0.7), (40, 30, 20, 15, 12, 10), 3),
    ],
)
def test_the_interval_holds_the_true_gap(sensitivities, num_patients, lesions_each) -> None:
    """Alike groups, and those 0.3 apart; at least 93 % asked of 300 studies, whose share is known to +-2.5 points."""
    held, percentiles = coverage(sensitivities, num_patients, lesions_each)
    assert held >= 0.93
    if min(sensitivities) == max(sensitivities) and len(num_patients) > 2:
        assert percentiles < 0.2  # why percentiles are no interval of a gap
