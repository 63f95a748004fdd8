"""Reading images from an HDF5 file laid out like the challenge's: one scalar byte string per image id, in the root.

h5py follows external links, soft links, external raw storage and virtual datasets in silence, so a hostile file could
show bytes of any other file. Each link and each dataset is therefore checked before one byte is read, and all that is
wrong is told at once. The challenge's files are contiguous: an image is `size` bytes at `offset` of the file and is
read by one system call, not by 70-100 microseconds of h5py; h5py would also cut trailing NUL bytes, we keep them.
"""

import os
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5l, h5o, h5s, h5t

from lesionforge.errors import BadInput
from lesionforge.progress import progress
from lesionforge.tables import in_lines, in_short

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_IMAGE_BYTES = 10 * 2**20  # our choice; the challenge's crops have 1-30 kB
NOT_CONTIGUOUS = -1  # the offset of an image that is chunked, compressed or compact: only HDF5 itself can read it
STEP = 1000  # images between two signs of progress

HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)  # what h5py raises at damaged objects
LINKS = {h5l.TYPE_SOFT: "soft link", h5l.TYPE_EXTERNAL: "external link"}
OBJECTS = {h5o.TYPE_GROUP: "group", h5o.TYPE_NAMED_DATATYPE: "named datatype"}


def is_hdf5(path: Path) -> bool:
    """True where the file says that it is HDF5; a user block of 512, 1024, ... bytes may stand before the signature."""
    length, place = path.stat().st_size, 0
    with open(path, "rb") as file:
        while place + len(SIGNATURE) <= length:
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            place = max(512, place * 2)
    return False


class Hdf5Images:
    """An open HDF5 file of images, every link and dataset of which was checked.

    image_ids: list of str in the file's order; offset, size: (num_images,) int64, bytes in the file. The offset is
    NOT_CONTIGUOUS where only HDF5 can read the image.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            BadInput: not an HDF5, truncated, empty, or with anything in it that is not a plain image dataset.
        """
        self.path = path
        self.file = open_hdf5(path)
        try:
            self.image_ids, self.offset, self.size = read_index(self.file, path)
        except BaseException:
            self.file.close()
            raise
        if (self.offset != NOT_CONTIGUOUS).all():
            self.file.close()  # and with it 150 MB that HDF5 keeps of 401,059 objects; closing twice does no harm
        self.row = {image_id: row for row, image_id in enumerate(self.image_ids)}
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, image_id: str) -> bytes:
        """The encoded image: exactly the stored bytes."""
        row = self.row[image_id]
        offset, size = int(self.offset[row]), int(self.size[row])
        if offset != NOT_CONTIGUOUS:
            data = os.pread(self.descriptor, size, offset)
        else:
            data = read_by_hdf5(self.file, self.path, image_id)
        if len(data) != size:
            raise BadInput(f"{self.path}: image {image_id} has {len(data):,} of {size:,} bytes; fetch the file again")
        return data

    def close(self) -> None:
        os.close(self.descriptor)
        self.file.close()


def open_hdf5(path: Path) -> h5py.File:
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    length = path.stat().st_size
    if not is_hdf5(path):
        found = "an empty file" if length == 0 else f"a file of {length:,} bytes without the HDF5 signature"
        raise BadInput(f"{path}: not an HDF5 file (found {found}); name the challenge's train-image.hdf5 or a folder")
    try:
        return h5py.File(path, "r")
    except HDF5_ERRORS as error:
        reason = str(error)
        if "truncated" in reason:
            raise BadInput(
                f"{path}: a truncated HDF5 file ({length:,} bytes, fewer than its header tells); fetch it again"
            ) from error
        raise BadInput(f"{path}: a damaged HDF5 file ({reason}); fetch it again") from error


