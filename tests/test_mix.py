"""The training mix: exact counts, nested draws, scaling, and clear refusals of what cannot be drawn."""

import logging
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lesionforge import tables
from lesionforge.config import MixConfig
from lesionforge.data.mix import draw_mix, refuse_seen
from lesionforge.errors import BadInput


def real(malignant: int, benign: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "image_id": [f"ISIC_{i:07d}" for i in range(malignant + benign)],
            "patient_id": [f"IP_{i % 50:07d}" for i in range(malignant + benign)],
            "target": [1] * malignant + [0] * benign,
            "source": ["real"] * (malignant + benign),
        },
        schema_overrides={"target": pl.Int8},
    )


def synthetic(malignant: int, benign: int = 0, name: str = "SYN") -> pl.DataFrame:
    table = real(malignant, benign)
    return table.with_columns(
        image_id=table["image_id"].str.replace("ISIC", name),
        patient_id=pl.lit(None, pl.String),
        source=pl.lit("synthetic"),
    )


def drawn(train: pl.DataFrame, *stores: pl.DataFrame, **settings: Any) -> pl.DataFrame:
    return draw_mix(train, stores, **MixConfig.model_validate(settings).model_dump())


def counts(mix: pl.DataFrame) -> dict[tuple[int, str], int]:
    return {(target, source): n for target, source, n in mix.group_by("target", "source").len().rows()}


def test_exact_counts_and_the_check_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lesionforge"):
        mix = drawn(real(310, 2000), malignant=303, benign=600)
    assert counts(mix) == {(1, "real"): 303, (0, "real"): 600}
    assert mix.columns == ["image_id", "patient_id", "target", "source", "store"]
    assert mix["image_id"].n_unique() == 903
    assert set(mix["store"]) == {0}
    assert "mix (malignant/benign): asked 303/600, drew 303/600" in caplog.text


def test_all_is_the_default() -> None:
    train = real(7, 30)
    assert sorted(drawn(train)["image_id"]) == train["image_id"].to_list()


def test_synthetic_stores(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lesionforge"):
        mix = drawn(
            real(50, 900), synthetic(60), synthetic(100, name="GEN"), malignant=43, benign=680, synthetic_malignant=150
        )
    assert counts(mix) == {(1, "real"): 43, (1, "synthetic"): 150, (0, "real"): 680}
    assert mix.filter(store=1)["image_id"].str.starts_with("SYN").all()
    assert mix.filter(store=2)["image_id"].str.starts_with("GEN").all()
    assert mix.filter(source="synthetic")["patient_id"].null_count() == 150
    assert "asked 43+150 synthetic/680, drew 43+150 synthetic/680" in caplog.text


def test_benign_from_elsewhere() -> None:
    stores = (real(5, 50), synthetic(5, 40))
    only = drawn(*stores, malignant=5, benign=31, benign_source="synthetic")
    assert counts(only) == {(1, "real"): 5, (0, "synthetic"): 31}
    mixed = drawn(*stores, malignant=5, benign=31, benign_source="mixed")
    assert counts(mixed) == {(1, "real"): 5, (0, "real"): 16, (0, "synthetic"): 15}
    every = drawn(*stores, benign_source="mixed", synthetic_malignant="all")
    assert counts(every) == {(1, "real"): 5, (1, "synthetic"): 5, (0, "real"): 50, (0, "synthetic"): 40}


def test_no_real_malignant_image() -> None:
    mix = drawn(real(9, 700), synthetic(600), malignant=0, benign=600, synthetic_malignant=597)
    assert counts(mix) == {(1, "synthetic"): 597, (0, "real"): 600}


def test_draws_are_nested_and_pools_do_not_disturb_each_other() -> None:
    train, generated = real(310, 2000), synthetic(1000)
    small = drawn(train, generated, malignant=189, benign=800, synthetic_malignant=567)
    large = drawn(train, generated, malignant=303, benign=1800, synthetic_malignant=303)
    ids = {(t, s): set(rows["image_id"]) for (t, s), rows in large.group_by("target", "source")}
    assert set(small.filter(target=1, source="real")["image_id"]) < ids[1, "real"]
    assert set(small.filter(target=0)["image_id"]) < ids[0, "real"]
    assert ids[1, "synthetic"] < set(small.filter(source="synthetic")["image_id"])


def test_seed_and_row_order() -> None:
    train = real(40, 200)
    first = drawn(train, malignant=20, benign=50, seed=5)
    assert first.equals(drawn(train.sample(fraction=1, shuffle=True, seed=1), malignant=20, benign=50, seed=5))
    assert set(first["image_id"]) != set(drawn(train, malignant=20, benign=50, seed=6)["image_id"])


def test_scale_auto_keeps_the_proportions(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lesionforge"):
        mix = drawn(real(101, 5000), malignant=303, benign=600, scale="auto")
    assert counts(mix) == {(1, "real"): 101, (0, "real"): 200}
    assert "asked 303/600, drew 101/200" in caplog.text
    assert "scaled by 0.3333, since there are 101 of 303 malignant images" in caplog.text
    enough = drawn(real(400, 5000), malignant=303, benign=600, scale="auto")
    assert counts(enough) == {(1, "real"): 303, (0, "real"): 600}  # never scaled up
    tiny = drawn(real(20, 1000), malignant=294, benign=300_500, scale="auto")
    assert counts(tiny) == {(1, "real"): 1, (0, "real"): 1000}  # at least one of what was asked for


@settings(deadline=None, max_examples=40)
@given(*[st.integers(1, 60)] * 3, *[st.integers(0, 200)] * 3)
def test_scaled_counts_always_fit(m: int, b: int, s: int, asked_m: int, asked_b: int, asked_s: int) -> None:
    if not asked_b or not asked_m + asked_s:
        return
    mix = drawn(real(m, b), synthetic(s), malignant=asked_m, benign=asked_b, synthetic_malignant=asked_s, scale="auto")
    factor = min([1.0, *(have / want for have, want in ((m, asked_m), (b, asked_b), (s, asked_s)) if want)])
    got = counts(mix)
    for key, want in (((1, "real"), asked_m), ((0, "real"), asked_b), ((1, "synthetic"), asked_s)):
        assert got.get(key, 0) == pytest.approx(want * factor, abs=1)
        assert (got.get(key, 0) > 0) == (want > 0)


def test_shortages_are_refused_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        drawn(real(237, 400), synthetic(10), malignant=303, benign=600, synthetic_malignant=303)
    assert str(caught.value) == (
        "the mix cannot be drawn: asked 303 malignant, the train part holds 237; asked 303 synthetic malignant, the "
        "synthetic stores hold 10; asked 600 benign, the train part holds 400; use a larger store, or "
        "--data.mix.scale auto to scale all counts"
    )
    with pytest.raises(
        BadInput,
        match=r"asked 5 synthetic malignant, the synthetic stores hold 0; name stores of .* by --data.synthetic$",
    ):
        drawn(real(10, 10), malignant=5, benign=5, synthetic_malignant=5, scale="auto")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"malignant": 0}, "the mix holds no malignant image (0/30)"),
        ({"benign": 0}, "the mix holds no benign image (7/0)"),
        ({"benign_source": "synthetic"}, "the mix holds no benign image"),
    ],
)
def test_one_class_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        drawn(real(7, 30), **settings)
    assert message in str(caught.value)


