"""What the challenge's `tbp_lv_*` columns say of a lesion, computed from a crop and its mask.

The relations between columns are those of the real rows (828 rows of the permissive part): area_perim_ratio is
perimeter^2 / area, H and C are the angle and length of (A, B), deltas are inside minus outside, and three scores are
linear in other columns (residual deviation 0.10 of 1.6 for norm_border, 0.15 of 1.9 for norm_color, 0.03 of 0.2 for
deltaLB / deltaLBnorm). How the vendor segments is not published; here the mask is the true one.
"""

import cv2
import numpy as np

from lesionforge.tables import DIAMETER, TBP_NUMBERS, TBP_NUMBERS_AFTER_LOCATION

DRAWN_ELSEWHERE = ("tbp_lv_nevi_confidence", "tbp_lv_x", "tbp_lv_y", "tbp_lv_z")  # not to be seen in the crop
MEASURED = (DIAMETER, *(name for name in TBP_NUMBERS + TBP_NUMBERS_AFTER_LOCATION if name not in DRAWN_ELSEWHERE))

# The vendor's colours have another white point than the JPEGs: on 186 real white-light rows Lext, Aext, Bext follow the
# crop's own L*, a*, b* with correlations 0.996, 0.97, 0.88 at these distances.
VENDOR_A, VENDOR_B = 3.0, 10.0
NEAR_MM, FAR_MM = 0.4, 2.0  # the skin around a lesion is a ring between these distances, our choice
NO_COLOUR_BELOW_MM2 = 1.9  # in the real file smaller lesions have colour scores of 0: all under 1.5 mm2, none over 4
RINGS = 3  # of equal area, for radial_color_std_max
FULL_SCORE = 10.0


def measure(image: np.ndarray, mask: np.ndarray, field_of_view_mm: float) -> dict[str, float]:
    """Measure one lesion.

    Args:
        image: (S, S, 3) uint8 RGB.
        mask: (S, S) bool, one piece, not empty.
        field_of_view_mm: width of the crop.

    Returns:
        a value for each column of MEASURED; lengths in mm, areas in mm2, colours in CIE L*a*b*.
    """
    mm = field_of_view_mm / len(mask)  # per pixel
    shape, (left, top, right, bottom) = cropped(mask, margin=int(FAR_MM / mm) + 1)
    lab = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2LAB)  # L 0-255, a and b plus 128
    reach, near = 2 * int(FAR_MM / mm) + 1, 2 * int(NEAR_MM / mm) + 1
    ring = np.asarray(cv2.dilate(shape, np.ones((reach, reach), np.uint8)))
    ring = ring - np.asarray(cv2.dilate(shape, np.ones((near, near), np.uint8)))
    inner, inner_std = cv2.meanStdDev(lab, mask=shape)
    outer, outer_std = cv2.meanStdDev(lab, mask=ring if ring.any() else (1 - shape if not shape.all() else shape))
    lightness, a, b = vendor_lab(inner)
    lightness_ext, a_ext, b_ext = vendor_lab(outer)

    pixels = lab[shape > 0].astype(np.float32)  # (P, 3)
    delta_lb = float(np.hypot(pixels[:, 0] / 2.55 - lightness_ext, pixels[:, 2] - 128 + VENDOR_B - b_ext).mean())

    axes = shape_of(shape)
    area = len(pixels) * mm**2
    perimeter, diameter, minor = axes["perimeter"] * mm, axes["diameter"] * mm, axes["minor"] * mm
    ratio = perimeter**2 / area
    colour_std, radial_std = 0.0, 0.0
    if area > NO_COLOUR_BELOW_MM2:
        colour_std = float(inner_std[1, 0] + inner_std[2, 0]) / 2
        radial_std = radial_colour_std(shape, pixels)
    return {
        DIAMETER: round(diameter, 2),
        "tbp_lv_A": a,
        "tbp_lv_Aext": a_ext,
        "tbp_lv_B": b,
        "tbp_lv_Bext": b_ext,
        "tbp_lv_C": float(np.hypot(a, b)),
        "tbp_lv_Cext": float(np.hypot(a_ext, b_ext)),
        "tbp_lv_H": float(np.degrees(np.arctan2(b, a))),
        "tbp_lv_Hext": float(np.degrees(np.arctan2(b_ext, a_ext))),
        "tbp_lv_L": lightness,
        "tbp_lv_Lext": lightness_ext,
        "tbp_lv_areaMM2": area,
        "tbp_lv_area_perim_ratio": ratio,
        "tbp_lv_color_std_mean": colour_std,
        "tbp_lv_deltaA": a - a_ext,
        "tbp_lv_deltaB": b - b_ext,
        "tbp_lv_deltaL": lightness - lightness_ext,
        "tbp_lv_deltaLB": delta_lb,
        "tbp_lv_deltaLBnorm": delta_lb / (0.4007 + 0.01691 * lightness_ext),
        "tbp_lv_eccentricity": axes["eccentricity"],
        "tbp_lv_minorAxisMM": minor,
        "tbp_lv_norm_border": float(np.clip(-2.18 + 0.169 * ratio + 7.72 * axes["symm_2axis"], 0, FULL_SCORE)),
        "tbp_lv_norm_color": float(min(1.36 * colour_std + 1.56 * radial_std, FULL_SCORE)),
        "tbp_lv_perimeterMM": perimeter,
        "tbp_lv_radial_color_std_max": radial_std,
        "tbp_lv_stdL": inner_std[0, 0] / 2.55,
        "tbp_lv_stdLExt": outer_std[0, 0] / 2.55,
        "tbp_lv_symm_2axis": axes["symm_2axis"],
        "tbp_lv_symm_2axis_angle": axes["angle"],
    }


