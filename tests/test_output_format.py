"""Formats of real images, measured and given to generated ones; Pillow, another reader of headers, is the oracle."""

import io
import logging
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from PIL import Image, JpegImagePlugin

from lesionforge import run, tables
from lesionforge.data import pixels
from lesionforge.data.challenge_read import Hdf5Images
from lesionforge.data.store import Store, open_store, write_store
from lesionforge.diffusion import output_format
from lesionforge.diffusion.output_format import ImageFormat
from lesionforge.errors import BadInput

IN_PILLOW = {"444": 0, "422": 1, "420": 2}


def skin(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def by_pillow(image: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def store_of(folder: Path, images: list[bytes]) -> Store:
    folder.mkdir()
    ids = [f"ISIC_{i:07d}" for i in range(len(images))]
    samples = pl.DataFrame({tables.IMAGE_ID: ids}).with_columns(
        pl.lit(None, pl.String).alias(tables.PATIENT_ID), pl.lit(1).alias(tables.TARGET),
        pl.lit(tables.REAL).alias(tables.SOURCE),
    )  # fmt: skip
    write_store(folder, zip(ids, images, strict=True), samples)
    run.mark_done(folder)
    return open_store(folder)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 90, 95, 100])
@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
def test_what_pillow_wrote_is_recognised_and_written_alike(quality: int, subsampling: str) -> None:
    """Size, quality and subsampling are found; ours, decoded by Pillow, has the tables and subsampling of theirs."""
    theirs = by_pillow(skin(40, 56), quality=quality, subsampling=IN_PILLOW[subsampling])
    found, is_standard = output_format.format_of(theirs)
    assert (found, is_standard) == (ImageFormat(40, 56, quality, subsampling), True)
    ours = output_format.encoded(skin(64, 64), found)
    one, other = (Image.open(io.BytesIO(data)) for data in (ours, theirs))
    assert one.quantization == other.quantization
    assert JpegImagePlugin.get_sampling(one) == JpegImagePlugin.get_sampling(other) == IN_PILLOW[subsampling]
    assert one.size == other.size


def test_tables_are_those_that_pillow_reads() -> None:
    """Ours are in the file's zigzag order, Pillow's in rows."""
    data = by_pillow(skin(16, 16), quality=30)
    ours, theirs = output_format.quantisation_tables(data), Image.open(io.BytesIO(data)).quantization
    assert {number: sorted(values) for number, values in ours.items()} == {
        number: sorted(values) for number, values in theirs.items()
    }
    assert ours[0][:3] == (theirs[0][0], theirs[0][1], theirs[0][8])


def test_progressive_and_grey_images_have_a_quality_too() -> None:
    for data in (by_pillow(skin(24, 24), quality=80, progressive=True), by_pillow(skin(24, 24)[..., 0], quality=80)):
        assert output_format.format_of(data) == (ImageFormat(24, 24, 80, "420"), True)


def test_other_tables_count_as_the_nearest_quality(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A camera's own tables, two units above those of quality 75; they are a quarter of the images."""
    standard = Image.open(io.BytesIO(by_pillow(skin(8, 8), quality=75))).quantization
    changed = [[min(value + (i % 7 == 0), 255) for i, value in enumerate(standard[k])] for k in (0, 1)]
    odd = by_pillow(skin(24, 24), qtables=changed)
    assert output_format.format_of(odd) == (ImageFormat(24, 24, 75, "420"), False)
    store = store_of(tmp_path / "store", [odd] + [by_pillow(skin(24, 24, seed), quality=75) for seed in range(3)])
    with caplog.at_level(logging.WARNING, "lesionforge"):
        found = output_format.measured(store, store.samples())
    assert found.combinations == [ImageFormat(24, 24, 75, "420")]
    assert found.num_other_tables == 1
    assert "25.0% of the real JPEGs have quantisation tables of no standard quality" in caplog.text


def test_size_and_quality_are_drawn_together(tmp_path: Path) -> None:
    """Small images at 60, large ones at 90, one in four a PNG: no draw mixes them, each comes as often as it should."""
    images = [
        *(by_pillow(skin(20, 20, seed), quality=60) for seed in range(4)),
        *(by_pillow(skin(50, 48, seed), quality=90, subsampling=0) for seed in range(2)),
        *(cv2.imencode(".png", skin(30, 30, seed))[1].tobytes() for seed in range(2)),
    ]
    store = store_of(tmp_path / "store", images)
    found = output_format.measured(store, store.samples())
    small, large, png = ImageFormat(20, 20, 60, "420"), ImageFormat(50, 48, 90, "444"), ImageFormat(30, 30, None, None)
    assert dict(zip(found.combinations, found.share, strict=True)) == {small: 0.5, large: 0.25, png: 0.25}
    rng = np.random.default_rng(0)
    drawn = [found.draw(rng) for _ in range(4000)]
    assert [drawn.count(one) / 4000 for one in (small, large, png)] == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    assert pixels.check_header(output_format.encoded(skin(64, 64), png)) == ("png", 30, 30)
    words = output_format.in_words(found)
    assert words == (
        "sides 20-48 px (median 20), JPEG quality 60 at 4:2:0 (50.0%), PNG (25.0%), JPEG quality 90 at 4:4:4 (25.0%)"
    )
    assert [output_format.share_larger(found, side) for side in (19, 20, 30, 48)] == [1.0, 0.5, 0.25, 0.0]
    one_quality = output_format.replaced(found, None, 70)
    assert {(one.width, one.quality, one.subsampling) for one in one_quality.combinations} == {
        (20, 70, "420"), (48, 70, "420"), (30, 70, "420"),
    }  # fmt: skip


def test_only_the_rows_given_are_measured(tmp_path: Path) -> None:
    images = [by_pillow(skin(20, 20), quality=60), by_pillow(skin(50, 50), quality=90)]
    store = store_of(tmp_path / "store", images)
    assert output_format.measured(store, store.samples()[1:]).combinations == [ImageFormat(50, 50, 90, "420")]
    with pytest.raises(BadInput, match=r"no real image to take the format from; say --format\.match none"):
        output_format.measured(store, store.samples().clear())


def test_a_drawn_image_is_the_generated_one() -> None:
    """At high quality and the same size only rounding is lost; the same input gives the same bytes."""
    image = skin(64, 64)
    same = output_format.encoded(image, ImageFormat(64, 64, 100, "444"))
    assert np.abs(pixels.decode(same).astype(int) - image).max() <= 6
    assert same == output_format.encoded(image, ImageFormat(64, 64, 100, "444"))
    assert np.array_equal(pixels.decode(output_format.encoded(image, ImageFormat(64, 64, None, None))), image)
    halved = pixels.decode(output_format.encoded(image, ImageFormat(32, 32, None, None)))
    assert np.abs(halved - image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).max() <= 1


@pytest.mark.real
def test_the_real_lesions_are_all_alike(real_lesions: Path) -> None:
    """SLICE-3D's crops: square, of odd sides, quality 75, 4:2:0, all with standard tables."""
    images = Hdf5Images(real_lesions / "train-image.hdf5")
    found = [output_format.format_of(images.read(image_id)) for image_id in images.image_ids[::20]]
    assert {(one.quality, one.subsampling, is_standard) for one, is_standard in found} == {(75, "420", True)}
    assert all(one.height == one.width for one, _ in found)
    data = images.read(images.image_ids[0])
    ours = output_format.encoded(skin(64, 64), output_format.format_of(data)[0])
    assert Image.open(io.BytesIO(ours)).quantization == Image.open(io.BytesIO(data)).quantization
    images.close()
