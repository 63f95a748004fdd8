"""Augmentation in few passes over few pixels, and the resize of the evaluation.

At the image's own size, where there are fewest pixels: blur or noise, CLAHE on the luma, all colour changes as ONE
3 x 4 matrix. Then flips, transposition, shift, scale, rotation, distortion and resize as ONE bilinear warp; then the
cutout.
"""

import functools
import math
import threading

import cv2
import numpy as np

from lesionforge.config import AugmentConfig
from lesionforge.data.draws import Parameters, draw

__all__ = ["Parameters", "apply", "build_augmentation", "draw", "resize"]

SHRINK_FIRST = 1.5  # an image this many times larger than its target is averaged down before any warp; our choice
CLAHE_TILES = (4, 4)  # 32 px at SLICE-3D's median size, as OpenCV's 8 x 8 on a 256 px image
NOISE_SIDE, NOISE_SIGMA = 512, 32.0  # the noise bank
BORDER = cv2.BORDER_REFLECT  # grid_sample's "reflection"

scratch = threading.local()  # buffers of each thread: memory that is fresh from the system costs more than a warp


def build_augmentation(config: AugmentConfig) -> dict[str, float] | None:
    """The settings that `draw` takes by name, or None where they would change nothing."""
    settings = config.settings()
    switches = ("transpose", "horizontal_flip", "vertical_flip", *(n for n in settings if n.endswith("_probability")))
    return settings if any(settings[name] for name in switches) else None


def resize(image: np.ndarray, out: np.ndarray) -> None:
    """Stretch an image over `out`: area average where it shrinks by more than SHRINK_FIRST, else bilinear.

    Args:
        image: (H, W, 3) uint8.
        out: (S, S, 3) uint8, contiguous; written.
    """
    image = shrunk(image, len(out))
    if image.shape == out.shape:
        out[:] = image
    else:
        cv2.resize(image, out.shape[1::-1], dst=out, interpolation=cv2.INTER_LINEAR)


def apply(image: np.ndarray, parameters: Parameters, i: int, out: np.ndarray) -> None:
    """Augment an image by row `i` of the parameters; with parameters that change nothing this is `resize`.

    Args:
        image: (H, W, 3) uint8 RGB, not changed.
        out: (S, S, 3) uint8, contiguous; written.
    """
    p = parameters
    image = shrunk(image, len(out))
    if p.blurred[i]:
        image = cv2.filter2D(image, -1, p.kernel[i], borderType=BORDER)
    elif p.noise[i]:
        image = with_noise(image, float(p.noise[i]), int(p.noise_seed[i]))
    for _ in range(p.median[i]):
        image = cv2.medianBlur(image, 3)
    if p.clahe[i]:
        image = equalised(image, float(p.clahe[i]))
    if p.recoloured[i]:
        colour = p.colour[i]
        if p.mean_weight[i]:
            red, green, blue, _ = cv2.mean(image)  # its luma by ITU-R BT.601, as draws.LUMA
            colour = colour.copy()
            colour[:, 3] += p.mean_weight[i] * (0.299 * red + 0.587 * green + 0.114 * blue)
        image = cv2.transform(image, colour)

    geometry = p.geometry[i].tolist()
    if p.distorted[i]:
        warp(image, geometry, out, p.displacement[i], float(p.largest_displacement[i]))
    elif is_symmetry(geometry):
        reorient(image, geometry, out)
    else:
        warp(image, geometry, out)

    left, top, right, bottom = (int(edge * len(out) + 0.5) for edge in p.cutout[i].tolist())
    if right > left:
        out[top:bottom, left:right] = 0


def shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """The image itself, or its area average at size x size where a bilinear warp would alias."""
    if max(image.shape[:2]) <= SHRINK_FIRST * size:
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def with_noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Add Gaussian noise: a window of the bank at a place that the seed names, scaled."""
    height, width = image.shape[:2]
    if max(height, width) > NOISE_SIDE:
        bank = np.tile(noise_bank(), (height // NOISE_SIDE + 2, width // NOISE_SIDE + 2, 1))
    else:
        bank = noise_bank()
    top = (seed >> 16) % (bank.shape[0] - height + 1)
    left = (seed & 0xFFFF) % (bank.shape[1] - width + 1)
    weight = sigma / NOISE_SIGMA
    return cv2.addWeighted(image, 1.0, bank[top : top + height, left : left + width], weight, -128 * weight)


@functools.cache
def noise_bank() -> np.ndarray:
    """(NOISE_SIDE, NOISE_SIDE, 3) uint8, Gaussian about 128 with NOISE_SIGMA; always the same."""
    generator = np.random.Generator(np.random.Philox(key=0))
    noise = generator.normal(128, NOISE_SIGMA, (NOISE_SIDE, NOISE_SIDE, 3))
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8)


def equalised(image: np.ndarray, clip_limit: float) -> np.ndarray:
    """CLAHE on the luma; all three channels move by what the luma moves, so the chroma stays."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    wanted = cv2.createCLAHE(clip_limit, CLAHE_TILES).apply(luma)
    image = cv2.add(image, cv2.cvtColor(cv2.subtract(wanted, luma), cv2.COLOR_GRAY2RGB))
    return cv2.subtract(image, cv2.cvtColor(cv2.subtract(luma, wanted), cv2.COLOR_GRAY2RGB))


