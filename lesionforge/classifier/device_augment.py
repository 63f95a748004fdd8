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
MARGIN = max(augment.CLAHE_TILES)  # pixels by which CLAHE may pad an image, at most
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

    blur, noise, clahe, colour = map(np.flatnonzero, (p.blurred, (p.noise > 0) & ~p.blurred, p.clahe > 0, p.recoloured))
    reach = p.kernel.shape[1] // 2
    medians = [np.flatnonzero(p.median > time) for time in range(p.median.max(initial=0))]
    return [
        (filters.blurred, blur, [*indices(mirrored, blur, reach, reach), p.kernel[blur]]),
        (filters.with_noise, noise, noise_windows(p.noise[noise], p.noise_seed[noise], sides[noise], h, w)),
        *((filters.median, rows, indices(repeated, rows, 1, 1)) for rows in medians),
        (
            filters.equalised,
            clahe,
            [*indices(mirrored_101, clahe, 0, MARGIN), *clahe_tiles(p.clahe[clahe], sides[clahe], h, w)],
        ),
        (filters.recoloured, colour, colour_arrays(p.colour[colour], p.mean_weight[colour], sides[colour], h, w)),
    ]


def mirrored(places: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Indices beyond 0..length-1 mirrored at the last pixel's outer edge: cba|abc|cba, OpenCV's BORDER_REFLECT."""
    places = places % (2 * length)
    return np.minimum(places, 2 * length - 1 - places)


def mirrored_101(places: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The same at the last pixel's middle: cb|abc|ba, OpenCV's BORDER_REFLECT_101."""
    period = np.maximum(2 * length - 2, 1)
    places = places % period
    return np.minimum(places, period - places)


def repeated(places: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The last pixel again and again: aa|abc|cc, OpenCV's BORDER_REPLICATE."""
    return np.clip(places, 0, length - 1)


def noise_windows(sigma: np.ndarray, seed: np.ndarray, sides: np.ndarray, h: int, w: int) -> list[np.ndarray]:
    """The window that `augment.with_noise` cuts from its bank: rows (N, h) and columns (N, w) of it, weight (N,)."""
    large = sides.max(axis=1) > augment.NOISE_SIDE  # those cut from a bank laid side by side

    def window(number: np.ndarray, length: np.ndarray, longest: int) -> np.ndarray:
        side = augment.NOISE_SIDE * np.where(large, length // augment.NOISE_SIDE + 2, 1)
        first = number.astype(np.int64) % (side - length + 1)
        return (first[:, None] + np.arange(longest)) % augment.NOISE_SIDE

    weight = sigma / np.float32(augment.NOISE_SIGMA)
    return [window(seed >> 16, sides[:, 1], h), window(seed & 0xFFFF, sides[:, 0], w), weight]


def clahe_tiles(clip: np.ndarray, sides: np.ndarray, h: int, w: int) -> list[np.ndarray]:
    """The arguments of `filters.equalised` after y and x: tiles as OpenCV lays them out."""
    ragged = (sides % augment.CLAHE_TILES[::-1] > 0).any(axis=1)  # one ragged side pads both, as OpenCV does
    tile = sides // augment.CLAHE_TILES[::-1] + ragged[:, None]  # (N, 2) pixels
    area = tile.prod(axis=1)
    limit = np.maximum(clip.astype(np.float64) * area / filters.BINS, 1).astype(np.int64)
    scale = np.float32(filters.BINS - 1) / area.astype(np.float32)

    def along(length: int, side: np.ndarray, num: int, bins: int, start: np.ndarray) -> list[np.ndarray]:
        """First bin of each pixel's tile, of the tile before it and of the tile behind, the weight of that; (N, ...)"""
        own = np.minimum(np.arange(length + MARGIN) // side[:, None], num)
        place = np.arange(length, dtype=np.float32) * (1 / side.astype(np.float32))[:, None] - np.float32(0.5)
        before = np.floor(place)
        around = [np.clip(before + step, 0, num - 1).astype(np.int64) for step in (0, 1)]
        return [*(start[:, None] + bins * index for index in (own, *around)), place - before]

    down, across = augment.CLAHE_TILES
    first = np.arange(len(sides)) * (filters.TILES * filters.BINS)
    row, top, bottom, below = along(h, tile[:, 1], down, (across + 1) * filters.BINS, first)
    column, left, right, behind = along(w, tile[:, 0], across, filters.BINS, 0 * first)
    return [row, column, limit, scale, top, bottom, below, left, right, behind]


def colour_arrays(colour: np.ndarray, mean_weight: np.ndarray, sides: np.ndarray, h: int, w: int) -> list[np.ndarray]:
    """The arguments of `filters.recoloured`: OpenCV's fixed-point matrix, and what the sums over channels add to it."""
    unit = np.float32(2**filters.COLOUR_BITS)
    inside = [np.arange(longest) < sides[:, k, None] for longest, k in ((h, 1), (w, 0))]
    of_sum = unit * draws.LUMA * (mean_weight / sides.prod(axis=1))[:, None]
    return [
        *(array.astype(np.uint8) for array in inside),
        np.rint(colour[:, :, :3] * unit).astype(np.int32),
        (colour[:, :, 3] + np.float32(0.5)) * unit,
        of_sum.astype(np.float32),
    ]


# --- to the output's size


@functools.cache
def centres(size: int) -> np.ndarray:
    """Normalised coordinates of the output's pixels. (S,) float32"""
    return ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)


def to_pixels(geometry: np.ndarray, sides: np.ndarray) -> list[np.ndarray]:
    """From normalised output coordinates to steps of a pixel from the image's outer edge; and its sides in steps.

    Returns:
        (B, 2, 3) and (B, 2), float32.
    """
    half = sides / 2 * STEPS
    matrix = geometry * half[:, :, None]
    matrix[:, :, 2] += half
    return [matrix.astype(np.float32), (2 * half).astype(np.float32)]


def warp(
    images: torch.Tensor,
    matrix: torch.Tensor,
    sides: torch.Tensor,
    centres: torch.Tensor,
    displacement: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sample each image bilinearly where its geometry points; beyond its own edges it is mirrored.

    Places are rounded to steps of a pixel. So they do not depend on the working tensor, whose sides are powers of two.

    Args:
        images: (B, H, W, 3) uint8.
        matrix, sides: as of `to_pixels`. centres: (S,).
        displacement: (B, 2, GRID, GRID) float32, x then y, added to the output's coordinates.

    Returns:
        (B, S, S, 3) uint8, contiguous.
    """
    size, (h, w) = len(centres), images.shape[1:3]
    u, v = centres[None, None, :, None], centres[None, :, None, None]
    if displacement is not None:
        moved = functional.interpolate(displacement, (size, size), mode="bilinear", align_corners=False)
        u, v = u + moved[:, 0, :, :, None], v + moved[:, 1, :, :, None]
    a, b, shift = matrix[:, None, None].unbind(4)  # (B, 1, 1, 2) each
    sides = sides[:, None, None]
    place = torch.addcmul(torch.addcmul(shift, b, v), a, u).remainder_(2 * sides)  # (B, S, S, 2)
    place = sides - place.sub_(sides).abs_().round_()
    place = torch.minimum(place.clamp_(min=STEPS / 2), sides - STEPS / 2)  # no further than the middle of a last pixel

    side = 1 << (max(h, w) - 1).bit_length()
    source = functional.pad(images, (0, 0, 0, side - w, 0, side - h)).permute(0, 3, 1, 2).float()
    place = place.mul_(2 / (side * STEPS)).sub_(1)
    out = functional.grid_sample(source, place, "bilinear", "zeros", align_corners=False)  # (B, 3, S, S)
    return out.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.channels_last).permute(0, 2, 3, 1)


def cut_out(images: torch.Tensor, edges: torch.Tensor) -> None:
    """Blacken a square of each image in place; edges (B, 4): left, top, right, bottom, no area for none."""
    left, top, right, bottom = edges[:, :, None].unbind(1)
    place = torch.arange(images.shape[1], device=images.device)
    down, across = (top <= place) & (place < bottom), (left <= place) & (place < right)  # (B, S)
    images.masked_fill_((down[:, :, None] & across[:, None, :])[..., None], 0)
