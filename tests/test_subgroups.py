"""subgroups: a harder group is found and said, small ones are named, arms are paired, and bad input is one line."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from sklearn.metrics import recall_score
from subgroup_studies import lesions, predictions, write_metadata_store, write_run, write_study

from lesionforge import cli, metrics
from lesionforge.errors import BadInput
from lesionforge.evaluation.evaluate import EvaluateConfig, evaluate
from lesionforge.evaluation.subgroups import SubgroupsConfig, subgroups

FEW = {"num_replicates": 200}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_metadata_store(tmp_path_factory.mktemp("store") / "real", lesions())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), store)
    evaluate(EvaluateConfig(run=folder / "runs/cnn-0x-0", num_replicates=100))
    subgroups(SubgroupsConfig(study=folder, **FEW))
    return folder


def rows_of(table: pl.DataFrame, **wanted: str) -> pl.DataFrame:
    return table.filter(*(pl.col(name) == value for name, value in wanted.items()))


def test_the_files_and_their_columns(study: Path) -> None:
    folder = study / "subgroups"
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "done.json", "environment.json", "log.txt", "subgroups.json", "subgroups.csv", "gaps.csv",
        "effects.csv",
    }  # fmt: skip
    said = json.loads((folder / "subgroups.json").read_text())
    for name, key in (("subgroups", "scores"), ("gaps", "gaps"), ("effects", "effects")):
        table = pl.read_csv(folder / f"{name}.csv")
        assert table.columns == list(said[key][0])
        assert len(table) == len(said[key])
    assert said["disclaimer"] == "research software, not a medical device"
    assert len(said["cells"]) == 8
    assert not said["left_out"]


def test_sensitivity_of_a_group_is_sklearns_mean_over_seeds(study: Path) -> None:
    """At each run's own threshold, on the very rows of the group."""
    said = json.loads((study / "subgroups/subgroups.json").read_text())
    female = (lesions()["sex"] == "female").to_numpy()
    expected = []
    for cell in said["cells"]:
        if (cell["model"], cell["arm"]) == ("cnn", "3x"):
            table = pl.read_parquet(study / cell["run"] / "predictions/val.parquet")
            y, score = table["target"].to_numpy(), table["score"].to_numpy()
            assert cell["threshold"]["value"] == metrics.choose_threshold(y, score, "youden")
            expected.append(recall_score(y[female], score[female] >= cell["threshold"]["value"]))
    found = rows_of(
        pl.read_csv(study / "subgroups/subgroups.csv"), model="cnn", arm="3x", group="female", score="recall"
    ).row(0, named=True)
    assert np.isclose(found["estimate"], np.mean(expected))
    assert found["low"] < found["estimate"] < found["high"]
    assert (found["num_images"], found["num_malignant"], found["num_patients"]) == (150, 30, 50)
    assert (found["num_seeds"], found["num_folds"], found["reason"]) == (2, 0, None)


def test_the_threshold_is_the_one_of_evaluate(study: Path) -> None:
    cells = {
        cell["run"]: cell["threshold"] for cell in json.loads((study / "subgroups/subgroups.json").read_text())["cells"]
    }
    scores = json.loads((study / "runs/cnn-0x-0/evaluation/scores.json").read_text())
    assert cells["runs/cnn-0x-0"]["value"] == scores["parts"]["val"]["threshold"]["value"]
    assert cells["runs/cnn-0x-0"]["from"] == "evaluation"
    assert cells["runs/cnn-0x-1"]["from"] == "subgroups"


def test_the_harder_group_shows_in_gap_and_effect(study: Path) -> None:
    gaps = pl.read_csv(study / "subgroups/gaps.csv")
    harder = rows_of(gaps, arm="3x", attribute="sex")
    assert harder["smallest_group"].to_list() == ["female", "female"]
    assert (harder["gap"] > harder["gap_by_chance"]).all()
    assert (harder["permutation_p"] < 0.05).all()
    effects = rows_of(pl.read_csv(study / "subgroups/effects.csv"), attribute="sex", score="recall")
    assert effects["arm"].unique().to_list() == ["3x"]
    women, men = (rows_of(effects, group=group) for group in ("female", "male"))
    assert (women["difference"] < -0.15).all()
    assert (women["se_seed"] > 0).all()
    assert (women["difference"] < men["difference"]).all()
    assert np.allclose(effects["difference"], effects["estimate"] - effects["estimate_reference"])


