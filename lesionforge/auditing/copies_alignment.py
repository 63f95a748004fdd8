"""Whether two images show the same skin: laid over each other by what their keypoints say, then correlated.

A pair of keypoints that look alike gives scale and place, the phases of their harmonics give angle and flip. Gauss and
Newton's steps on the thumbnails then make the overlap as alike as it gets (Baker and Matthews 2004, doi
10.1023/B:VISI.0000011205.11775.fd).

A map takes points of the candidate to points of the reference, (x, y) in sides of the image: `(P, 2, 3)` float32.
"""

from typing import NamedTuple

import numpy as np

from lesionforge.auditing.copies_descriptor import (
    GREY_ORDERS,
    NUM_OF_SIGN,
    RADII,
    RED_GREEN_ORDERS,
    THUMBNAIL_SCALE,
    THUMBNAIL_SIDE,
)
from lesionforge.auditing.copies_shortlist import complex_harmonics

SMALLEST_OVERLAP = 0.5  # of either image, our choice: a crop to 75 % of the side leaves 0.56; a smaller one counts less
STILL = 0.05  # contrast of a thumbnail that counts as none
LARGEST_CHANGE = np.array(
    [0.15, 0.12, 0.08, 0.08], np.float32
)  # a step: radians, logarithm of scale, sides of the image
DAMPING = 0.02
NUM_BINS = 64  # angles at which the phases are compared
ORDER_OF = np.concatenate([np.tile(np.arange(num), len(RADII)) for num in (GREY_ORDERS, RED_GREEN_ORDERS)])  # (60,)
TWICE = np.where(ORDER_OF == 0, 1, 2).astype(np.float32)  # a harmonic stands for its conjugate too
PHASES = 2 * np.pi * np.outer(ORDER_OF, np.arange(NUM_BINS)) / NUM_BINS  # (60, bins)
COSINES, SINES = np.cos(PHASES).astype(np.float32), np.sin(PHASES).astype(np.float32)


class Grid(NamedTuple):
    """Points of the candidate's thumbnail at which it is compared."""

    rows: np.ndarray  # (n,) of the flat thumbnail
    x: np.ndarray  # (n,) float32, in sides of the image
    y: np.ndarray


