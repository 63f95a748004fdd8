"""Scores made into probabilities: known distortions are repaired, fits agree with sklearn and scipy."""

import numpy as np
import polars as pl
import pytest
from scipy import optimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.evaluation import calibration, recalibration
from lesionforge.evaluation.predictions import sigmoid
from lesionforge.run import record


def lesions(seed, num=40_000, base=3.0, temperature=1.0, shift=0.0):
    """Predictions whose logits are the true log-odds, moved by `shift` and multiplied by `temperature`."""
    rng = np.random.default_rng(seed)
    truth = 1.5 * rng.normal(size=num) - base
    logits = (truth + shift) * temperature
    return pl.DataFrame(
        {
            "image_id": [f"ISIC_{i:07d}" for i in range(num)],
            "patient_id": [f"IP_{i // 10:05d}" for i in range(num)],
            "part": "val",
            "target": (rng.random(num) < sigmoid(truth)).astype(np.int8),
            "score": sigmoid(logits),
            "logit": logits,
        }
    )


def ece(table):
    return calibration.measure(table["target"].to_numpy(), table["score"].to_numpy(), num_replicates=2).scores["ece"]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found_and_repaired(temperature):
    val, test = (lesions(seed, temperature=temperature) for seed in (0, 1))
    fits, facts = recalibration.fit_all(["temperature", "isotonic"], (val, "val"), None, None, None)
    assert facts["methods"]["temperature"]["temperature"] == pytest.approx(temperature, rel=0.05)
    assert facts["fitted_on"] == "val"
    for method, found in fits.items():
        repaired = recalibration.calibrated(test, found, "test")
        assert ece(repaired).estimate < 0.006, method
        assert ece(repaired).estimate <= ece(test).estimate + 0.002


def test_the_temperature_is_the_one_of_scipy_and_of_a_logistic_regression():
    val = lesions(2, num=3000, temperature=1.7)
    targets, logits = val["target"].to_numpy(), val["logit"].to_numpy()
    found = recalibration.temperature(targets, logits)
    loss = lambda b: np.mean(np.logaddexp(0, b * logits) - targets * b * logits)  # noqa: E731
    best = optimize.minimize_scalar(loss, bracket=(0.3, 1), options={"xtol": 1e-12})
    assert 1 / found == pytest.approx(best.x, rel=1e-6)
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, None], targets)
    assert 1 / found == pytest.approx(regression.coef_[0, 0], rel=1e-5)


def test_no_temperature_is_invented():
    logits = np.array([-1.0, -2.0, 1.0, 2.0])
    with pytest.raises(BadInput, match="a lower one is always better"):
        recalibration.temperature(np.array([0, 0, 1, 1]), logits)
    with pytest.raises(BadInput, match="a higher one is always better"):
        recalibration.temperature(np.array([1, 1, 0, 0]), logits)


def test_balanced_training_is_taken_back_to_the_prevalence():
    """Scores of a training at one half, on lesions of 1 %: the known shift repairs them without any fit."""
    test = lesions(3, base=6.0)
    prevalence = float(test["target"].mean())
    assert prevalence < 0.012
    shifted = lesions(3, base=6.0, shift=-recalibration.log_odds(prevalence))
    fits, facts = recalibration.fit_all(["prior"], None, prevalence, 0.5, None)
    assert facts["methods"]["prior"]["shift"] == pytest.approx(recalibration.log_odds(prevalence))
    repaired = recalibration.calibrated(shifted, fits["prior"], "test")
    np.testing.assert_allclose(repaired["score"], test["score"], rtol=1e-9)
    assert ece(repaired).estimate < 0.003 < 0.3 < ece(shifted).estimate


def test_the_prior_correction_is_the_formula_of_elkan():
    table, prior, prevalence = lesions(4, num=50), 0.4, 0.003
    fits, _ = recalibration.fit_all(["prior"], None, prevalence, prior, None)
    p = table["score"].to_numpy()
    expected = prevalence * (p - p * prior) / (prior - p * prior + prevalence * p - prior * prevalence)  # theorem 2
    np.testing.assert_allclose(recalibration.calibrated(table, fits["prior"], "x")["score"], expected, rtol=1e-10)


