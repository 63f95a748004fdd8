"""compare: from runs' predictions to words, tables and what it refuses; and a plan before anything is trained."""

import json

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from scipy import stats
from sklearn import metrics as sk
from test_evaluate import make_run

from lesionforge.errors import BadInput
from lesionforge.evaluation import detectable
from lesionforge.evaluation.compare import CompareConfig, compare

QUICK = {"num_replicates": 300, "num_permutations": 300}


def predictions(seed, skill, first_patient=0, num_patients=60):
    """The same lesions whatever the seed: 60 patients of 8 lesions, one in four malignant; no two runs alike."""
    patients = np.repeat(np.arange(num_patients), 8) + first_patient
    targets = (np.random.default_rng(first_patient).random(len(patients)) < 0.25).astype(np.int8)
    common = np.random.default_rng(first_patient + 1).normal(size=len(patients))
    logits = common + 0.5 * np.random.default_rng(seed + 10).normal(size=len(patients)) + skill * targets
    return pl.DataFrame(
        {
            "image_id": [f"ISIC_{8 * first_patient + i:07d}" for i in range(len(patients))],
            "patient_id": [f"IP_{patient:07d}" for patient in patients],
            "part": "val",
            "target": targets,
            "score": 1 / (1 + np.exp(-logits)),
            "logit": logits,
        }
    ).sample(fraction=1, shuffle=True, seed=seed)


def make_study(folder, cells, reference="0x"):
    """Runs and their study.json; a cell is (model, arm, fold, seed, predictions or None)."""
    named = []
    for model, arm, fold, seed, table in cells:
        name = f"runs/{model}-{arm}-{seed}" + ("" if fold is None else f"-fold{fold}")
        if table is not None:
            make_run(folder / name, val=table)
        named.append({"run": name, "model": model, "arm": arm, "fold": fold, "seed": seed})
    said = {"name": "x", "part": "val", "reference": reference, "cells": named}
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(said))
    return folder


def three_arms(model="vit"):
    skills = {"0x": 0.8, "1x": 2.0, "same": 0.8}
    return [
        (model, arm, None, seed, predictions(10 * i + seed, skill))
        for i, (arm, skill) in enumerate(skills.items())
        for seed in range(3)
    ]


def test_a_study_is_compared_with_its_reference_arm_and_told_in_words(tmp_path, capsys):
    study = make_study(tmp_path / "s", three_arms())
    compare(CompareConfig(study=study, **QUICK))
    rows = pl.read_csv(study / "compare" / "comparisons.csv")
    assert len(rows) == 2 * 4
    better, same = (
        rows.row(by_predicate=(pl.col("arm") == arm) & (pl.col("score") == "roc_auc"), named=True)
        for arm in ("1x", "same")
    )
    assert (better["verdict"], same["verdict"]) == ("higher", "cannot be told apart")
    assert better["low"] <= better["difference"] <= better["high"]
    assert better["difference"] == pytest.approx(better["estimate"] - better["estimate_reference"])
    aucs = [sk.roc_auc_score(table["target"], table["score"]) for _, arm, _, _, table in three_arms() if arm == "1x"]
    assert better["estimate"] == pytest.approx(np.mean(aucs), abs=1e-12)  # the mean of runs, not the score of the mean
    assert better["p_holm"] == pytest.approx(2 * better["p_value"])
    assert better["permutation_p"] == pytest.approx(1 / 301)
    assert (better["num_seeds"], better["num_folds"], better["num_images"], better["num_patients"]) == (3, 1, 480, 60)
    assert better["se_patient"] > 0
    assert better["se_seed"] > 0

    alone = pl.read_csv(study / "compare" / "estimates.csv")
    row = alone.row(by_predicate=(pl.col("arm") == "1x") & (pl.col("score") == "roc_auc"), named=True)
    assert row["each_seed"] == " ".join(f"{auc:.4f}" for auc in aucs)
    assert 0 < row["low"] < row["estimate"] < row["high"] < 1

    said = capsys.readouterr().out
    assert "cannot be told apart" in said
    assert "'cannot be told apart' is not 'equal'" in said
    assert max(map(len, said.splitlines())) <= 120
    assert said.endswith("research software, not a medical device\n")
    result = json.loads((study / "compare" / "compare.json").read_text())
    assert len(result["comparisons"]) == len(rows)
    compare(CompareConfig(study=study, **QUICK))  # finished: shown again
    assert capsys.readouterr().out == said
    make_run(study / "runs" / "vit-1x-0", val=predictions(99, 1.0))
    with pytest.raises(BadInput, match="made from other predictions"):
        compare(CompareConfig(study=study, **QUICK))


