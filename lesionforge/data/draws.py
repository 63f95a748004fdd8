"""What an augmentation does to each image of a batch: drawn for the whole batch at once, by a counter-based generator.

`Parameters` are geometric and in normalised coordinates, as torch's `affine_grid` and `grid_sample` take them
(align_corners=False, padding_mode="reflection"), so that the same numbers can drive a batched version on a device.
"""

from dataclasses import dataclass

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, PIL's and OpenCV's grey
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = np.linalg.inv(TO_YIQ)

GRID = 16  # nodes a side of a displacement field; upsampled bilinearly
CONTROL = 6  # control points a side of an elastic field, cubic B-spline
CELLS = 5  # of the grid distortion, the winner's num_steps


@dataclass(frozen=True)
class Parameters:
    """What to do to each image of a batch; row i is image i."""

    geometry: np.ndarray  # (B, 2, 3) float32: from normalised output (x, y, 1) in [-1, 1] to normalised input, theta
    distorted: np.ndarray  # (B,) bool
    displacement: np.ndarray  # (B, GRID, GRID, 2) float32, added to the output coordinates before `geometry`
    largest_displacement: np.ndarray  # (B,) float32, of the absolute values
    recoloured: np.ndarray  # (B,) bool
    colour: np.ndarray  # (B, 3, 4) float32: on RGB in [0, 255]
    mean_weight: np.ndarray  # (B,) float32: of the image's mean luma, added to all three channels (contrast)
    blurred: np.ndarray  # (B,) bool
    kernel: np.ndarray  # (B, K, K) float32, sum 1: motion or Gaussian blur, pixels of the stored image
    median: np.ndarray  # (B,) int64: passes of a 3 x 3 median; two passes stand for 5 x 5
    noise: np.ndarray  # (B,) float32: standard deviation of 255 levels
    noise_seed: np.ndarray  # (B,) uint32
    clahe: np.ndarray  # (B,) float32: clip limit, 0 for none
    cutout: np.ndarray  # (B, 4) float32: x0, y0, x1, y1 in [0, 1] of the output; no area for none

    def __len__(self) -> int:
        return len(self.geometry)