def test_prior_and_temperature_are_undone_together():
    """Trained at 10 times val's odds and too sure by a factor of 2; then moved on to a tenth of val's odds."""
    val = lesions(5, base=5.0)
    of_val = recalibration.log_odds(float(val["target"].mean()))
    moved = 2 * val["logit"] + np.log(10)
    distorted = val.with_columns(moved.alias("logit"), pl.Series("score", sigmoid(moved.to_numpy())))
    prior = float(sigmoid(np.array(of_val + np.log(10))))
    for prevalence, last in (("val", 0.0), (float(sigmoid(np.array(of_val - np.log(10)))), -np.log(10))):
        fits, facts = recalibration.fit_all(["prior_temperature"], (distorted, "val"), prevalence, prior, None)
        assert facts["methods"]["prior_temperature"]["temperature"] == pytest.approx(2, rel=0.05)
        repaired = recalibration.calibrated(distorted, fits["prior_temperature"], "val")
        np.testing.assert_allclose(repaired["logit"] - last, val["logit"], rtol=0.05, atol=1e-9)


@pytest.mark.parametrize("decimals", [None, 2, 1])
@pytest.mark.parametrize("seed", range(3))
def test_isotonic_regression_is_sklearns(seed, decimals):
    val, test = lesions(seed, num=800, base=1.0), lesions(seed + 10, num=800, base=1.0)
    scores = val["score"].to_numpy() if decimals is None else np.round(val["score"].to_numpy(), decimals)
    x, y = recalibration.isotonic(val["target"].to_numpy(), scores)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, val["target"].to_numpy())
    for asked in (scores, test["score"].to_numpy(), np.array([0.0, 1.0])):
        np.testing.assert_allclose(np.interp(asked, x, y), theirs.predict(asked), atol=1e-12)
    assert np.all(np.diff(y) >= 0)
    assert decimals == 1 or len(x) < len(np.unique(scores))


def test_ranks_stay_but_isotonic_ties_them():
    table = lesions(6, num=2000, base=1.0)
    fits, _ = recalibration.fit_all(recalibration.FITTED, (table, "val"), 0.01, 0.5, None)
    before = table["score"].rank().to_list()
    for method, found in fits.items():
        after = recalibration.calibrated(table, found, "x")["score"]
        if method == "isotonic":
            assert after.n_unique() < 100
            assert np.all(np.diff(after.to_numpy()[np.argsort(table["score"].to_numpy())]) >= 0)
        else:
            assert after.rank().to_list() == before


def test_a_step_at_0_or_1_leaves_the_logit_empty():
    table = lesions(7, num=200, base=1.0)
    fits, _ = recalibration.fit_all(["isotonic"], (table, "val"), None, None, None)
    found = recalibration.calibrated(table, fits["isotonic"], "x")
    assert found.filter(pl.col("score") == 0).height > 0
    assert found["logit"].is_null().to_list() == found["score"].is_in([0.0, 1.0]).to_list()
    kept = found.filter(pl.col("logit").is_not_null())
    np.testing.assert_allclose(sigmoid(kept["logit"].to_numpy()), kept["score"])


