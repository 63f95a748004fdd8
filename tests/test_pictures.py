"""Pictures for the page: small ones as they are, large ones by the mean of their pixels."""

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from lesionforge import tables
from lesionforge.data import pixels
from lesionforge.data.store import open_store
from lesionforge.reporting import pictures
from lesionforge.reporting.inputs import Sources


def test_narrowed_is_opencvs_area_mean() -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    expected = cv2.resize(image, (40, 28), interpolation=cv2.INTER_AREA)
    found = pictures.narrowed(image, 40)
    assert found.shape == (28, 40, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert pictures.narrowed(image, 500) is image


def test_lesions_come_as_they_lie(blobs: Path) -> None:
    store = open_store(blobs)
    found = pictures.lesions(store, ["ISIC_0000002", "nobody", "ISIC_0000000"], (tables.TARGET, "no such column"))
    assert [one.image_id for one in found] == ["ISIC_0000002", "ISIC_0000000"]
    assert [one.row for one in found] == [{tables.TARGET: 0}, {tables.TARGET: 1}]
    row = int(store.rows(["ISIC_0000000"])[0])
    assert found[1].data == bytes(store.read(row))


def test_a_large_lesion_is_made_smaller() -> None:
    image = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    small = pictures.small(pixels.encode_jpeg(image, 95))
    assert pixels.check_header(small) == ("jpeg", pictures.SIDE, pictures.SIDE)


def test_evenly_takes_the_ends() -> None:
    ids = pl.Series([f"a{i:03d}" for i in range(100)])[::-1]
    assert pictures.evenly(ids, 4) == ["a000", "a033", "a066", "a099"]
    assert pictures.evenly(ids[:3], 9) == ["a097", "a098", "a099"]


def test_a_store_that_is_none(tmp_path: Path) -> None:
    sources = Sources(tmp_path)
    assert pictures.opened(tmp_path / "no", sources) is None
    assert pictures.opened(None, sources) is None
    assert sources.digests == {"no/store.json": None}
    with pytest.raises(pixels.BadImage):
        pictures.as_jpeg(b"nothing", 10)
