"""What a generator may do to a training image that it repeats: the edits that copy detection is asked to see through.

Each takes (H, W, 3) uint8 RGB and a generator of random numbers, and draws its strength within what is asked for.
"""

import cv2
import numpy as np


def skin(seed: int, side: int = 128) -> np.ndarray:
    """(side, side, 3) uint8: mottled skin with a lesion of its own shape."""
    rng = np.random.default_rng(seed)

    def field(sigma: float) -> np.ndarray:
        """Of standard deviation 1, its spots `sigma` wide in 128ths of the side."""
        values = cv2.GaussianBlur(rng.standard_normal((128, 128)), (0, 0), sigma)
        return cv2.resize(values / values.std(), (side, side), interpolation=cv2.INTER_AREA)

    y, x = np.mgrid[:side, :side] / side - 0.5
    lesion = 50.0 * (np.exp(-(x * x + y * y) / 0.05) + 0.2 * field(8) > 0.5)
    mottle = 5 * field(1.5) + 5 * field(3) + 5 * field(6) - cv2.GaussianBlur(lesion, (0, 0), side / 64)
    return np.clip(np.array([215, 165, 145]) + mottle[..., None] * [0.8, 1.0, 0.9], 0, 255).astype(np.uint8)


def resized(image: np.ndarray, side: int) -> np.ndarray:
    shrinks = side < image.shape[0]
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)


def flipped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the other seven of a square's eight symmetries."""
    which = int(rng.integers(1, 8))
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if which >= 4 else image, which % 4))


def jpeg_50(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return jpeg(image, 50)


def blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 2))


def brighter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """10 to 15 % brighter or darker."""
    factor = 1 + rng.choice([-1, 1]) * rng.uniform(0.10, 0.15)
    return np.clip(np.rint(image * factor), 0, 255).astype(np.uint8)


def noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(image + rng.normal(0, 10, image.shape)), 0, 255).astype(np.uint8)


def cropped(image: np.ndarray, rng: np.random.Generator, share: float | None = None) -> np.ndarray:
    """75 to 100 % of the side, at any offset."""
    side = round(image.shape[0] * (rng.uniform(0.75, 1) if share is None else share))
    y, x = rng.integers(0, image.shape[0] - side + 1, 2)
    return image[y : y + side, x : x + side]


def cropped_to_75(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cropped(image, rng, 0.75)


def warped(image: np.ndarray, angle: float, zoom: float) -> np.ndarray:
    """About the centre; what comes in over the border is reflected. angle: degrees."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, zoom)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def zoomed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return warped(image, 0, float(np.exp(rng.uniform(np.log(0.8), np.log(1.25)))))


def rotated_and_reflected(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return warped(image, rng.uniform(-15, 15), 1)


def rotated_and_cropped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zoomed in until no corner is empty: by 1.22 at 15 degrees."""
    angle = rng.uniform(-15, 15)
    radians = np.deg2rad(abs(angle))
    return warped(image, angle, float(np.cos(radians) + np.sin(radians)))


def through_64_pixels(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As blurry as a generator of 64 px makes it."""
    return resized(resized(image, 64), image.shape[0])


def all_at_once(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any symmetry, a rotation by up to 15 degrees, a zoom of 1 to 1.25, another brightness, 64 px."""
    if rng.random() < 7 / 8:
        image = flipped(image, rng)
    image = warped(image, rng.uniform(-15, 15), float(np.exp(rng.uniform(0, np.log(1.25)))))
    return through_64_pixels(brighter(image, rng), rng)


def formatted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `generate` writes its images: another size, 51 to 239 px, and JPEG."""
    return jpeg(resized(image, int(rng.integers(51, 240))), int(rng.integers(70, 96)))


# edit: (function, recall asked for, None where the aims do not name it)
EDITS = {
    "flips, quarter turns": (flipped, 0.95),
    "JPEG 50": (jpeg_50, 0.95),
    "blur, 1-2 px": (blurred, 0.95),
    "brightness +-10-15 %": (brighter, 0.95),
    "noise, sd 10": (noisy, 0.9),
    "crop to 75-100 %": (cropped, 0.8),
    "crop to 75 %": (cropped_to_75, 0.8),
    "zoom 0.8-1.25": (zoomed, 0.8),
    "rotation to 15, reflected": (rotated_and_reflected, 0.8),
    "rotation to 15, cropped": (rotated_and_cropped, 0.8),
    "64 px and back": (through_64_pixels, None),
    "all at once": (all_at_once, None),
}
