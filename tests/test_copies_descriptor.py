"""Descriptors: small, of one image each, at the same places of the skin wherever that lies in the image."""

import cv2
import numpy as np
import pytest
from planted_copies import skin

from lesionforge.auditing.copies_descriptor import HARMONICS, KEYPOINTS, THUMBNAILS, describe


def test_two_kilobytes_an_image() -> None:
    rows = describe([skin(0), skin(1, 51)])
    assert rows[THUMBNAILS].shape == (2, 32, 32)
    assert rows[KEYPOINTS].shape == (2, 8, 3)
    assert rows[HARMONICS].shape == (2, 8, 60, 2)
    assert sum(array[0].nbytes for array in rows.values()) < 2100


def test_each_depends_on_its_own_image_only() -> None:
    together, alone = describe([skin(0), skin(1, 90)]), describe([skin(1, 90)])
    for name, array in alone.items():
        np.testing.assert_array_equal(array[0], together[name][1])


def test_images_that_are_not_square_and_none_at_all() -> None:
    assert len(describe([skin(0)[:100, :60]])[THUMBNAILS]) == 1
    assert all(len(array) == 0 for array in describe([]).values())


def test_keypoints_lie_on_the_spots() -> None:
    """Four dark spots first, then four light ones, at their centres, each scale in proportion to the spot."""
    image = np.full((240, 240, 3), 128, np.float32)
    centres = [(40 + 53 * (i % 4), 60 + 120 * (i // 4)) for i in range(8)]
    radii = [10, 12, 14, 16] * 2
    for i, ((x, y), radius) in enumerate(zip(centres, radii, strict=True)):
        cv2.circle(image, (x, y), radius, (60,) * 3 if i < 4 else (200,) * 3, -1)
    keypoints = describe([image.astype(np.uint8)])[KEYPOINTS][0].astype(float)
    for half in (slice(0, 4), slice(4, 8)):
        found = sorted(keypoints[half].tolist())
        np.testing.assert_allclose([row[:2] for row in found], np.array(centres[half]) / 240, atol=0.01)
        scales = np.array([row[2] for row in found]) * 240 / radii[half]
        assert scales.max() / scales.min() < 1.25


@pytest.mark.parametrize("side", [64, 200])
def test_the_size_in_pixels_hardly_matters(side: int) -> None:
    image = cv2.GaussianBlur(skin(3, 240), (0, 0), 3)
    one, other = describe([image]), describe([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)])
    a, b = (rows[THUMBNAILS].astype(float).ravel() for rows in (one, other))
    assert np.corrcoef(a, b)[0, 1] > 0.98
    np.testing.assert_allclose(one[KEYPOINTS][0, 0].astype(float), other[KEYPOINTS][0, 0].astype(float), atol=0.01)


def test_brightness_leaves_a_thumbnail_as_it_is() -> None:
    image = skin(4)
    a, b = (describe([np.clip(image * f, 0, 255).astype(np.uint8)])[THUMBNAILS].astype(float) for f in (1.0, 0.85))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_the_black_beyond_a_scan_is_no_structure() -> None:
    """Two lesions with the same black border have nothing in common; the border shows in neither thumbnail."""
    one, other = skin(5), skin(6)
    one[96:], other[96:] = 0, 3
    a, b = describe([one, other])[THUMBNAILS].astype(float)
    assert np.abs(a[26:]).max() < 16
    assert abs(np.corrcoef(a[20:].ravel(), b[20:].ravel())[0, 1]) < 0.4