def test_small_groups_are_named_and_not_scored(study: Path) -> None:
    table = pl.read_csv(study / "subgroups/subgroups.csv")
    head = rows_of(table, group="head/neck", arm="0x", model="cnn")
    assert head["estimate"].is_null().all()
    assert head["reason"].unique().to_list() == ["6 malignant lesions, fewer than 10"]
    assert head["num_malignant"].unique().to_list() == [6]
    assert rows_of(table, attribute="age_band", group="unknown")["num_malignant"].unique().to_list() == [3]
    carcinoma = rows_of(table, attribute="diagnosis", group="Basal cell carcinoma", model="vit", arm="0x")
    reasons = dict(zip(carcinoma["score"], carcinoma["reason"], strict=True))
    assert reasons == {
        "pauc": None, "recall": None, "specificity": "the benign lesions are the same for every diagnosis",
    }  # fmt: skip


def test_what_a_user_sees(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The finished verb prints the same again, with every caveat."""
    subgroups(SubgroupsConfig(study=study, **FEW))
    words = capsys.readouterr().out
    for expected in (
        "cnn: sensitivity at the threshold (95 % interval), mean of 2 seeds",
        "head/neck 6/30",
        "exploratory: nothing is corrected",
        "part val are those very lesions, so sensitivity and specificity flatter",
        "not by a colorimeter",
        "each is set against all benign lesions",
        "by chance",
        "comparisons of an arm with its reference",
        "for 7 of 8 runs it is chosen here",
        "not a medical device",
    ):
        assert expected in words, expected
    assert max(len(line) for line in words.split("\n\nnot scored")[0].splitlines()) <= 135


def test_one_patient_is_too_few(tmp_path: Path) -> None:
    """Twelve malignant lesions of one patient say nothing of others."""
    table = lesions().with_columns(
        pl.when(pl.col("target") == 1).then(pl.lit("IP_0000000")).otherwise("patient_id").alias("patient_id")
    )
    made = write_metadata_store(tmp_path / "store", table)
    scored = predictions(0).drop("patient_id").join(table.select("image_id", "patient_id"), on="image_id")
    run_folder = write_run(tmp_path / "a", val=scored)
    subgroups(SubgroupsConfig(runs=(run_folder,), store=made, out=tmp_path / "out", attributes=("sex",), **FEW))
    found = pl.read_csv(tmp_path / "out/subgroups.csv")
    assert found["reason"].unique().to_list() == ["all malignant lesions are of one patient, fewer than 5"]
    assert found["estimate"].is_null().all()


def test_runs_with_a_reference(store: Path, tmp_path: Path) -> None:
    runs = tuple(
        write_run(tmp_path / name, val=predictions(n)[:60], test=predictions(n)[60:]) for n, name in enumerate("ab")
    )
    out = tmp_path / "out"
    subgroups(
        SubgroupsConfig(runs=runs, reference=runs[0], store=store, out=out, part="test", attributes=("sex",), **FEW)
    )
    effects = pl.read_csv(out / "effects.csv")
    assert set(effects["arm"]) == {"b"}
    assert set(effects["reference"]) == {"a"}
    assert len(effects) == 9  # all lesions, male, female by three scores
    subgroups(SubgroupsConfig(runs=runs, store=store, out=tmp_path / "alone", attributes=("sex",), **FEW))
    assert pl.read_csv(tmp_path / "alone/effects.csv").is_empty()
    alone = json.loads((tmp_path / "alone/subgroups.json").read_text())
    assert alone["part"] == "test"  # since all runs have it
    val = predictions(0)[:60]
    chosen = metrics.choose_threshold(val["target"].to_numpy(), val["score"].to_numpy(), "youden")
    assert alone["cells"][0]["threshold"]["value"] == chosen
    assert not alone["cells"][0]["threshold"]["in_sample"]
    write_run(runs[1], val=predictions(1)[:70])
    with pytest.raises(BadInput, match="b: part test: shares 10 images with val, on which the threshold is chosen"):
        subgroups(SubgroupsConfig(runs=runs, store=store, out=tmp_path / "leak", attributes=("sex",), **FEW))


def test_folds_count_as_one(store: Path, tmp_path: Path) -> None:
    """Each fold's val part is another half of the patients; the arm is measured on all of them."""
    cells = []
    for arm in ("0x", "3x"):
        table = predictions(len(cells))
        for fold in (0, 1):
            write_run(tmp_path / f"{arm}-{fold}", val=table[150 * fold : 150 * fold + 150])
            cells.append({"run": f"{arm}-{fold}", "model": "cnn", "arm": arm, "fold": fold, "seed": 0})
    cells.append({"run": "unfinished", "model": "cnn", "arm": "3x", "fold": 0, "seed": 1})
    said = {"reference": "0x", "part": "val", "data": {"store": str(store)}, "cells": cells}
    (tmp_path / "study.json").write_text(json.dumps(said))
    subgroups(SubgroupsConfig(study=tmp_path, attributes=("sex",), **FEW))
    found = pl.read_csv(tmp_path / "subgroups/subgroups.csv")
    assert found["num_folds"].unique().to_list() == [2]
    assert rows_of(found, group="all lesions")["num_images"].unique().to_list() == [300]
    left_out = json.loads((tmp_path / "subgroups/subgroups.json").read_text())["left_out"]
    assert len(left_out) == 1
    assert left_out[0].startswith("unfinished: ")


def test_an_arm_is_set_against_its_own_reference(store: Path, tmp_path: Path) -> None:
    """A learning curve: half the real lesions with synthetic ones against the same half without."""
    arms = ("all_real", "half_real", "half_synthetic")
    cells = [{"run": arm, "model": "cnn", "arm": arm, "fold": None, "seed": 0} for arm in arms]
    for number, arm in enumerate(arms):
        write_run(tmp_path / arm, val=predictions(number))
    said = {"reference": "all_real", "part": "val", "data": {"store": str(store)}, "cells": cells}
    said["arms"] = {"all_real": {"compared_with": None}, "half_synthetic": {"compared_with": "half_real"}}
    (tmp_path / "study.json").write_text(json.dumps(said))
    subgroups(SubgroupsConfig(study=tmp_path, attributes=("sex",), **FEW))
    effects = pl.read_csv(tmp_path / "subgroups/effects.csv")
    found = set(effects.select("arm", "reference").iter_rows())
    assert found == {("half_real", "all_real"), ("half_synthetic", "half_real")}


def test_an_arm_without_one_of_its_folds(store: Path, tmp_path: Path) -> None:
    """Its own score is of the fold that it has, and it is compared with the reference on that fold only."""
    tables_of = {"0x": predictions(0), "3x": predictions(1)}
    cells = []
    for arm, fold in (("0x", 0), ("0x", 1), ("3x", 1)):
        write_run(tmp_path / f"{arm}-{fold}", val=tables_of[arm][150 * fold : 150 * fold + 150])
        cells.append({"run": f"{arm}-{fold}", "model": "cnn", "arm": arm, "fold": fold, "seed": 0})
    said = {"reference": "0x", "part": "val", "data": {"store": str(store)}, "cells": cells}
    (tmp_path / "study.json").write_text(json.dumps(said))
    subgroups(SubgroupsConfig(study=tmp_path, attributes=("sex",), **FEW))
    scores = rows_of(pl.read_csv(tmp_path / "subgroups/subgroups.csv"), group="all lesions", score="pauc")
    assert scores["num_images"].to_list() == [300, 150]
    effect = rows_of(pl.read_csv(tmp_path / "subgroups/effects.csv"), group="all lesions", score="pauc").row(
        0, named=True
    )
    later = {arm: table[150:] for arm, table in tables_of.items()}
    paucs = {arm: metrics.pauc(table["target"].to_numpy(), table["score"].to_numpy()) for arm, table in later.items()}
    assert np.isclose(effect["difference"], paucs["3x"] - paucs["0x"])
    assert (effect["num_images"], effect["num_malignant"]) == (150, 30)
    write_run(tmp_path / "3x-1", val=tables_of["3x"][100:])
    with pytest.raises(BadInput, match="3x-1: 200 lesions, of which 150 are among the 150 of 0x-1"):
        subgroups(SubgroupsConfig(study=tmp_path, out=tmp_path / "other", **FEW))
    cells[2]["fold"] = 2
    (tmp_path / "study.json").write_text(json.dumps(said))
    with pytest.raises(BadInput, match="3x-1: shares 50 of its 200 lesions with 0x-0, a run of another fold"):
        subgroups(SubgroupsConfig(study=tmp_path, out=tmp_path / "other", **FEW))


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_store_that_lacks_the_lesions(study: Path, tmp_path: Path) -> None:
    other = write_metadata_store(tmp_path / "other", lesions()[:200])
    with pytest.raises(BadInput, match=r"lacks 100 of the 300 lesions that were scored \(ISIC_0000200, .*--store"):
        subgroups(SubgroupsConfig(study=study, store=other, out=tmp_path / "out", **FEW))
    assert not (tmp_path / "out").exists()


def test_a_store_without_any_column(study: Path, tmp_path: Path) -> None:
    bare = write_metadata_store(tmp_path / "bare", lesions().select("image_id", "patient_id", "target"))
    with pytest.raises(BadInput, match=r"has no column that makes groups \(looked for tbp_lv_Lext.*--metadata"):
        subgroups(SubgroupsConfig(study=study, store=bare, out=tmp_path / "out", **FEW))


def test_a_store_without_some_columns_names_them(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = write_metadata_store(tmp_path / "some", lesions().select("image_id", "patient_id", "target", "sex"))
    subgroups(SubgroupsConfig(study=study, store=some, out=tmp_path / "out", **FEW))
    assert "left out, the store has no columns for them: skin tone, age band" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"reference": "0x", "data": {"store": "s"}, "cells": []}, "a study without cells"),
        ({"reference": "0x", "data": {"store": "s"}}, "damaged .*cells"),
        ([], "damaged"),
        ({"reference": "0x", "data": {"store": "s"}, "cells": [{"run": "x", "model": "m", "arm": "a"}]},
         "no cell has predictions of part val; of 1, first x: "),
    ],
)  # fmt: skip
def test_a_study_without_cells(tmp_path: Path, said: object, message: str) -> None:
    (tmp_path / "study.json").write_text(json.dumps(said))
    with pytest.raises(BadInput, match=message) as error:
        subgroups(SubgroupsConfig(study=tmp_path, **FEW))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="so no study; make one with"):
        subgroups(SubgroupsConfig(study=tmp_path, **FEW))


