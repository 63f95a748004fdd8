"""Folders of images: which files count, under which ids."""

import os
from pathlib import Path

import pytest

from lesionforge.data import sources
from lesionforge.data.sources import FolderImages, open_images, without_extension
from lesionforge.errors import BadInput


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        open_images(path)
    return str(error.value)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_finds_images_in_folders_of_folders(tmp_path: Path) -> None:
    write(tmp_path / "part_1/ISIC_1.jpg", b"one")
    write(tmp_path / "part_2/ISIC_2.JPEG", b"two!")
    write(tmp_path / "PAT_3.png", b"three")
    write(tmp_path / "._PAT_3.png", b"macOS")
    write(tmp_path / "ATTRIBUTION.txt", b"not an image")
    images = open_images(tmp_path)
    assert isinstance(images, FolderImages)
    assert sorted(images.image_ids) == ["ISIC_1", "ISIC_2", "PAT_3"]
    assert [images.read(image_id) for image_id in ("ISIC_1", "ISIC_2", "PAT_3")] == [b"one", b"two!", b"three"]
    assert dict(zip(images.image_ids, images.size.tolist(), strict=True)) == {"ISIC_1": 3, "ISIC_2": 4, "PAT_3": 5}


def test_a_linked_folder_is_not_entered(tmp_path: Path) -> None:
    write(tmp_path / "images/a.jpg", b"a")
    os.symlink(tmp_path / "images", tmp_path / "images/again")
    assert open_images(tmp_path / "images").image_ids == ["a"]


def test_one_id_twice_and_huge_files_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10)
    write(tmp_path / "a.jpg", b"a")
    write(tmp_path / "a.png", b"a")
    write(tmp_path / "b.png", b"b" * 11)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: 2 files cannot be used, move them away:")
    assert f"\n  {tmp_path}/a.png: the id a is also that of {tmp_path}/a.jpg" in message
    assert f"\n  {tmp_path}/b.png: 0 MiB, more than 0 MiB" in message


def test_nothing_there(tmp_path: Path) -> None:
    assert "no image files (.jpg, .jpeg, .png)" in refusal(tmp_path)
    assert "no such file or folder" in refusal(tmp_path / "absent")


def test_ids_that_are_file_names() -> None:
    assert [without_extension(name) for name in ("PAT_1.png", "a.JPG", "a.b", "ISIC_1")] == [
        "PAT_1",
        "a",
        "a.b",
        "ISIC_1",
    ]
