"""A store: encoded images that are read at memory speed, and their samples table.

    store.json        what the store is; checked when it is opened
    samples.parquet   a row per image, in the order of the store's row numbers: see SAMPLES_COLUMNS, then any others
    images.bin        the encoded images back to back; absent where they are read in place from an HDF5 file

A synthetic set is a store like any other: its `source` says "synthetic", its provenance stands in further columns.
"""

import hashlib
import mmap
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from lesionforge import run
from lesionforge.data import pixels
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_file, write_json, write_whole
from lesionforge.progress import progress
from lesionforge.tables import (
    FORMAT,
    HEIGHT,
    IMAGE_ID,
    OFFSET,
    PATIENT_ID,
    SHA256,
    SIZE,
    SOURCE,
    TARGET,
    WIDTH,
    in_lines,
    in_short,
    write_table,
)

VERSION = 1
GIVEN_COLUMNS = {IMAGE_ID: pl.String, PATIENT_ID: pl.String, TARGET: pl.Int8, SOURCE: pl.String}
MEASURED_COLUMNS = (OFFSET, SIZE, SHA256, WIDTH, HEIGHT, FORMAT)  # by write_store, from the bytes
SAMPLES_COLUMNS = (*GIVEN_COLUMNS, *MEASURED_COLUMNS)

ENDS = 64 * 1024  # bytes at each end of an HDF5 that tell whether it is still the same file
STEP = 1000  # images between two signs of progress
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


class Place(NamedTuple):
    """Where the images of an in-place store lie: a file and, per row, the bytes of it."""

    path: Path
    offset: np.ndarray  # (N,) int64
    size: np.ndarray  # (N,) int64


def write_store(
    folder: Path,
    images: Iterable[tuple[str, bytes]],
    samples: pl.DataFrame,
    *,
    place: Place | None = None,
    check: Literal["header", "decode"] = "header",
) -> None:
    """Write store.json, samples.parquet and images.bin into `folder`, one image in memory at a time.

    Args:
        folder: an existing folder, unfinished until its verb has written done.json.
        images: (image_id, encoded bytes) in the order of `samples`.
        samples: GIVEN_COLUMNS and any others but MEASURED_COLUMNS; patient_id and target may be null.
        place: given, the images stay where they are and no images.bin is written.
        check: "header" reads each header and looks for the end mark; "decode" decodes each image too.

    Raises:
        BadInput: no images; or images that are none: all of them are listed.
    """
    num_images = samples.height
    if num_images == 0:
        raise BadInput("a store of zero images was asked for, expected at least one; check the tables and the filters")
    samples = with_given_columns(samples)
    expected_ids = samples[IMAGE_ID].to_list()
    offset, size = np.zeros(num_images, np.int64), np.zeros(num_images, np.int64)
    width, height = np.zeros(num_images, np.int32), np.zeros(num_images, np.int32)
    sha256, formats, bad = [b""] * num_images, [""] * num_images, list[str]()

    position, row = 0, -1
    target_file = nullcontext(None) if place is not None else write_whole(folder / run.IMAGES)
    with progress("checking images" if place else "writing images", num_images) as advance, target_file as file:
        for row, (image_id, data) in enumerate(images):
            if row >= num_images or image_id != expected_ids[row]:
                raise ValueError(f"image {row:,} is {image_id!r}, not in the order of the samples table")
            try:
                formats[row], width[row], height[row] = check_image(data, decode=check == "decode")
            except pixels.BadImage as error:
                bad.append(f"{image_id}: {error}")
            sha256[row] = hashlib.sha256(data).digest()
            offset[row], size[row] = position, len(data)
            if file is not None and not bad:
                file.write(data)
            position += len(data)
            if row % STEP == STEP - 1:
                advance(STEP)
        if row + 1 != num_images:
            raise ValueError(f"{row + 1:,} images were given for {num_images:,} rows")
        if bad:
            raise BadInput(
                f"{len(bad):,} of {num_images:,} images cannot be used; mend them, or take them out with their rows:"
                + in_lines(bad)
            )

    if place is not None:
        if not np.array_equal(size, place.size):
            raise ValueError("the sizes of the images are not those of their places")
        offset = place.offset
    samples = samples.with_columns(
        pl.Series(OFFSET, offset),
        pl.Series(SIZE, size),
        pl.Series(SHA256, sha256, dtype=pl.Binary).bin.encode("hex"),
        pl.Series(WIDTH, width),
        pl.Series(HEIGHT, height),
        pl.Series(FORMAT, formats),
    )
    others = [name for name in samples.columns if name not in SAMPLES_COLUMNS]
    write_table(folder / run.SAMPLES, samples.select(*SAMPLES_COLUMNS, *others))
    images_path = folder / run.IMAGES if place is None else place.path.resolve()
    description = {
        "version": VERSION,
        "num_images": num_images,
        "images": run.IMAGES if place is None else str(images_path),
        "images_size": images_path.stat().st_size,
        "images_ends_sha256": sha256_of_ends(images_path),
        "samples_size": (folder / run.SAMPLES).stat().st_size,
        "samples_sha256": sha256_of_file(folder / run.SAMPLES),
    }
    write_json(folder / run.STORE, description)


