"""Estimates and differences: as compare wrote them, else the runs' own."""

from pathlib import Path

import polars as pl
import pytest
from report_studies import write_study

from lesionforge import run, tables
from lesionforge.reporting.collected import read_study
from lesionforge.reporting.results import (
    ARMS,
    LOWER,
    MODELS,
    NOT_MEASURED,
    ONE_RUN,
    SEVERAL_RUNS,
    UNCLEAR,
    read_results,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "s", num_lesions=80)


def test_what_compare_found_comes_first(study: Path) -> None:
    found = read_results(read_study(study))
    assert found.is_compared
    one = found.estimate("resnet", "1x", "pauc")
    assert one is not None
    assert (one.estimate, one.values, one.basis) == (pytest.approx(0.1), (0.1, 0.101), "compared")
    lower, unclear = found.difference("resnet", "1x", "pauc"), found.difference("resnet", "3x", "pauc")
    assert lower is not None
    assert unclear is not None
    assert (lower.direction, lower.against, lower.reference, lower.is_away) == (LOWER, ARMS, "0x", True)
    assert (unclear.direction, unclear.is_away) == (UNCLEAR, False)
    assert found.difference("resnet", "0x", "pauc") is None
    assert found.scores()[:2] == ["pauc", "roc_auc"]


def test_without_compare_the_runs_speak_for_themselves(study: Path) -> None:
    collected = read_study(study)._replace(compare=study / "nowhere")
    found = read_results(collected)
    assert not found.is_compared
    several = found.estimate("resnet", "1x", "pauc")
    assert several is not None
    assert (several.basis, several.low, len(several.values)) == (SEVERAL_RUNS, None, 2)
    cells = tuple(cell for cell in collected.cells if cell.seed == 0)
    alone = read_results(collected._replace(cells=cells)).estimate("resnet", "1x", "pauc")
    assert alone is not None
    assert alone.basis == ONE_RUN
    assert alone.low is not None


def test_models_against_a_model(study: Path, tmp_path: Path) -> None:
    row = {"model": "resnet", "arm": "0x", "reference": "edgenext", "against": "model", "score": "pauc",
           "difference": -0.1, "low": -0.2, "high": -0.05, "verdict": "lower"}  # fmt: skip
    tables.write_table(tmp_path / run.COMPARISONS, pl.DataFrame([row]))
    found = read_results(read_study(study)._replace(compare=tmp_path))
    one = found.difference("resnet", "0x", "pauc", MODELS)
    assert one is not None
    assert (one.reference, one.direction) == ("edgenext", LOWER)
    assert found.difference("resnet", "0x", "pauc") is None


def test_too_few_patients_measure_nothing(study: Path, tmp_path: Path) -> None:
    """A difference stands in the table, its verdict does not follow from its sign."""
    row = {"model": "resnet", "arm": "1x", "reference": "0x", "against": "arm", "score": "pauc", "difference": 0.12,
           "low": None, "high": None, "verdict": "not measured"}  # fmt: skip
    tables.write_table(tmp_path / run.COMPARISONS, pl.DataFrame([row]))
    found = read_results(read_study(study)._replace(compare=tmp_path)).of("pauc")
    assert [(one.direction, one.is_quiet, one.is_away) for one in found] == [(NOT_MEASURED, True, False)]


def test_a_damaged_table_is_a_problem_not_an_end(study: Path, tmp_path: Path) -> None:
    (tmp_path / run.COMPARISONS).write_text("")
    collected = read_study(study)._replace(compare=tmp_path)
    assert not read_results(collected).is_compared
    assert any("the file is empty" in problem for problem in collected.sources.problems)
