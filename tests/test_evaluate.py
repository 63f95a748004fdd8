"""evaluate: from predictions tables to scores.json, scores.csv and the printed table, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from test_metrics import challenge_pauc

from lesionforge import bootstrap, metrics, run
from lesionforge.errors import BadInput
from lesionforge.evaluation import calibration
from lesionforge.evaluation.evaluate import CalibrationConfig, EvaluateConfig, evaluate


def predictions(seed, part="test", num_patients=60, first_id=0):
    """Patients of 8 lesions, about one in ten malignant."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), 8)
    targets = (rng.random(len(patients)) < 0.1).astype(np.int8)
    logits = rng.normal(size=len(patients)) - 2 + 2 * targets
    return pl.DataFrame(
        {
            "image_id": [f"ISIC_{first_id + i:07d}" for i in range(len(patients))],
            "patient_id": [f"IP_{patient:07d}" for patient in patients],
            "part": part,
            "target": targets,
            "score": 1 / (1 + np.exp(-logits)),
            "logit": logits,
        }
    )


def make_run(folder, **parts):
    for part, table in parts.items():
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        table.write_parquet(folder / "predictions" / f"{part}.parquet")
    return folder


@pytest.fixture
def trained(tmp_path):
    return make_run(tmp_path / "x", val=predictions(0, "val"), test=predictions(1, "test", first_id=5000))


