"""Filters of many images at once: OpenCV's own, image for image, whatever stands beside an image and around it."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from lesionforge.classifier.device_augment import filter_stages, mirrored, mirrored_101, repeated
from lesionforge.config import AugmentConfig
from lesionforge.data import augment, draws

SHAPES = [(61, 61), (40, 77), (64, 64), (52, 48), (1, 1), (1, 9), (7, 1), (2, 3), (3, 5), (4, 4), (33, 50), (90, 41)]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Slopes, edges and grain from none to strong, in black and white and colour; of several sizes."""
    rng = np.random.default_rng(0)
    made = []
    for i, (height, width) in enumerate(SHAPES * 4):
        y, x = np.mgrid[0:height, 0:width, 0:3][:2] / max(height, width)
        disc = np.hypot(x - rng.random(), y - rng.random()) < 0.3
        levels = 255 * rng.random(3) * (0.4 + 0.6 * x) - 90 * disc + rng.normal(0, 4 * (i % 12), (height, width, 3))
        made.append(np.clip(levels, 0, 255).astype(np.uint8))
    return made


def filtered(images: list[np.ndarray], **changed: np.ndarray) -> torch.Tensor:
    """The images together, the room around each of them full of noise, after the filters that parameters ask for."""
    sides = np.array([image.shape[1::-1] for image in images])
    w, h = sides.max(axis=0)
    noise = np.random.default_rng(1).integers(0, 256, (len(images), h, w, 3), dtype=np.uint8)
    for row, image in zip(noise, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    together = torch.from_numpy(noise)
    nothing = draws.draw(0, 0, np.arange(len(images)), **AugmentConfig(preset="none").settings())
    for function, rows, arrays in filter_stages(replace(nothing, **changed), sides, h, w):
        if len(rows):
            together[rows] = function(together[rows], *map(torch.from_numpy, arrays))
    return together


def differences(found: torch.Tensor, expected: list[np.ndarray]) -> np.ndarray:
    """Absolute, of all levels of all images."""
    assert found.dtype == torch.uint8
    pairs = zip(found.numpy(), expected, strict=True)
    return np.concatenate(
        [np.abs(row[: image.shape[0], : image.shape[1]].astype(int) - image).ravel() for row, image in pairs]
    )


@pytest.mark.parametrize("size", [3, 5, 9])
def test_blur_is_filter2d(images: list[np.ndarray], size: int) -> None:
    rng = np.random.default_rng(size)
    reach, angle = rng.integers(1, size // 2 + 1, len(images)), np.pi * rng.random(len(images))
    for kernel_of in (draws.motion_kernel, draws.gaussian_kernel):
        kernel = kernel_of(reach, angle, size).astype(np.float32)
        expected = [
            cv2.filter2D(image, -1, k, borderType=augment.BORDER) for image, k in zip(images, kernel, strict=True)
        ]
        off = differences(filtered(images, blurred=np.ones(len(images), bool), kernel=kernel), expected)
        assert off.max() <= 1
        assert (off > 0).mean() < 1e-3


def test_median_is_median_blur(images: list[np.ndarray]) -> None:
    passes = np.arange(len(images)) % 4
    expected = []
    for image, num in zip(images, passes, strict=True):
        for _ in range(num):
            image = cv2.medianBlur(image, 3)
        expected.append(image)
    assert not differences(filtered(images, median=passes), expected).any()


@pytest.mark.parametrize("clip_limit", [1.0, 1.3, 2.0, 40.0])
def test_clahe_is_opencvs_on_the_luma(images: list[np.ndarray], clip_limit: float) -> None:
    clip = np.full(len(images), clip_limit, np.float32)
    off = differences(filtered(images, clahe=clip), [augment.equalised(image, float(clip[0])) for image in images])
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def test_colour_is_transform_with_the_mean_luma(images: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    num = len(images)
    factors = {name: rng.uniform(0.7, 1.3, num) for name in ("brightness", "contrast", "saturation")}
    colour, weight = draws.colour_matrix(**factors, hue=rng.uniform(-0.3, 0.3, num))
    expected = []
    for image, matrix, share in zip(images, colour, weight, strict=True):
        offset = share * (cv2.mean(image)[:3] @ draws.LUMA)
        expected.append(cv2.transform(image, np.c_[matrix[:, :3], matrix[:, 3] + offset].astype(np.float32)))
    changed = {"colour": colour.astype(np.float32), "mean_weight": weight.astype(np.float32)}
    off = differences(filtered(images, recoloured=np.ones(num, bool), **changed), expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def test_borders_are_opencvs() -> None:
    borders = {mirrored: cv2.BORDER_REFLECT, mirrored_101: cv2.BORDER_REFLECT_101, repeated: cv2.BORDER_REPLICATE}
    for border, code in borders.items():
        for length in range(1, 7):
            row = np.arange(length, dtype=np.uint8)[None]
            expected = cv2.copyMakeBorder(row, 0, 0, 9, 9, code)[0]
            assert np.array_equal(border(np.arange(-9, length + 9), np.array(length)), expected)
