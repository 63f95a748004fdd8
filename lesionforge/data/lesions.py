"""Drawing one phantom crop, with the mask of its lesion.

Colour is made as skin makes it: light that melanin and haemoglobin let through. All layers add up in the logarithm of
the light (one 3 x N matrix turns pigment maps into colour), then one exponential makes the picture.

A crop depends on its parameters and its generator alone.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from lesionforge.data.textures import SHAPE_RADIUS, cut, shape_bank, skin_bank

FIELD_OF_VIEW_MM = 15.0  # a SLICE-3D tile shows 15 x 15 mm of skin (Kurtansky 2024); pixels a tile differ

# Log-light lost per unit of pigment in R, G, B: principal directions of log colour on real skin crops (fine: residue
# under 4 px; coarse: 4 to 14 px), measured over 300 crops of the permissive part. The last two are our choice.
FINE = np.array([0.41, 0.58, 0.70], np.float32)
MELANIN = np.array([0.36, 0.60, 0.80], np.float32)
HAEMOGLOBIN = np.array([0.13, 0.66, 0.54], np.float32)
BLUE_GREY = np.array([0.80, 0.50, 0.28], np.float32)  # melanin deep in the dermis
HAIR = np.array([[-0.95], [-1.15], [-1.25]], np.float32)  # dark brown, at full cover


@dataclass(frozen=True, slots=True)
class Skin:
    """What surrounds a lesion. Amplitudes are in log-light."""

    side: int  # px
    lightness: float  # CIE L* a* b* of the skin
    redness: float
    yellowness: float
    kind: int  # row of SKIN_KINDS
    furrows: float
    mottle: float
    flush: float  # uneven blood
    glints: float  # 0-1, wet or oily skin under an oblique light
    gradient: float  # change of light from edge to edge
    vignette: float
    blur: float  # px, standard deviation
    hairs: int
    hair_opacity: float
    pale_hairs: float  # share of them that is white
    neighbours: int
    edge: int  # 0 none, 1 dark background, 2 blue drape, 3 black band: the photograph ends, 4 pen


@dataclass(frozen=True, slots=True)
class Lesion:
    """What one lesion looks like. The first five are what dermatologists count (ABCD and redness)."""

    asymmetry: float  # 0-1
    border: float  # 0-1, irregularity
    variegation: float  # 0-1, of colour
    diameter: float  # mm, longest
    haem: float  # log-light
    melanin: float  # log-light
    blue: float  # log-light
    scale: float  # 0-1, white scale or crust
    elongation: float  # short axis over long axis
    softness: float  # mm, width of the border
    centre: float  # darker (> 0) or paler (< 0) centre
    halo: float  # log-light of redness around it
    x: float  # mm, from the crop's centre
    y: float


def draw_crop(skin: Skin, lesion: Lesion, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one crop.

    Returns:
        the crop, (side, side, 3) uint8 RGB; the lesion's mask, (side, side) bool, one piece, never empty.
    """
    side, scale = skin.side, skin.side / FIELD_OF_VIEW_MM
    light = draw_skin(skin, rng)  # (S, S, 3) log-light
    for _ in range(skin.neighbours):
        draw_lesion(light, neighbour_of(lesion, rng), scale, rng)
    mask = draw_lesion(light, lesion, scale, rng)
    if skin.hairs:
        draw_hairs(light, skin, rng)
    cv2.exp(light, light)
    image = cv2.convertScaleAbs(light, alpha=255.0)  # (S, S, 3) uint8
    if skin.edge:
        mask &= ~draw_edge(image, skin.edge, rng)
    image = cv2.GaussianBlur(image, (0, 0), skin.blur)
    if not mask.any():
        mask[side // 2, side // 2] = True
    return image, mask


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: a crop is too small to share."""
    num_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(num_threads)


def draw_skin(skin: Skin, rng: np.random.Generator) -> np.ndarray:
    """Bare skin in log-light, (S, S, 3) float32."""
    side = skin.side
    angle, zoom = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.25) * 129 / side  # 129 px: median side of real crops
    texture = cut(skin_bank()[skin.kind], side, side, angle, zoom, rng)  # (S, S, 4) furrows, grain, mottle, shade
    base = np.log(rgb_of_lab(skin.lightness, skin.redness, skin.yellowness))
    mixed = np.empty((3, 5), np.float32)
    mixed[:, 0] = skin.furrows * FINE
    mixed[:, 1] = 0.35 * skin.furrows * FINE
    mixed[:, 2] = -skin.mottle * MELANIN
    mixed[:, 3] = -skin.flush * (0.5 * HAEMOGLOBIN + 0.5 * MELANIN)
    mixed[:, 4] = base
    light = cv2.transform(texture, mixed)
    place = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    turn = rng.uniform(0, 2 * math.pi)  # math's numbers are Python's and leave float32 alone, numpy's widen it
    across = (skin.gradient * math.cos(turn)) * place - skin.vignette * place**2
    down = (skin.gradient * math.sin(turn)) * place - skin.vignette * place**2
    shade = across[None, :] + down[:, None]  # (S, S)
    light += shade[..., None]
    if skin.glints > 0:
        shine = np.clip(texture[..., 1] + 0.7 * texture[..., 0] - (2.6 - skin.glints), 0, 1.2)
        light = light * (1 - 0.6 * skin.glints * shine)[..., None]
    return light


def draw_lesion(light: np.ndarray, lesion: Lesion, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Add a lesion to `light` (S, S, 3) in place; returns its mask (S, S) bool. `scale` is in px per mm."""
    side = len(light)
    radius = max(0.42 * lesion.diameter * scale, 2.0)  # the bent border reaches further
    reach = radius * (1.45 if lesion.halo <= 0 else 1.9) + 2
    middle_x, middle_y = 0.5 * side + lesion.x * scale, 0.5 * side + lesion.y * scale
    left, right = max(int(middle_x - reach), 0), min(int(middle_x + reach) + 1, side)
    top, bottom = max(int(middle_y - reach), 0), min(int(middle_y + reach) + 1, side)
    mask = np.zeros((side, side), bool)
    if right - left < 3 or bottom - top < 3:
        return mask
    noise = cut(shape_bank(), right - left, bottom - top, rng.uniform(0, 2 * math.pi), SHAPE_RADIUS / radius, rng)
    bend, notch, grain, patch = cv2.split(noise)  # long, middle, short waves; waves of colour

    angle = rng.uniform(0, math.pi)
    x = (np.arange(left, right, dtype=np.float32) - middle_x) / radius
    y = (np.arange(top, bottom, dtype=np.float32) - middle_y) / radius
    cosine, sine = math.cos(angle), math.sin(angle)
    along = cosine * x[None, :] + sine * y[:, None]
    across = (cosine / lesion.elongation) * y[:, None] - (sine / lesion.elongation) * x[None, :]
    distance = cv2.magnitude(along, across)  # 1 on the border before it is bent
    inside = (1 - distance) + (0.36 * lesion.asymmetry) * bend + (0.19 * lesion.border) * notch
    inside += (0.015 + 0.05 * lesion.border) * grain

    soft = max(lesion.softness * scale, 1.0) / radius
    cover = np.clip(inside / soft + 0.5, 0, 1)
    cover *= cover * (3 - 2 * cover)
    depth = 1 + lesion.centre * (0.5 - np.minimum(distance, 1.2))
    melanin = cover * depth * np.maximum(1 + 0.75 * lesion.variegation * patch + 0.10 * grain, 0.08)
    blood = cover * np.maximum(1 - 0.45 * lesion.variegation * patch + 0.16 * grain + 0.15 * notch, 0.1)
    if lesion.halo > 0:
        blood = lesion.haem * blood + lesion.halo * np.exp(-4 * np.maximum(distance - 0.7, 0) ** 2)
    else:
        blood *= lesion.haem
    grey = cover * np.clip(0.35 + 0.7 * bend - 0.4 * patch, 0, 1.5)
    pigment = np.stack((-MELANIN * lesion.melanin, -HAEMOGLOBIN, -BLUE_GREY * lesion.blue), axis=1)
    box = light[top:bottom, left:right]
    box += cv2.transform(cv2.merge((melanin, blood, grey)), pigment)
    if lesion.scale > 0.05:
        crust = np.clip(0.45 * grain + 0.6 * notch + 0.3 * patch - 1.0 + 1.3 * lesion.scale, 0, 1) * cover
        box *= (1 - 0.55 * crust)[..., None]

    pieces, labels = cv2.connectedComponents((inside > 0).astype(np.uint8), connectivity=4)
    if pieces > 2:
        mask[top:bottom, left:right] = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    else:
        mask[top:bottom, left:right] = labels > 0
    return mask


def neighbour_of(lesion: Lesion, rng: np.random.Generator) -> Lesion:
    """A small benign mole or freckle beside the lesion, often cut by the crop's edge."""
    uniform = rng.random(12).tolist()
    turn, away = 2 * math.pi * uniform[0], 0.5 * lesion.diameter + 1.6 + 6.5 * uniform[1]
    return Lesion(
        asymmetry=0.8 * uniform[2],
        border=0.7 * uniform[3],
        variegation=0.4 * uniform[4],
        diameter=0.7 + 2.6 * uniform[5] ** 2,
        haem=0.03 + 0.5 * uniform[6] ** 16,
        melanin=0.08 + 0.40 * uniform[7] ** 2,
        blue=0.0,
        scale=0.0,
        elongation=0.55 + 0.4 * uniform[8],
        softness=0.5 + 1.2 * uniform[9],
        centre=0.3 * uniform[10],
        halo=0.0,
        x=lesion.x + away * math.cos(turn),
        y=lesion.y + away * math.sin(turn),
    )


def draw_hairs(light: np.ndarray, skin: Skin, rng: np.random.Generator) -> None:
    """Curved hairs that mostly lie one way, dark ones first, pale ones on top."""
    side, number = skin.side, skin.hairs
    start = rng.uniform(-0.15, 1.15, (number, 2)) * side
    order = rng.uniform(0.25, 1.6)  # radians: combed or tangled
    turn = rng.uniform(0, 2 * math.pi) + order * rng.standard_normal(number)
    curl = rng.uniform(0.2, 1.7)
    bend, wave = curl * rng.standard_normal((2, number, 1))
    length = side * rng.uniform(0.3, 1.0) * rng.uniform(0.6, 1.6, number)
    step = np.linspace(0, 1, 10)
    heading = turn[:, None] + bend * step + 0.8 * wave * step**2  # (N, 10)
    points = np.empty((number, 10, 2))
    points[..., 0] = start[:, :1] + np.cumsum(np.cos(heading), 1) * length[:, None] / 10
    points[..., 1] = start[:, 1:] + np.cumsum(np.sin(heading), 1) * length[:, None] / 10
    lines = np.round(points * 16).astype(np.int32)  # 4 fractional bits
    strength = (255 * rng.uniform(0.25, 1.0, number)).astype(int).tolist()
    num_pale = round(skin.pale_hairs * number)
    for chosen, pale in ((range(num_pale, number), False), (range(num_pale), True)):
        if not chosen:
            continue
        drawn = np.zeros((side, side), np.uint8)
        for i in chosen:
            cv2.polylines(drawn, [lines[i]], False, strength[i], 1, cv2.LINE_AA, 4)
        cover = drawn.astype(np.float32)
        cover *= skin.hair_opacity / 255
        if pale:
            light *= (1 - 0.75 * cover)[..., None]
        else:
            light += cv2.transform(cover, HAIR)


def draw_edge(image: np.ndarray, edge: int, rng: np.random.Generator) -> np.ndarray:
    """What else a tile can show: the body ends, a drape, the photograph ends, a ring of pen.

    Returns:
        where nothing of the skin is left to see, (S, S) bool.
    """
    side = len(image)
    uniform = rng.random(6).tolist()
    hidden = np.zeros((side, side), bool)
    if edge == 3:
        hidden[: int(side * (0.04 + 0.25 * uniform[0]))] = True
        image[hidden] = 0
    elif edge == 4:
        middle = (int(side * (8 + uniform[0])), int(side * (8 + uniform[1])))  # 4 fractional bits: 16 is one side
        axes = (int(side * (4.2 + 2.4 * uniform[2])), int(side * (3.2 + 2.4 * uniform[3])))
        cv2.ellipse(image, middle, axes, 180 * uniform[4], 0, 250 + 110 * uniform[5], (96, 70, 150), 2, cv2.LINE_AA, 4)
    else:
        turn, off = 2 * math.pi * uniform[0], side * (0.38 + 0.2 * uniform[1])
        place = np.arange(side, dtype=np.float32) - 0.5 * side
        beyond = math.cos(turn) * place[None, :] + math.sin(turn) * place[:, None] + 0.004 * place[None, :] ** 2 - off
        cover = np.clip(beyond / (1 + 3 * uniform[2]) + 0.5, 0, 1)[..., None]
        colour = (30 + 40 * uniform[3]) * np.array([1, 0.95, 0.9]) if edge == 1 else np.array([105, 140, 190.0])
        image[:] = image * (1 - cover) + colour.astype(np.float32) * cover
        hidden = beyond > 0
    return hidden


def rgb_of_lab(lightness: float, redness: float, yellowness: float) -> np.ndarray:
    """sRGB in [0.02, 1] of a CIE L*a*b* colour (D65)."""
    lab = np.array([[[lightness, redness, yellowness]]], np.float32)
    return np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[0, 0], 0.02, 1)
