"""`augment.apply` for a whole batch at once, on the device where the images lie, from the same parameters.

Each stage takes the rows that need it and rounds to uint8 where OpenCV does, so the pixels are those of the CPU within
a level or two. No stage waits for the device: what steers it is known on the host and goes over in one copy.

In the shapes B is the batch, N the rows of a stage, H and W are the working tensor's sides, S is the output's.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from lesionforge.classifier import device_filters as filters
from lesionforge.data import augment, draws
from lesionforge.data.draws import Parameters

ALIGNMENT = 16  # bytes
STEPS = 2**12  # steps of a pixel in which places are counted: then float32 holds them exactly in any working tensor

Stage = tuple[Callable[..., torch.Tensor], np.ndarray, list[np.ndarray]]  # filter, rows, arrays (N, ...) for them


def augmented(
    images: torch.Tensor, height: np.ndarray, width: np.ndarray, parameters: Parameters | None, size: int
) -> torch.Tensor:
    """Augment image b by row b of the parameters; without any, resize it as `augment.resize`.

    Args:
        images: (B, H, W, 3) uint8 RGB, each image after `augment.shrunk` in the upper left corner; what lies beyond it
            is arbitrary. The contents are lost.
        height, width: (B,) of each image.
        size: of the output.

    Returns:
        (B, S, S, 3) uint8, on the device of the images.
    """
    sides = np.stack([width, height], axis=1).astype(np.int64)  # x first, as in all geometry
    if parameters is None:
        still = np.tile(np.eye(2, 3, dtype=np.float32), (len(sides), 1, 1))
        return warp(images, *upload([*to_pixels(still, sides), centres(size)], images.device))

    p = parameters
    stages = [stage for stage in filter_stages(p, sides, *images.shape[1:3]) if len(stage[1])]
    edges = np.floor(p.cutout.astype(np.float64) * size + 0.5).astype(np.int32)  # left, top, right, bottom
    geometry = [*to_pixels(p.geometry, sides), centres(size)]
    if p.distorted.any():
        geometry.append(p.displacement.transpose(0, 3, 1, 2))
    at = iter(upload([*(a for _, rows, given in stages for a in (rows, *given)), edges, *geometry], images.device))

    for function, _, given in stages:
        rows, *there = (next(at) for _ in range(1 + len(given)))
        images.index_copy_(0, rows, function(images[rows], *there))
    cutout = next(at)
    out = warp(images, *at)
    if (edges[:, 2] > edges[:, 0]).any():
        cut_out(out, cutout)
    return out


def upload(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """The arrays on a device, by one copy that nobody waits for; a copy each would cost more than their use."""
    starts = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)]).tolist()
    packed = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, array in zip(starts, arrays, strict=False):
        packed.numpy()[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = packed.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(torch_type(array.dtype)).view(array.shape)
        for start, array in zip(starts, arrays, strict=False)
    ]


@functools.cache
def torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


# --- filters


def filter_stages(p: Parameters, sides: np.ndarray, h: int, w: int) -> list[Stage]:
    """The filters in the order of `augment.apply`, for a working tensor of h x w."""

    def indices(border: Callable[..., np.ndarray], rows: np.ndarray, before: int, behind: int) -> list[np.ndarray]:
        """(N, h + before + behind) and (N, w + before + behind) int64: y and x with a border."""
        y, x = np.arange(-before, h + behind), np.arange(-before, w + behind)
        return [border(y, sides[rows, 1:]), border(x, sides[rows, :1])]

    blur, noise, clahe, colour = map(
        np.flatnonzero, (p.blurred, (p.noise > 0) & ~p.blurred, p.clahe > 0, p.recoloured)
    )
    reach = p.kernel.shape[1] // 2
    medians = [np.flatnonzero(p.median > time) for time in range(p.median.max(initial=0))]
    down, across = augment.CLAHE_TILES
    tiles, num_tiles = clahe_tiles(p.clahe[clahe], sides[clahe], h, w)
    return [
        (filters.blurred, blur, [*indices(mirrored, blur, reach, reach), p.kernel[blur]]),
        (filters.with_noise, noise, noise_windows(p.noise[noise], p.noise_seed[noise], sides[noise], h, w)),
        *((filters.median, rows, indices(repeated, rows, 1, 1)) for rows in medians),
        (filters.equalised, clahe, [*indices(mirrored_101, clahe, 0, max(down, across)), *tiles]),
        (filters.recoloured, colour, colour_arrays(p.colour[colour], p.mean_weight[colour], sides[colour], h, w)),
    ]
