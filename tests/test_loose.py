"""Images in no store: a folder, a file and an HDF5 give the same bytes; whatever is no image is told at once."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import blob

from lesionforge.data.challenge_write import ImageWriter
from lesionforge.data.loose import open_loose
from lesionforge.errors import BadInput
from lesionforge.tables import IMAGE_ID, PATIENT_ID, TARGET


@pytest.fixture
def images() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    return {f"ISIC_{i:07d}": blob(rng, malignant=i % 2 == 0) for i in range(6)}


def write_files(folder: Path, images: dict[str, bytes]) -> Path:
    """Every other one in a folder inside."""
    for number, (image_id, data) in enumerate(images.items()):
        path = folder / ("more" if number % 2 else "") / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_hdf5(path: Path, images: dict[str, bytes]) -> Path:
    writer = ImageWriter(path)
    for image_id, data in images.items():
        writer.write(image_id, data)
    writer.close()
    return path


def test_a_folder_and_the_challenges_hdf5_hold_the_same_images(tmp_path: Path, images: dict[str, bytes]) -> None:
    folder = open_loose(write_files(tmp_path / "folder", images))
    hdf5 = open_loose(write_hdf5(tmp_path / "test-image.hdf5", images))
    for loose in (folder, hdf5):
        assert sorted(loose.image_ids) == sorted(images)
        assert len(loose) == 6
        for row in loose.rows(list(images)):
            assert loose.read(int(row)) == images[loose.image_ids[row]]
        samples = loose.samples()
        assert samples[IMAGE_ID].to_list() == loose.image_ids
        assert samples[PATIENT_ID].null_count() == samples[TARGET].null_count() == 6
    with pytest.raises(BadInput, match=r"1 images are not in it: ISIC_9"):
        folder.rows(["ISIC_9"])


def test_the_digest_is_of_the_images_wherever_they_lie(tmp_path: Path, images: dict[str, bytes]) -> None:
    first, moved = write_files(tmp_path / "a", images), write_files(tmp_path / "b", images)
    assert open_loose(first).digest == open_loose(moved).digest
    name = moved / "ISIC_0000000.jpg"
    name.write_bytes(images["ISIC_0000002"])
    assert open_loose(first).digest != open_loose(moved).digest


def test_one_file(tmp_path: Path, images: dict[str, bytes]) -> None:
    path = tmp_path / "lesion.JPG"
    path.write_bytes(images["ISIC_0000000"])
    loose = open_loose(path)
    assert loose.image_ids == ["lesion"]
    assert loose.read(0) == images["ISIC_0000000"]


def test_no_file_stays_open(tmp_path: Path, images: dict[str, bytes]) -> None:
    """A folder may hold 400,000 images."""
    before = len(os.listdir("/proc/self/fd"))
    loose = open_loose(write_files(tmp_path, images))
    for row in range(len(loose)):
        loose.read(row)
    assert len(os.listdir("/proc/self/fd")) == before


def test_all_that_is_no_image_is_told_at_once(tmp_path: Path, images: dict[str, bytes]) -> None:
    folder = write_files(tmp_path, images)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not an image at all")
    (folder / "cut.jpg").write_bytes(images["ISIC_0000001"][:-40])
    with pytest.raises(BadInput) as caught:
        open_loose(folder)
    message = str(caught.value)
    assert "3 of 9 images cannot be read; mend them or take them away" in message
    assert "empty: the image is empty" in message
    assert "text: neither JPEG nor PNG" in message
    assert "cut: cut off JPEG" in message


def test_damage_that_only_a_decoder_sees(tmp_path: Path, images: dict[str, bytes]) -> None:
    """A whole look would cost a decoding of every image; it is taken once one was found (predict does so)."""
    folder = write_files(tmp_path, images)
    for name in ("one", "two"):
        png = bytearray(cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))[1])
        png[60:2000] = bytes(1940)
        (folder / f"{name}.png").write_bytes(png)
    loose = open_loose(folder)
    with pytest.raises(BadInput, match=r"(?s)2 of 8 images.*one: damaged PNG.*two: damaged PNG"):
        loose.look_at_all(decode=True)


def test_an_id_given_twice(tmp_path: Path, images: dict[str, bytes]) -> None:
    folder = write_files(tmp_path, images)
    (folder / "more" / "ISIC_0000000.png").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"the id ISIC_0000000 is also that of"):
        open_loose(folder)


def test_what_is_no_source_of_images(tmp_path: Path, images: dict[str, bytes]) -> None:
    with pytest.raises(BadInput, match=r"no such file or folder; give an image, a folder of images or"):
        open_loose(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no image files \(.jpg, .jpeg, .png\) in this folder"):
        open_loose(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=r"a file of 5 bytes, expected an image .*HDF5 file .*or a folder"):
        open_loose(tmp_path / "notes.txt")


def test_a_file_that_went_away(tmp_path: Path, images: dict[str, bytes]) -> None:
    loose = open_loose(write_files(tmp_path, images))
    (tmp_path / "ISIC_0000000.jpg").unlink()
    with pytest.raises(BadInput, match=r"ISIC_0000000 cannot be read \(No such file or directory\)"):
        loose.read(loose.image_ids.index("ISIC_0000000"))
