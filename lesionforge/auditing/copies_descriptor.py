"""What is kept of an image to find its copies by: a thumbnail, and coarse keypoints with the rings around them.

Keypoints are extrema of differences of Gaussians (Lowe 2004, doi 10.1023/B:VISI.0000029664.99615.94) at coarse scales,
so they move, grow and turn with the image. Around each, grey and red-green values are sampled on rings and kept as
circular harmonics: a rotation turns the phase of order m by m angles, a flip conjugates it, so that one descriptor
serves all rotations and flips, and the phases of two images tell the angle between them.
"""

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 48  # pixels at which keypoints are sought: an image made at 64 px and enlarged still has them
SIGMAS = tuple(2 ** (i / 2) for i in range(7))  # pixels at SIDE: 1 to 8
BETWEEN = 2**0.25  # scale of a difference of two neighbours, over the smaller one's
NUM_OF_SIGN = 4  # keypoints darker than their surroundings, and as many brighter ones
RADII = (0.6, 1.2, 1.9, 2.7, 3.6, 4.6)  # of the rings, in scales of the keypoint
NUM_ANGLES = 32
GREY_ORDERS, RED_GREEN_ORDERS = 6, 4  # circular harmonics kept, the mean (order 0) included
HARMONICS_SCALE = 200.0  # of int8 steps: harmonics of a patch of standard deviation 1 are below 0.64 but for a few

FILL, FAINT = 6.0, 1e-3  # sigma in pixels of what black is filled with; weight of the mean, far from all skin

THUMBNAIL_SIDE = 32  # pixels
FINE, COARSE = 0.7, 2.0  # sigmas in pixels of the thumbnail: finer is noise, coarser is what all lesions share
BLACK = 16  # grey levels: below is beyond the edge of the scan, whose straight border many lesions share
FLAT = 2.0  # grey levels: contrast below this counts as flat
THUMBNAIL_SCALE = 32.0

THUMBNAILS, KEYPOINTS, HARMONICS = "thumbnails", "keypoints", "harmonics"

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
CENTRE_OF_PIXEL = np.array([0.5, 0.5, 0], np.float32)
ANGLES = 2 * np.pi * np.arange(NUM_ANGLES) / NUM_ANGLES
RING_X = (np.array(RADII)[:, None] * np.cos(ANGLES)).astype(np.float32)  # (rings, angles)
RING_Y = (np.array(RADII)[:, None] * np.sin(ANGLES)).astype(np.float32)
NEIGHBOURS = np.ones((3, 3), np.uint8)
REFLECT = cv2.BORDER_REFLECT_101


def describe(images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Copy descriptors, 2 KB an image; each depends on its own image only.

    Args:
        images: (H, W, 3) uint8 RGB, of any sizes; what is not square is made so.

    Returns:
        thumbnails (N, 32, 32) int8: grey, band-passed, its local contrast made equal.
        keypoints (N, 8, 3) float16: x, y and scale in sides of the image; four dark ones, then four bright ones.
        harmonics (N, 8, 60, 2) int8: real and imaginary parts; rings x orders of grey, then of red minus green.
    """
    num_harmonics = len(RADII) * (GREY_ORDERS + RED_GREEN_ORDERS)
    thumbnails = np.zeros((len(images), THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.int8)
    keypoints = np.zeros((len(images), 2 * NUM_OF_SIGN, 3), np.float16)
    harmonics = np.zeros((len(images), 2 * NUM_OF_SIGN, num_harmonics, 2), np.int8)
    for row, image in enumerate(images):
        shrinks = min(image.shape[:2]) > SIDE
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        small = without_black(small.astype(np.float32))
        grey, red_green = small @ GREY, small[..., 0] - small[..., 1]
        thumbnails[row] = thumbnail(grey)
        grey_levels, red_green_levels = blurred(grey), blurred(red_green)
        found = find_keypoints(grey_levels)  # (8, 3)
        keypoints[row] = (found + CENTRE_OF_PIXEL) / SIDE
        rings = np.concatenate(
            [
                ring_harmonics(grey_levels, found, GREY_ORDERS),
                ring_harmonics(red_green_levels, found, RED_GREEN_ORDERS),
            ],
            axis=1,
        )  # (8, 60) complex64
        parts = np.stack([rings.real, rings.imag], axis=-1) * HARMONICS_SCALE
        harmonics[row] = np.clip(np.rint(parts), -127, 127)
    return {THUMBNAILS: thumbnails, KEYPOINTS: keypoints, HARMONICS: harmonics}


def without_black(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 whose black parts are what lies around them, blurred: no border, nothing to correlate."""
    black = (image @ GREY < BLACK).astype(np.float32)
    if not black.any() or black.all():
        return image
    kept = 1 - cv2.dilate(black, NEIGHBOURS)
    if not kept.any():
        return image
    mean = image[kept > 0].mean(0)
    weight = blur(kept, FILL)[..., None]
    fill = (blur(image * kept[..., None], FILL) + FAINT * mean) / (weight + FAINT)
    return np.where(kept[..., None] > 0, image, fill)


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """(32, 32) int8 of (48, 48) float32 grey: fine structure over its local contrast.

    Hair and texture tell one lesion from another; a dark round spot, which correlates with any other, fades.
    """
    small = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    band = blur(small, FINE) - blur(small, COARSE)
    contrast = np.sqrt(blur(band * band, 1.5 * COARSE))
    return np.clip(np.rint(band / (contrast + FLAT) * THUMBNAIL_SCALE), -127, 127).astype(np.int8)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=REFLECT)