def uniforms(seed: int, epoch: int, positions: np.ndarray, num: int) -> np.ndarray:
    """`num` numbers in [0, 1) per position, (B, num) float64, that depend on (seed, epoch, position) alone.

    SplitMix64 (Steele, Lea and Flood 2014), a stream per position, started from a hash of the three.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = mixed(np.atleast_1d(np.uint64(seed)) + golden)
        start = mixed(start ^ mixed(np.uint64(epoch) + np.uint64(2) * golden))
        start = mixed(start ^ mixed(positions.astype(np.uint64) + np.uint64(3) * golden))
        numbers = mixed(start[:, None] + np.arange(1, num + 1, dtype=np.uint64) * golden)
    return (numbers >> np.uint64(11)) * 2.0**-53


def mixed(x: np.ndarray | np.uint64) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def draw(
    seed: int,
    epoch: int,
    positions: np.ndarray,
    *,
    transpose: float, horizontal_flip: float, vertical_flip: float,
    brightness_probability: float, brightness: float, contrast_probability: float, contrast: float,
    blur_probability: float, blur_size: float, noise: float,
    distortion_probability: float, optical: float, grid: float, elastic: float,
    clahe_probability: float, clahe: float,
    colour_probability: float, hue: float, saturation: float, value: float,
    affine_probability: float, shift: float, scale: float, rotate: float,
    cutout_probability: float, cutout: float,
) -> Parameters:  # fmt: skip
    """Draw the parameters of a batch; the settings are AugmentConfig's.

    Args:
        positions: (B,) places in the epoch's order. The draw depends on (seed, epoch, place) alone, so an image that
            repeats in an epoch is varied anew, and neither threads nor batches change a pixel.
    """
    num = len(positions)
    num_fixed, num_field = 32, 2 * CONTROL**2
    table = uniforms(seed, epoch, positions, num_fixed + num_field)
    columns = iter(table.T)
    field = 2 * table[:, num_fixed:] - 1

    def happens(probability: float) -> np.ndarray:
        return next(columns) < probability

    def up_to(strength: float, where: np.ndarray) -> np.ndarray:
        """In [-strength, strength), zero elsewhere. (B,)"""
        return np.where(where, strength * (2 * next(columns) - 1), 0.0)

    geometry = symmetries(happens(transpose), happens(horizontal_flip), happens(vertical_flip))
    moved = happens(affine_probability)
    geometry = geometry @ affine(
        np.radians(up_to(rotate, moved)), up_to(scale, moved), 2 * up_to(shift, moved), 2 * up_to(shift, moved)
    )

    distorted = happens(distortion_probability)
    kind = (3 * next(columns)).astype(np.int64)
    displacement = np.zeros((num, GRID, GRID, 2), np.float32)
    for number, field_of, strength in ((0, optical_field, optical), (1, grid_field, grid), (2, elastic_field, elastic)):
        rows = np.flatnonzero(distorted & (kind == number))
        if len(rows):
            displacement[rows] = field_of(strength * field[rows])

    brighter = 1 + up_to(brightness, happens(brightness_probability))
    contrasted = 1 + up_to(contrast, happens(contrast_probability))
    coloured = happens(colour_probability)
    turned, saturated = np.radians(up_to(hue, coloured)), 1 + up_to(saturation, coloured)
    brighter = brighter * (1 + up_to(value, coloured))
    colour, mean_weight = colour_matrix(brighter, contrasted, saturated, turned)

    softened = happens(blur_probability)
    kind, size, angle = (4 * next(columns)).astype(np.int64), next(columns), np.pi * next(columns)
    reach = 1 + (size * ((blur_size - 1) // 2)).astype(np.int64)  # of the kernel: its size is 2 reach + 1
    blurred = softened & (kind < 2)
    kernel = np.zeros((num, int(blur_size), int(blur_size)), np.float32)
    for number, kernel_of in ((0, motion_kernel), (1, gaussian_kernel)):
        rows = np.flatnonzero(blurred & (kind == number))
        if len(rows):
            kernel[rows] = kernel_of(reach[rows], angle[rows], int(blur_size))

    noise_sigma = np.where(softened & (kind == 3), noise * (0.4 + 0.6 * next(columns)), 0)  # the winner's 2.2 to 5.5
    noise_seed = (next(columns) * 2**32).astype(np.uint32)
    clip = np.where(happens(clahe_probability), 1 + (clahe - 1) * next(columns), 0)

    side = np.where(happens(cutout_probability), cutout, 0)
    left, top = next(columns) * (1 - side), next(columns) * (1 - side)

    return Parameters(
        geometry=geometry[:, :2].astype(np.float32),
        distorted=distorted,
        displacement=displacement,
        largest_displacement=np.abs(displacement).max(axis=(1, 2, 3)),
        recoloured=(brighter != 1) | (contrasted != 1) | (saturated != 1) | (turned != 0),
        colour=colour.astype(np.float32),
        mean_weight=mean_weight.astype(np.float32),
        blurred=blurred,
        kernel=kernel,
        median=np.where(softened & (kind == 2), reach, 0),
        noise=noise_sigma.astype(np.float32),
        noise_seed=noise_seed,
        clahe=clip.astype(np.float32),
        cutout=np.stack([left, top, left + side, top + side], axis=1).astype(np.float32),
    )


def symmetries(transposed: np.ndarray, flipped: np.ndarray, upside_down: np.ndarray) -> np.ndarray:
    """The symmetries of the square as matrices on (x, y, 1). (B, 3, 3)"""
    matrix = np.zeros((len(transposed), 3, 3))
    x, y = np.where(flipped, -1.0, 1.0), np.where(upside_down, -1.0, 1.0)
    matrix[:, 0, 0], matrix[:, 1, 1] = np.where(transposed, 0, x), np.where(transposed, 0, y)
    matrix[:, 0, 1], matrix[:, 1, 0] = np.where(transposed, x, 0), np.where(transposed, y, 0)
    matrix[:, 2, 2] = 1
    return matrix


def affine(angle: np.ndarray, scale: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rotation and scaling about the centre, then a shift, as matrices on (x, y, 1). (B, 3, 3)"""
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = (1 + scale) * np.cos(angle)
    matrix[:, 1, 0] = (1 + scale) * np.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    matrix[:, 0, 2], matrix[:, 1, 2], matrix[:, 2, 2] = x, y, 1
    return matrix


