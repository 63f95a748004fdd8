"""Batches of images for training and prediction: threads in this process decode and augment whole batches ahead.

OpenCV lets go of Python's lock while it works, so threads are enough and nothing is copied between processes. Every
random number comes from (seed, epoch, place in the epoch's order): the number of threads, the batch size of an earlier
command and where a run was resumed cannot change a pixel.
"""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl

from lesionforge.data import augment, pixels
from lesionforge.data.store import Store
from lesionforge.errors import BadInput
from lesionforge.tables import IMAGE_ID, STORE, TARGET

AHEAD = 2  # finished batches a thread may be ahead of the consumer: 20 MB at 64 images of 224 px


class Batch(NamedTuple):
    images: np.ndarray  # (B, S, S, 3) uint8 RGB
    targets: np.ndarray  # (B,) float32, NaN where unknown
    positions: np.ndarray  # (B,) int64, into the table


def load_batches(
    stores: Sequence[Store],
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
) -> Iterator[Batch]:
    """The batches of one epoch from `first_batch` on, in order; the last one may be smaller.

    Args:
        stores: what the table's column `store` counts; one store needs no such column.
        table: image_id, and target where it is known.
        order: positions into the table for the whole epoch; positions may repeat.
        image_size: side of the square images.
        augmentation: settings for `augment.draw`, as `augment.build_augmentation` gives them; None only resizes.
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
        store = stores[store_of[position]]
        try:
            image = pixels.decode(store.read(int(row_of[position])))
        except pixels.BadImage as error:
            raise BadInput(
                f"{table[IMAGE_ID][position]} in {store.path}: {error}; prepare the store again from sound images"
            ) from error
        if decoded is not None:
            decoded[position] = image
        return image

    def make(number: int) -> Batch:
        places = np.arange(number * batch_size, min((number + 1) * batch_size, len(order)))
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


def locate(stores: Sequence[Store], table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Store and row number of each image of a table. Two (N,) int64"""
    store_of = table[STORE].to_numpy().astype(np.int64) if STORE in table.columns else np.zeros(table.height, np.int64)
    row_of = np.zeros(table.height, np.int64)
    for number, store in enumerate(stores):
        inside = np.flatnonzero(store_of == number)
        row_of[inside] = store.rows(table[IMAGE_ID].gather(inside))
    return store_of, row_of
