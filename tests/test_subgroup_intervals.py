"""Intervals over patients and seeds: by hand where that can be, and few false alarms where arms are alike."""

import numpy as np
import polars as pl
import pytest

from lesionforge import bootstrap, metrics
from lesionforge.evaluation.subgroup_intervals import difference_of, estimate_of, spread_of
from lesionforge.evaluation.subgroup_runs import Read
from lesionforge.evaluation.subgroup_scores import Measured, Population, Scored, measure

N = 240
ROWS = np.arange(N)
MALIGNANT = ROWS % 4 == 0
CLUSTERS = ROWS // 3


def measured(scores: np.ndarray, thresholds: np.ndarray, seed: int = 0) -> tuple[Read, Measured]:
    """Runs of one part, each by itself, measured on all its lesions."""
    population = Population(MALIGNANT, CLUSTERS, (ROWS,))
    runs = [Scored(0, each, float(threshold)) for each, threshold in zip(scores, thresholds, strict=True)]
    held = measure(population, runs, [[at] for at in range(len(runs))], [ROWS], [True], 200, seed)
    return Read([], runs, pl.DataFrame(), population, [], [], {}), held


def trained(rng: np.random.Generator, num_runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of one recipe: lesions and patients are hard or easy for all, and each has noise and a threshold."""
    ease = rng.normal(size=N) + rng.normal(size=N // 3)[CLUSTERS] * 0.7
    scores = 1.5 * MALIGNANT + np.where(MALIGNANT, ease, -ease) + rng.normal(size=(num_runs, N)) * 0.7
    return scores, 0.75 + rng.normal(size=num_runs) * 0.4


def effect(found: Read, held: Measured, name: str, num_seeds: int) -> bootstrap.Estimate:
    """The first runs minus the last ones."""
    sides = list(range(num_seeds)), list(range(num_seeds, 2 * num_seeds))
    mine, theirs = (held.replicates[name][:, side, 0].mean(axis=1) for side in sides)
    value = held.point[name][sides[0], 0].mean() - held.point[name][sides[1], 0].mean()
    spread = spread_of(found, held, [(1, sides[0]), (-1, sides[1])], name, 0, ROWS)
    return difference_of(float(value), mine - theirs, spread, name)


def test_the_seeds_share_by_hand() -> None:
    """Each side's variance of the mean is its seeds' sample variance over their number."""
    scores, thresholds = trained(np.random.default_rng(0), 6)
    found, held = measured(scores, thresholds)
    for name in (metrics.RECALL, metrics.SPECIFICITY, metrics.PAUC):
        values = held.point[name][:, 0]
        spread = spread_of(found, held, [(1, [0, 1, 2]), (-1, [3, 4, 5])], name, 0, ROWS)
        assert np.isclose(spread.se_seed**2, values[:3].var(ddof=1) / 3 + values[3:].var(ddof=1) / 3)


@pytest.mark.parametrize("name", [metrics.RECALL, metrics.SPECIFICITY, metrics.PAUC])
def test_few_false_alarms_where_only_the_seed_differs(name: str) -> None:
    """Three seeds a side of one recipe. With patients alone most specificities would seem to differ."""
    rng = np.random.default_rng(1)
    alarms, naive, num_studies = 0, 0, 100
    for study in range(num_studies):
        found, held = measured(*trained(rng, 6), seed=study)
        whole = effect(found, held, name, 3)
        alarms += not whole.low <= 0 <= whole.high
        mine, theirs = (held.replicates[name][:, side, 0].mean(axis=1) for side in ([0, 1, 2], [3, 4, 5]))
        alone = bootstrap.estimate(whole.estimate, mine - theirs)
        naive += not alone.low <= 0 <= alone.high
    assert alarms / num_studies <= 0.11  # 5 % and three standard errors
    if name == metrics.SPECIFICITY:
        assert naive / num_studies > 0.4


def test_one_seed_is_about_these_runs() -> None:
    found, held = measured(*trained(np.random.default_rng(2), 2))
    assert spread_of(found, held, [(1, [0]), (-1, [1])], metrics.RECALL, 0, ROWS).se_seed is None
    assert effect(found, held, metrics.RECALL, 1).low is not None


def test_equal_runs_differ_by_nothing() -> None:
    scores, thresholds = trained(np.random.default_rng(3), 1)
    found, held = measured(np.repeat(scores, 4, axis=0), np.repeat(thresholds, 4))
    difference = effect(found, held, metrics.PAUC, 2)
    assert np.allclose([difference.estimate, difference.low, difference.high], 0)


def test_a_difference_is_no_wider_than_can_be() -> None:
    """Two seeds a side leave a t of one or two degrees of freedom."""
    found, held = measured(*trained(np.random.default_rng(6), 4))
    difference = effect(found, held, metrics.PAUC, 2)
    assert -0.2 <= difference.low < difference.high <= 0.2


def test_scores_stay_in_their_range() -> None:
    found, held = measured(*trained(np.random.default_rng(4), 3))
    for name, largest in ((metrics.PAUC, 0.2), (metrics.RECALL, 1.0)):
        value = float(held.point[name][:, 0].mean())
        spread = spread_of(found, held, [(1, [0, 1, 2])], name, 0, ROWS)
        estimate = estimate_of(value, held.replicates[name][:, :, 0].mean(axis=1), spread, name)
        assert 0 <= estimate.low < value < estimate.high <= largest


def test_folds_and_undefined_runs_are_left_to_the_percentiles() -> None:
    scores, thresholds = trained(np.random.default_rng(5), 2)
    found, held = measured(scores, thresholds)
    apart = found._replace(runs=[found.runs[0], found.runs[1]._replace(lesions=1)])
    assert spread_of(apart, held, [(1, [0]), (-1, [1])], metrics.RECALL, 0, ROWS) is None
    held.point[metrics.RECALL][1, 0] = np.nan
    assert spread_of(found, held, [(1, [0]), (-1, [1])], metrics.RECALL, 0, ROWS) is None
