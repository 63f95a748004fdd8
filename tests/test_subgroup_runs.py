"""What subgroups reads: thresholds from an evaluation that fits, else its own, and lesions in one order."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from subgroup_studies import lesions, predictions, write_metadata_store, write_run

from lesionforge import metrics
from lesionforge.errors import BadInput
from lesionforge.evaluation import subgroup_runs
from lesionforge.evaluation.evaluate import EvaluateConfig, evaluate
from lesionforge.evaluation.subgroup_runs import Read, asked_of_runs


def read(*folders: Path, part: str = "val") -> Read:
    return subgroup_runs.read(asked_of_runs(folders, None, part, Path("store")), False)


def youden(table: pl.DataFrame) -> float:
    return metrics.choose_threshold(table["target"].to_numpy(), table["score"].to_numpy(), "youden")


def test_the_threshold_of_an_evaluation_with_another_rule(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", val=predictions(0))
    evaluate(EvaluateConfig(run=folder, threshold_rule="sensitivity_80", num_replicates=100))
    (chosen,) = read(folder).thresholds
    assert (chosen["rule"], chosen["from"]) == ("sensitivity_80", "evaluation")
    assert read(folder).runs[0].threshold == chosen["value"] != youden(predictions(0))


def test_an_evaluation_of_other_predictions_is_not_believed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", val=predictions(0))
    evaluate(EvaluateConfig(run=folder, threshold_rule=0.9, num_replicates=100))
    write_run(folder, val=predictions(1))
    (chosen,) = read(folder).thresholds
    assert (chosen["value"], chosen["from"]) == (youden(predictions(1)), "subgroups")


def test_without_val_there_is_no_threshold(tmp_path: Path) -> None:
    found = read(write_run(tmp_path / "a", test=predictions(0, "test")), part="test")
    assert found.runs[0].threshold is None
    assert found.thresholds[0]["how"] == "none"


def test_runs_in_another_order_are_laid_side_by_side(tmp_path: Path) -> None:
    table = predictions(0)
    a = write_run(tmp_path / "a", val=table)
    b = write_run(tmp_path / "b", val=table.sample(fraction=1, shuffle=True, seed=1))
    found = read(a, b)
    assert len(found.population.sets) == 1
    assert found.lesions["image_id"].to_list() == table["image_id"].to_list()
    assert np.array_equal(found.runs[0].scores, found.runs[1].scores)
    assert len(np.unique(found.population.clusters)) == 100


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / parent / "run", val=predictions(n)) for n, parent in enumerate("ab")]
    assert [cell.arm for cell in read(*folders).cells] == [str(folder) for folder in folders]


def test_metadata_of_a_larger_store(tmp_path: Path) -> None:
    store = write_metadata_store(tmp_path / "store", lesions())
    some = lesions().select("image_id", "patient_id", "target")[[5, 2, 299]]
    found = subgroup_runs.with_metadata(some, store, ["sex", "shoe_size"])
    assert found.columns == ["image_id", "patient_id", "target", "sex"]
    assert found["sex"].to_list() == lesions()["sex"][[5, 2, 299]].to_list()
    unknown = some.with_columns(pl.Series("image_id", ["ISIC_0000005", "x", "y"]))
    with pytest.raises(BadInput, match=r"lacks 2 of the 3 lesions that were scored \(x, y\)"):
        subgroup_runs.with_metadata(unknown, store, ["sex"])