def test_a_missing_cell_is_named_and_the_rest_compared(tmp_path, capsys):
    cells = three_arms()
    cells[3] = (*cells[3][:4], None)
    cells += [("swin", "0x", None, 0, None), ("swin", "1x", None, 0, predictions(40, 1.0))]
    study = make_study(tmp_path / "s", cells)
    compare(CompareConfig(study=study, scores=("pauc",), **QUICK))
    rows = {(row["model"], row["arm"]): row for row in pl.read_csv(study / "compare" / "comparisons.csv").to_dicts()}
    assert (rows["vit", "1x"]["num_seeds"], rows["vit", "1x"]["num_seeds_reference"]) == (2, 3)
    assert rows["swin", "1x"]["verdict"] == "not measured"
    assert rows["vit", "1x"]["p_holm"] == pytest.approx(min(1, 3 * rows["vit", "1x"]["p_value"]))  # of 3 planned
    assert "no usable predictions of 0x" in rows["swin", "1x"]["note"]
    left_out = json.loads((study / "compare" / "compare.json").read_text())["left_out"]
    assert [one["run"] for one in left_out] == ["runs/vit-1x-0", "runs/swin-0x-0"]
    said = capsys.readouterr().out
    assert "left out, 2 of 11 runs" in said
    assert "runs/vit-1x-0: no predictions/val.parquet" in said


def test_folds_of_other_patients_are_averaged(tmp_path):
    cells = [
        ("vit", arm, fold, 0, predictions(10 * fold + i, skill, first_patient=1000 * fold))
        for fold in range(3)
        for i, (arm, skill) in enumerate({"0x": 0.8, "1x": 2.5}.items())
    ]
    study = make_study(tmp_path / "s", cells)
    compare(CompareConfig(study=study, scores=("roc_auc",), **QUICK))
    (row,) = pl.read_csv(study / "compare" / "comparisons.csv").to_dicts()
    assert (row["num_folds"], row["num_images"], row["num_patients"], row["verdict"]) == (3, 1440, 180, "higher")
    assert "folds share training images" in row["note"]
    assert "one seed a fold" in row["note"]


def test_two_single_runs_are_about_these_two_models(tmp_path):
    a, b = (make_run(tmp_path / name, val=predictions(i, 1.0 + i)) for i, name in enumerate("ab"))
    compare(CompareConfig(runs=(b,), against=(a,), out=tmp_path / "out", scores=("roc_auc",), **QUICK))
    (row,) = pl.read_csv(tmp_path / "out" / "comparisons.csv").to_dicts()
    assert (row["arm"], row["reference"], row["se_seed"]) == ("b", "a", None)
    assert "about these trained models" in row["note"]
    assert row["p_value"] < 0.01
    assert row["permutation_p"] < 0.01


def test_few_malignant_patients_give_a_difference_without_an_interval(tmp_path):
    tables = [predictions(i, 1.0 + i) for i in range(2)]
    few = [f"IP_{patient:07d}" for patient in range(3)]
    tables = [
        table.with_columns(target=pl.when(pl.col("patient_id").is_in(few)).then("target").otherwise(0))
        for table in tables
    ]
    a, b = (make_run(tmp_path / name, val=table) for name, table in zip("ab", tables, strict=True))
    compare(CompareConfig(runs=(b,), against=(a,), out=tmp_path / "out", scores=("pauc",), **QUICK))
    (row,) = pl.read_csv(tmp_path / "out" / "comparisons.csv").to_dicts()
    assert (row["low"], row["p_value"], row["verdict"]) == (None, None, "not measured")
    assert row["difference"] is not None
    assert "too few to give an interval" in row["note"]


