"""Where encoded images are read from, by id: an HDF5 file in the challenge's layout, or a folder of JPEGs and PNGs."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lesionforge.data.challenge_read import Hdf5Images
from lesionforge.errors import BadInput
from lesionforge.tables import in_lines

EXTENSIONS = (".jpg", ".jpeg", ".png")
MAX_FILE_BYTES = 64 * 2**20  # our choice: 4096 x 4096 RGB pixels have 48 MiB before any compression


def open_images(path: Path) -> "Hdf5Images | FolderImages":
    """The source that `path` is.

    Both kinds have image_ids, size (bytes, in that order), read(image_id) and close().
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; give the challenge's HDF5 file or a folder of images")
    return FolderImages(path) if path.is_dir() else Hdf5Images(path)


class FolderImages:
    """The image files in a folder and the folders in it; an image's id is its file name without the extension."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            BadInput: no image file, two files with one id, or a file too large to be an image.
        """
        self.path = folder
        self.files: dict[str, str] = {}
        sizes: list[int] = []
        problems = []
        for entry in sorted(image_files(folder), key=lambda entry: entry.path):
            image_id, size = without_extension(entry.name), entry.stat().st_size
            if image_id in self.files:
                problems.append(f"{entry.path}: the id {image_id} is also that of {self.files[image_id]}")
                continue
            if size > MAX_FILE_BYTES:
                problems.append(f"{entry.path}: {size / 2**20:,.0f} MiB, more than {MAX_FILE_BYTES / 2**20:.0f} MiB")
            self.files[image_id] = entry.path
            sizes.append(size)
        if problems:
            raise BadInput(f"{folder}: {len(problems):,} files cannot be used, move them away:{in_lines(problems)}")
        if not self.files:
            raise BadInput(f"{folder}: no image files ({', '.join(EXTENSIONS)}) in this folder or in those inside it")
        self.image_ids = list(self.files)
        self.size = np.array(sizes, np.int64)

    def read(self, image_id: str) -> bytes:
        """The encoded image: the whole file."""
        with open(self.files[image_id], "rb") as file:
            return file.read(MAX_FILE_BYTES)

    def close(self) -> None:
        """Nothing stays open; the HDF5 reader has something to close."""


def image_files(folder: Path) -> "Iterator[os.DirEntry[str]]":
    """Image files below a folder; hidden ones (macOS leaves ._x.jpg) and folders that are links are not entered."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from image_files(Path(entry.path))
            elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
                yield entry


def without_extension(image_id: str) -> str:
    """`PAT_1_2.png` -> `PAT_1_2`: some tables (PAD-UFES-20) give file names as ids."""
    return os.path.splitext(image_id)[0] if image_id.lower().endswith(EXTENSIONS) else image_id
