"""Images that lie in no store: a folder of JPEGs and PNGs, one file, or the challenge's HDF5, read where they are.

Each image is looked at once before any is scored: its bytes are hashed and its header checked, as `write_store` would,
and nothing is copied. At most one file is open at a time in each thread.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.data import pixels
from lesionforge.data.challenge_read import Hdf5Images, is_hdf5
from lesionforge.data.samples import samples_of_ids
from lesionforge.data.sources import EXTENSIONS, MAX_FILE_BYTES, FolderImages, without_extension
from lesionforge.data.store import check_image
from lesionforge.errors import BadInput
from lesionforge.progress import progress

STEP = 1000  # images between two signs of progress


class FileImage:
    """One image file as a source of images, its id the file name without the extension."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if not path.name.lower().endswith(EXTENSIONS) or size > MAX_FILE_BYTES:
            raise BadInput(
                f"{path}: a file of {size:,} bytes, expected an image ({', '.join(EXTENSIONS)}), an HDF5 file like the "
                "challenge's test-image.hdf5, or a folder of images"
            )
        self.path = path
        self.image_ids = [without_extension(path.name)]
        self.size = np.array([size], np.int64)

    def read(self, image_id: str) -> bytes:
        """The encoded image: the whole file."""
        return self.path.read_bytes()

    def close(self) -> None:
        """Nothing stays open."""


def open_loose(path: Path) -> "LooseImages":
    """The images that `path` is, each of which can be read.

    Raises:
        BadInput: nothing there, no image in it, an id given twice, or images that are none: all of them are listed.
    """
    if path.is_dir():
        return LooseImages(FolderImages(path))
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file or folder; give an image, a folder of images or the challenge's HDF5 file"
        )
    return LooseImages(Hdf5Images(path) if is_hdf5(path) else FileImage(path))


class LooseImages:
    """Images with a store's reading interface; safe to read from many threads.

    path: the file or folder; digest: SHA-256 of all ids with the SHA-256 of their images.
    """

    def __init__(self, source: FolderImages | Hdf5Images | FileImage) -> None:
        self.source = source
        self.path = source.path
        self.image_ids = source.image_ids
        sha256 = self.look_at_all(decode=False)
        self.digest = tables.digest(pl.DataFrame({tables.IMAGE_ID: self.image_ids, tables.SHA256: sha256}))

    def __len__(self) -> int:
        return len(self.image_ids)

    def read(self, row: int) -> bytes:
        """The encoded image of a row."""
        try:
            return self.source.read(self.image_ids[row])
        except OSError as error:
            raise BadInput(f"{self.path}: {self.image_ids[row]} cannot be read ({error.strerror})") from error

    def samples(self) -> pl.DataFrame:
        """A samples table that knows ids only: patients and targets are null."""
        return samples_of_ids(self.image_ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.image_ids)}

    def rows(self, image_ids: Sequence[str] | pl.Series) -> np.ndarray:
        """Row numbers of images, (N,) int64."""
        unknown = [image_id for image_id in image_ids if image_id not in self.row_of]
        if unknown:
            raise BadInput(f"{self.path}: {len(unknown):,} images are not in it: {tables.in_short(unknown)}")
        return np.array([self.row_of[image_id] for image_id in image_ids], np.int64)

    def look_at_all(self, decode: bool) -> list[str]:
        """SHA-256 of every image.

        Args:
            decode: also images whose header and end mark look sound.

        Raises:
            BadInput: lists all that cannot be read.
        """
        sha256, bad = [], []
        with progress("checking images", len(self)) as advance:
            for row, image_id in enumerate(self.image_ids):
                try:
                    data = self.read(row)
                    sha256.append(hashlib.sha256(data).hexdigest())
                    check_image(data, decode)
                except pixels.BadImage as error:
                    bad.append(f"{image_id}: {error}")
                except BadInput as error:
                    bad.append(str(error))
                if row % STEP == STEP - 1:
                    advance(STEP)
        if bad:
            raise BadInput(
                f"{self.path}: {len(bad):,} of {len(self):,} images cannot be read; mend them or take them away:"
                + tables.in_lines(bad)
            )
        return sha256