NODES = (2 * np.arange(GRID) + 1) / GRID - 1  # a field's node centres, normalised


def optical_field(values: np.ndarray) -> np.ndarray:
    """Radial: a point at distance r from the centre moves by value x r^3; pincushion or barrel. (N, GRID, GRID, 2)"""
    x, y = np.meshgrid(NODES, NODES)
    return values[:, :1, None, None] * ((x**2 + y**2)[..., None] * np.stack([x, y], axis=-1))


def grid_field(values: np.ndarray) -> np.ndarray:
    """Columns and rows of a CELLS x CELLS grid grow and shrink by 1 + value; the edges stay. (N, GRID, GRID, 2)"""
    widths = 1 + values[:, : 2 * CELLS].reshape(-1, 2, CELLS)
    edges = 2 * np.cumsum(widths, axis=2) / widths.sum(axis=2, keepdims=True) - 1
    edges = np.concatenate([np.full((len(edges), 2, 1), -1.0), edges], axis=2)
    place = (NODES + 1) / 2 * CELLS
    hats = np.clip(1 - np.abs(place[:, None] - np.arange(CELLS + 1)), 0, None)  # (GRID, CELLS + 1)
    moved = edges @ hats.T - NODES  # (N, 2, GRID)
    return np.stack(np.broadcast_arrays(moved[:, 0, None, :], moved[:, 1, :, None]), axis=-1)


def elastic_field(values: np.ndarray) -> np.ndarray:
    """A smooth field: a cubic B-spline surface whose control points move by values of the side. (N, GRID, GRID, 2)"""
    away = np.abs((NODES[:, None] + 1) / 2 * (CONTROL - 3) + 1 - np.arange(CONTROL))
    spline = np.where(away < 1, 2 / 3 - away**2 + away**3 / 2, np.clip(2 - away, 0, None) ** 3 / 6)  # (GRID, CONTROL)
    control = 2 * values.reshape(-1, 2, CONTROL, CONTROL)
    return (spline @ control @ spline.T).transpose(0, 2, 3, 1)


def colour_matrix(
    brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, hue: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All colour changes as one matrix on RGB and a weight of the image's mean luma.

    Brightness, contrast and saturation are those of PIL's ImageEnhance; the hue turns in the YIQ plane, which keeps the
    luma: a linear stand-in for the hue of HSV. Nothing is clipped between the steps.
    Factors of 1 and a turn of 0 rad change nothing.

    Returns:
        (B, 3, 4) and (B,): out = colour @ (r, g, b, 1) + weight x mean luma.
    """
    turn = np.zeros((len(hue), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(hue)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(hue), np.sin(hue)
    grey = np.tile(LUMA, (3, 1))
    saturate = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    matrix = (brightness * contrast)[:, None, None] * (FROM_YIQ @ turn @ TO_YIQ @ saturate)
    return np.concatenate([matrix, np.zeros((len(hue), 3, 1))], axis=2), brightness * (1 - contrast)


def motion_kernel(reach: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """A line of 2 reach + 1 pixels through the middle, at an angle. (N, size, size), sum 1"""
    steps = reach[:, None] * np.linspace(-1, 1, 4 * size + 1)  # (N, T)
    pixels = np.arange(size) - size // 2
    x = np.clip(1 - np.abs((steps * np.cos(angle)[:, None])[..., None] - pixels), 0, None)  # (N, T, size)
    y = np.clip(1 - np.abs((steps * np.sin(angle)[:, None])[..., None] - pixels), 0, None)
    kernel = y.transpose(0, 2, 1) @ x
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)


def gaussian_kernel(reach: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """Gaussian of 2 reach + 1 pixels, OpenCV's sigma for that size; the angle is unused. (N, size, size), sum 1"""
    sigma = (0.3 * (reach - 1) + 0.8)[:, None]
    away = np.abs(np.arange(size) - size // 2)
    line = np.where(away <= reach[:, None], np.exp(-0.5 * (away / sigma) ** 2), 0)
    kernel = line[:, :, None] * line[:, None, :]
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)
