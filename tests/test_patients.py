"""Patients and rows: exact counts, heavy tails, the real file's categories and null rates."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionforge.data.patients import draw_ids, draw_malignant, draw_sizes, draw_tables
from lesionforge.errors import BadInput
from lesionforge.tables import ISIC_ID, LESION_ID, PATIENT_ID, TARGET


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return draw_tables([(20_000, 400, 400)], seed=0)[0]


def share_null(rows: pl.DataFrame, column: str) -> float:
    return rows[column].null_count() / len(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 800), st.floats(0.001, 1), st.integers(0, 1000))
def test_counts_are_exact_whatever_is_asked(num_patients: int, more: int, fraction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = draw_sizes(num_patients + more, num_patients, rng)
    assert sizes.min() >= 1
    assert sizes.sum() == num_patients + more
    asked = max(round(fraction * sizes.sum()), 1)
    malignant = draw_malignant(sizes, asked, rng)
    assert malignant.sum() == asked
    assert (malignant <= sizes).all()


def test_more_malignant_than_images_is_refused() -> None:
    with pytest.raises(BadInput, match="11 malignant images asked of 10"):
        draw_malignant(np.array([4, 6]), 11, np.random.default_rng(0))


def test_the_challenge_itself_can_be_drawn() -> None:
    """1,042 patients, 259 of them with the 393 malignancies, up to 14 each; the largest has thousands of images."""
    rng = np.random.default_rng(0)
    sizes = draw_sizes(401_059, 1_042, rng)
    malignant = draw_malignant(sizes, 393, rng)
    assert malignant.sum() == 393
    assert 245 <= (malignant > 0).sum() <= 270
    assert 5 <= malignant.max() <= 14
    assert sizes.max() > 3_000
    assert np.median(sizes) < 300


def test_ids_are_different_and_do_not_tell_the_order() -> None:
    ids = draw_ids("ISIC_", 5_000, np.random.default_rng(0))
    assert len(set(ids)) == 5_000
    assert all(len(name) == 12 and name[5:].isdigit() for name in ids)
    assert ids != sorted(ids)


def test_parts_share_no_patient_image_or_lesion() -> None:
    train, test = draw_tables([(900, 90, 60), (100, 30, 8)], seed=3)
    assert (len(train), train[TARGET].sum(), train[PATIENT_ID].n_unique()) == (900, 60, 90)
    assert (len(test), test[TARGET].sum(), test[PATIENT_ID].n_unique()) == (100, 8, 30)
    for column in (ISIC_ID, PATIENT_ID, LESION_ID):
        assert not set(train[column].drop_nulls()) & set(test[column].drop_nulls())
    assert train[ISIC_ID].is_sorted()
    assert draw_tables([(900, 90, 60), (100, 30, 8)], seed=3)[0].equals(train)
    assert not draw_tables([(900, 90, 60), (100, 30, 8)], seed=4)[0].equals(train)


def test_a_patient_keeps_sex_institution_licence_and_skin(rows: pl.DataFrame) -> None:
    own = rows.group_by(PATIENT_ID).agg(
        pl.col("sex", "attribution", "copyright_license").n_unique(),
        pl.col("age_approx").n_unique().alias("ages"),
        pl.col("lightness").std().alias("within"),
    )
    assert own.select("sex", "attribution", "copyright_license").max().row(0) == (1, 1, 1)
    assert own["ages"].max() == 2  # some were photographed again when older
    assert own["within"].mean() < 0.85 * rows["lightness"].std()


def test_nulls_and_categories_are_those_of_the_challenge(rows: pl.DataFrame) -> None:
    assert 0 < share_null(rows, "age_approx") < 0.03
    assert 0 < share_null(rows, "sex") < 0.10
    assert 0.005 < share_null(rows, "anatom_site_general") < 0.03
    assert rows.filter(pl.col("anatom_site_general").is_null())["tbp_lv_location"].unique().to_list() == ["Unknown"]
    assert set(rows["age_approx"].drop_nulls() % 5) == {0.0}
    assert rows.filter(target=1)[LESION_ID].null_count() == 0
    assert share_null(rows.filter(target=0), LESION_ID) == pytest.approx(0.946, abs=0.01)
    assert rows["attribution"].n_unique() == 7
    head = rows.group_by(TARGET).agg((pl.col("anatom_site_general") == "head/neck").mean()).sort(TARGET)
    assert head["anatom_site_general"].to_list() == pytest.approx([0.03, 0.22], abs=0.07)


def test_crops_have_the_sizes_of_real_ones(rows: pl.DataFrame) -> None:
    assert rows["side"].min() >= 51
    assert rows["side"].max() <= 239
    assert 127 <= rows["side"].median() <= 131


@pytest.mark.real
def test_every_category_is_one_of_the_real_file(rows: pl.DataFrame, real_lesions) -> None:
    """Institutions that give no permissive licence are not in the real part; all others must be spelt alike."""
    real = pl.read_csv(real_lesions / "metadata-rows.csv", infer_schema_length=None)
    for column in (
        "sex", "anatom_site_general", "image_type", "tbp_tile_type", "tbp_lv_location", "tbp_lv_location_simple"
    ):  # fmt: skip
        assert set(rows[column]) == set(real[column]), column
    licences = rows.filter(pl.col("copyright_license") != "CC-BY-NC").select("attribution", "copyright_license")
    assert set(licences.unique().rows()) == set(real.select("attribution", "copyright_license").unique().rows())
    known = real.select("tbp_lv_location", "tbp_lv_location_simple", "anatom_site_general").unique().rows()
    drawn = rows.select("tbp_lv_location", "tbp_lv_location_simple", "anatom_site_general").unique().rows()
    assert set(drawn) == set(known)
