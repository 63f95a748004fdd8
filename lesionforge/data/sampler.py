"""In which order a training epoch sees the images of its mix. No state: every order is a function of (seed, epoch).

Images are walked through in permutations laid end to end; an epoch is a window of that walk, and the next epoch goes on
where it ended. So every image is seen before one comes again, however long an epoch is. A sampler that draws as many
benign images as there are malignant ones, once, and stays with them (a known fault of public code) cannot happen.
"""

from collections.abc import Iterable

import numpy as np

from lesionforge.errors import BadInput

SHUFFLE, MALIGNANT, BENIGN, TOGETHER = 0, 1, 2, 3  # which walk; each has random numbers of its own
BLOCK = 65_536  # our choice: short permutations are drawn in blocks of about this many numbers, for speed only


def shuffle_order(num_images: int, num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Positions 0..num_images-1 in shuffled order; with num_samples == num_images each exactly once.

    Returns:
        int64  # (num_samples,)
    """
    if num_images < 1 or num_samples < 1:
        raise BadInput(f"an epoch of {num_samples:,} samples from {num_images:,} images; both must be at least 1")
    return walk(num_images, epoch * num_samples, num_samples, [seed, SHUFFLE])


def balanced_order(targets: np.ndarray, num_samples: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Positions such that each batch is exactly half malignant, half benign.

    Malignant and benign alternate, so every even part of a batch is balanced too: a micro-batch, or the contiguous
    slice of one of n processes wherever the batch size is a multiple of 2 n.
    Over epochs, every benign image comes before one repeats; the same holds for malignant ones, many times an epoch.

    Args:
        targets: 0 or 1  # (N,)
        num_samples: length of the epoch; an odd number is rounded up to an even one.

    Returns:
        int64  # (num_samples,), malignant at even places

    Raises:
        BadInput: an odd batch size, or a class without images.
    """
    if batch_size < 2 or batch_size % 2:
        raise BadInput(
            f"balanced batches are half malignant, half benign: the batch size must be even, found {batch_size}"
        )
    malignant, benign = np.flatnonzero(targets == 1), np.flatnonzero(targets == 0)
    if not len(malignant) or not len(benign):
        raise BadInput(
            f"balanced batches need both classes; the mix holds {len(malignant):,} malignant and {len(benign):,} benign"
        )
    half = (num_samples + 1) // 2
    order = np.empty(2 * half, np.int64)
    order[0::2] = malignant[walk(len(malignant), epoch * half, half, [seed, MALIGNANT])]
    order[1::2] = benign[walk(len(benign), epoch * half, half, [seed, BENIGN])]
    return order


def fresh_benign_order(
    targets: np.ndarray, benign_per_malignant: int, seed: int, epoch: int, num_samples: int | None = None
) -> np.ndarray:
    """Every malignant image once and `benign_per_malignant` times as many benign ones, shuffled together.

    The benign images are other ones in each epoch: over epochs, all of them come before one repeats.

    Args:
        targets: 0 or 1  # (N,)
        num_samples: length of the epoch, where whole batches need another one: such epochs are laid end to end and cut
            anew, so what one leaves over comes first in the next. None takes the epochs as they are.

    Returns:
        int64  # (num_samples,), else (fresh_benign_length(targets, benign_per_malignant),)

    Raises:
        BadInput: a class without images.
    """
    malignant, benign = np.flatnonzero(targets == 1), np.flatnonzero(targets == 0)
    length = fresh_benign_length(targets, benign_per_malignant)
    num_samples = length if num_samples is None else num_samples
    first, start = divmod(epoch * num_samples, length)
    num_epochs = (start + num_samples - 1) // length + 1  # uncut ones that this one has a part of
    num_fresh = length - len(malignant)
    fresh = benign[walk(len(benign), first * num_fresh, num_epochs * num_fresh, [seed, BENIGN])]
    uncut = [
        np.random.default_rng([seed, TOGETHER, first + i]).permutation(np.concatenate([malignant, images]))
        for i, images in enumerate(np.split(fresh, num_epochs))
    ]
    return np.concatenate(uncut)[start : start + num_samples]


def fresh_benign_length(targets: np.ndarray, benign_per_malignant: int) -> int:
    """Images in each uncut epoch of `fresh_benign_order`."""
    num_malignant, num_benign = int((targets == 1).sum()), int((targets == 0).sum())
    if not num_malignant or not num_benign:
        raise BadInput(
            f"fresh benign images for each malignant one need both classes; the mix holds {num_malignant:,} malignant "
            f"and {num_benign:,} benign"
        )
    return num_malignant * (1 + benign_per_malignant)


def walk(num: int, start: int, length: int, entropy: list[int]) -> np.ndarray:
    """The window [start, start + length) of an endless row of permutations of 0..num-1.

    Returns:
        int64  # (length,)
    """
    per_block = max(1, BLOCK // num)  # permutations
    size = per_block * num
    blocks = range(start // size, (start + length - 1) // size + 1)
    numbers = np.concatenate([permutations(num, per_block, [*entropy, block]) for block in blocks])
    offset = start - blocks[0] * size
    return numbers[offset : offset + length]


def permutations(num: int, times: int, entropy: list[int]) -> np.ndarray:
    rng = np.random.default_rng(entropy)
    return rng.permuted(np.tile(np.arange(num), (times, 1)), axis=1).ravel()  # (times * num,)


def distinct_seen(orders: Iterable[np.ndarray], chosen: np.ndarray) -> tuple[int, int]:
    """(seen, all): how many of the positions where `chosen` is true stand in any of the orders.

    For the log's "saw N of M distinct benign images": `distinct_seen(orders, targets == 0)`.
    """
    seen = np.zeros(len(chosen), bool)
    for order in orders:
        seen[order] = True
    return int((seen & chosen).sum()), int(chosen.sum())