def vendor_lab(mean: np.ndarray) -> tuple[float, float, float]:
    """L*, A, B as the vendor gives them, of a mean (3, 1) of OpenCV's 8-bit L*a*b*."""
    return float(mean[0, 0]) / 2.55, float(mean[1, 0]) - 128 + VENDOR_A, float(mean[2, 0]) - 128 + VENDOR_B


def cropped(mask: np.ndarray, margin: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The mask's part within `margin` px of the lesion, (h, w) uint8 of 0 and 1, and its (left, top, right, bottom)."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    left, right = max(left - margin, 0), min(left + width + margin, mask.shape[1])
    top, bottom = max(top - margin, 0), min(top + height + margin, mask.shape[0])
    return np.ascontiguousarray(mask[top:bottom, left:right]).view(np.uint8), (left, top, right, bottom)


def shape_of(shape: np.ndarray) -> dict[str, float]:
    """Perimeter, longest diameter and short side in px; eccentricity of the ellipse of equal moments; symmetry."""
    outlines, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    hull = cv2.convexHull(outline)[:, 0].astype(np.float64)  # (K, 2)
    apart = np.hypot(hull[:, None, 0] - hull[None, :, 0], hull[:, None, 1] - hull[None, :, 1])
    diameter = float(apart.max()) + 1  # a pixel is a square, not a point
    minor = min(cv2.minAreaRect(outline)[1]) + 1
    moments = cv2.moments(shape, binaryImage=True)
    area = moments["m00"]
    xx, yy, xy = moments["mu20"] / area + 1 / 12, moments["mu02"] / area + 1 / 12, moments["mu11"] / area
    spread = float(np.hypot(xx - yy, 2 * xy))
    long, short = (xx + yy + spread) / 2, (xx + yy - spread) / 2
    angle = float(np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) % 180)
    return {
        "perimeter": max(cv2.arcLength(outline, True), 3.0),
        "diameter": diameter,
        "minor": minor,
        "eccentricity": float(np.sqrt(max(1 - short / long, 0.0))),
        "symm_2axis": asymmetry(shape, moments["m10"] / area, moments["m01"] / area, angle, diameter),
        "angle": float(round(angle / 5) * 5 % 180),
    }


def asymmetry(shape: np.ndarray, x: float, y: float, angle: float, diameter: float) -> float:
    """Share of the lesion that finds no partner when it is folded on its long and on its short axis; 0 is symmetric."""
    side = int(diameter) // 2 * 2 + 3  # odd: the centre is a pixel
    turn = cv2.getRotationMatrix2D((x, y), angle, 1.0)
    turn[:, 2] += side // 2 - np.array([x, y])
    level = np.asarray(cv2.warpAffine(shape, turn, (side, side), flags=cv2.INTER_NEAREST), np.uint8)
    unpaired = cv2.countNonZero(level ^ level[::-1]) + cv2.countNonZero(level ^ level[:, ::-1])
    return unpaired / (2 * max(cv2.countNonZero(level), 1))


def radial_colour_std(shape: np.ndarray, pixels: np.ndarray) -> float:
    """The largest deviation of colour (mean of a* and b*) within RINGS rings of equal area. `pixels`: (P, 3)."""
    depth = cv2.distanceTransform(shape, cv2.DIST_L2, 3)[shape > 0]
    colours = pixels[np.argsort(depth, kind="stable"), 1:]  # (P, 2), from the border inwards
    colours = colours - colours.mean(axis=0)  # squares of small numbers keep their digits
    starts = np.arange(RINGS) * len(colours) // RINGS
    sizes = np.diff(starts, append=len(colours))[:, None]
    means = np.add.reduceat(colours, starts) / sizes
    variances = np.add.reduceat(colours**2, starts) / sizes - means**2
    return float(np.sqrt(np.maximum(variances, 0)).mean(axis=1).max())
