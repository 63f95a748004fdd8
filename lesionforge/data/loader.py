"""Batches of images for training and prediction: threads in this process decode and augment whole batches ahead.

OpenCV lets go of Python's lock while it works, so threads are enough and nothing is copied between processes. Every
random number comes from (seed, epoch, place in the epoch's order): the number of threads, the batch size of an earlier
command and where a run was resumed cannot change a pixel.
"""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from lesionforge.data import augment, pixels
from lesionforge.errors import BadInput
from lesionforge.tables import IMAGE_ID, STORE, TARGET

AHEAD = 2  # finished batches a thread may be ahead of the consumer: 20 MB at 64 images of 224 px


class Images(Protocol):
    """What loading asks of a store, or of images that are in none (loose.py): bytes by row number, rows by id."""

    @property
    def path(self) -> Path: ...

    def read(self, row: int) -> bytes | memoryview: ...

    def rows(self, image_ids: pl.Series) -> np.ndarray: ...


class Batch(NamedTuple):
    images: np.ndarray  # (B, S, S, 3) uint8 RGB
    targets: np.ndarray  # (B,) float32, NaN where unknown
    positions: np.ndarray  # (B,) int64, into the table


def load_batches(
    stores: Sequence[Images],
    table: pl.DataFrame,
    order: np.ndarray,
    batch_size: int,
    image_size: int,
    augmentation: Mapping[str, float] | None,
    seed: int,
    epoch: int,
    num_threads: int,
    first_batch: int = 0,
    decoded: dict[int, np.ndarray] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The batches of one epoch from `first_batch` on, in order; the last one may be smaller.

    Args:
        stores: what the table's column `store` counts; one store needs no such column.
        table: image_id, and target where it is known.
        order: positions into the table for the whole epoch; positions may repeat.
        image_size: side of the square images.
        augmentation: settings for `augment.draw`, as `augment.build_augmentation` gives them; None only resizes.
        share: (k, n) gives the k-th of n contiguous parts of each batch: what one of n processes works on.
        decoded: kept by the caller from epoch to epoch and filled here, it spares decoding an image twice.

    Raises:
        BadInput: an id that its store does not hold, or an image that cannot be decoded: its id and store are named.
    """
    store_of, row_of = locate(stores, table)
    targets = (
        table[TARGET].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        if TARGET in table.columns
        else np.full(table.height, np.nan, np.float32)
    )
    order = np.asarray(order, np.int64)
    stopped = threading.Event()

    def image_at(position: int) -> np.ndarray:
        if decoded is not None and (image := decoded.get(position)) is not None:
            return image
        image = read_image(stores[store_of[position]], int(row_of[position]), table[IMAGE_ID][position])
        if decoded is not None:
            decoded[position] = image
        return image

    def make(number: int) -> Batch:
        places = places_of(number, batch_size, len(order), share)
        positions = order[places]
        images = np.empty((len(places), image_size, image_size, 3), np.uint8)  # (B, S, S, 3)
        drawn = None if augmentation is None else augment.draw(seed, epoch, places, **augmentation)
        for i, position in enumerate(positions.tolist()):
            if stopped.is_set():
                break
            image = image_at(position)
            if drawn is None:
                augment.resize(image, images[i])
            else:
                augment.apply(image, drawn, i, images[i])
        return Batch(images, targets[positions], positions)

    numbers = iter(range(first_batch, -(-len(order) // batch_size)))
    threads = ThreadPoolExecutor(num_threads, thread_name_prefix="loader")
    waiting: deque[Future[Batch]] = deque()
    try:
        for number in numbers:
            waiting.append(threads.submit(make, number))
            if len(waiting) >= num_threads * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the consumer stops early or Ctrl-C comes: threads end after the image in hand
        stopped.set()
        threads.shutdown(cancel_futures=True)


def places_of(number: int, batch_size: int, length: int, share: tuple[int, int]) -> np.ndarray:
    """Places in an epoch's order of `length` that batch `number` takes, or one process's share of them. (b,) int64"""
    first, last = number * batch_size, min((number + 1) * batch_size, length)
    part, num_parts = share
    return np.arange(first + (last - first) * part // num_parts, first + (last - first) * (part + 1) // num_parts)


def read_image(store: Images, row: int, image_id: str) -> np.ndarray:
    """Decode one image, (H, W, 3) uint8 RGB.

    Raises:
        BadInput: it cannot be decoded; names it and its store.
    """
    try:
        return pixels.decode(store.read(row))
    except pixels.BadImage as error:
        raise BadInput(f"{image_id} in {store.path}: {error}; prepare the store again from sound images") from error


def locate(stores: Sequence[Images], table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Store and row number of each image of a table. Two (N,) int64"""
    store_of = table[STORE].to_numpy().astype(np.int64) if STORE in table.columns else np.zeros(table.height, np.int64)
    row_of = np.zeros(table.height, np.int64)
    for number, store in enumerate(stores):
        inside = np.flatnonzero(store_of == number)
        row_of[inside] = store.rows(table[IMAGE_ID].gather(inside))
    return store_of, row_of
