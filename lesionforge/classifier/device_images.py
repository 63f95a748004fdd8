"""`cache: device`: the decoded images of a table as bytes on the device, and batches that are cut and augmented there.

The same numbers as in `data.loader` draw the same augmentation, so both give the same pixels within rounding; nothing
but a few kilobytes of parameters goes from the host to the device in a step.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import polars as pl
import torch

from lesionforge.classifier.device_augment import augmented, upload
from lesionforge.data import augment
from lesionforge.data.draws import Parameters
from lesionforge.data.loader import locate, places_of, read_image
from lesionforge.data.store import Store
from lesionforge.engine.inference import DeviceBatch
from lesionforge.errors import BadInput
from lesionforge.tables import HEIGHT, IMAGE_ID, WIDTH

CHUNK = 64 * 2**20  # bytes that are decoded on the host before they go over together
GIB = 2**30
KEPT_FREE = 2 * GIB  # for the model and its activations; our choice, small models need less and large ones more


class DeviceImages:
    """Decoded images of a table on a device, back to back, each at its size after `augment.shrunk`.

    pixels: (total, 3) uint8 RGB on the device; on the host offset (N,) int64, the first pixel of an image in it, and
    height, width (N,) int64.
    """

    def __init__(self, pixels: torch.Tensor, height: np.ndarray, width: np.ndarray, image_size: int) -> None:
        self.pixels, self.image_size = pixels, image_size
        self.height, self.width = height.astype(np.int64), width.astype(np.int64)
        self.offset = offsets(height, width)[:-1]

    def __len__(self) -> int:
        return len(self.offset)

    def batch(self, positions: np.ndarray, parameters: Parameters | None) -> torch.Tensor:
        """Images of the table at image_size, augmented by the rows of the parameters, or only resized.

        Args:
            positions: (B,) int64, into the table; may repeat.

        Returns:
            (B, S, S, 3) uint8, on the device.
        """
        height, width = self.height[positions], self.width[positions]
        y = np.minimum(np.arange(height.max(initial=1)), height[:, None] - 1)
        x = np.minimum(np.arange(width.max(initial=1)), width[:, None] - 1)
        row, column = upload([self.offset[positions, None] + width[:, None] * y, x], self.pixels.device)
        place = row[:, :, None] + column[:, None, :]  # (B, H, W)
        return augmented(self.pixels[place], height, width, parameters, self.image_size)


def load_device_images(
    stores: Sequence[Store],
    table: pl.DataFrame,
    image_size: int,
    device: torch.device,
    num_threads: int,
    advance: Callable[[int], None] = lambda count: None,
) -> DeviceImages:
    """Decode the images of a table by threads and put them on the device.

    Args:
        stores: what the table's column `store` counts; one store needs no such column.
        advance: is told how many more images are there.

    Raises:
        BadInput: an id that its store does not hold, an image that cannot be decoded or is not of the size its store
            says, or a device without room for all of them.
    """
    store_of, row_of = locate(stores, table)
    height, width = np.zeros(table.height, np.int64), np.zeros(table.height, np.int64)
    for number, store in enumerate(stores):
        inside = np.flatnonzero(store_of == number)
        sizes = store.samples([WIDTH, HEIGHT])[row_of[inside]]
        height[inside], width[inside] = sizes[HEIGHT].to_numpy(), sizes[WIDTH].to_numpy()
    stored = np.stack([height, width], axis=1)
    large = np.maximum(height, width) > augment.SHRINK_FIRST * image_size
    height, width = np.where(large, image_size, height), np.where(large, image_size, width)

    offset = offsets(height, width)
    if device.type == "cuda":
        require_room(3 * int(offset[-1]), torch.cuda.mem_get_info(device)[0], table.height, str(device))
    pixels = torch.empty((int(offset[-1]), 3), dtype=torch.uint8, device=device)

    def decode(position: int, out: np.ndarray) -> None:
        """Into (pixels, 3) uint8."""
        store, image_id = stores[store_of[position]], table[IMAGE_ID][position]
        image = read_image(store, int(row_of[position]), image_id)
        if image.shape[:2] != tuple(stored[position]):
            raise BadInput(
                f"{image_id} in {store.path}: {image.shape[1]} x {image.shape[0]} pixels, expected "
                f"{stored[position][1]} x {stored[position][0]} by its samples table; prepare the store again"
            )
        out[:] = augment.shrunk(image, image_size).reshape(-1, 3)

    with ThreadPoolExecutor(num_threads, thread_name_prefix="loader") as threads:
        start = 0
        while start < table.height:
            end = max(int(np.searchsorted(offset, offset[start] + CHUNK // 3, side="right")) - 1, start + 1)
            chunk = torch.empty(
                (int(offset[end] - offset[start]), 3), dtype=torch.uint8, pin_memory=device.type == "cuda"
            )
            pieces = np.split(chunk.numpy(), offset[start + 1 : end] - offset[start])
            list(threads.map(decode, range(start, end), pieces))
            pixels[offset[start] : offset[end]] = chunk.to(device)
            advance(end - start)
            start = end
    return DeviceImages(pixels, height, width, image_size)


def offsets(height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Where each image begins, in pixels, and after them the end of the last. (N + 1,) int64"""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(height.astype(np.int64) * width)])