def with_given_columns(samples: pl.DataFrame) -> pl.DataFrame:
    """The table with its first columns of the right types; a mistake in it is the caller's, not the user's."""
    missing = [name for name in GIVEN_COLUMNS if name not in samples.columns]
    measured = [name for name in MEASURED_COLUMNS if name in samples.columns]
    if missing or measured:
        raise ValueError(f"a samples table without {missing}, with the measured columns {measured}")
    samples = samples.cast(GIVEN_COLUMNS)  # type: ignore[arg-type]
    if samples[IMAGE_ID].null_count() or samples[IMAGE_ID].n_unique() != samples.height:
        raise ValueError("image ids are missing or given twice")
    if samples[SOURCE].null_count() or not samples[TARGET].drop_nulls().is_in([0, 1]).all():
        raise ValueError("a source is missing, or a target is not 0 or 1")
    return samples


def check_image(data: bytes, decode: bool) -> tuple[str, int, int]:
    """(format, width, height); an image that does not end with its end mark is decoded to see whether it is whole."""
    image_format, width, height = pixels.check_header(data)
    whole = data.endswith(pixels.JPEG_END if image_format == "jpeg" else PNG_END)
    if decode or not whole:
        pixels.decode(data)
    return image_format, width, height


def sha256_of_ends(path: Path) -> str:
    """SHA-256 of a file's first and last 64 KiB: enough to see in no time that it is another file."""
    with open(path, "rb") as file:
        ends = file.read(ENDS)
        file.seek(max(file.seek(0, 2) - ENDS, 0))
        return hashlib.sha256(ends + file.read(ENDS)).hexdigest()


def open_store(path: Path) -> "Store":
    """Open a finished store without reading its images.

    Raises:
        BadInput: not a finished store, or its files are not those that were written.
    """
    run.require_done(path, "prepare")
    if not (path / run.STORE).is_file():
        raise BadInput(f"{path}: not a store (no {run.STORE}); make one with `lesionforge prepare`")
    description = read_json(path / run.STORE)
    if not isinstance(description, dict) or description.get("version") != VERSION:
        raise BadInput(f"{path}: a store of another version than {VERSION}; make it anew with `lesionforge prepare`")
    try:
        return Store(path, description)
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path / run.STORE}: damaged ({error!r}); make the store anew") from error


