"""What is wrong with a generated image by itself: nothing on it, noise, black or burnt-out frames, text, seams of a
collage, more than one lesion.

Every measure is one number whose limit is set on real training images (`calibrate`), so that no taste enters: an image
is dropped where it lies beyond nearly all real ones. The measures are our choice, tried on real lesions with planted
artefacts (tests/test_artefacts.py).
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from lesionforge.data import lesion_mask

SIDE = 128  # px: every image is measured at this size
DARK, BRIGHT = 6, 250  # of 255: a pixel all of whose channels lie beyond is black or burnt out
RIM = 7  # px round an extreme pixel, where JPEG and resizing still ring
STROKE = 7  # px: wider is no stroke of a letter
STROKE_SHARE = 0.01  # of the pixels: what a few letters cover
ALONG = 0.8  # of half a side: how much of it a straight seam steps the same way
FAR_FROM_SKIN, FAINTEST = 3.0, 3.0  # robust deviations of the skin; CIE L*a*b* units: paler is no lesion
MARGIN, INNER = 0.04, 0.7  # of the side; of a piece: what lies more on the rim than this is a neighbour or shading
SMALLEST = 0.004  # of the crop: a smaller piece is a speck

# measure -> (which side of its limit is bad, the reason that a verdict names)
MEASURES = {
    "contrast": ("low", "blank"),
    "extremes": ("high", "black or burnt out"),
    "noise": ("high", "noise"),
    "bright_strokes": ("high", "text or bright strokes"),
    "dark_strokes": ("high", "text or dark strokes"),
    "seam": ("high", "straight seam"),
    "second_lesion": ("high", "several lesions"),
}


def measure(images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The measures of each image, (N,) float64 each. images: (H, W, 3) uint8 RGB, of any sizes."""
    rows = [measure_one(image) for image in images]
    return {name: np.array([row[name] for row in rows], np.float64) for name in MEASURES}