def grid(step: int) -> Grid:
    y, x = (axis.ravel() for axis in np.mgrid[step // 2 : THUMBNAIL_SIDE : step, step // 2 : THUMBNAIL_SIDE : step])
    return Grid(
        y * THUMBNAIL_SIDE + x,
        ((x + 0.5) / THUMBNAIL_SIDE).astype(np.float32),
        ((y + 0.5) / THUMBNAIL_SIDE).astype(np.float32),
    )


EVERY, EVERY_SECOND = grid(1), grid(2)


def likely_pairs(candidates: np.ndarray, references: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of keypoints of one sign that look most alike.

    Args:
        candidates, references: (P, 8, D) float32 of length 1.

    Returns:
        (P, num) int64 keypoint of the candidate; (P, num) of the reference.
    """
    similarity = np.concatenate(
        [
            np.matmul(candidates[:, half], references[:, half].transpose(0, 2, 1)).reshape(len(candidates), -1)
            for half in (slice(0, NUM_OF_SIGN), slice(NUM_OF_SIGN, 2 * NUM_OF_SIGN))
        ],
        axis=1,
    )  # (P, 32)
    best = np.argpartition(-similarity, num - 1, axis=1)[:, :num]
    half, pair = np.divmod(best, NUM_OF_SIGN**2)
    return pair // NUM_OF_SIGN + NUM_OF_SIGN * half, pair % NUM_OF_SIGN + NUM_OF_SIGN * half


def angle_between(candidates: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By what angle, and whether flipped first, the surroundings of keypoints agree best.

    Args:
        candidates, references: (P, 60) complex64.

    Returns:
        (P,) float32 radians; (P,) bool.
    """
    candidates = candidates * TWICE
    agreements = []
    for flipped in (references.conj(), references):  # the conjugate: not flipped
        product = candidates * flipped
        agreements.append(product.real @ COSINES - product.imag @ SINES)  # (P, bins)
    agreement = np.concatenate(agreements, axis=1)
    best = agreement.argmax(1)
    rows, flip, angle = np.arange(len(best)), best >= NUM_BINS, best % NUM_BINS
    start = np.where(flip, NUM_BINS, 0)
    before, after = agreement[rows, start + (angle - 1) % NUM_BINS], agreement[rows, start + (angle + 1) % NUM_BINS]
    curvature = np.minimum(before - 2 * agreement[rows, best] + after, -1e-6)
    between = np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)
    return ((angle + between) * (2 * np.pi / NUM_BINS)).astype(np.float32), flip


def map_between(candidates: np.ndarray, references: np.ndarray, angle: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """(P, 2, 3): the map that takes keypoints (P, 3) to keypoints (P, 3), turned by `angle`."""
    scale = references[:, 2] / candidates[:, 2]
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    out = np.empty((len(angle), 2, 3), np.float32)
    out[:, 0, 0], out[:, 0, 1] = cosine, sine
    out[:, 1, 0], out[:, 1, 1] = np.where(flip, sine, -sine), np.where(flip, -cosine, cosine)
    out[:, :, 2] = references[:, :2] - np.einsum("pij,pj->pi", out[:, :, :2], candidates[:, :2])
    return out


def correlate(
    candidates: np.ndarray, references: np.ndarray, maps: np.ndarray, points: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """How alike the overlaps are.

    Args:
        candidates, references: (P, 32 * 32) float32 thumbnails.
        maps: (P, 2, 3).

    Returns:
        score (P,) float32, at most 1: correlation, times how far the overlap reaches SMALLEST_OVERLAP.
        difference (P, n) float32: candidate less reference, both of mean 0 and length 1, 0 outside the overlap.
    """
    x = (maps[:, 0, :1] * points.x + maps[:, 0, 1:2] * points.y + maps[:, 0, 2:]) * THUMBNAIL_SIDE - 0.5  # (P, n)
    y = (maps[:, 1, :1] * points.x + maps[:, 1, 1:2] * points.y + maps[:, 1, 2:]) * THUMBNAIL_SIDE - 0.5
    last = THUMBNAIL_SIDE - 1
    inside = ((x >= -0.5) & (x <= last + 0.5) & (y >= -0.5) & (y <= last + 0.5)).astype(np.float32)
    np.clip(x, 0, last - 1e-3, out=x)
    np.clip(y, 0, last - 1e-3, out=y)
    left, top = x.astype(np.int32), y.astype(np.int32)
    x -= left
    y -= top
    top *= THUMBNAIL_SIDE
    top += left
    top += (np.arange(len(maps), dtype=np.int32) * THUMBNAIL_SIDE**2)[:, None]
    flat = references.ravel()
    upper, lower = flat[top], flat[top + THUMBNAIL_SIDE]
    upper += (flat[top + 1] - upper) * x
    lower += (flat[top + THUMBNAIL_SIDE + 1] - lower) * x
    upper += (lower - upper) * y
    first, first_norm = centred(candidates[:, points.rows] if points is not EVERY else candidates, inside)
    second, second_norm = centred(upper, inside)
    share = inside.mean(1)
    score = np.einsum("pn,pn->p", first, second) / (first_norm * second_norm)
    overlap = np.minimum(share, share * np.abs(np.linalg.det(maps[:, :, :2])))
    first /= first_norm[:, None]
    second /= second_norm[:, None]
    return score * np.minimum(overlap / SMALLEST_OVERLAP, 1), first - second


def centred(values: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values less their mean inside, 0 outside; and their length, never 0."""
    num = inside.sum(1) + 1e-6
    out = values - (np.einsum("pn,pn->p", values, inside) / num)[:, None]
    out *= inside
    return out, np.sqrt(np.einsum("pn,pn->p", out, out) + (STILL * THUMBNAIL_SCALE) ** 2 * num)


def descent(thumbnails: np.ndarray) -> np.ndarray:
    """What takes a difference to a step of (angle, log scale, x, y): (P, 4, 32 * 32) float32 of (P, 32, 32)."""
    along_y, along_x = (slope * THUMBNAIL_SIDE for slope in np.gradient(thumbnails, axis=(1, 2)))
    x, y = (axis.reshape(1, THUMBNAIL_SIDE, THUMBNAIL_SIDE) - 0.5 for axis in (EVERY.x, EVERY.y))
    slopes = np.stack([x * along_y - y * along_x, x * along_x + y * along_y, along_x, along_y], axis=1)
    slopes = slopes.reshape(len(thumbnails), 4, -1)
    length = np.sqrt(np.square(thumbnails.reshape(len(thumbnails), -1)).sum(1) + 1e-6)
    slopes /= length[:, None, None]
    square = slopes @ slopes.transpose(0, 2, 1)
    damping = DAMPING * np.einsum("pii->pi", square) + 1e-6
    square += damping[:, :, None] * np.eye(4, dtype=np.float32)
    return np.linalg.solve(square, slopes)


def moved(maps: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The maps after a turn, a growth and a shift of the candidate about its centre. change: (P, 4)."""
    scale = np.exp(change[:, 1])
    cosine, sine = scale * np.cos(change[:, 0]), scale * np.sin(change[:, 0])
    turn = np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=1)  # (P, 2, 2)
    shift = change[:, 2:] + 0.5 - turn.sum(2) * 0.5
    out = np.empty_like(maps)
    out[:, :, :2] = maps[:, :, :2] @ turn
    out[:, :, 2] = np.einsum("pij,pj->pi", maps[:, :, :2], shift) + maps[:, :, 2]
    return out


def refined(
    candidates: np.ndarray, references: np.ndarray, maps: np.ndarray, descents: np.ndarray, num_steps: int
) -> np.ndarray:
    """(P,) float32: the best score on the way of `num_steps` steps."""
    best, difference = correlate(candidates, references, maps, EVERY)
    for _ in range(num_steps):
        change = np.einsum("pkn,pn->pk", descents, difference)
        maps = moved(maps, np.clip(change, -LARGEST_CHANGE, LARGEST_CHANGE))
        score, difference = correlate(candidates, references, maps, EVERY)
        best = np.maximum(best, score)
    return best


def pair_maps(
    candidate_harmonics: np.ndarray, reference_harmonics: np.ndarray, from_keypoints: np.ndarray, to: np.ndarray
) -> np.ndarray:
    """(P, 2, 3) maps by pairs of keypoints. harmonics: (P, 60, 2) int8; keypoints: (P, 3) float."""
    angle, flip = angle_between(complex_harmonics(candidate_harmonics), complex_harmonics(reference_harmonics))
    return map_between(from_keypoints.astype(np.float32), to.astype(np.float32), angle, flip)
