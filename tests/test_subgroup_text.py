"""Caveats that belong to what was found, and only to that."""

from pathlib import Path

import polars as pl
from subgroup_studies import lesions, predictions, write_run

from lesionforge.evaluation import subgroup_rows, subgroup_runs, subgroup_text
from lesionforge.evaluation.attributes import everything, grouping_of
from lesionforge.evaluation.subgroup_plan import Least
from lesionforge.evaluation.subgroup_runs import asked_of_runs


def told(
    folder: Path, table: pl.DataFrame, attribute: str, part: str = "val", min_malignant: int = 10
) -> tuple[list[str], dict]:
    """The caveats and the result of one run, its lesions grouped by one attribute of `table`."""
    found = subgroup_runs.read(asked_of_runs([folder], None, part, Path("store")), False)
    joined = found.lesions.join(table.drop("patient_id", "target"), on="image_id", how="left", maintain_order="left")
    groupings = [everything(len(joined)), grouping_of(attribute, joined)]
    least = Least(min_malignant, 5, 50)
    measured = subgroup_rows.measured(found, groupings, None, {}, least, 100, 0)
    return subgroup_text.caveats(least, part, found, joined, groupings, [], measured), measured


def has(lines: list[str], words: str) -> bool:
    return any(words in line for line in lines)


def test_metadata_that_tell_the_class(tmp_path: Path) -> None:
    """As in the permissive part of SLICE-3D, where metadata came with the malignant lesions alone."""
    folder = write_run(tmp_path / "a", val=predictions(0))
    known = lesions().with_columns(pl.when(pl.col("target") == 1).then("sex").alias("sex"))
    lines, measured = told(folder, known, "sex")
    assert has(lines, "sex: unknown for 100.0% of the benign and 0.0% of the malignant lesions")
    reasons = {row["reason"] for row in measured["scores"] if row["group"] == "male" and row["score"] == "pauc"}
    assert reasons == {"0 benign lesions, fewer than 50"}
    assert not has(told(folder, lesions(), "sex")[0], "unknown for")


def test_caveats_of_one_attribute_do_not_stand_by_another(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", val=predictions(0))
    by_sex, by_tone, by_diagnosis = (told(folder, lesions(), name)[0] for name in ("sex", "skin_tone", "diagnosis"))
    assert [has(lines, "colorimeter") for lines in (by_sex, by_tone, by_diagnosis)] == [False, True, False]
    assert [has(lines, "all benign lesions") for lines in (by_sex, by_tone, by_diagnosis)] == [False, False, True]
    assert not has(by_sex, "effects:")  # no reference


def test_thresholds_in_words(tmp_path: Path) -> None:
    without = told(write_run(tmp_path / "a", test=predictions(0, "test")), lesions(), "sex", part="test")
    assert has(without[0], "1 of 1 runs have none, since they have no val predictions")
    assert {row["reason"] for row in without[1]["scores"] if row["score"] == "recall" and row["group"] == "male"} == {
        "no threshold: no val predictions to choose it on"
    }
    assert {row["reason"] for row in without[1]["gaps"]} == {"no threshold: no val predictions to choose it on"}
    lines, _ = told(write_run(tmp_path / "b", val=predictions(0)), lesions(), "sex")
    assert has(lines, "part val are those very lesions, so sensitivity and specificity flatter")


def test_few_and_unknown_patients(tmp_path: Path) -> None:
    """Malignant lesions of six patients are scored where that is asked for, and marked."""
    folder = write_run(tmp_path / "a", val=predictions(0))
    lines, _ = told(folder, lesions(), "site", min_malignant=5)
    assert has(lines, "too narrow where the malignant lesions are of fewer than 10 patients: body site head/neck (6)")
    nobody = predictions(0).with_columns(pl.lit(None, dtype=pl.String).alias("patient_id"))
    lines, _ = told(write_run(tmp_path / "b", val=nobody), lesions(), "site")
    assert has(lines, "the patient of 300 of 300 lesions is unknown")


def test_long_names_are_cut_in_the_terminal_only() -> None:
    assert subgroup_text.short("University Hospital", 10) == "Univers..."
    assert subgroup_text.short_end("efficientnet-synthetic", 12) == "...synthetic"