class Store:
    """Images and samples of a store, by row number; safe to read from many threads.

    path: its folder; images_path: the file that holds the bytes; digest: SHA-256 of samples.parquet, which holds the
    SHA-256 of every image, so equal digests mean equal data.
    """

    def __init__(self, path: Path, description: dict) -> None:
        self.path = path
        self.images_path = path / description["images"]  # an absolute path replaces the folder
        self.digest: str = description["samples_sha256"]
        require_size(path / run.SAMPLES, description["samples_size"], "make the store anew")
        cure = "make the store anew"
        if self.images_path.is_absolute() and self.images_path.parent != path:
            cure = "put that file back, or prepare the store again (without --in-place it keeps a copy)"
        require_size(self.images_path, description["images_size"], cure)
        if sha256_of_ends(self.images_path) != description["images_ends_sha256"]:
            raise BadInput(f"{self.images_path}: changed since the store {path} was made; {cure}")

        table = self.samples([OFFSET, SIZE])
        start, size = table[OFFSET].to_numpy(), table[SIZE].to_numpy()
        inside = (
            len(table) and start.min() >= 0 and size.min() > 0 and (start + size).max() <= description["images_size"]
        )
        if table.height != description["num_images"] or not inside:
            raise BadInput(f"{path / run.SAMPLES}: does not fit {self.images_path}; make the store anew")
        with open(self.images_path, "rb") as file:
            self.bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        # memoryviews of int64: indexed at half the cost of numpy arrays
        self.start = memoryview(start.tobytes()).cast("q")
        self.end = memoryview((start + size).tobytes()).cast("q")

    def __len__(self) -> int:
        return len(self.start)

    def read(self, row: int) -> memoryview:
        """The encoded image of a row: a read-only view of the file, no copy."""
        if row < 0:
            raise IndexError(f"row {row} of a store")
        return self.bytes[self.start[row] : self.end[row]]

    def samples(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The samples table, row number = row; only `columns` are read from disk.

        Raises:
            BadInput: the store has no such column.
        """
        path = self.path / run.SAMPLES
        try:
            return pl.read_parquet(path, columns=None if columns is None else list(columns), memory_map=False)
        except pl.exceptions.ColumnNotFoundError as error:
            found = pl.read_parquet_schema(path)
            missing = [name for name in columns or () if name not in found]
            raise BadInput(
                f"{path}: no column {', '.join(missing)}; it has {in_short(list(found), most=60)}"
            ) from error
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BadInput(f"{path}: cannot be read ({error}); make the store anew") from error

    @cached_property
    def image_ids(self) -> pl.Series:
        return self.samples([IMAGE_ID])[IMAGE_ID]

    @cached_property
    def row_of(self) -> pl.DataFrame:
        return pl.DataFrame([self.image_ids]).with_row_index("row")

    def rows(self, image_ids: Sequence[str] | pl.Series) -> np.ndarray:
        """Row numbers of images, (N,) int64.

        Raises:
            BadInput: names ids that the store does not hold.
        """
        asked = pl.DataFrame([pl.Series(IMAGE_ID, image_ids, dtype=pl.String)])
        found = asked.join(self.row_of, on=IMAGE_ID, how="left", maintain_order="left")
        unknown = found.filter(pl.col("row").is_null())[IMAGE_ID].to_list()
        if unknown:
            raise BadInput(
                f"{self.path}: {len(unknown):,} of {len(found):,} images are not in this store: {in_short(unknown)}"
            )
        return found["row"].to_numpy().astype(np.int64)

    def verify(self) -> None:
        """Compare every byte with the SHA-256 that was stored.

        Raises:
            BadInput: names the damaged images, or the damaged table.
        """
        if sha256_of_file(self.path / run.SAMPLES) != self.digest:
            raise BadInput(f"{self.path / run.SAMPLES}: changed since it was written; make the store anew")
        damaged = []
        with progress("verifying images", len(self)) as advance:
            for row, (image_id, expected) in enumerate(self.samples([IMAGE_ID, SHA256]).iter_rows()):
                if hashlib.sha256(self.read(row)).hexdigest() != expected:
                    damaged.append(image_id)
                if row % STEP == STEP - 1:
                    advance(STEP)
        if damaged:
            raise BadInput(
                f"{self.images_path}: {len(damaged):,} of {len(self):,} images are damaged: {in_short(damaged)}; "
                "make the store anew"
            )


def require_size(path: Path, size: int, cure: str) -> None:
    if not path.is_file():
        raise BadInput(f"{path}: no such file, the store needs it; {cure}")
    if path.stat().st_size != size:
        raise BadInput(f"{path}: {path.stat().st_size:,} bytes, expected {size:,}; {cure}")
