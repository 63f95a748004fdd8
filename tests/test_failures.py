"""Worst-scored malignant lesions: by the benign ones above them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lesionforge import tables
from lesionforge.reporting.collected import Cell
from lesionforge.reporting.failures import about, worst_scored


def cell(arm: str, scores: dict[str, float], threshold: float | None) -> Cell:
    ids = list(scores)
    table = pl.DataFrame(
        {tables.IMAGE_ID: ids, tables.TARGET: [int(i.startswith("m")) for i in ids], tables.SCORE: [*scores.values()]}
    )
    part: dict[str, Any] = {tables.THRESHOLD: {"value": threshold}}
    return Cell(arm, Path(arm), "m", arm, None, 0, "train", {}, {}, {}, [], part, table, None, ())


class Study:
    def __init__(self, *cells: Cell) -> None:
        self.cells = cells


def test_the_worst_comes_first() -> None:
    first = cell("a", {"m1": 0.9, "m2": 0.3, "b1": 0.5, "b2": 0.4, "b3": 0.3, "b4": 0.1}, 0.5)
    second = cell("b", {"m1": 0.05, "m2": 0.3, "b1": 0.5, "b2": 0.4, "b3": 0.3, "b4": 0.1}, None)
    unscored = first._replace(predictions=None)
    found = worst_scored(Study(first, second, unscored), 5)  # type: ignore[arg-type]
    assert [one.image_id for one in found] == ["m2", "m1"]
    worst, best = found
    assert worst.benign_above == pytest.approx((2.5 / 4 + 2.5 / 4) / 2)  # of the tied one half
    assert (worst.num_found, worst.num_runs) == (0, 1)
    assert best.by_arm == {"a": 0.0, "b": 1.0}
    assert best.best == 0.0
    assert len(worst_scored(Study(first, second), 1)) == 1  # type: ignore[arg-type]


def test_what_is_known_of_a_lesion() -> None:
    row = {"iddx_full": "Malignant::Melanoma", "iddx_3": "Melanoma in situ", tables.SEX: "male", tables.AGE: 55.0,
           tables.SITE: None, tables.DIAMETER: 3.5}  # fmt: skip
    assert about(row) == "Melanoma in situ · male · 55 years · 3.5 mm"
    assert about({}) == ""