def blurred(image: np.ndarray) -> np.ndarray:
    return np.stack([blur(image, sigma) for sigma in SIGMAS])  # (7, 48, 48)


def find_keypoints(levels: np.ndarray) -> np.ndarray:
    """(8, 3) float32 x, y and scale in pixels, the strongest first in each half; where fewer are found, the centre."""
    differences = levels[:-1] - levels[1:]  # (6, 48, 48)
    keypoints = np.full((2, NUM_OF_SIGN, 3), (SIDE / 2, SIDE / 2, SIGMAS[-1]), np.float32)
    for half, values in enumerate((-differences, differences)):
        peak = np.stack([cv2.dilate(value, NEIGHBOURS) for value in values])
        above = np.maximum(np.maximum(peak[:-2], peak[2:]), peak[1:-1])
        inner = values[1:-1]
        level, y, x = np.nonzero((inner >= above) & (inner > 0.01))
        to_edge = np.minimum(np.minimum(x, SIDE - 1 - x), np.minimum(y, SIDE - 1 - y))
        scale = np.take(SIGMAS, level + 1) * BETWEEN
        # near the edge a crop or a rotation changes what the rings see
        strength = inner[level, y, x] * np.clip(to_edge / (3 * scale), 0.15, 1)
        for place, i in enumerate(np.argsort(-strength, kind="stable")[:NUM_OF_SIGN]):
            at = level[i] + 1, y[i], x[i]
            along = [vertex(values, at, axis) for axis in range(3)]
            keypoints[half, place] = x[i] + along[2], y[i] + along[1], scale[i] * 2 ** (along[0] / 2)
    return keypoints.reshape(-1, 3)


def vertex(values: np.ndarray, at: tuple[int, ...], axis: int) -> float:
    """Where between -1/2 and 1/2 the parabola through a peak and its two neighbours has its top."""
    place = at[axis]
    if not 0 < place < values.shape[axis] - 1:
        return 0.0
    before, peak, after = (float(values[(*at[:axis], place + step, *at[axis + 1 :])]) for step in (-1, 0, 1))
    curvature = before - 2 * peak + after
    return min(max((before - after) / (2 * curvature), -0.5), 0.5) if curvature < 0 else 0.0


def ring_harmonics(levels: np.ndarray, keypoints: np.ndarray, num_orders: int) -> np.ndarray:
    """(8, rings x orders) complex64 of a channel around each keypoint, its contrast made equal."""
    rings = np.empty((len(keypoints), *RING_X.shape), np.float32)  # (8, rings, angles)
    for i, (x, y, scale) in enumerate(keypoints):
        level = min(max(round(2 * np.log2(max(0.8 * float(scale), 1))), 0), len(SIGMAS) - 1)
        rings[i] = cv2.remap(
            levels[level], x + RING_X * scale, y + RING_Y * scale, cv2.INTER_LINEAR, borderMode=REFLECT
        )
    rings -= rings.mean((1, 2), keepdims=True)
    rings /= np.sqrt((rings * rings).mean((1, 2), keepdims=True)) + 1  # 1 grey level, so that flat skin stays flat
    return (np.fft.rfft(rings, axis=2)[..., :num_orders] / NUM_ANGLES).astype(np.complex64).reshape(len(keypoints), -1)