def read_index(file: h5py.File, path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(image_ids, offset, size) of every image, after checking every link and every dataset.

    Raises:
        BadInput: lists all that is no image: soft and external links, groups, virtual datasets, ...
    """
    image_ids: list[str] = []
    problems: dict[str, list[str]] = {}

    def add(name: bytes, info: h5l.LinkInfo) -> None:
        image_id = name.decode(errors="replace")
        if info.type != h5l.TYPE_HARD:
            problems.setdefault(LINKS.get(info.type, "user-defined link"), []).append(image_id)
        else:
            image_ids.append(image_id)

    try:
        file.id.links.iterate(add, info=True)
    except HDF5_ERRORS as error:
        raise BadInput(f"{path}: a damaged HDF5 file, its list of images cannot be read ({error})") from error
    if not image_ids and not problems:
        raise BadInput(f"{path}: the HDF5 file holds no images")

    offset, size = np.zeros(len(image_ids), np.int64), np.zeros(len(image_ids), np.int64)
    with progress("reading the HDF5 index", len(image_ids)) as advance:
        for row, image_id in enumerate(image_ids):
            try:
                offset[row], size[row] = place_of(file, image_id.encode())
            except NotAnImage as problem:
                problems.setdefault(str(problem), []).append(image_id)
            if row % STEP == STEP - 1:
                advance(STEP)
    if problems:
        lines = [f"{problem} ({len(names):,}): {in_short(names)}" for problem, names in problems.items()]
        raise BadInput(
            f"{path}: refused, expected only datasets in the root, each one image as a byte string; found"
            + in_lines(lines)
        )
    return image_ids, offset, size


class NotAnImage(Exception):
    """What an object of the HDF5 file is instead of a plain image."""


def place_of(file: h5py.File, name: bytes) -> tuple[int, int]:
    """(offset, size) in bytes of one image.

    HDF5 knows an offset only for contiguous raw data that lie in this very file, so one call tells them from external
    raw storage and virtual datasets (H5Dget_offset); those that have none are looked at more closely.
    """
    try:
        dataset = h5d.open(file.id, name)
    except HDF5_ERRORS as error:
        try:
            kind = OBJECTS.get(h5o.get_info(file.id, name).type)
        except HDF5_ERRORS:
            kind = None
        raise NotAnImage(kind or f"damaged object ({error})") from error
    try:
        offset = dataset.get_offset()
        stored = dataset.get_type()
        kind = stored.get_class()
        if dataset.rank > 1:
            raise NotAnImage(f"dataset of {dataset.rank} dimensions")
        if kind == h5t.STRING and stored.is_variable_str():
            if dataset.shape not in ((), (1,)):
                raise NotAnImage("dataset of several strings")
            require_own_storage(dataset)
            size = len(value_of(dataset, stored))
            offset = None  # the raw data are a pointer into the heap
        elif kind in (h5t.STRING, h5t.OPAQUE) or (kind == h5t.INTEGER and stored.get_size() == 1):
            size = stored.get_size() * dataset.get_space().get_simple_extent_npoints()
            if kind != h5t.INTEGER and size != stored.get_size():
                raise NotAnImage("dataset of several strings")
        else:
            raise NotAnImage("dataset of another type than bytes")
        if offset is None:
            require_own_storage(dataset)
        elif dataset.get_storage_size() != size:
            raise NotAnImage("dataset without all of its bytes")
    except HDF5_ERRORS as error:
        raise NotAnImage(f"damaged dataset ({error})") from error
    if size > MAX_IMAGE_BYTES:
        raise NotAnImage(f"dataset of more than {MAX_IMAGE_BYTES / 2**20:.0f} MiB")
    return NOT_CONTIGUOUS if offset is None else offset, size


def require_own_storage(dataset: h5d.DatasetID) -> None:
    created = dataset.get_create_plist()
    if created.get_external_count():
        raise NotAnImage("external raw storage")
    if created.get_layout() == h5d.VIRTUAL:
        raise NotAnImage("virtual dataset")
    if created.get_layout() == h5d.CHUNKED and np.prod(created.get_chunk(), dtype=float) > MAX_IMAGE_BYTES:
        raise NotAnImage(f"dataset in chunks of more than {MAX_IMAGE_BYTES / 2**20:.0f} MiB")


def read_by_hdf5(file: h5py.File, path: Path, image_id: str) -> bytes:
    """An image that is chunked, compressed, compact or of variable length."""
    try:
        dataset = h5d.open(file.id, image_id.encode())
        return value_of(dataset, dataset.get_type())
    except HDF5_ERRORS as error:
        raise BadInput(f"{path}: image {image_id} cannot be read ({error}); fetch the file again") from error


def value_of(dataset: h5d.DatasetID, stored: h5t.TypeID) -> bytes:
    if stored.get_class() == h5t.STRING and stored.is_variable_str():
        return bytes(h5py.Dataset(dataset).asstr("latin-1")[()].encode("latin-1"))
    space = dataset.get_space()
    data = np.empty(stored.get_size() * space.get_simple_extent_npoints(), np.uint8)
    dataset.read(h5s.ALL, h5s.ALL, data, mtype=stored)
    return data.tobytes()
