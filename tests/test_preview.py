"""preview: the picture of Figure 1, whose rows are the images asked for and whose views are those of training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lesionforge import files, run
from lesionforge.config import AugmentConfig
from lesionforge.data import draws
from lesionforge.data.preview import PreviewConfig, effects, preview
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput


def shown(store: Path, out: Path, **settings: object) -> list[str]:
    """Ids of the rows of a picture made with these settings."""
    preview(PreviewConfig(store=store, out=out, **settings))
    return files.read_json(out / run.DONE)["image_ids"]


def test_the_picture_is_made_once_and_the_same_each_time(blobs: Path, tmp_path: Path) -> None:
    ids = shown(blobs, tmp_path / "a", num_images=3, num_views=2)
    again = shown(blobs, tmp_path / "b", num_images=3, num_views=2)
    first, second = (np.asarray(Image.open(tmp_path / name / run.PREVIEW).convert("RGB")) for name in "ab")
    assert ids == again
    assert np.array_equal(first, second)
    assert first.shape[1] > 600
    other = shown(blobs, tmp_path / "c", num_images=3, num_views=2, seed=1)
    assert other != ids
    before = (tmp_path / "a" / run.PREVIEW).stat().st_mtime_ns
    shown(blobs, tmp_path / "a", num_images=3, num_views=2)  # finished: left alone
    assert (tmp_path / "a" / run.PREVIEW).stat().st_mtime_ns == before


def test_rows_are_half_malignant_or_those_asked_for(blobs: Path, tmp_path: Path) -> None:
    store = open_store(blobs)
    target = dict(zip(store.image_ids, store.samples()["target"], strict=True))
    small = {"num_views": 1, "image_size": 32}
    assert [target[i] for i in shown(blobs, tmp_path / "half", num_images=5, **small)] == [1, 1, 1, 0, 0]
    only = shown(blobs, tmp_path / "only", num_images=4, only="benign", **small)
    assert [target[i] for i in only] == [0] * 4
    named = ("ISIC_0000009", "ISIC_0000002")
    assert tuple(shown(blobs, tmp_path / "named", image_ids=named, **small)) == named


def test_what_cannot_be_shown_is_refused_in_one_line(blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"every probability is 0.*--augment\.preset"):
        shown(blobs, tmp_path / "x", augment=AugmentConfig(preset="none"))
    with pytest.raises(BadInput, match="ISIC_9999999"):
        shown(blobs, tmp_path / "x", image_ids=("ISIC_9999999",))
    assert not (tmp_path / "x").exists()


def test_labels_say_what_happened() -> None:
    settings = AugmentConfig(preset="none", horizontal_flip=1, cutout_probability=1, cutout=0.2).settings()
    assert effects(draws.draw(0, 0, np.arange(1), **settings), 0) == ["flip", "cutout"]
    assert effects(draws.draw(0, 0, np.arange(1), **AugmentConfig(preset="none").settings()), 0) == []
    strong = draws.draw(0, 0, np.arange(200), **AugmentConfig(preset="strong").settings())
    words = [effects(strong, i) for i in range(200)]
    assert 0.55 < np.mean(["CLAHE" in row for row in words]) < 0.85
    assert 0.35 < np.mean(["upside down" in row for row in words]) < 0.65
