"""Two variances apart: against Welch's test and DeLong's, and in simulated studies whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from lesionforge import metrics
from lesionforge.evaluation import paired, simulated, student, variance
from lesionforge.evaluation.paired import Lesions
from lesionforge.evaluation.variance import Runs


def seeds_alone(values):
    """Runs that score the same whatever patients are drawn."""
    points = np.asarray(values, np.float64)
    return Runs(points, np.tile(points, (50, 1)), np.tile(points, (9, 1)))


def test_where_patients_change_nothing_it_is_welchs_test():
    arm, reference = [0.11, 0.13, 0.12, 0.16], [0.10, 0.09, 0.115]
    fold = [(1, seeds_alone(arm)), (-1, seeds_alone(reference))]
    difference, spread = variance.estimate([fold]), variance.spread([fold])
    expected = stats.ttest_ind(arm, reference, equal_var=False)
    assert difference == pytest.approx(np.mean(arm) - np.mean(reference))
    assert variance.p_value(difference, spread) == pytest.approx(expected.pvalue, rel=1e-9)
    assert variance.interval(difference, spread) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-9)
    assert (spread.se_patient, spread.seeds) == (pytest.approx(0, abs=1e-9), variance.OWN)


def delong(malignant, scores):
    """Variance of the difference of two AUCs on the same lesions (DeLong, DeLong and Clarke-Pearson 1988)."""
    above = (scores[:, malignant][:, :, None] > scores[:, ~malignant][:, None, :]).astype(float)
    of_malignant, of_benign = above.mean(axis=2), above.mean(axis=1)
    parts = [np.var(np.subtract(*values), ddof=1) / values.shape[1] for values in (of_malignant, of_benign)]
    return sum(parts)


def test_of_two_single_runs_it_is_delongs_variance():
    rng = np.random.default_rng(0)
    malignant = np.arange(600) < 150
    common = rng.normal(size=600) + 1.2 * malignant
    scores = common + 0.6 * rng.normal(size=(2, 600))
    lesions, names = Lesions(malignant, np.arange(600)), [metrics.ROC_AUC]
    held = [
        each[metrics.ROC_AUC]
        for each in (
            paired.points(lesions, scores, names),
            paired.replicates(lesions, scores, names, 4000, 0),
            paired.left_out(lesions, scores, names),
        )
    ]
    fold = [(sign, Runs(*(each[..., [run]] for each in held))) for run, sign in ((0, 1), (1, -1))]
    spread = variance.spread([fold])
    assert spread.se**2 == pytest.approx(delong(malignant, scores), rel=0.08)
    assert spread.seeds == variance.UNKNOWN
    assert spread.se_seed is None
    assert 75 < spread.df <= 149  # AUC uses all malignant lesions: df near their number


def test_a_single_run_borrows_the_other_sides_seed_variance():
    fold = [(1, seeds_alone([0.1])), (-1, seeds_alone([0.09, 0.12, 0.12]))]
    spread = variance.spread([fold])
    assert spread.seeds == variance.BORROWED
    assert spread.se**2 == pytest.approx(np.var([0.09, 0.12, 0.12], ddof=1) * (1 + 1 / 3))
    assert spread.df == pytest.approx(2)


def test_what_patients_do_to_one_seed_alone_is_counted_once():
    """Seeds that vary with patients each by itself: the seeds' variance has it all, the patients' none."""
    rng = np.random.default_rng(1)
    points, replicates = rng.normal(size=(2, 3)), rng.normal(size=(2, 20_000, 3))
    fold = [(sign, Runs(points[i], replicates[i], rng.normal(size=(30, 3)))) for i, sign in enumerate((1, -1))]
    spread = variance.spread([fold])
    assert spread.se_patient**2 < 0.02
    assert spread.se_seed**2 == pytest.approx(points.var(axis=1, ddof=1).sum() / 3)


def test_folds_are_averaged_and_single_seeds_take_their_spread():
    folds = [[(1, seeds_alone([0.10 + step])), (-1, seeds_alone([0.09]))] for step in (0.0, 0.01, 0.04)]
    differences = [0.01, 0.02, 0.05]
    spread = variance.spread(folds)
    assert variance.estimate(folds) == pytest.approx(np.mean(differences))
    assert spread.seeds == variance.FOLDS
    assert spread.se == pytest.approx(stats.sem(differences))
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert variance.p_value(variance.estimate(folds), spread) == pytest.approx(expected)


def test_degrees_of_freedom_are_the_clusters_that_count():
    rng = np.random.default_rng(2)
    alike = rng.normal(size=400)
    assert variance.df_of(alike) == pytest.approx(400, rel=0.25)
    few = np.where(np.arange(400) < 40, alike, 0)
    assert variance.df_of(few) == pytest.approx(40, rel=0.35)
    assert variance.df_of(np.zeros(10)) == 9
    assert variance.df_of(np.array([0.0, 0.0, 5.0])) >= variance.FEWEST_DF


def test_equal_runs_do_not_differ_and_a_difference_without_variance_has_no_p():
    same = variance.spread([[(1, seeds_alone([0.1])), (-1, seeds_alone([0.1]))]])
    assert variance.p_value(0.0, same) == 1.0
    assert variance.interval(0.0, same) == (0.0, 0.0)
    assert variance.p_value(0.1, same) is None


def test_an_interval_stays_within_the_scores_range():
    spread = variance.Spread(0.02, None, 0.02, 12.0, variance.UNKNOWN)
    low, high = variance.interval_within(0.19, spread, 0.2)
    assert 0 < low < 0.19 < high < 0.2
    assert variance.interval_within(0.2, spread, 0.2)[1] == 0.2
    assert variance.interval_within(0.0, spread, 0.2)[0] == 0.0
    middle = variance.interval_within(0.1, spread, 0.2)
    half = student.quantile(0.975, 12) * 0.02
    assert middle == pytest.approx((0.1 - half, 0.1 + half), abs=0.01)


NUM_STUDIES, NUM_SEEDS, SEED_SD = 1000, 3, 0.05
AUCS = {"no difference": (0.85, 0.85), "a difference": (0.85, 0.9)}


def simulated_study(seed, aucs):
    """About 80 malignant lesions of 57 patients, and 114 patients without; three seeds a side; pAUC."""
    rng = np.random.default_rng([1, seed])
    malignant = np.concatenate([1 + rng.poisson(0.4, size=57), np.zeros(114, np.int64)])
    lesions = simulated.lesions_of(malignant, 1 + rng.poisson(3, size=len(malignant)))
    shifts = np.array([simulated.shift_of(auc) for auc in aucs])[:, None] + SEED_SD * rng.normal(size=(2, NUM_SEEDS))
    scores = simulated.scores(rng, lesions, shifts, 0.7, 0.9, 0.2).reshape(2 * NUM_SEEDS, -1)
    held = (
        paired.points(lesions, scores, [metrics.PAUC]),
        paired.replicates(lesions, scores, [metrics.PAUC], 250, seed),
        paired.left_out(lesions, scores, [metrics.PAUC]),
    )
    points, replicates, left_out = (each[metrics.PAUC] for each in held)
    sides = (slice(NUM_SEEDS), slice(NUM_SEEDS, None))
    fold = [
        (sign, Runs(points[part], replicates[:, part], left_out[:, part]))
        for sign, part in zip((1, -1), sides, strict=True)
    ]
    difference, spread = variance.estimate([fold]), variance.spread([fold])
    return difference, variance.interval(difference, spread), variance.p_value(difference, spread)


@pytest.mark.slow
@pytest.mark.parametrize("which", AUCS)
def test_in_simulated_studies_alarms_are_as_rare_and_intervals_as_true_as_they_say(which):
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    expected = [
        sum(
            w * simulated.expected_pauc(simulated.shift_of(auc) + SEED_SD * z)
            for z, w in zip(nodes, weights, strict=True)
        )
        for auc in AUCS[which]
    ]
    truth = np.subtract(*expected) / weights.sum()
    num_studies = NUM_STUDIES if which == "no difference" else NUM_STUDIES // 2
    found = [simulated_study(seed, AUCS[which]) for seed in range(num_studies)]
    covered = np.mean([low <= truth <= high for _, (low, high), _ in found])
    alarms = np.mean([p < 0.05 for _, _, p in found])
    print(f"{which}: covered {covered:.3f}, p < 0.05 in {alarms:.3f}")
    if which == "no difference":
        assert 0.935 <= covered <= 0.965
        assert 0.035 <= alarms <= 0.065
    else:
        assert 0.925 <= covered <= 0.975  # of half as many studies
        assert alarms > 0.2