def test_cross_fitting_keeps_patients_together_and_is_honest():
    """Fitted to noise, the steps look well calibrated on the lesions they saw; the cross-fitted ones do not."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    table = lesions(8, num=400, base=1.5).with_columns(logit=noise, score=sigmoid(noise))
    fits, _ = recalibration.fit_all(["isotonic"], (table, "val"), None, None, None)
    inside = recalibration.calibrated(table, fits["isotonic"], "val")
    crossed = recalibration.cross_fitted(table, fits["isotonic"], "val", 0)
    brier = lambda t: float(((t["score"] - t["target"]) ** 2).mean())  # noqa: E731
    chance = float(table["target"].mean() * (1 - table["target"].mean()))
    assert brier(inside) < chance < brier(crossed)
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    assert recalibration.cross_fitted(shuffled, fits["isotonic"], "val", 0).equals(crossed)
    own = pl.col("patient_id") == table.filter(target=1)["patient_id"][0]
    changed = table.with_columns(target=pl.when(own).then(1).otherwise("target").cast(pl.Int8))
    again = recalibration.cross_fitted(changed, fits["isotonic"], "val", 0)
    assert again.filter(own)["score"].equals(crossed.filter(own)["score"])
    assert not again["score"].equals(crossed["score"])  # the other folds' fits saw the change


# sampler, benign per malignant, weight -> prior, of a mix with 1 malignant in 5
PRIORS = {
    "shuffle": ({}, {}, 0.2),
    "balanced": ({"sampler": "balanced"}, {}, 0.5),
    "fresh": ({"sampler": "fresh_benign", "benign_per_malignant": 3}, {}, 0.25),
    "weighted": ({}, {"positive_weight": 2.0}, 1 / 3),
    "balanced and weighted": ({"sampler": "balanced"}, {"positive_weight": 3.0}, 0.75),
    "weighted to balance": ({}, {"positive_weight": "balanced"}, 0.5),
    "balanced twice": ({"sampler": "balanced"}, {"positive_weight": "balanced"}, 0.5),
}


class Anything(Config):
    data: dict[str, int | str] = {}  # noqa: RUF012
    loss: dict[str, float | str] = {}  # noqa: RUF012


def training_run(folder, data, loss):
    folder.mkdir(parents=True)
    record(folder, "train", Anything(data=data, loss=loss))
    pl.DataFrame({"target": pl.Series([1, 0, 0, 0, 0] * 4, dtype=pl.Int8)}).write_parquet(folder / "mix.parquet")
    return folder


@pytest.mark.parametrize("case", PRIORS)
def test_the_prior_of_training_is_read_from_the_run(case, tmp_path):
    data, loss, expected = PRIORS[case]
    prior, notes = recalibration.from_run(training_run(tmp_path / "x", data, loss))
    assert prior == pytest.approx(expected)
    assert notes == []


def test_a_loss_that_bends_probabilities_is_named(tmp_path):
    folder = training_run(tmp_path / "x", {}, {"kind": "focal", "label_smoothing": 0.1, "mixup": 0.5})
    assert recalibration.from_run(folder)[1] == [
        "trained with focal loss, label smoothing, mixup: its scores are no probabilities even at the prior of training"
    ]


def test_a_group_of_runs_has_the_mean_log_odds(tmp_path):
    training_run(tmp_path / "group/members/fold-0-seed-0", {}, {})
    training_run(tmp_path / "group/members/fold-1-seed-0", {"sampler": "balanced"}, {})
    prior, _ = recalibration.from_run(tmp_path / "group")
    assert recalibration.log_odds(prior) == pytest.approx(np.log(1 / 4) / 2)


def test_what_is_lacking_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"not a training run .* give it with --calibration\.training-prior"):
        recalibration.fit_all(["prior"], None, 0.01, None, tmp_path)
    with pytest.raises(BadInput, match="the prior of training is not known"):
        recalibration.fit_all(["prior"], None, 0.01, None, None)
    with pytest.raises(BadInput, match=r"calibration \(isotonic\): no val predictions .* --threshold-from"):
        recalibration.fit_all(["isotonic"], None, None, None, None)
    with pytest.raises(BadInput, match=r"calibration \(prevalence val\)"):
        recalibration.fit_all(["prior"], None, "val", 0.5, None)
    certain = lesions(0, num=20).with_columns(score=pl.lit(1.0), logit=pl.lit(None, pl.Float64))
    with pytest.raises(BadInput, match="20 have a score of exactly 0 or 1 and no logit"):
        recalibration.fit_all(["temperature"], (certain, "val"), None, None, None)
    torn = lesions(0, num=20).with_columns(logit=pl.lit(3.0))
    with pytest.raises(BadInput, match="20 have a logit whose sigmoid is not the score"):
        recalibration.fit_all(["temperature"], (torn, "val"), None, None, None)
