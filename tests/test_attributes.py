"""Groups from metadata: every lesion in one group, missing values in a group of their own."""

import math

import numpy as np
import polars as pl
import pytest

from lesionforge.evaluation import attributes
from lesionforge.evaluation.attributes import AGE_BAND, DIAGNOSIS, DIAMETER, FAMILY, SEX, SKIN_TONE, grouping_of

ANGLES = [60.0, 48.0, 35.0, 20.0, 0.0, -45.0, None]
LESIONS = pl.DataFrame(
    {
        "target": [1, 0, 1, 0, 1, 0, 1],
        "tbp_lv_Lext": [None if a is None else 50 + 20 * math.tan(math.radians(a)) for a in ANGLES],
        "tbp_lv_Bext": [20.0] * 7,
        "sex": ["male", "male", "female", None, "male", " ", "female"],
        "age_approx": [35.0, 40.0, 54.0, 55.0, 70.0, None, float("nan")],
        "clin_size_long_diam_mm": [2.9, 3.0, 5.99, 6.0, 12.0, -1.0, None],
        "iddx_2": ["Melanocytic", None, "Melanocytic", "Nevus", "Adnexal", None, None],
        "iddx_3": ["Melanoma in situ", None, "Melanoma Invasive", "Nevus, Atypical", None, None, None],
    }
)


def groups_of(attribute: str, lesions: pl.DataFrame = LESIONS) -> dict[str, list[int]]:
    found = grouping_of(attribute, lesions)
    return {name: rows.tolist() for name, rows in zip(found.groups, found.rows, strict=True)}


def test_skin_tones_from_light_to_dark() -> None:
    assert groups_of(SKIN_TONE) == {
        "very light": [0], "light": [1], "intermediate": [2], "tan": [3], "brown": [4], "dark": [5], "unknown": [6],
    }  # fmt: skip
    assert list(groups_of(SKIN_TONE)) == ["very light", "light", "intermediate", "tan", "brown", "dark", "unknown"]


def test_words_with_most_lesions_first_and_blanks_unknown() -> None:
    assert list(groups_of(SEX).items()) == [("male", [0, 1, 4]), ("female", [2, 6]), ("unknown", [3, 5])]


def test_bands_hold_their_lower_end() -> None:
    assert groups_of(AGE_BAND) == {
        "under 40 years": [0], "40 to 54 years": [1, 2], "55 to 69 years": [3], "70 years and over": [4],
        "unknown": [5, 6],
    }  # fmt: skip
    assert groups_of(DIAMETER) == {"under 3 mm": [0], "3 to 6 mm": [1, 2], "6 mm and over": [3, 4], "unknown": [5, 6]}


def test_each_diagnosis_of_malignant_lesions_is_set_against_all_benign_ones() -> None:
    benign = {1, 3, 5}
    found = {name: set(rows) - benign for name, rows in groups_of(DIAGNOSIS).items()}
    assert found == {"Melanoma in situ": {0}, "Melanoma Invasive": {2}, "Adnexal": {4}, "unknown": {6}}
    assert all(benign <= set(rows) for rows in groups_of(DIAGNOSIS).values())
    assert {name: set(rows) - benign for name, rows in groups_of(FAMILY).items()} == {
        "Melanocytic": {0, 2}, "Adnexal": {4}, "unknown": {6},
    }  # fmt: skip


@pytest.mark.parametrize("attribute", [SKIN_TONE, SEX, AGE_BAND, DIAMETER])
def test_every_lesion_is_in_one_group(attribute: str) -> None:
    rows = np.concatenate(grouping_of(attribute, LESIONS).rows)
    assert sorted(rows.tolist()) == list(range(7))


def test_columns_that_are_needed() -> None:
    assert attributes.has_columns(SEX, ["sex"])
    assert not attributes.has_columns(SEX, ["target"])
    assert not attributes.has_columns(SKIN_TONE, ["tbp_lv_Lext"])
    assert attributes.has_columns(DIAGNOSIS, ["iddx_2"])


def test_a_column_of_text_or_of_nothing() -> None:
    """CSV stores hold numbers as text, and a column without any value has no type."""
    text = LESIONS.with_columns(pl.col("age_approx").cast(pl.String), pl.lit(None).alias("sex"))
    assert groups_of(AGE_BAND, text) == groups_of(AGE_BAND)
    assert groups_of(SEX, text) == {"unknown": list(range(7))}
