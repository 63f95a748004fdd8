"""The corpus on a device: the images of a table, the loader's batches within rounding, and what is refused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lesionforge import run, tables
from lesionforge.classifier import device_images
from lesionforge.classifier.device_images import DeviceImages, device_batches, load_device_images, require_room
from lesionforge.config import AugmentConfig
from lesionforge.data import augment, draws, pixels
from lesionforge.data.loader import load_batches
from lesionforge.data.store import Store, open_store, write_store
from lesionforge.errors import BadInput

STRONG = augment.build_augmentation(AugmentConfig(preset="strong"))
CPU = torch.device("cpu")
SIZE = 48


@pytest.fixture(scope="module")
def store(blobs: Path) -> Store:
    return open_store(blobs)


def table_of(store: Store) -> pl.DataFrame:
    return store.samples([tables.IMAGE_ID, tables.TARGET])


@pytest.fixture(scope="module")
def images(store: Store) -> DeviceImages:
    return load_device_images([store], table_of(store), SIZE, CPU, num_threads=2)


def made_store(folder: Path, images: list[np.ndarray]) -> Store:
    folder.mkdir(parents=True)
    ids = [f"ISIC_{i:07d}" for i in range(len(images))]
    samples = pl.DataFrame({tables.IMAGE_ID: ids, tables.SOURCE: tables.REAL}).with_columns(
        pl.lit(None, pl.String).alias(tables.PATIENT_ID), pl.lit(0, pl.Int8).alias(tables.TARGET)
    )
    write_store(folder, [(i, pixels.encode_jpeg(image, 90)) for i, image in zip(ids, images, strict=True)], samples)
    run.mark_done(folder)
    return open_store(folder)


def noise(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def test_each_image_lies_there_at_its_size_after_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made_store(tmp_path / "store", noise((40, 60), (20, 31), (100, 50), (72, 72), (73, 20), (1, 1)))
    advanced: list[int] = []
    monkeypatch.setattr(device_images, "CHUNK", 20_000)  # several chunks, and images larger than one
    images = load_device_images([store], store.samples(), SIZE, CPU, 2, advanced.append)
    assert len(images) == sum(advanced) == 6
    assert len(advanced) > 2
    assert images.height.tolist() == [40, 20, 48, 72, 48, 1]  # 1.5 x 48 = 72
    assert images.width.tolist() == [60, 31, 48, 72, 48, 1]
    assert len(images.pixels) == (images.height * images.width).sum()
    for row in range(6):
        expected = augment.shrunk(pixels.decode(store.read(row)), SIZE)
        there = images.pixels[images.offset[row] :][: expected.size // 3].numpy()
        assert np.array_equal(there.reshape(expected.shape), expected)


def test_batches_are_the_loaders_within_rounding(store: Store, images: DeviceImages) -> None:
    order = np.random.default_rng(0).integers(0, len(store), 150)
    table = table_of(store)
    targets = table[tables.TARGET].to_numpy().astype(np.float32)
    for augmentation in (STRONG, None):
        theirs = load_batches([store], table, order, 32, SIZE, augmentation, 3, 2, 2, first_batch=1)
        ours = device_batches(images, targets, order, 32, augmentation, 3, 2, first_batch=1)
        for batch, expected in zip(ours, theirs, strict=True):
            difference = np.abs(batch.images.numpy().astype(int) - expected.images)
            assert difference.mean() < 0.15  # the plain resize rounds twice in OpenCV
            assert difference.max() <= 4
            assert np.array_equal(batch.positions, expected.positions)
            assert np.array_equal(batch.targets.numpy(), expected.targets)
            assert batch.targets.dtype == torch.float32


def test_the_shares_of_all_processes_are_the_batch(images: DeviceImages) -> None:
    order, targets = np.arange(50), np.arange(120) % 2
    whole = list(device_batches(images, targets, order, 16, STRONG, 0, 0))
    for num in (2, 3):
        shares = [list(device_batches(images, targets, order, 16, STRONG, 0, 0, share=(k, num))) for k in range(num)]
        for number, batch in enumerate(whole):
            parts = [share[number] for share in shares]
            assert np.array_equal(np.concatenate([part.positions for part in parts]), batch.positions)
            assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
            assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_where_a_training_goes_on_changes_no_pixel(images: DeviceImages) -> None:
    order, targets = np.arange(40), np.full(120, np.nan, np.float32)
    whole = list(device_batches(images, targets, order, 8, STRONG, 1, 5))
    rest = list(device_batches(images, targets, order, 8, STRONG, 1, 5, first_batch=3))
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[3:], rest, strict=True))
    assert whole[0].targets.isnan().all()
    other = next(device_batches(images, targets, order, 8, STRONG, 1, 6))
    assert not torch.equal(whole[0].images, other.images)


def test_an_image_that_repeats_is_varied_anew_and_the_corpus_never_changed(images: DeviceImages) -> None:
    before = images.pixels.clone()
    batch = images.batch(np.full(7, 5), draws.draw(0, 0, np.arange(7), **STRONG))
    assert len({image.numpy().tobytes() for image in batch}) == 7
    assert torch.equal(images.pixels, before)


def test_a_share_may_be_empty(images: DeviceImages) -> None:
    none = np.zeros(0, np.int64)
    assert images.batch(none, draws.draw(0, 0, none, **STRONG)).shape == (0, SIZE, SIZE, 3)
    assert images.batch(none, None).shape == (0, SIZE, SIZE, 3)
    assert list(device_batches(images, np.zeros(120), none, 8, STRONG, 0, 0)) == []


def test_images_come_from_the_store_that_the_table_names(store: Store, tmp_path: Path) -> None:
    dark = made_store(tmp_path / "dark", [np.zeros((50, 50, 3), np.uint8)] * 3)
    ids = ["ISIC_0000007", "ISIC_0000002", "ISIC_0000001"]
    table = pl.DataFrame({tables.IMAGE_ID: ids, tables.STORE: [0, 1, 1]})
    images = load_device_images([store, dark], table, SIZE, CPU, 2)
    assert [bool(image.any()) for image in images.batch(np.array([1, 0, 2]), None)] == [False, True, False]


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", noise(*[(40, 40)] * 30))
    with open(store.images_path, "r+b") as file:  # damaged on the disk after the store was opened
        file.seek(store.start[17])
        file.write(b"\x00" * 30)
    with pytest.raises(
        BadInput, match=rf"ISIC_0000017 in {store.path}: neither JPEG nor PNG .*prepare the store again"
    ):
        load_device_images([store], store.samples(), SIZE, CPU, 2)


def test_an_image_of_another_size_than_its_store_says_is_named(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", noise((40, 30), (20, 20)))
    samples = store.samples().with_columns(pl.lit(20, pl.Int32).alias(tables.HEIGHT))
    samples.write_parquet(tmp_path / "store" / run.SAMPLES)
    with pytest.raises(BadInput, match=r"ISIC_0000000 in .*: 30 x 40 pixels, expected 30 x 20 by .*prepare the store"):
        load_device_images([store], samples, SIZE, CPU, 1)


def test_a_corpus_that_does_not_fit_is_refused_with_both_sizes_and_the_cure() -> None:
    gib = 2**30
    require_room(20 * gib, 22 * gib, 401_059, "cuda:0")
    with pytest.raises(
        BadInput, match=r"401,059 decoded images are 21\.0 GiB; cuda:0 has 22\.5 GiB free, .*--hardware\.cache memory"
    ):
        require_room(21 * gib, 22 * gib + gib // 2, 401_059, "cuda:0")


@pytest.mark.gpu
def test_on_a_gpu_batches_are_the_loaders_too(store: Store) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    table, order = table_of(store), np.arange(120)
    images = load_device_images([store], table, SIZE, torch.device("cuda"), 2)
    ours = device_batches(images, np.zeros(120), order, 40, STRONG, 0, 0)
    for batch, expected in zip(ours, load_batches([store], table, order, 40, SIZE, STRONG, 0, 0, 2), strict=True):
        difference = np.abs(batch.images.cpu().numpy().astype(int) - expected.images)
        assert difference.mean() < 0.1
        assert difference.max() <= 4