def require_room(needed: int, free: int, num_images: int, device: str) -> None:
    """Refuse more bytes than a device has free beside the model.

    Raises:
        BadInput: with both in GiB, and the cure.
    """
    if needed > free - KEPT_FREE:
        raise BadInput(
            f"cache: device: {num_images:,} decoded images are {needed / GIB:.1f} GiB; {device} has "
            f"{free / GIB:.1f} GiB free, of which {KEPT_FREE / GIB:.0f} are kept for the model; "
            "use --hardware.cache memory"
        )


def device_batches(
    images: DeviceImages,
    targets: np.ndarray,
    order: np.ndarray,
    batch_size: int,
    augmentation: Mapping[str, float] | None,
    seed: int,
    epoch: int,
    first_batch: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[DeviceBatch]:
    """The batches of one epoch from `first_batch` on, as `loader.load_batches` makes them.

    Args:
        targets: (N,) of the table, NaN where unknown.
        order: positions into the table for the whole epoch.
        batch_size: of all processes together.
        share: (k, n) gives the k-th of n contiguous parts of each batch, as the loader does.
    """
    order, device = np.asarray(order, np.int64), images.pixels.device

    def make(number: int) -> DeviceBatch:
        places = places_of(number, batch_size, len(order), share)
        positions = order[places]
        drawn = None if augmentation is None else augment.draw(seed, epoch, places, **augmentation)
        (there,) = upload([targets[positions].astype(np.float32)], device)
        return DeviceBatch(images.batch(positions, drawn), there, positions)

    numbers = range(first_batch, -(-len(order) // batch_size))
    yield from made_ahead(make, numbers, device) if device.type == "cuda" else map(make, numbers)


def made_ahead(
    make: Callable[[int], DeviceBatch], numbers: Iterable[int], device: torch.device
) -> Iterator[DeviceBatch]:
    """Batches made one ahead by a thread, on a stream of their own: while the training waits for the step in hand."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # until the corpus is there

    def make_there(number: int) -> tuple[DeviceBatch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return make(number), stream.record_event()

    def arrived(future: Future[tuple[DeviceBatch, torch.cuda.Event]]) -> DeviceBatch:
        batch, made = future.result()
        here = torch.cuda.current_stream(device)
        here.wait_event(made)
        for tensor in (batch.images, batch.targets):
            tensor.record_stream(here)  # its memory is not given away while a step may still read it
        return batch

    thread = ThreadPoolExecutor(1, thread_name_prefix="augment")
    coming: deque[Future[tuple[DeviceBatch, torch.cuda.Event]]] = deque()
    try:
        for number in numbers:
            coming.append(thread.submit(make_there, number))
            if len(coming) > 1:
                yield arrived(coming.popleft())
        while coming:
            yield arrived(coming.popleft())
    finally:
        thread.shutdown(cancel_futures=True)
