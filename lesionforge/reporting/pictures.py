"""Pictures for the page: lesions out of stores as they lie there, figures of other verbs as smaller JPEGs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lesionforge import run, tables
from lesionforge.data import pixels
from lesionforge.errors import BadInput
from lesionforge.reporting.inputs import Sources

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.data.store import Store

QUALITY = 84  # of JPEG, our choice: no visible loss in a figure of photographs
LARGEST_BYTES = 24_000  # of a lesion that is taken as it is
SIDE = 160  # pixels of a lesion that is made smaller


class Lesion(NamedTuple):
    image_id: str
    data: bytes
    row: dict[str, Any]  # of the samples table


def opened(path: Path | None, sources: Sources) -> "Store | None":
    """A store, or None where there is none or it is damaged; store.json holds the digest of what lies in it."""
    from lesionforge.data.store import open_store

    if path is not None:
        sources.note(path / run.STORE)
    try:
        return None if path is None else open_store(path)
    except BadInput:
        return None


def lesions(store: "Store", image_ids: Sequence[str], columns: Sequence[str] = ()) -> list[Lesion]:
    """Lesions of a store with what its table says in `columns`; ids and columns that it has not are left out."""
    import polars as pl

    held = store.row_of.filter(pl.col(tables.IMAGE_ID).is_in(list(image_ids)))
    numbers = dict(zip(held[tables.IMAGE_ID].to_list(), held["row"].to_list(), strict=True))
    there = columns_of(store, columns)
    table = store.samples(there)[list(numbers.values())].to_dicts() if there else [{} for _ in numbers]
    rows = dict(zip(numbers, table, strict=True))
    found = []
    for image_id in image_ids:
        if image_id in numbers:
            try:
                data = small(bytes(store.read(numbers[image_id])))
            except pixels.BadImage:
                continue
            found.append(Lesion(image_id, data, rows[image_id]))
    return found


def columns_of(store: "Store", wanted: Sequence[str]) -> list[str]:
    """Those of `wanted` that a store's table has."""
    import polars as pl

    known = pl.read_parquet_schema(store.path / run.SAMPLES)
    return [name for name in wanted if name in known]


def small(data: bytes) -> bytes:
    """A lesion's own bytes, or a smaller JPEG of a large one."""
    kind, width, height = pixels.check_header(data)
    if len(data) <= LARGEST_BYTES and kind == "jpeg":
        return data
    if len(data) <= LARGEST_BYTES and max(width, height) <= SIDE:
        return data
    return as_jpeg(data, SIDE)


def as_jpeg(data: bytes, width: int, quality: int = QUALITY) -> bytes:
    """A picture as JPEG, `width` pixels wide at most; each pixel is the mean of those that it stands for.

    Raises:
        BadImage: it is no JPEG or PNG, or damaged.
    """
    image = pixels.decode(data)
    return pixels.encode_jpeg(narrowed(image, width), quality)


def narrowed(image: np.ndarray, width: int) -> np.ndarray:
    """(H, W, 3) uint8, `width` wide at most: means over areas, along one side and then the other."""
    height, now, _ = image.shape
    if now <= width:
        return image
    rows = max(round(height * width / now), 1)
    return np.clip(shrunk(shrunk(image.astype(np.float32), rows, 0), width, 1) + 0.5, 0, 255).astype(np.uint8)


def shrunk(image: np.ndarray, number: int, axis: int) -> np.ndarray:
    """Means over `number` equal stretches of an axis, whose ends may cut a pixel."""
    length = image.shape[axis]
    total = np.concatenate([np.zeros_like(image.take([0], axis)), np.cumsum(image, axis, dtype=np.float64)], axis)
    edges = np.linspace(0, length, number + 1)
    below = np.minimum(edges.astype(int), length - 1)
    share = (edges - below).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
    at_edges = total.take(below, axis) + share * (total.take(below + 1, axis) - total.take(below, axis))
    return np.diff(at_edges, axis=axis) * (number / length)


def evenly(ids: "pl.Series", number: int) -> list[str]:
    """`number` ids evenly spread over a sorted column: the same ones each time, and no favourites."""
    ordered = ids.sort().to_list()
    if len(ordered) <= number:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (number - 1))] for i in range(number)]
