"""Batches: the same for any number of threads and from any batch on; a bad image stops the run by its name."""

import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.config import AugmentConfig
from lesionforge.data import augment, pixels
from lesionforge.data.loader import Batch, load_batches
from lesionforge.data.store import Store, open_store, write_store
from lesionforge.errors import BadInput

STRONG = augment.build_augmentation(AugmentConfig(preset="strong"))


@pytest.fixture
def store(blobs: Path) -> Store:
    return open_store(blobs)


def table_of(store: Store) -> pl.DataFrame:
    return store.samples([tables.IMAGE_ID, tables.TARGET])


def loaded(store: Store, order: np.ndarray, num_threads: int = 2, **changed: object) -> list[Batch]:
    settings = {"batch_size": 7, "image_size": 48, "augmentation": STRONG, "seed": 1, "epoch": 2, **changed}
    return list(load_batches([store], table_of(store), order, num_threads=num_threads, **settings))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_threads_batches_and_resuming_change_no_pixel(store: Store) -> None:
    order = np.random.default_rng(0).integers(0, len(store), 60)
    whole = loaded(store, order, num_threads=1)
    for num_threads in (2, 3):
        assert same(whole, loaded(store, order, num_threads))
    for first_batch in (1, 4, 8, 9):
        assert same(whole[first_batch:], loaded(store, order, 3, first_batch=first_batch))
    together = np.concatenate([batch.images for batch in whole])
    assert np.array_equal(together, np.concatenate([b.images for b in loaded(store, order, batch_size=13)]))
    assert not same(whole, loaded(store, order, epoch=3))
    assert not same(whole, loaded(store, order, seed=2))


def test_an_image_that_repeats_in_an_epoch_is_varied_anew(store: Store) -> None:
    batch = loaded(store, np.full(7, 5))[0]
    assert len({image.tobytes() for image in batch.images}) == 7


def test_without_augmentation_batches_are_the_resized_images_in_order(store: Store) -> None:
    order = np.array([3, 119, 0, 3, 50])
    batches = loaded(store, order, augmentation=None, batch_size=2)
    assert [len(batch.images) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate([batch.positions for batch in batches]), order)
    assert np.array_equal(
        np.concatenate([batch.targets for batch in batches]), store.samples()[tables.TARGET].to_numpy()[order]
    )
    assert batches[0].targets.dtype == np.float32
    expected = np.empty((48, 48, 3), np.uint8)
    for position, image in zip(order, np.concatenate([batch.images for batch in batches]), strict=True):
        augment.resize(pixels.decode(store.read(position)), expected)
        assert np.array_equal(image, expected)


def test_unknown_targets_are_not_a_number(store: Store) -> None:
    without = table_of(store).with_columns(pl.lit(None, pl.Int8).alias(tables.TARGET))
    for table in (without, without.drop(tables.TARGET)):
        (batch,) = load_batches([store], table, np.arange(3), 3, 32, None, 0, 0, 1)
        assert np.isnan(batch.targets).all()


def test_images_come_from_the_store_that_the_table_names(store: Store, tmp_path: Path) -> None:
    dark = np.zeros((50, 50, 3), np.uint8)
    other = made_store(tmp_path / "other", [pixels.encode_jpeg(dark, 90)] * 3)
    table = pl.DataFrame(
        {
            tables.IMAGE_ID: ["ISIC_0000007", "ISIC_0000002", "ISIC_0000001"],
            tables.STORE: [0, 1, 1],
            tables.TARGET: [0, 1, 1],
        }
    )
    (batch,) = load_batches([store, other], table, np.array([1, 0, 2]), 3, 32, None, 0, 0, 1)
    assert [bool(image.any()) for image in batch.images] == [False, True, False]


def test_decoded_images_are_kept_and_give_the_same_batches(store: Store) -> None:
    order, kept = np.arange(20), dict[int, np.ndarray]()
    first = loaded(store, order, decoded=kept)
    assert sorted(kept) == list(range(20))
    before = {position: image.copy() for position, image in kept.items()}
    assert same(first, loaded(store, order))
    assert same(first, loaded(store, order, decoded=kept))
    assert all(np.array_equal(before[position], kept[position]) for position in kept)


def made_store(folder: Path, images: list[bytes]) -> Store:
    folder.mkdir()
    ids = [f"ISIC_{i:07d}" for i in range(len(images))]
    samples = pl.DataFrame({tables.IMAGE_ID: ids, tables.SOURCE: tables.REAL}).with_columns(
        pl.lit(None, pl.String).alias(tables.PATIENT_ID), pl.lit(0, pl.Int8).alias(tables.TARGET)
    )
    write_store(folder, zip(ids, images, strict=True), samples)
    run.mark_done(folder)
    return open_store(folder)


def test_a_damaged_image_is_named_and_never_swapped(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    store = made_store(tmp_path / "store", [pixels.encode_jpeg(image, 90)] * 30)
    at = store.start[17]
    with open(store.images_path, "r+b") as file:  # damaged on the disk after the store was opened
        file.seek(at)
        file.write(b"\x00" * 30)
    batches = load_batches([store], table_of(store), np.arange(30), 4, 32, STRONG, 0, 0, 2)
    assert [next(batches).positions[0] for _ in range(4)] == [0, 4, 8, 12]
    with pytest.raises(
        BadInput, match=rf"ISIC_0000017 in {store.path}: neither JPEG nor PNG .*prepare the store again"
    ):
        next(batches)
    assert not loader_threads()


def test_an_id_that_the_store_does_not_hold_is_named(store: Store) -> None:
    table = pl.DataFrame({tables.IMAGE_ID: ["ISIC_0000001", "ISIC_7777777"]})
    with pytest.raises(BadInput, match="ISIC_7777777"):
        next(load_batches([store], table, np.arange(2), 2, 32, None, 0, 0, 1))


def test_stopping_early_ends_the_threads_at_once(store: Store) -> None:
    batches = load_batches(
        [store], table_of(store), np.tile(np.arange(len(store)), 500), 64, 224, STRONG, 0, 0, num_threads=3
    )
    next(batches)
    assert loader_threads()
    started = time.monotonic()
    batches.close()
    assert time.monotonic() - started < 1
    assert not loader_threads()


def test_an_interrupt_in_the_consumer_ends_the_threads(store: Store) -> None:
    def train() -> None:
        for _ in load_batches([store], table_of(store), np.arange(120), 8, 32, STRONG, 0, 0, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not loader_threads()


def test_batches_are_made_ahead_but_not_without_bound(store: Store) -> None:
    kept = dict[int, np.ndarray]()
    batches = load_batches([store], table_of(store), np.arange(120), 4, 32, None, 0, 0, 2, decoded=kept)
    next(batches)
    time.sleep(0.3)
    assert len(kept) == 4 * 4  # the batch in hand and three more
    batches.close()


def test_an_empty_order_gives_no_batch(store: Store) -> None:
    assert loaded(store, np.zeros(0, np.int64)) == []
