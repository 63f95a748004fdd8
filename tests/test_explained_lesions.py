"""The lesions to explain: half of each class until one runs out, at random by seed, with their masks."""

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


def counts(chosen: pl.DataFrame) -> tuple[int, int, int]:
    targets = chosen[tables.TARGET].to_list()
    return targets.count(1), targets.count(0), targets.count(None)


@pytest.mark.parametrize(
    ("held", "num_images", "expected"),
    [
        ((500, 500, 0), 64, (32, 32, 0)),  # many malignant ones leave room for benign ones
        ((10, 500, 50), 64, (10, 54, 0)),
        ((500, 10, 50), 64, (54, 10, 0)),
        ((10, 10, 50), 64, (10, 10, 44)),
        ((10, 10, 0), 64, (10, 10, 0)),
        ((500, 500, 0), 7, (3, 4, 0)),
        ((0, 0, 9), 5, (0, 0, 5)),
        ((500, 0, 0), 5, (5, 0, 0)),
    ],
)
def test_half_malignant_and_half_benign_until_a_class_runs_out(
    held: tuple[int, int, int], num_images: int, expected: tuple[int, int, int]
) -> None:
    targets = [target for target, count in zip((1, 0, None), held, strict=True) for _ in range(count)]
    samples = pl.DataFrame(
        {tables.IMAGE_ID: [f"ISIC_{i}" for i in range(len(targets))], tables.TARGET: pl.Series(targets, dtype=pl.Int8)}
    )
    chosen = choose(samples, num_images, 0)
    assert counts(chosen) == expected
    assert chosen[tables.IMAGE_ID].n_unique() == len(chosen)


def test_the_draw_repeats_by_its_seed(blobs: Path) -> None:
    samples = open_store(blobs).samples(COLUMNS)
    chosen = choose(samples, 50, 0)
    assert chosen[tables.TARGET].to_list() == [1] * 25 + [0] * 25
    assert chosen.equals(choose(samples, 50, 0))
    assert chosen[tables.IMAGE_ID].to_list() != choose(samples, 50, 1)[tables.IMAGE_ID].to_list()
    assert len(choose(samples, 1000, 0)) == 120


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
    assert f"1 lesion has no mask and is not measured: {ids[0]}" in caplog.text
