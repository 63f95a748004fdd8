"""Estimated lesion masks of real crops, which have no true ones: the compact piece in the middle that is unlike skin.

The method, its numbers chosen by us on phantom lesions, where the truth is known (tests/test_lesion_mask.py):

1. hairs darker than skin are closed (morphological closing), and what is left of them and of noise is median-blurred;
2. the skin is a plane in each CIE L*a*b* channel, fitted to the border of the crop, so that shading is no lesion;
   border pixels far from a first guess (a second lesion, hair, cloth) are left out;
3. how much of a lesion a pixel is: its difference from the skin, projected on the line that parts the middle of the
   crop from the skin best (Fisher's discriminant: crops are made round a lesion);
4. of the pieces above each of a row of thresholds, the one is taken that has the sharpest edge for its size, is compact
   and lies in the middle; its rim is smoothed and its holes are filled.
"""

import cv2
import numpy as np

SIDE = 128  # px: every crop is segmented at this size, so that the kernels below have one meaning
HAIR, NOISE = 5, 5  # px: widest hair that is closed, median
BORDER = 0.09  # of the side: width of the frame that is taken for skin
FAR_FROM_FIT = 1.5  # medians of the residual: border pixels beyond are no skin
MIDDLE, NEAR_MIDDLE = 0.03, 0.12  # of the side, sigma: what is lesion for sure; how fast a piece loses by its distance
NUM_THRESHOLDS = 16
FAINTEST = 0.5  # CIE L*a*b* units: fainter is rounding
OPEN, EDGE, CLOSE = 3, 5, 5  # px: specks that go, width of both sides of an edge, notches that are closed
SMALLEST = 0.002  # of the crop: a smaller piece is a speck


def estimate_mask(image: np.ndarray) -> np.ndarray:
    """Estimate where the lesion of a lesion-centred crop is.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) bool, one piece without holes; all False where nothing stands out from the skin.
    """
    height, width = image.shape[:2]
    shrinks = height * width > SIDE * SIDE
    crop = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    piece = best_piece(unlikeness(np.asarray(crop)))
    margin = CLOSE
    smooth = cv2.morphologyEx(np.pad(piece, margin), cv2.MORPH_CLOSE, disc(CLOSE))[margin:-margin, margin:-margin]
    outlines, _ = cv2.findContours(np.ascontiguousarray(smooth), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(piece), outlines, -1, (1,), cv2.FILLED)
    return fit_mask(np.asarray(filled) > 0, height, width)


def fit_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask at another size, (height, width) bool: a pixel belongs to it where half of it does."""
    shrinks = height * width < mask.size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(mask.astype(np.float32), (width, height), interpolation=interpolation)) >= 0.5


def unlikeness(image: np.ndarray) -> np.ndarray:
    """How much of a lesion each pixel is, (S, S) float32 from 0, in CIE L*a*b* units. image: (S, S, 3) uint8 RGB."""
    hairless = cv2.medianBlur(cv2.morphologyEx(image, cv2.MORPH_CLOSE, disc(HAIR)), NOISE)
    lab = cv2.cvtColor(hairless.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    side = len(lab)
    colour = np.asarray(lab, np.float64).reshape(-1, 3)  # (S * S, 3)
    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    place = np.stack([np.ones_like(across), across, down], axis=-1).reshape(-1, 3)
    frame = int(np.ceil(BORDER * side))
    is_border = np.ones((side, side), bool)
    is_border[frame:-frame, frame:-frame] = False
    skin = border = np.flatnonzero(is_border)

    expected = np.broadcast_to(np.median(colour[border], axis=0), colour.shape)
    for _ in range(2):
        residual = np.linalg.norm(colour[border] - expected[border], axis=1)
        skin = border[residual <= FAR_FROM_FIT * max(float(np.median(residual)), 1e-6)]
        expected = place @ np.linalg.lstsq(place[skin], colour[skin], rcond=None)[0]
    unlike = colour - expected

    middle = near_middle(side, MIDDLE).ravel()
    lesion = middle @ unlike / middle.sum()
    spread = np.cov(unlike[skin].T) + np.eye(3)  # one unit: what JPEG and rounding alone give
    direction = np.linalg.solve(spread, lesion)
    direction /= max(float(np.linalg.norm(direction)), 1e-9)
    return np.maximum(unlike @ direction, 0.0).reshape(side, side).astype(np.float32)


def near_middle(side: int, sigma: float) -> np.ndarray:
    """(side, side) float64, 1 in the middle, a Gaussian of `sigma` of the side."""
    fall = np.exp(-0.5 * (np.linspace(-0.5, 0.5, side) / sigma) ** 2)
    return np.outer(fall, fall)


def best_piece(unlike: np.ndarray) -> np.ndarray:
    """The piece most like a lesion, (S, S) uint8 of 0 and 1; all 0 where there is none. unlike: (S, S) float32."""
    side = len(unlike)
    weight, centre = near_middle(side, NEAR_MIDDLE), slice(side // 4, -side // 4)
    lowest, highest = float(np.median(unlike)), float(np.quantile(unlike[centre, centre], 0.999))
    best, best_score = np.zeros(unlike.shape, np.uint8), 0.0
    if highest < FAINTEST:
        return best
    for threshold in np.linspace(lowest, highest, NUM_THRESHOLDS + 2)[1:-1]:
        above = cv2.morphologyEx((unlike > threshold).astype(np.uint8), cv2.MORPH_OPEN, disc(OPEN))
        count, labels = cv2.connectedComponents(above, connectivity=4)
        areas = np.bincount(labels.ravel(), minlength=count)
        in_middle = np.bincount(labels.ravel(), weight.ravel(), count)
        in_middle[0] = 0.0  # what is below the threshold
        in_middle[areas < SMALLEST * side**2] = 0.0
        chosen = int(in_middle.argmax())
        if not in_middle[chosen]:
            continue
        piece = (labels == chosen).astype(np.uint8)
        outside = unlike[np.asarray(cv2.dilate(piece, disc(EDGE))) > piece]
        inside = unlike[np.asarray(cv2.erode(piece, disc(EDGE))) < piece]
        if not (len(outside) and len(inside)):
            continue
        outlines, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        area, perimeter = float(areas[chosen]), max(cv2.arcLength(outlines[0], True), 1.0)
        compactness = min(1.0, 4 * np.pi * area / perimeter**2)  # 1 of a disc
        sharpness = float(inside.mean() - outside.mean())
        score = sharpness * np.sqrt(area * compactness) * in_middle[chosen] / area
        if score > best_score:
            best, best_score = piece, score
    return best


def disc(diameter: int) -> np.ndarray:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter)))
