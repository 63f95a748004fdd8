"""Writing files as the challenge lays them out: an HDF5 of JPEGs, train and test CSV, sample submission.

The HDF5 is that of `train-image.hdf5`: one scalar, fixed-length, NUL-padded byte string per `isic_id` in the root,
contiguous, in the oldest file format, without times, so that the same images give the same bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import h5py
import polars as pl
from h5py import h5d, h5f, h5p, h5s, h5t

from lesionforge.files import write_whole
from lesionforge.tables import ISIC_ID, TARGET, write_table

TRAIN_IMAGES, TRAIN_METADATA = "train-image.hdf5", "train-metadata.csv"
TEST_IMAGES, TEST_METADATA = "test-image.hdf5", "test-metadata.csv"
SAMPLE_SUBMISSION = "sample_submission.csv"
TEST_TRUTH = "test-truth.csv"  # not the challenge's: the targets that it hides
SAMPLE_SCORE = 0.3  # what the challenge's own sample submission says of every image


class ImageWriter:
    """Appends images to an HDF5 file of the challenge's layout."""

    def __init__(self, path: Path) -> None:
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_V18)
        self.file = h5f.create(str(path).encode(), h5f.ACC_EXCL, fapl=access)
        self.scalar = h5s.create(h5s.SCALAR)
        self.layout = h5p.create(h5p.DATASET_CREATE)
        self.layout.set_layout(h5d.CONTIGUOUS)
        self.layout.set_obj_track_times(False)

    def write(self, image_id: str, data: bytes) -> None:
        """Add one image; its bytes must not end in NUL, which readers of fixed-length strings cut off."""
        kind = h5t.TypeID.copy(h5t.C_S1)
        kind.set_size(len(data))
        kind.set_strpad(h5t.STR_NULLPAD)
        import numpy as np

        dataset = h5d.create(self.file, image_id.encode(), kind, self.scalar, self.layout)
        dataset.write(h5s.ALL, h5s.ALL, np.array(data), kind)

    def close(self) -> None:
        self.file.close()
