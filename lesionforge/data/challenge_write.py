"""Writing files as the challenge lays them out: an HDF5 of JPEGs, train and test CSV, sample submission.

The HDF5 is that of `train-image.hdf5`: one scalar, fixed-length, NUL-padded byte string per `isic_id` in the root,
contiguous, in the oldest file format, without times, so that the same images give the same bytes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from h5py import h5d, h5f, h5p, h5s, h5t

from lesionforge.tables import ISIC_ID, TARGET, write_table

TRAIN_IMAGES, TRAIN_METADATA = "train-image.hdf5", "train-metadata.csv"
TEST_IMAGES, TEST_METADATA = "test-image.hdf5", "test-metadata.csv"
SAMPLE_SUBMISSION = "sample_submission.csv"
TEST_TRUTH = "test-truth.csv"  # not the challenge's: the targets that it hides
SAMPLE_SCORE = 0.3  # what the challenge's own sample submission says of every image


class ImageWriter:
    """Appends images to a new HDF5 file of the challenge's layout; h5py's low level, a third of its usual time."""

    def __init__(self, path: Path) -> None:
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_V18)
        self.file = h5f.create(os.fsencode(path), h5f.ACC_EXCL, fapl=access)
        self.scalar = h5s.create(h5s.SCALAR)
        self.layout = h5p.create(h5p.DATASET_CREATE)
        self.layout.set_layout(h5d.CONTIGUOUS)
        self.layout.set_obj_track_times(False)

    def write(self, image_id: str, data: bytes) -> None:
        """Add one image; its bytes must not end in NUL, which readers of fixed-length strings cut off."""
        value = np.array(data)  # () S<size>
        kind = h5t.py_create(value.dtype)  # NUL-padded
        dataset = h5d.create(self.file, image_id.encode(), kind, self.scalar, self.layout)
        dataset.write(self.scalar, self.scalar, value, kind)

    def close(self) -> None:
        self.file.close()


class RowWriter:
    """Appends rows to a new CSV file, so that no table is ever whole in memory."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.file = open(path, "xb")  # noqa: SIM115  closed by close()
        self.columns = columns
        self.empty = True

    def write(self, rows: pl.DataFrame) -> None:
        rows.select(self.columns).write_csv(self.file, include_header=self.empty)
        self.empty = False

    def close(self) -> None:
        self.file.close()


class PartWriter(NamedTuple):
    images: ImageWriter
    rows: RowWriter


@contextmanager
def part_files(folder: Path, images: str, metadata: str, columns: Sequence[str]) -> Iterator[PartWriter]:
    """The two files of a part of the challenge, open for writing, closed at the end."""
    with (
        closing(ImageWriter(folder / images)) as image_file,
        closing(RowWriter(folder / metadata, columns)) as row_file,
    ):
        yield PartWriter(image_file, row_file)


def write_sample_submission(path: Path, image_ids: Sequence[str]) -> None:
    write_table(path, pl.DataFrame({ISIC_ID: image_ids}).with_columns(pl.lit(SAMPLE_SCORE).alias(TARGET)))