def measure_one(image: np.ndarray) -> dict[str, float]:
    """The measures of an (H, W, 3) uint8 RGB image.

    contrast: standard deviation of the colours, CIE L*a*b* units. extremes: share of black and burnt-out pixels.
    noise: mean distance of the luma from its 3 x 3 median, of 255. *_strokes: mean height of the strongest thin bright
    (dark) structures in the channel where skin and hair show least, of 255. seam: largest step along a straight
    horizontal or vertical line, of 255. second_lesion: how much of a lesion the second piece is, a share of the first.
    """
    shrinks = image.shape[0] * image.shape[1] > SIDE * SIDE
    crop = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    lab = cv2.cvtColor(cv2.medianBlur(crop, 5).astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    is_extreme = np.asarray((crop <= DARK).all(axis=2) | (crop >= BRIGHT).all(axis=2)).astype(np.uint8)  # (S, S)
    rim = np.asarray(cv2.dilate(is_extreme, np.ones((RIM, RIM), np.uint8))) > 0
    return {
        "contrast": float(np.sqrt(lab.astype(np.float64).var(axis=0).sum())),
        "extremes": float(is_extreme.mean()),
        "noise": float(np.abs(luma.astype(np.float32) - cv2.medianBlur(luma, 3)).mean()),
        "bright_strokes": strokes(crop.min(axis=2), cv2.MORPH_TOPHAT),
        "dark_strokes": strokes(crop.max(axis=2), cv2.MORPH_BLACKHAT),
        "seam": max(seam(luma, rim), seam(luma.T, rim.T)),
        "second_lesion": second_lesion(crop),
    }


def strokes(channel: np.ndarray, operation: int) -> float:
    """Mean of the highest STROKE_SHARE of what a morphological hat leaves. channel: (S, S) uint8."""
    thin = cv2.morphologyEx(channel, operation, np.ones((STROKE, STROKE), np.uint8)).ravel()
    count = int(STROKE_SHARE * thin.size)
    return float(np.partition(thin, -count)[-count:].mean())


def seam(luma: np.ndarray, is_left_out: np.ndarray) -> float:
    """Largest step between neighbouring rows that ALONG of a half of them makes in one direction.

    Left out are the rims of black padding, which real crops have too and `extremes` measures.
    """
    step = np.diff(luma.astype(np.float32), axis=0)  # (S - 1, S)
    step[is_left_out[1:] | is_left_out[:-1]] = 0.0
    middle = step.shape[1] // 2
    halves = np.concatenate([step[:, :middle], step[:, middle:]])
    down, up = np.quantile(halves, [1 - ALONG, ALONG], axis=1)
    return float(max(down.max(), -up.min(), 0.0))


def second_lesion(crop: np.ndarray) -> float:
    """Size of the second darkest piece as a share of the first's, 0 where there is one or none.

    Size is area times darkness times roundness. crop: (S, S, 3) uint8 RGB.
    """
    darkness, lowest = darker_than_skin(crop)
    otsu, _ = cv2.threshold(np.clip(4 * darkness, 0, 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    above = (darkness > max(otsu / 4, lowest)).astype(np.uint8)
    count, labels = cv2.connectedComponents(cv2.morphologyEx(above, cv2.MORPH_OPEN, lesion_mask.disc(5)))
    frame = int(MARGIN * SIDE)
    sizes = [0.0, 0.0]
    for label in range(1, count):
        piece = (labels == label).astype(np.uint8)
        area = float(piece.sum())
        if area < SMALLEST * SIDE**2 or piece[frame:-frame, frame:-frame].sum() < INNER * area:
            continue
        outlines, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        roundness = min(1.0, 4 * np.pi * area / max(cv2.arcLength(outlines[0], True), 1.0) ** 2)
        sizes.append(area * float(darkness[labels == label].mean()) * roundness)
    second, first = sorted(sizes)[-2:]
    return second / first if first else 0.0


def darker_than_skin(crop: np.ndarray) -> tuple[np.ndarray, float]:
    """How much darker and redder than the skin each pixel is, (S, S) float64 in L*a*b* units, and what is no lesion.

    The skin is a plane fitted to the paler half, so that two lesions at the border do not count for it.
    """
    hairless = cv2.medianBlur(cv2.morphologyEx(crop, cv2.MORPH_CLOSE, lesion_mask.disc(5)), 5)
    lab = cv2.cvtColor(hairless.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float64)
    paleness = lab[:, 0] - lab[:, 1]
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    place = np.stack([np.ones(SIDE * SIDE), across.ravel(), down.ravel()], axis=1)
    is_skin = paleness >= np.median(paleness)
    for _ in range(3):
        residual = paleness - place @ np.linalg.lstsq(place[is_skin], paleness[is_skin], rcond=None)[0]
        skin = residual[is_skin]
        deviation = 1.4826 * float(np.median(np.abs(skin - np.median(skin)))) + 0.5
        is_skin = np.abs(residual) < 2.5 * deviation
        if is_skin.sum() < len(residual) / 10:
            break
    return np.maximum(-residual, 0.0).reshape(SIDE, SIDE), max(FAR_FROM_SKIN * deviation, FAINTEST)


def calibrate(real: Mapping[str, np.ndarray], false_alarms: float) -> dict[str, float]:
    """A limit for each measure, so that all together drop at most `false_alarms` of these real images.

    All limits cut off the same number of real images, as many as that allows; with too few images for that, a limit is
    their most extreme value.
    """
    num_images = len(next(iter(real.values())))
    for num_beyond in range(int(false_alarms * num_images + 1e-9), -1, -1):
        limits = {}
        for name, (side, _) in MEASURES.items():
            values = np.sort(real[name]) if side == "high" else np.sort(real[name])[::-1]
            limits[name] = float(values[num_images - 1 - num_beyond])
        if np.any(list(beyond(real, limits).values()), axis=0).sum() <= false_alarms * num_images:
            break
    return limits


def beyond(measures: Mapping[str, np.ndarray], limits: Mapping[str, float]) -> dict[str, np.ndarray]:
    """(N,) bool for each measure: whether an image lies beyond its limit."""
    return {
        name: measures[name] > limits[name] if side == "high" else measures[name] < limits[name]
        for name, (side, _) in MEASURES.items()
    }