def test_other_lesions_in_one_comparison(store: Path, tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", val=predictions(0))
    b = write_run(tmp_path / "b", val=predictions(1)[:250])
    with pytest.raises(
        BadInput, match="b: 250 lesions, of which 250 are among the 300 of a; runs are compared on the same"
    ):
        subgroups(SubgroupsConfig(runs=(a, b), store=store, out=tmp_path / "out", **FEW))
    c = write_run(tmp_path / "c", val=predictions(1).with_columns(target=1 - pl.col("target")))
    with pytest.raises(BadInput, match="c: other targets than a has for the same lesions"):
        subgroups(SubgroupsConfig(runs=(a, c), store=store, out=tmp_path / "out", **FEW))


def test_a_run_without_predictions(store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"val.parquet: no such file; finish the run"):
        subgroups(SubgroupsConfig(runs=(tmp_path / "a",), store=store, out=tmp_path / "out", **FEW))


def test_predictions_that_changed_since(store: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", val=predictions(0))
    config = SubgroupsConfig(runs=(folder,), store=store, out=tmp_path / "out", attributes=("sex",), **FEW)
    subgroups(config)
    write_run(folder, val=predictions(1))
    with pytest.raises(BadInput, match=r"made from other predictions of val \(a differ\)"):
        subgroups(config)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    for wrong, message in (
        ({}, "give --study FOLDER or --runs"),
        ({"study": "s", "runs": ("a",)}, "one of the two"),
        ({"runs": ("a",), "out": "o"}, "name the store with --store"),
        ({"runs": ("a", "a"), "out": "o", "store": "s"}, "named twice"),
        ({"runs": ("a",), "out": "o", "store": "s", "reference": "b"}, "expected one of --runs"),
        ({"study": "s", "attributes": ()}, "attributes: found none"),
        ({"study": "s", "attributes": ("shoe_size",)}, "attributes"),
    ):
        with pytest.raises(ValidationError, match=message):
            SubgroupsConfig(**wrong)


def test_on_the_command_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["subgroups", "--study", str(study), "--out", str(tmp_path / "out"), "--attributes", "sex", "site"]
    assert cli.main([*words, "--num-replicates", "100"]) == 0
    assert "body site" in capsys.readouterr().out
    assert cli.main(["subgroups", "--study", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no study.json" in error