def test_stores_in_the_wrong_place() -> None:
    with pytest.raises(BadInput, match="the real store holds 9 images whose source is not real"):
        drawn(synthetic(4, 5))
    with pytest.raises(BadInput, match="the synthetic store 1 holds 9 images whose source is not synthetic"):
        drawn(real(4, 5), real(4, 5))
    with pytest.raises(BadInput, match="9 images of store 0 have no target"):
        drawn(real(4, 5).with_columns(target=pl.lit(None, pl.Int8)))


@pytest.mark.parametrize(
    "settings",
    [
        {"malignant": -1},
        {"malignant": "most"},
        {"benign": 1.5},
        {"scale": "double"},
        {"benign_source": "x"},
        {"pos": 3},
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MixConfig.model_validate(settings)


def test_synthetic_images_of_held_out_lesions_are_refused() -> None:
    held_out = pl.DataFrame({tables.IMAGE_ID: ["v1"], tables.PATIENT_ID: ["IP_1"], tables.SHA256: ["aa"]})
    others = pl.DataFrame({tables.IMAGE_ID: ["s1"], tables.PATIENT_ID: [None], tables.SHA256: ["bb"]})
    refuse_seen([others], held_out)
    with pytest.raises(
        BadInput, match=r"1 images of synthetic store 2 are images of part val or test: s1; .*part train"
    ):
        refuse_seen([others, others.with_columns(pl.lit("aa").alias(tables.SHA256))], held_out)
    with pytest.raises(BadInput, match="1 images of synthetic store 1 are of patients of part val or test: s1"):
        refuse_seen([others.with_columns(pl.lit("IP_1").alias(tables.PATIENT_ID))], held_out)


def test_a_scaled_mix_with_hardly_a_malignant_image_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Balanced + aug is 75 % of everything in the study; scaled as a column it leaves a small set almost nothing."""
    with caplog.at_level("WARNING", "lesionforge"):
        drawn(real(200, 1000), malignant=294, benign=300_500, scale="auto")
    assert "holds 0 malignant" not in caplog.text
    assert "malignant images only; --data.mix.malignant all takes every one" in caplog.text
