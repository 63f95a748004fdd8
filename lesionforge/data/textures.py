"""Noise that looks like skin: a small bank of periodic textures, made once a process, cut anew for each crop.

Cutting at a random place, turn and zoom is one warp, much cheaper than making noise for each crop.
"""

import math
from functools import cache

import cv2
import numpy as np

BANK_SIDE = 512  # px, a power of two for the FFT
# Furrows of skin, one row a texture: wavelength (px), width of the directions (radians; 3 is every direction), second
# direction (radians), share of sharp lines, wavelength of the mottle (px), its skew (> 0: dark freckles).
SKIN_KINDS = (
    # wavelength  spread  second  lines  mottle  skew
    (10.0, 3.00, 0.0, 0.20, 16.0, 0.00),
    (12.0, 0.90, 0.0, 0.40, 22.0, 0.30),
    (9.0, 0.40, 0.0, 0.35, 14.0, 0.00),
    (11.0, 0.60, 1.1, 0.45, 26.0, 0.50),
    (8.0, 1.40, 0.0, 0.20, 13.0, 0.60),
    (13.0, 0.33, 0.0, 0.45, 20.0, 0.20),
    (11.0, 3.00, 0.0, 0.45, 11.0, 0.80),
    (7.0, 0.70, 1.5, 0.30, 30.0, 0.30),
)
SHAPE_RADIUS = 32.0  # px: a lesion's radius in the texture that bends its border


def cut(
    texture: np.ndarray, width: int, height: int, angle: float, zoom: float, rng: np.random.Generator
) -> np.ndarray:
    """A turned and zoomed window of a periodic texture, at a random place; (height, width, C) float32."""
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    x, y = rng.uniform(0, len(texture), 2)
    matrix = np.array([[cosine, -sine, x], [sine, cosine, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(texture, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)


@cache
def skin_bank() -> tuple[np.ndarray, ...]:
    """Textures of SKIN_KINDS: each (512, 512, 4) float32, unit deviation: furrows, grain, mottle, slow shade."""
    rng = np.random.default_rng(20240626)  # a fixed seed: the bank is part of the drawing, as a brush is
    bank = []
    for wavelength, spread, second, lines, mottle, skew in SKIN_KINDS:
        ridges = waves(rng, wavelength, 0.5, spread)
        if second:
            ridges = (ridges + waves(rng, wavelength, 0.5, spread, second)) / np.sqrt(2)
        fold = waves(rng, wavelength / 2, 0.6, spread) + 0.7 * waves(rng, wavelength * 2, 0.5, min(1.3 * spread, 3.0))
        patches = np.clip(1 + 0.45 * waves(rng, 90, 0.6, 3.0), 0.15, 2.2)  # furrows are deep here and shallow there
        furrows = unit((lines * unit(np.tanh(1.5 * np.abs(ridges))) + (1 - lines) * unit(fold)) * patches)
        # Mottle has every size and lies along the furrows, a little.
        blotches = 0.7 * waves(rng, mottle, 0.75, 3.0) + 0.7 * waves(rng, mottle / 2.2, 0.5, min(2 * spread, 3.0))
        blotches = unit(np.exp(skew * unit(blotches))) if skew else unit(blotches)
        bank.append(np.stack((furrows, waves(rng, 3.2, 0.5, 3.0), blotches, waves(rng, 60, 0.9, 3.0)), axis=2))
    return tuple(np.ascontiguousarray(texture, np.float32) for texture in bank)


@cache
def shape_bank() -> np.ndarray:
    """(512, 512, 4) float32, unit deviation: what bends a border (long, middle, short waves) and varies its colour."""
    rng = np.random.default_rng(20240627)
    channels = [waves(rng, wavelength, 0.5, 3.0) for wavelength in (80, 30, 9, 42)]
    return np.ascontiguousarray(np.stack(channels, axis=2), np.float32)


def waves(
    rng: np.random.Generator, wavelength: float, width: float, spread: float, direction: float = 0.0
) -> np.ndarray:
    """Periodic noise about one wavelength (px); `width` is relative, `spread` is of the directions, in radians."""
    octave, angle = frequencies()
    passed = np.exp(-0.5 * ((octave + math.log(wavelength)) / width) ** 2)
    if spread < 3:
        away = np.abs((angle - direction + math.pi / 2) % math.pi - math.pi / 2)
        passed *= np.exp(-0.5 * (away / spread) ** 2)
    spectrum = rng.standard_normal((2, BANK_SIDE, BANK_SIDE), np.float32)
    return unit(np.fft.ifft2((spectrum[0] + 1j * spectrum[1]) * passed).real)


@cache
def frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Of each term of a Fourier transform: logarithm of its frequency (per px), its direction; (512, 512) float32."""
    x, y = np.fft.fftfreq(BANK_SIDE)[None, :], np.fft.fftfreq(BANK_SIDE)[:, None]
    return np.log(np.hypot(x, y) + 1e-9).astype(np.float32), np.arctan2(y, x).astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
