"""The lesions to explain: malignant first, at random by seed, half and half in the figures, with their masks."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lesionforge import tables
from lesionforge.classifier.explained_lesions import choose, choose_shown, read_lesions
from lesionforge.data.masks import pack, write_masks
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput

COLUMNS = [tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET]


def test_malignant_first_then_benign_then_unlabelled(blobs: Path) -> None:
    samples = open_store(blobs).samples(COLUMNS)
    chosen = choose(samples, 50, 0)
    assert chosen[tables.TARGET].to_list() == [1] * 30 + [0] * 20
    assert chosen.equals(choose(samples, 50, 0))
    assert chosen[tables.IMAGE_ID].to_list() != choose(samples, 50, 1)[tables.IMAGE_ID].to_list()
    assert len(choose(samples, 1000, 0)) == 120
    unknown = samples.with_columns(pl.when(pl.col(tables.TARGET) == 1).then(1).cast(pl.Int8).alias(tables.TARGET))
    assert choose(unknown, 31, 0)[tables.TARGET].to_list() == [1] * 30 + [None]


@pytest.mark.parametrize(
    ("targets", "num_shown", "expected"),
    [
        ([1, 1, 1, 1, 0, 0, 0, 0], 4, [0, 1, 4, 5]),
        ([1, 1, 1, 0], 4, [0, 1, 2, 3]),
        ([1, 0, 0, 0, None], 4, [0, 1, 2, 3]),
        ([1, 1, 1], 2, [0, 1]),
        ([0], 8, [0]),
    ],
)
def test_half_of_the_figure_is_malignant(targets: list, num_shown: int, expected: list[int]) -> None:
    assert choose_shown(targets, num_shown) == expected


def test_true_masks_are_taken_and_a_missing_one_is_named(blobs: Path, tmp_path: Path) -> None:
    store = open_store(blobs)
    chosen = choose(store.samples(COLUMNS), 3, 0)
    ids = chosen[tables.IMAGE_ID].to_list()
    mask = np.zeros((50, 50), bool)
    mask[:25] = True
    path = tmp_path / "masks.npz"
    write_masks(path, ids, [pack([mask] * 3)])
    for lesion in read_lesions(store, chosen, path):
        assert lesion.mask.shape == lesion.image.shape[:2]
        assert lesion.mask.mean() == pytest.approx(0.5, abs=0.03)
    write_masks(path, ids[:2], [pack([mask] * 2)])
    with pytest.raises(BadInput, match=f"no mask of {ids[2]}"):
        read_lesions(store, chosen, path)


def test_estimated_masks_and_lesions_without_one(blobs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(blobs)
    chosen = choose(store.samples(COLUMNS), 3, 0)
    middles = [
        lesion.mask[len(lesion.mask) // 2, len(lesion.mask) // 2] for lesion in read_lesions(store, chosen, None)
    ]
    assert all(middles)
    ids = chosen[tables.IMAGE_ID].to_list()
    write_masks(tmp_path / "masks.npz", ids, [pack([np.zeros((50, 50), bool), *[np.ones((50, 50), bool)] * 2])])
    with caplog.at_level(logging.WARNING, "lesionforge"):
        read_lesions(store, chosen, tmp_path / "masks.npz")
    assert f"1 lesions have no mask and are not measured: {ids[0]}" in caplog.text