def is_symmetry(geometry: list[list[float]]) -> bool:
    """Whether a geometry only flips and transposes."""
    (a, b, x), (c, d, y) = geometry
    return x == 0 and y == 0 and abs(a) == abs(d) and abs(b) == abs(c) and {abs(a), abs(b)} == {0.0, 1.0}


def reorient(image: np.ndarray, geometry: list[list[float]], out: np.ndarray) -> None:
    """Resize, then flip and transpose without touching a value."""
    (a, b, _), (c, d, _) = geometry
    flipped, upside_down = a + b < 0, c + d < 0
    if not (b or flipped or upside_down):
        resize(image, out)
        return
    straight = buffer("straight", out.shape, np.uint8)
    resize(image, straight)
    if flipped or upside_down:
        code = -1 if flipped and upside_down else int(flipped)
        straight = cv2.flip(straight, code, dst=buffer("flipped", out.shape, np.uint8) if b else out)
    if b:
        cv2.transpose(straight, dst=out)


def warp(
    image: np.ndarray,
    geometry: list[list[float]],
    out: np.ndarray,
    displacement: np.ndarray | None = None,
    largest: float = 0.0,
) -> None:
    """Sample the image bilinearly where the geometry points; beyond its edge it is mirrored.

    Two things make this twice as fast as the plain call: four channels, which OpenCV loads as one number, and a
    mirrored border that is really there, as wide as the geometry needs.
    """
    size = len(out)
    height, width = image.shape[:2]
    (a, b, x), (c, d, y) = geometry
    a, b, x = a * width / 2, b * width / 2, (x + 1) * width / 2 - 0.5  # to pixels of the image
    c, d, y = c * height / 2, d * height / 2, (y + 1) * height / 2 - 0.5
    reach_x, reach_y = (1 + largest) * (abs(a) + abs(b)), (1 + largest) * (abs(c) + abs(d))
    pad = math.ceil(max(0, reach_x - x, x + reach_x - width, reach_y - y, y + reach_y - height)) + 2
    source = cv2.copyMakeBorder(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), pad, pad, pad, pad, BORDER)
    x, y = x + pad, y + pad

    warped = buffer("warped", (size, size, 4), np.uint8)
    if displacement is None:
        first = 1 / size - 1  # the normalised coordinate of output pixel 0
        matrix = np.array(
            [[a * 2 / size, b * 2 / size, x + (a + b) * first], [c * 2 / size, d * 2 / size, y + (c + d) * first]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(source, matrix, (size, size), dst=warped, flags=flags, borderMode=cv2.BORDER_CONSTANT)
    else:
        points, places = buffer("points", (size, size, 2), np.float32), buffer("places", (size, size, 2), np.float32)
        cv2.resize(displacement, (size, size), dst=points, interpolation=cv2.INTER_LINEAR)
        cv2.add(points, normalised_grid(size), dst=points)
        cv2.transform(points, np.array([[a, b, x], [c, d, y]]), dst=places)
        cv2.remap(  # type: ignore[call-overload]  # the stubs know no single map; an empty second one gives wrong pixels
            source, places, None, cv2.INTER_LINEAR, dst=warped, borderMode=cv2.BORDER_CONSTANT
        )
    cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)


@functools.cache
def normalised_grid(size: int) -> np.ndarray:
    """(size, size, 2) float32: x and y of the pixel centres in [-1, 1]."""
    centres = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    return np.stack(np.meshgrid(centres, centres), axis=-1)


def buffer(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Memory of this thread that keeps no value from one call to the next."""
    array = getattr(scratch, name, None)
    if array is None or array.shape != shape:
        array = np.empty(shape, dtype)
        setattr(scratch, name, array)
    return array
