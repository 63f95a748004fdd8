"""Prompts are made of words that the base knows."""

from typing import Any

import polars as pl
import pytest

from lesionforge import tables
from lesionforge.diffusion import prompts
from lesionforge.diffusion.settings import FinetuneConfig

ROWS = pl.DataFrame({tables.IMAGE_ID: ["a", "b"], tables.TARGET: [1, 0]}, schema_overrides={tables.TARGET: pl.Int8})


def config_of(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate({"out": "o", "data": {"store": "s", "split": "p"}, **changes})


@pytest.mark.parametrize(
    ("changes", "is_ours", "expected"),
    [
        ({}, False, ["Malignant skin lesions", "Benign skin lesions"]),
        ({}, True, ["<malignant>", "<benign>"]),
        ({"method": "textual_inversion"}, True, ["<malignant> <malignant-lesion>", "<benign> <malignant-lesion>"]),
        ({"prompts": {"template": "a mole"}}, True, ["a mole", "<benign>"]),
        ({"prompts": {"benign_template": "<benign> <site=torso>"}}, True, ["<malignant>", "<benign> <site=torso>"]),
        ({"base": "scratch"}, False, ["<malignant>", "<benign>"]),
    ],
)  # fmt: skip
def test_defaults_are_words_that_the_base_knows(changes: dict[str, Any], is_ours: bool, expected: list[str]) -> None:
    told = prompts.told_of(config_of(**changes), ROWS, is_ours)
    assert told[tables.PROMPT].to_list() == expected
    assert told.columns == [tables.IMAGE_ID, tables.TARGET, tables.PROMPT]


def test_no_rows_have_no_prompts() -> None:
    assert prompts.told_of(config_of(), ROWS.clear(), False).schema[tables.PROMPT] == pl.String