def test_runs_of_different_lesions_targets_or_patients_are_refused_in_one_line(tmp_path):
    first = predictions(0, 1.0)
    a = make_run(tmp_path / "a", val=first)
    others = {
        "different lesions": predictions(1, 1.0, first_patient=30),
        "another target": first.with_columns(target=1 - pl.col("target")),
        "another patient_id": first.with_columns(patient_id=pl.col("patient_id").str.replace("IP_", "IQ_")),
    }
    for what, table in others.items():
        b = make_run(tmp_path / what, val=table)
        with pytest.raises(BadInput, match=what) as refused:
            compare(CompareConfig(runs=(a,), against=(b,), out=tmp_path / "out", **QUICK))
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "out").exists()


def test_a_run_on_both_sides_is_refused_whatever_its_path(tmp_path):
    a = make_run(tmp_path / "a", val=predictions(0, 1.0))
    (tmp_path / "link").symlink_to(a)
    with pytest.raises(BadInput, match="differs from itself in nothing"):
        compare(CompareConfig(runs=(a,), against=(tmp_path / "link",), out=tmp_path / "out"))


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("one of the two", {}),
        ("one side only", {"runs": ("a",), "out": "x"}),
        ("name the folder", {"runs": ("a",), "against": ("b",)}),
        ("add --plan", {"study": "s", "num_malignant": 20}),
        ("before anything is trained", {"plan": True, "study": "s"}),
        ("--store and --split together", {"plan": True, "store": "s"}),
        ("or --num-malignant", {"plan": True}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(said, settings):
    with pytest.raises(ValidationError, match=said):
        CompareConfig(**settings)


def test_no_study_and_no_predictions_are_said(tmp_path):
    with pytest.raises(BadInput, match=r"no study\.json"):
        compare(CompareConfig(study=tmp_path))
    study = make_study(tmp_path / "s", [("vit", "0x", None, 0, None)])
    with pytest.raises(BadInput, match="nothing to compare: none of 1 runs"):
        compare(CompareConfig(study=study))


def test_a_plan_has_the_parts_that_compare_will_have():
    of_t = [stats.t.ppf([0.975, 0.8], df).sum() for df in (30, 40)]
    two_models = detectable.detectable(0.05, 30, 0.03, 1, 1, 0.02, 0.05)
    assert two_models == pytest.approx(of_t[0] * 0.05)  # one seed, one fold: nothing of the seeds
    many = detectable.detectable(0.05, 30, 0.03, 1, 10_000, 0.001, 0.05)
    assert many == pytest.approx(of_t[0] * 0.04, rel=1e-3)  # what all seeds share: 0.05^2 - 0.03^2
    only_seeds = detectable.detectable(0.03, 30, 0.03, 1, 21, 0.05, 0.05)
    assert only_seeds == pytest.approx(of_t[1] * 0.05 * np.sqrt(2 / 21))
    folds = [detectable.detectable(0.05, 30, 0.03, 5, 1, seed_sd, 0.05) for seed_sd in (0.001, 0.1)]
    assert folds[0] == pytest.approx(stats.t.ppf([0.975, 0.8], 150).sum() * 0.05 / np.sqrt(5))
    assert folds[1] > np.sqrt(2) * 0.1 / np.sqrt(5) * 2.8  # folds show what training again does


def test_a_plan_shrinks_with_malignant_lesions_and_with_likeness(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(detectable, "NUM_STUDIES", 100)
    small = {}
    for num_malignant in (20, 200):
        out = tmp_path / str(num_malignant)
        compare(CompareConfig(plan=True, num_malignant=num_malignant, num_benign=300, out=out))
        rows = json.loads((out / "plan.json").read_text())["detectable"]
        small[num_malignant] = {(row["score"], row["correlation"], row["num_seeds"]): row["detectable"] for row in rows}
    for (name, correlation, seeds), value in small[20].items():
        if correlation < 0.92:  # arms no more alike than seeds of one arm: beyond, the seeds alone decide
            assert value > small[200][name, correlation, seeds]
    assert small[200]["roc_auc", 0.5, 3] > small[200]["roc_auc", 0.95, 3]
    for name, correlation, _ in small[20]:
        three, five, ten = (small[20][name, correlation, seeds] for seeds in (3, 5, 10))
        assert three > five > ten
    assert small[20]["pauc", 0.7, 1] > small[20]["pauc", 0.7, 3]
    said = capsys.readouterr().out
    assert "200 malignant lesions of 200 patients in 500 images" in said
    assert "will often not be told from chance" in said
    with pytest.raises(BadInput, match="5 are the least"):
        compare(CompareConfig(plan=True, num_malignant=4))
