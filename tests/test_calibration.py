"""Calibration measured: against sklearn, plain formulas, a plain-loop patient bootstrap, and known truths."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from lesionforge import bootstrap
from lesionforge.evaluation import calibration
from lesionforge.evaluation.predictions import sigmoid


def study(seed, num_patients=100, lesions=8, bias=0.0, base=2.0):
    """Patients who differ in risk; the score is the true probability, its log-odds moved by `bias`."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), lesions)
    logits = 1.5 * rng.normal(size=len(patients)) + 0.7 * rng.normal(size=num_patients)[patients] - base
    targets = (rng.random(len(patients)) < sigmoid(logits)).astype(int)
    return targets, sigmoid(logits + bias), patients


@pytest.mark.parametrize("seed", range(5))
def test_brier_and_log_loss_are_sklearns(seed):
    targets, scores, _ = study(seed, bias=0.5)
    found = calibration.measure(targets, scores, num_replicates=100).scores
    assert found["brier"].estimate == pytest.approx(sk.brier_score_loss(targets, scores), abs=1e-14)
    assert found["log_loss"].estimate == pytest.approx(sk.log_loss(targets, scores), abs=1e-14)
    assert found["mean_score"].estimate == pytest.approx(scores.mean(), abs=1e-14)
    assert found["score_to_prevalence"].estimate == pytest.approx(scores.mean() / targets.mean(), abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 2, 1])
@pytest.mark.parametrize("num_bins", [5, 15])
def test_bins_and_their_gaps_are_sklearns(num_bins, decimals):
    """`calibration_curve` gives each bin's means, also where scores are tied over an edge."""
    targets, scores, _ = study(3, bias=1)
    scores = scores if decimals is None else np.round(scores, decimals)
    cut = {"ece": calibration.equal_mass_bins, "ece_equal_width": calibration.equal_width_bins}
    found = calibration.measure(targets, scores, num_bins=num_bins, num_replicates=100).scores
    for name, strategy in (("ece", "quantile"), ("ece_equal_width", "uniform")):
        shares, means = calibration_curve(targets, scores, n_bins=num_bins, strategy=strategy)
        num = np.bincount(cut[name](scores, num_bins))
        expected = np.sum(num[num > 0] * np.abs(shares - means)) / len(scores)
        assert found[name].estimate == pytest.approx(expected, abs=1e-12)


def test_intervals_are_those_of_a_plain_loop_over_the_same_draws():
    targets, scores, patients = study(1, num_patients=30, bias=1)
    found = calibration.measure(targets, scores, patients, num_replicates=300, seed=4).scores
    rng = np.random.default_rng(4)
    rows_of = [np.flatnonzero(patients == patient) for patient in range(30)]
    drawn = [np.concatenate([rows_of[patient] for patient in rng.integers(30, size=30)]) for _ in range(300)]
    plain = {
        "brier": lambda t, s: np.mean((s - t) ** 2),
        "log_loss": lambda t, s: sk.log_loss(t, s, labels=[0, 1]),
        "score_to_prevalence": lambda t, s: s.mean() / t.mean(),
    }
    for name, formula in plain.items():
        low, high = np.quantile([formula(targets[rows], scores[rows]) for rows in drawn], [0.025, 0.975])
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=1e-12)


def test_lesions_of_unknown_patients_are_clusters_of_their_own():
    assert bootstrap.clusters_of(np.array([1, -1, 0, -1, 1])).tolist() == [1, 2, 0, 3, 1]
    rng = np.random.default_rng(0)
    targets, patients = np.repeat(rng.random(100) < 0.2, 8).astype(int), np.repeat(np.arange(100), 8)
    by_patient, by_image = (
        calibration.measure(targets, np.full(800, 0.5), whose, num_replicates=2000).scores["score_to_prevalence"]
        for whose in (patients, None)
    )
    drawn = 0.5 / (rng.binomial(800, targets.mean(), 20_000) / 800)
    assert by_image.high - by_image.low == pytest.approx(np.subtract(*np.quantile(drawn, [0.975, 0.025])), rel=0.1)
    assert by_patient.high - by_patient.low > 2 * (
        by_image.high - by_image.low
    )  # eight alike lesions say what one does


def test_a_calibrated_score_has_the_ece_that_chance_explains():
    """The mean over studies is what `ece_by_chance` says, and the interval reaches down to 0."""
    measured = [calibration.measure(*study(seed), num_replicates=100) for seed in range(60)]
    eces = np.array([found.scores["ece"].estimate for found in measured])
    by_chance = np.mean([found.ece_by_chance for found in measured])
    assert eces.mean() == pytest.approx(by_chance, rel=0.1)
    lows = np.array([found.scores["ece"].low for found in measured])
    assert np.mean(lows == 0) >= 0.9
    for found in measured:
        assert found.scores["ece"].low <= found.scores["ece"].estimate <= found.scores["ece"].high


@pytest.mark.parametrize("bias", [0.0, 0.3, 1.0])
def test_the_interval_of_the_ece_holds_the_truth(bias):
    truth = calibration.measure(*study(999, num_patients=60_000, bias=bias), num_replicates=2).scores["ece"].estimate
    held = []
    for seed in range(150):
        found = calibration.measure(*study(seed, num_patients=150, bias=bias), num_replicates=300).scores["ece"]
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.8


def test_what_is_undefined_is_none():
    targets, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.0, 0.2, 1.0])
    found = calibration.measure(targets, scores, num_replicates=200).scores
    assert found["log_loss"].estimate is None  # a malignant lesion with a probability of 0
    assert found["brier"].estimate == pytest.approx(1.05 / 4)
    right = calibration.measure(targets, np.array([0.0, 1.0, 0.0, 1.0]), num_replicates=200).scores
    assert right["log_loss"].estimate == 0
    one_patient = calibration.measure(targets, scores, np.array([0, 1, 2, 1]), num_replicates=200)
    assert one_patient.scores["brier"].low is None
    assert one_patient.ece_by_chance is None


def test_reliability_halves_the_lesions_from_bin_to_bin():
    targets, scores, patients = study(5, num_patients=400, base=4)
    rows = calibration.reliability(targets, scores, patients, 500, 0)
    num = [row["num_images"] for row in rows]
    assert sum(num) == len(scores)
    assert num[:4] == [1600, 800, 400, 200]
    assert min(num) >= calibration.FEWEST_IN_BIN - 1
    assert sum(row["num_malignant"] for row in rows) == targets.sum()
    for row in rows:
        assert row["low"] <= row["share"] <= row["high"]
        if row["num_malignant"] == 0:
            exact = stats.binomtest(0, row["num_images"]).proportion_ci(0.95, "exact")
            assert row["high"] == pytest.approx(exact.high)
    inside = [row["low"] <= row["mean_score"] <= row["high"] for row in rows]
    assert np.mean(inside) > 0.7
