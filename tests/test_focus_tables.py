"""From a row a lesion to what may be said: hand-made focuses whose answers are known."""

import numpy as np
import polars as pl
import pytest

from lesionforge import tables
from lesionforge.classifier import focus_tables, focus_text
from lesionforge.classifier.saliency import CNN, OTHER, TRANSFORMER

NUM = 30


def rows_of(run: str, kind: str, focus: np.ndarray, cells: int = 8, random: float = 0.1, correlation: float = 0.0):  # type: ignore[no-untyped-def]
    return pl.DataFrame(
        {
            tables.RUN: run, tables.KIND: kind, tables.METHOD: "grad_cam", tables.MASK: "ground-truth",
            tables.IMAGE_ID: [f"ISIC_{i}" for i in range(NUM)],
            tables.PATIENT_ID: [None if i % 10 == 0 else f"IP_{i // 2}" for i in range(NUM)],
            tables.TARGET: pl.Series([int(i < 10) for i in range(NUM)], dtype=pl.Int8),
            tables.FOCUS: focus, tables.CELLS: cells, tables.AREA_SHARE: 0.05, tables.PERFECT_FOCUS: 0.6,
            tables.RANDOM_FOCUS: random, tables.RANK_CORRELATION: correlation,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def lesions() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    shared = rng.uniform(0.2, 0.5, NUM)
    sharp, blind = shared + 0.1 + rng.normal(0, 0.02, NUM), np.full(NUM, 0.05) + rng.normal(0, 0.02, NUM)
    sharp[3] = np.nan
    lesions = pl.concat(
        [
            rows_of("vit", TRANSFORMER, sharp),
            rows_of("swin", TRANSFORMER, shared),
            rows_of("resnet", CNN, blind, cells=4, random=0.05, correlation=0.8),
        ]
    )
    uneven = pl.when(pl.col(tables.IMAGE_ID) == "ISIC_3").then(0.9).otherwise(tables.AREA_SHARE)
    return lesions.with_columns(uneven.alias(tables.AREA_SHARE))


def test_a_row_for_each_run(lesions: pl.DataFrame) -> None:
    table = focus_tables.summarise(lesions, 1000, 0)
    assert table[tables.RUN].to_list() == ["vit", "swin", "resnet"]
    assert table[tables.NUM_IMAGES].to_list() == [NUM] * 3
    assert table[tables.NUM_MALIGNANT].to_list() == [10] * 3
    assert table[tables.NUM_EMPTY].to_list() == [1, 0, 0]
    focus = lesions.filter(pl.col(tables.RUN) == "swin")[tables.FOCUS]
    swin = table.row(1, named=True)
    assert swin[tables.FOCUS] == pytest.approx(focus.mean())
    assert swin[tables.OVER_AREA] == pytest.approx(focus.mean() - 0.05 - 0.85 / NUM)  # type: ignore[operator]
    assert table[tables.OVER_AREA][0] == pytest.approx(table[tables.FOCUS][0] - table[tables.AREA_SHARE][0])
    assert swin["over_random_low"] < swin[tables.OVER_RANDOM] < swin["over_random_high"]


def test_pairs_are_compared_on_the_same_lesions(lesions: pl.DataFrame) -> None:
    pairs = focus_tables.compare(lesions, 1000, 0)
    assert pairs.select(tables.RUN, tables.OTHER_RUN).rows() == [
        ("vit", "swin"), ("vit", "resnet"), ("swin", "resnet"), ("mean of CNNs", "mean of transformers"),
    ]  # fmt: skip
    first = pairs.row(0, named=True)
    assert first[tables.NUM_IMAGES] == NUM - 1
    assert first[tables.DIFFERENCE] == pytest.approx(0.1, abs=0.02)
    assert 0 < first["difference_low"] < first["difference_high"]
    assert first[tables.VERDICT] == "higher"
    of_kinds = pairs.row(3, named=True)
    by_hand = {name: rows[tables.FOCUS].to_numpy() for (name,), rows in lesions.group_by(tables.RUN)}
    expected = np.nanmean(by_hand["resnet"] - (by_hand["vit"] + by_hand["swin"]) / 2)
    assert of_kinds[tables.DIFFERENCE] == pytest.approx(expected)
    assert of_kinds[tables.VERDICT] == "lower"


def test_the_words_say_no_more_than_the_intervals(lesions: pl.DataFrame) -> None:
    text = focus_text.as_text(focus_tables.summarise(lesions, 1000, 0), focus_tables.compare(lesions, 1000, 0))
    assert "mean of 30 lesions (10 malignant, 20 benign) with 95 % interval; ground-truth masks" in text
    assert "vit: focus is higher than swin by 1" in text
    assert "resnet: focus cannot be told apart from the lesion's share of the image" in text
    assert "resnet: focus cannot be told apart from the same model with random weights" in text
    assert "resnet: WARNING, its maps hardly change when its weights are random (rank correlation 0.80)" in text
    assert "vit: WARNING" not in text
    assert "vit: 1 of 30 maps is positive nowhere and is left out" in text
    assert "mean of CNNs: focus is lower than mean of transformers by" in text
    assert "maps of fewer cells cannot follow a small lesion" in text
    assert "too coarse" not in text


def test_maps_of_few_cells_are_told_to_be_too_coarse(lesions: pl.DataFrame) -> None:
    coarse = lesions.with_columns(pl.lit(0.06).alias(tables.PERFECT_FOCUS))
    text = focus_text.as_text(focus_tables.summarise(coarse, 100, 0), focus_tables.compare(coarse, 100, 0))
    assert "resnet: WARNING, its maps have 4 x 4 cells, and even a perfect one would put only 6.0 % in the les" in text
    assert "mean of CNNs" not in text  # none is left to be compared
    assert not any(word in text for word in ("higher", "lower", "told apart", "intervals are over"))  # nothing is said


def test_one_run_of_few_cells_is_left_out_of_the_comparisons(lesions: pl.DataFrame) -> None:
    perfect = pl.when(pl.col(tables.RUN) == "resnet").then(0.06).otherwise(tables.PERFECT_FOCUS)
    coarse = lesions.with_columns(perfect.alias(tables.PERFECT_FOCUS))
    pairs = focus_tables.compare(coarse, 1000, 0)
    assert pairs[tables.VERDICT].to_list() == ["higher", *["maps too coarse to tell"] * 2]
    text = focus_text.as_text(focus_tables.summarise(coarse, 1000, 0), pairs)
    assert "vit: focus is higher than swin by 1" in text
    assert "resnet: WARNING, its maps have 4 x 4 cells" in text
    assert "than resnet" not in text
    assert "resnet: focus" not in text


def test_focus_is_told_by_class(lesions: pl.DataFrame) -> None:
    table = focus_tables.summarise(lesions, 100, 0)
    focus = lesions.filter(pl.col(tables.RUN) == "vit")[tables.FOCUS].to_numpy()
    row = table.row(0, named=True)
    assert (row[tables.NUM_MALIGNANT], row[tables.NUM_BENIGN]) == (10, 20)
    assert row[tables.FOCUS_MALIGNANT] == pytest.approx(np.nanmean(focus[:10]))
    assert row[tables.FOCUS_BENIGN] == pytest.approx(focus[10:].mean())


def test_empty_maps_and_lesions_without_a_mask_are_told_apart(lesions: pl.DataFrame) -> None:
    without = pl.col(tables.IMAGE_ID).is_in(["ISIC_7", "ISIC_8"])
    some = lesions.with_columns(
        pl.when(without).then(0.0).otherwise(tables.AREA_SHARE).alias(tables.AREA_SHARE),
        pl.when(without).then(float("nan")).otherwise(tables.FOCUS).alias(tables.FOCUS),
    )
    table = focus_tables.summarise(some, 100, 0)
    assert table[tables.NUM_EMPTY].to_list() == [1, 0, 0]
    assert table[tables.NUM_WITHOUT_MASK].to_list() == [2, 2, 2]
    text = focus_text.as_text(table, focus_tables.compare(some, 100, 0))
    assert "vit: 1 of 28 maps is positive nowhere and is left out" in text
    assert "vit: 2 of 30 lesions have no mask and are left out" in text
    assert "swin: 0" not in text


def test_of_many_runs_the_pairs_are_counted(lesions: pl.DataFrame) -> None:
    more = pl.concat([lesions, rows_of("densenet", CNN, np.full(NUM, 0.05))])
    text = focus_text.as_text(focus_tables.summarise(more, 1000, 0), focus_tables.compare(more, 1000, 0))
    assert "5 of 6 pairs of runs can be told apart, about 0.3 would be by chance" in text
    assert "vit: focus is higher than swin" not in text
    assert "mean of CNNs: focus is lower than mean of transformers" in text


def test_a_run_of_mostly_empty_maps_is_left_out_of_its_kind(lesions: pl.DataFrame) -> None:
    focus = np.full(NUM, np.nan)
    focus[:4] = 0.9
    more = pl.concat([lesions, rows_of("densenet", CNN, focus)])
    with_it, without = focus_tables.compare(more, 200, 0), focus_tables.compare(lesions, 200, 0)
    assert with_it.row(-1) == without.row(-1)
    text = focus_text.as_text(focus_tables.summarise(more, 200, 0), with_it)
    assert "densenet: 26 of 30 maps are positive nowhere" in text
    assert "and are left out, and the run from the means" in text
    few = with_it.filter(pl.col(tables.OTHER_RUN) == "densenet")
    assert few[tables.VERDICT].unique().to_list() == ["too few patients to tell"]


def test_one_run_has_no_pairs_and_unknown_kinds_no_mean(lesions: pl.DataFrame) -> None:
    one = lesions.filter(pl.col(tables.RUN) == "vit")
    pairs = focus_tables.compare(one, 100, 0)
    assert pairs.is_empty()
    assert tables.VERDICT in pairs.columns
    two = pl.concat([one, rows_of("maxvit", OTHER, np.full(NUM, 0.3))])
    assert len(focus_tables.compare(two, 100, 0)) == 1


def test_a_run_without_any_map_is_told_without_numbers() -> None:
    empty = pl.concat([rows_of("a", CNN, np.full(NUM, np.nan)), rows_of("b", CNN, np.full(NUM, 0.3))])
    summary, pairs = focus_tables.summarise(empty, 100, 0), focus_tables.compare(empty, 100, 0)
    assert summary[tables.FOCUS].to_list() == [None, pytest.approx(0.3)]
    text = focus_text.as_text(summary, pairs)
    assert "a: 30 of 30 maps are positive nowhere" in text
    assert "a: focus cannot be compared with that of b" in text
    assert " nan" not in text