def scores_of(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads((folder / "scores.json").read_text(), parse_constant=refuse)


def test_a_run_is_scored_on_val_and_test_with_the_threshold_of_val(trained, capsys):
    evaluate(EvaluateConfig(run=trained))
    result = scores_of(trained / "evaluation")
    assert list(result["parts"]) == ["val", "test"]
    val, test = predictions(0, "val"), predictions(1, "test", first_id=5000)
    found = result["parts"]["test"]
    assert found["scores"]["pauc"]["estimate"] == pytest.approx(
        challenge_pauc(test["target"], test["score"]), abs=1e-12
    )
    threshold = metrics.choose_threshold(val["target"], val["score"], "youden")
    assert found["threshold"]["value"] == threshold
    assert (found["threshold"]["rule"], found["threshold"]["chosen_on"]) == ("youden", "val")
    called = (test["score"] >= threshold).to_numpy()
    assert found["scores"]["recall"]["estimate"] == called[test["target"].to_numpy() == 1].mean()
    assert not found["threshold"]["in_sample"]
    assert result["parts"]["val"]["threshold"]["in_sample"]
    assert set(found["scores"]) == set(metrics.SCORES)
    for value in found["scores"].values():
        assert value["low"] <= value["estimate"] <= value["high"]
    assert (found["num_images"], found["num_patients"], found["clustered_by"]) == (480, 60, "patient")
    assert (found["num_replicates"], found["seed"], found["level"]) == (1000, 0, 0.95)

    table = pl.read_csv(trained / "evaluation" / "scores.csv")
    assert len(table) == 2 * (len(metrics.SCORES) + len(calibration.MEASURES))
    assert set(table["calibration"]) == {"raw"}
    row = table.row(by_predicate=(pl.col("part") == "test") & (pl.col("score") == "pauc"), named=True)
    assert row["run"] == "x"
    assert row["estimate"] == found["scores"]["pauc"]["estimate"]  # in full: no bit lost in the CSV
    assert row["num_malignant"] == test["target"].sum()

    printed = capsys.readouterr().out
    malignant = test.filter(pl.col("target") == 1)
    assert f"{len(malignant)} malignant lesions from {malignant['patient_id'].n_unique()} patients" in printed
    assert f"{row['estimate']:.4f}   {row['low']:.4f} to {row['high']:.4f}" in printed
    assert "chosen on these very lesions" in printed
    assert printed.endswith("research software, not a medical device\n")


def test_intervals_are_clustered_by_patient_and_do_not_depend_on_the_order_of_rows(tmp_path):
    table = predictions(3)
    found = []
    for name, rows in (("a", table), ("b", table.sample(fraction=1, shuffle=True, seed=1))):
        evaluate(EvaluateConfig(run=make_run(tmp_path / name, test=rows), threshold_rule=0.3, seed=4))
        found.append(scores_of(tmp_path / name / "evaluation")["parts"]["test"])
    assert found[0] == found[1]
    patients = np.repeat(np.arange(60), 8)
    expected = bootstrap.estimates(table["target"], table["score"], patients, 0.3, seed=4)
    assert {name: value["low"] for name, value in found[0]["scores"].items()} == {
        name: value.low for name, value in expected.items()
    }


def test_unknown_patients_are_said(tmp_path, capsys):
    table = predictions(3)
    evaluate(EvaluateConfig(run=make_run(tmp_path / "none", test=table.with_columns(patient_id=pl.lit(None)))))
    printed = capsys.readouterr().out
    assert "resampled by IMAGE, no patient is known" in printed
    assert "malignant lesions from unknown patients" in printed
    assert scores_of(tmp_path / "none/evaluation")["parts"]["test"]["clustered_by"] == "image"

    malignant_only = pl.when(pl.col("target") == 1).then("patient_id")
    evaluate(EvaluateConfig(run=make_run(tmp_path / "some", test=table.with_columns(patient_id=malignant_only))))
    printed = capsys.readouterr().out
    assert "resampled by patient where known" in printed
    found = scores_of(tmp_path / "some/evaluation")["parts"]["test"]
    assert found["clustered_by"] == "patient where known, else image"
    assert found["num_images_of_unknown_patients"] == (table["target"] == 0).sum()
    assert found["scores"]["top_15_retrieval"]["estimate"] is None
    assert "no patient's list is known to be whole" in found["scores"]["top_15_retrieval"]["reason"]


def test_few_malignant_patients_are_said(tmp_path, capsys):
    table = predictions(3, num_patients=8)
    evaluate(EvaluateConfig(run=make_run(tmp_path / "x", test=table)))
    assert "fewer than 10 patients" in capsys.readouterr().out
    one = table.with_columns(target=pl.int_range(pl.len()).is_in([0, 1]).cast(pl.Int8))
    evaluate(EvaluateConfig(run=make_run(tmp_path / "y", test=one)))
    assert "2 malignant lesions from 1 patient (" in (printed := capsys.readouterr().out)
    assert "no intervals: the malignant or the benign lesions all come from one patient" in printed
    assert scores_of(tmp_path / "y/evaluation")["parts"]["test"]["scores"]["pauc"]["low"] is None


def test_without_val_the_scores_at_a_threshold_are_none_with_a_reason(tmp_path, capsys):
    evaluate(EvaluateConfig(run=make_run(tmp_path / "x", test=predictions(1))))
    recall = scores_of(tmp_path / "x/evaluation")["parts"]["test"]["scores"]["recall"]
    assert recall["estimate"] is None
    assert "no val predictions to choose it on" in recall["reason"]
    assert "no val predictions to choose it on" in capsys.readouterr().out


def test_a_file_is_scored_with_the_threshold_of_another(tmp_path):
    predictions(0, "val", first_id=5000).select("image_id", "target", "score").write_csv(tmp_path / "val.csv")
    table = predictions(1).select(pl.col("image_id").alias("isic_id"), "target", "score", "patient_id")
    table.write_csv(tmp_path / "mine.csv")
    settings = {"predictions": tmp_path / "mine.csv", "threshold_rule": "f1"}
    evaluate(EvaluateConfig(**settings, threshold_from=tmp_path / "val.csv", out=tmp_path / "out"))
    result = scores_of(tmp_path / "out")
    assert result["run"] == "mine"
    found = result["parts"]["mine"]
    val = predictions(0, "val")
    assert found["threshold"]["value"] == metrics.choose_threshold(val["target"], val["score"], "f1")
    assert found["threshold"]["chosen_on"] == "val.csv"
    assert found["clustered_by"] == "patient"


def test_a_threshold_is_never_chosen_on_what_it_scores(tmp_path):
    predictions(1).write_parquet(tmp_path / "test.parquet")
    predictions(1).drop("part").write_parquet(tmp_path / "same.parquet")
    settings = {"predictions": tmp_path / "test.parquet", "out": tmp_path / "out"}
    with pytest.raises(BadInput, match="found the part test, expected val"):
        evaluate(EvaluateConfig(**settings, threshold_from=tmp_path / "test.parquet"))
    with pytest.raises(BadInput, match=r"part test: shares 480 images with same\.parquet"):
        evaluate(EvaluateConfig(**settings, threshold_from=tmp_path / "same.parquet"))
    assert not (tmp_path / "out").exists()


def test_truth_gives_hidden_targets(tmp_path, trained, caplog):
    table = predictions(1, "test", first_id=5000)
    hidden = table.with_columns(target=pl.lit(None, pl.Int8))
    folder = make_run(tmp_path / "y", val=predictions(0, "val"), test=hidden)
    with caplog.at_level("INFO", "lesionforge"):
        evaluate(EvaluateConfig(run=folder, out=tmp_path / "val-only"))
    assert "test: no targets" in caplog.text
    assert list(scores_of(tmp_path / "val-only")["parts"]) == ["val"]

    truth = table.select(isic_id="image_id", malignant="target").sample(fraction=1, shuffle=True, seed=0)
    truth.write_csv(tmp_path / "truth.csv")
    evaluate(EvaluateConfig(run=folder, truth=tmp_path / "truth.csv"))
    evaluate(EvaluateConfig(run=trained))
    assert scores_of(folder / "evaluation")["parts"] == scores_of(trained / "evaluation")["parts"]


def test_truth_is_checked_both_ways(tmp_path):
    table = predictions(1)
    folder = make_run(tmp_path / "x", test=table.with_columns(target=pl.lit(None, pl.Int8)))
    truth = table.select("image_id", "target")
    extra = truth.head(2).with_columns(image_id=pl.col("image_id") + "0")
    pl.concat([truth[3:], extra]).write_csv(tmp_path / "truth.csv")
    with pytest.raises(BadInput) as error:
        evaluate(EvaluateConfig(run=folder, truth=tmp_path / "truth.csv"))
    assert "2 of the truth have no prediction: ISIC_00000000, ISIC_00000010" in str(error.value)
    assert "name the right predictions, with --names NAME or" in str(error.value)
    assert "score that store with `lesionforge predict --store`" in str(error.value)
    assert "3 predicted have neither a target nor a truth: ISIC_0000000, ISIC_0000001, ISIC_0000002" in str(error.value)
    folder = make_run(tmp_path / "z", test=table)
    truth.with_columns(target=1 - pl.col("target")).write_csv(tmp_path / "wrong.csv")
    with pytest.raises(BadInput, match="480 have another target in the predictions"):
        evaluate(EvaluateConfig(run=folder, truth=tmp_path / "wrong.csv"))
    (tmp_path / "words.csv").write_text("image_id,target\nISIC_0000000,benign\nISIC_0000000,1\n")
    with pytest.raises(BadInput, match="2 have no id of their own") as error:
        evaluate(EvaluateConfig(run=folder, truth=tmp_path / "words.csv"))
    assert "1 have a target other than 0 and 1: ISIC_0000000 (benign)" in str(error.value)


BAD = {
    "NaN score": (pl.when(pl.int_range(pl.len()) < 2).then(float("nan")).otherwise("score").alias("score"),
        "2 have a score that is not a finite number: ISIC_0000000 (nan), ISIC_0000001 (nan)"),
    "missing score": (pl.when(pl.int_range(pl.len()) > 0).then("score"), "ISIC_0000000 (None)"),
    "infinite score": (pl.lit(float("inf")).alias("score"), "480 have a score that is not a finite number"),
    "score in words": (pl.lit("high").alias("score"), "ISIC_0000000 (high)"),
    "constant": (pl.lit(0.5).alias("score"), "every score is 0.5: a constant prediction ranks nothing"),
    "benign only": (pl.lit(0).alias("target"), "all 480 lesions are benign; both classes are needed"),
    "malignant only": (pl.lit(1).alias("target"), "all 480 lesions are malignant; both classes are needed"),
    "target 2": (pl.col("target") + 1, "have a target other than 0 (benign) and 1 (malignant): ISIC_"),
    "some targets missing": (pl.when(pl.int_range(pl.len()) > 0).then("target"), "1 have no target"),
    "all targets missing": (pl.lit(None).alias("target"), "no targets to score against; give them with --truth FILE"),
    "same id": (pl.lit("ISIC_0000007").alias("image_id"), "480 hold an id that another row holds too: ISIC_0000007"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("fault", BAD)
def test_what_cannot_be_scored_is_refused(fault, suffix, tmp_path):
    change, message = BAD[fault]
    path = tmp_path / f"bad.{suffix}"
    table = predictions(1).with_columns(change)
    table.write_csv(path) if suffix == "csv" else table.write_parquet(path)
    with pytest.raises(BadInput) as error:
        evaluate(EvaluateConfig(predictions=path, out=tmp_path / "out"))
    found = str(error.value).replace("(NaN)", "(nan)")
    assert message in found
    assert "bad" in found.splitlines()[0]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # nothing half-written


def test_all_problems_of_a_file_are_listed_at_once(tmp_path):
    table = predictions(1).with_columns(score=pl.lit(None, pl.Float64), target=pl.lit(3))
    table.write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(BadInput) as error:
        evaluate(EvaluateConfig(predictions=tmp_path / "bad.parquet", out=tmp_path / "out"))
    assert len(str(error.value).splitlines()) == 3
    assert "ISIC_0000004, ... (480 in all)" in str(error.value).replace(" (None)", "").replace(" (3)", "")


def test_missing_things_are_named(tmp_path, trained):
    with pytest.raises(BadInput, match="no such run folder"):
        evaluate(EvaluateConfig(run=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no predictions in it"):
        evaluate(EvaluateConfig(run=tmp_path / "empty"))
    predictions(1).drop("score").write_parquet(tmp_path / "noscore.parquet")
    with pytest.raises(BadInput, match="missing column score; found image_id"):
        evaluate(EvaluateConfig(predictions=tmp_path / "noscore.parquet", out=tmp_path / "out"))
    predictions(1).head(0).write_parquet(tmp_path / "norows.parquet")
    with pytest.raises(BadInput, match="no rows"):
        evaluate(EvaluateConfig(predictions=tmp_path / "norows.parquet", out=tmp_path / "out"))
    with pytest.raises(BadInput, match=r"truth\.csv: no such file"):
        evaluate(EvaluateConfig(run=trained, truth=tmp_path / "truth.csv"))


def test_run_and_predictions_exclude_each_other():
    with pytest.raises(ValidationError, match="one of the two"):
        EvaluateConfig()
    with pytest.raises(ValidationError, match="one of the two"):
        EvaluateConfig(run=Path("x"), predictions=Path("y"))
    with pytest.raises(ValidationError, match="name the folder to make with --out"):
        EvaluateConfig(predictions=Path("y"))
    with pytest.raises(ValidationError):
        EvaluateConfig(run=Path("x"), threshold_rule="best")


def test_a_finished_evaluation_stands_until_its_predictions_change(trained, capsys):
    evaluate(EvaluateConfig(run=trained))
    printed, before = capsys.readouterr().out, (trained / "evaluation" / "scores.json").stat()
    evaluate(EvaluateConfig(run=trained))
    assert capsys.readouterr().out == printed
    assert (trained / "evaluation" / "scores.json").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(BadInput, match="another config"):
        evaluate(EvaluateConfig(run=trained, seed=1))
    predictions(9).write_parquet(trained / "predictions" / "test.parquet")
    with pytest.raises(BadInput, match=r"made from other predictions \(predictions of test"):
        evaluate(EvaluateConfig(run=trained))


def test_float32_scores_are_warned_of(tmp_path, caplog):
    table = predictions(1).cast({"score": pl.Float32})
    evaluate(EvaluateConfig(run=make_run(tmp_path / "x", test=table)))
    assert "scores are float32" in caplog.text


@pytest.mark.real
def test_real_lesions_whose_benign_patients_are_mostly_unknown(tmp_path, real_lesions):
    truth = pl.read_csv(real_lesions / "ground-truth.csv").rename({"malignant": "target"})
    known = pl.read_csv(real_lesions / "metadata-rows.csv", null_values=["NA", ""], infer_schema_length=None)
    val = pl.read_csv(real_lesions / "split.csv").filter(pl.col("part") == "val")
    table = val.join(truth, on="isic_id").join(known.select("isic_id", "patient_id"), on="isic_id", how="left")
    rng = np.random.default_rng(0)
    table = table.with_columns(score=rng.random(len(table)) + 0.5 * table["target"].to_numpy())
    table.write_csv(tmp_path / "val.csv")
    evaluate(EvaluateConfig(predictions=tmp_path / "val.csv", out=tmp_path / "out"))
    found = scores_of(tmp_path / "out")["parts"]["val"]
    assert (found["num_images"], found["num_malignant"]) == (1581, 28)
    assert found["clustered_by"] == "patient where known, else image"
    assert found["num_malignant_of_unknown_patients"] == 0
    assert found["scores"]["pauc"]["low"] < found["scores"]["pauc"]["estimate"] < found["scores"]["pauc"]["high"]


def test_the_record_is_a_recipe(trained):
    import yaml

    evaluate(EvaluateConfig(run=trained, threshold_rule=0.25))
    settings = yaml.safe_load((trained / "evaluation" / run.CONFIG).read_text())
    assert EvaluateConfig(**settings) == EvaluateConfig(run=trained, threshold_rule=0.25)


def test_a_leaky_split_is_named_beside_its_scores(trained, capsys):
    (trained / run.INPUTS).write_text('{"split_name": "5 folds by image (leaky), seed 0"}')
    evaluate(EvaluateConfig(run=trained))
    assert scores_of(trained / "evaluation")["split"] == "5 folds by image (leaky), seed 0"
    assert "the split LEAKS" in capsys.readouterr().out


def test_new_predictions_without_targets_leave_an_evaluation_valid(trained):
    """The challenge's test images, predicted after the run was evaluated."""
    (trained / "predictions" / "test.parquet").unlink()
    evaluate(EvaluateConfig(run=trained))
    hidden = predictions(3, "test", first_id=9000).with_columns(pl.lit(None, pl.Int8).alias("target"))
    make_run(trained, test=hidden)
    evaluate(EvaluateConfig(run=trained))
    assert list(scores_of(trained / "evaluation")["parts"]) == ["val"]


# --------------------------------------------------------------------------------------------------------- calibration

METHODS = ("prior", "temperature", "prior_temperature", "isotonic")


def test_brier_and_ece_of_the_raw_scores_are_always_given(trained, capsys):
    evaluate(EvaluateConfig(run=trained))
    found = scores_of(trained / "evaluation")["parts"]["test"]["calibration"]
    test = predictions(1, "test", first_id=5000)
    assert list(found["versions"]) == ["raw"]
    assert set(found["versions"]["raw"]["scores"]) == set(calibration.MEASURES)
    brier = found["versions"]["raw"]["scores"]["brier"]
    assert brier["estimate"] == pytest.approx(((test["score"] - test["target"]) ** 2).mean(), abs=1e-12)
    assert brier["low"] < brier["estimate"] < brier["high"]
    printed = capsys.readouterr().out
    assert f"raw                {brier['estimate']:.3g}  {brier['low']:.3g} to {brier['high']:.3g}" in printed
    assert "15 equal-mass bins" in printed
    assert (trained / "evaluation" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert not (trained / "evaluation" / "calibrated").exists()


def test_calibrated_scores_are_written_measured_and_submittable(trained, capsys):
    asked = CalibrationConfig(methods=METHODS, prevalence="val", training_prior=0.5)
    evaluate(EvaluateConfig(run=trained, calibration=asked))
    folder = trained / "evaluation"
    result = scores_of(folder)
    val, test = (result["parts"][part]["calibration"]["versions"] for part in ("val", "test"))
    assert list(test) == ["raw", *METHODS]
    crossed = {f"{method}, cross-fitted" for method in METHODS[1:]}
    assert set(val) == {"raw", *METHODS} | crossed
    raw = result["parts"]["test"]["scores"]["pauc"]["estimate"]
    for method in METHODS:
        table = pl.read_parquet(folder / "calibrated" / f"{method}-test.parquet")
        assert table.columns == ["image_id", "patient_id", "part", "target", "score", "logit"]
        assert table["image_id"].equals(predictions(1, "test", first_id=5000)["image_id"])
        brier = test[method]["scores"]["brier"]["estimate"]
        assert brier == pytest.approx(((table["score"] - table["target"]) ** 2).mean(), abs=1e-12)
        if method != "isotonic":
            assert test[method]["pauc"] == pytest.approx(raw, abs=1e-12)
    assert test["prior_temperature"]["scores"]["ece"]["estimate"] < test["raw"]["scores"]["ece"]["estimate"]
    facts = result["calibration"]
    assert facts["fitted_on"] == "val"
    share = predictions(0, "val")["target"].mean()
    assert facts["prevalence"] == share
    assert facts["methods"]["prior"]["shift"] == pytest.approx(np.log(share / (1 - share)))

    printed = capsys.readouterr().out
    assert "temperature, prior_temperature, isotonic: fitted on these very lesions, which flatters" in printed
    assert f"from 0.5 in training to {share:.4g}" in printed
    assert max(len(line) for line in printed.splitlines() if "top-15" not in line) <= 120
    table = pl.read_csv(folder / "scores.csv")
    assert set(table["calibration"]) == {"raw", *METHODS} | crossed
    keys = table.select("part", "calibration", "score")
    assert len(keys.unique()) == len(table)

    evaluate(
        EvaluateConfig(
            predictions=folder / "calibrated/isotonic-test.parquet", threshold_rule=0.1, out=trained.parent / "i"
        )
    )
    assert scores_of(trained.parent / "i")["parts"]["test"]["scores"]["pauc"]["estimate"] == test["isotonic"]["pauc"]


def test_a_prevalence_that_is_not_the_lesions_own_is_said(trained, capsys):
    asked = CalibrationConfig(methods=("prior",), prevalence=0.001, training_prior=0.5)
    evaluate(EvaluateConfig(run=trained, calibration=asked))
    share = predictions(1)["target"].mean()
    assert f"made for 0.10% malignant, measured on test with {share:.2%}" in capsys.readouterr().out


def test_fits_never_see_test(trained):
    """Turned targets of test change its measures and no calibrated score."""
    asked = CalibrationConfig(methods=METHODS, prevalence="val", training_prior=0.5)
    evaluate(EvaluateConfig(run=trained, calibration=asked, out=trained / "one"))
    turned = predictions(1, "test", first_id=5000).with_columns(target=(1 - pl.col("target")).cast(pl.Int8))
    make_run(trained, test=turned)
    evaluate(EvaluateConfig(run=trained, calibration=asked, out=trained / "two"))
    for method in METHODS:
        one, two = (pl.read_parquet(trained / out / f"calibrated/{method}-test.parquet") for out in ("one", "two"))
        assert one["score"].equals(two["score"])
    assert scores_of(trained / "one")["calibration"] == scores_of(trained / "two")["calibration"]


def test_calibration_that_cannot_be_is_refused(trained, tmp_path):
    with pytest.raises(ValidationError, match=r"needs --calibration\.prevalence"):
        CalibrationConfig(methods=("prior",))
    with pytest.raises(ValidationError):
        CalibrationConfig(methods=("prior",), prevalence=1.0)
    with pytest.raises(BadInput, match="not a training run"):
        evaluate(EvaluateConfig(run=trained, calibration=CalibrationConfig(methods=("prior",), prevalence=0.001)))
    predictions(1).write_csv(tmp_path / "test.csv")
    settings = {"predictions": tmp_path / "test.csv", "out": tmp_path / "out", "threshold_rule": 0.3}
    with pytest.raises(BadInput, match="no val predictions to fit on"):
        evaluate(EvaluateConfig(**settings, calibration=CalibrationConfig(methods=("isotonic",))))
    predictions(1).drop("part").write_csv(tmp_path / "same.csv")
    with pytest.raises(BadInput, match="shares 480 images"):
        evaluate(
            EvaluateConfig(
                **settings, threshold_from=tmp_path / "same.csv", calibration=CalibrationConfig(methods=("isotonic",))
            )
        )
    assert not (tmp_path / "out").exists()
    predictions(0, "val", first_id=5000).write_csv(tmp_path / "val.csv")
    evaluate(
        EvaluateConfig(
            **settings, threshold_from=tmp_path / "val.csv", calibration=CalibrationConfig(methods=("isotonic",))
        )
    )
    assert scores_of(tmp_path / "out")["calibration"]["fitted_on"] == "val.csv"


def test_scores_that_are_no_probabilities_have_no_calibration(tmp_path, capsys):
    table = predictions(1).with_columns(score=pl.col("logit")).drop("logit")
    table.write_csv(tmp_path / "logits.csv")
    evaluate(EvaluateConfig(predictions=tmp_path / "logits.csv", out=tmp_path / "out"))
    assert scores_of(tmp_path / "out")["parts"]["test"]["calibration"]["versions"] == {}
    assert "undefined, scores outside [0, 1] are no probabilities" in capsys.readouterr().out
    assert not (tmp_path / "out" / "reliability.png").exists()


def test_settings_of_the_prior_without_the_prior_are_refused():
    wrong = {
        "--calibration.prevalence and --calibration.training-prior: found no methods": {
            "prevalence": 0.001,
            "training_prior": 0.3,
        },
        "--calibration.prevalence: found methods temperature, isotonic": {
            "prevalence": "val",
            "methods": ("temperature", "isotonic"),
        },
        "--calibration.training-prior: found no methods.*; add --calibration.methods prior": {"training_prior": 0.3},
    }
    for message, settings in wrong.items():
        with pytest.raises(ValidationError, match=message):
            CalibrationConfig(**settings)
    CalibrationConfig(methods=("prior_temperature",), prevalence=0.001, training_prior=0.3)


# ---------------------------------------------------------------------------------- what was chosen on val, and further


def write_recipe(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)


def notes_of(folder, part):
    return [note for note in scores_of(folder / "evaluation")["parts"][part]["notes"] if note.startswith("val: ")]


CHOSEN = "val: the epoch was chosen by its pAUC on these lesions, so this score flatters"


def test_an_epoch_chosen_on_val_is_said_beside_the_scores_of_val(trained, capsys):
    write_recipe(trained, "select: best_val\n")
    evaluate(EvaluateConfig(run=trained))
    assert notes_of(trained, "val") == [CHOSEN]
    assert notes_of(trained, "test") == []
    assert capsys.readouterr().out.count(f"  - {CHOSEN}\n") == 1


def test_the_last_epoch_is_not_chosen_on_val(trained):
    write_recipe(trained, "select: last\n")
    evaluate(EvaluateConfig(run=trained))
    assert notes_of(trained, "val") == []


@pytest.mark.parametrize("place", [".", "members/fold-1-seed-0"])
def test_of_a_group_the_own_recipe_or_a_members_is_read(place, trained):
    write_recipe(trained / "members/fold-0-seed-0", "select: last\n")
    write_recipe(trained / place, "select: best_val\n")
    evaluate(EvaluateConfig(run=trained))
    assert notes_of(trained, "val") == [CHOSEN]


def test_further_predictions_of_the_run_are_scored(trained, tmp_path):
    """Here other scores of test's very images, with the targets in a file."""
    hidden = predictions(1, "test", first_id=5000).with_columns(score=pl.col("score") ** 2).drop("target", "logit")
    make_run(trained, again=hidden)
    predictions(1, "test", first_id=5000).select("image_id", "target").write_csv(tmp_path / "truth.csv")
    evaluate(EvaluateConfig(run=trained, names=("again",), truth=tmp_path / "truth.csv"))
    found = scores_of(trained / "evaluation")
    assert list(found["parts"]) == ["val", "test", "again"]
    assert "predictions of again" in found["sources"]
    test, again = (found["parts"][part] for part in ("test", "again"))
    assert test["scores"]["pauc"] == again["scores"]["pauc"]  # a square keeps the order
    assert test["num_images"] == again["num_images"] == 480


def test_further_predictions_that_are_not_there_are_named(trained):
    with pytest.raises(BadInput, match="no predictions night; make them with `lesionforge predict --name`"):
        evaluate(EvaluateConfig(run=trained, names=("night",)))
    with pytest.raises(BadInput, match="expected a plain file name"):
        evaluate(EvaluateConfig(run=trained, names=("../x",)))
    with pytest.raises(ValidationError, match="names are of the predictions of a run"):
        EvaluateConfig(predictions=Path("x.csv"), out=Path("y"), names=("z",))
