"""Overlays: keypoints give a map, steps make it better, the score is the correlation of the overlap."""

import numpy as np
import pytest
from planted_copies import skin

from lesionforge.auditing.copies_alignment import (
    EVERY,
    ORDER_OF,
    angle_between,
    correlate,
    descent,
    likely_pairs,
    map_between,
    moved,
    refined,
)
from lesionforge.auditing.copies_descriptor import THUMBNAILS, describe

IDENTITY = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)


def thumbnails(*seeds: int) -> np.ndarray:
    """(N, 1024) float32."""
    return describe([skin(seed) for seed in seeds])[THUMBNAILS].astype(np.float32).reshape(len(seeds), -1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 1.0, np.pi, 6.0])
def test_phases_tell_the_angle(angle: float, flip: bool) -> None:
    rng = np.random.default_rng(0)
    reference = (rng.normal(size=(5, 60)) + 1j * rng.normal(size=(5, 60)) * (ORDER_OF > 0)).astype(np.complex64)
    candidate = (reference.conj() if flip else reference) * np.exp(-1j * ORDER_OF * angle)
    found, flipped = angle_between(candidate.astype(np.complex64), reference)
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * angle), atol=0.02)
    assert (flipped == flip).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_map_takes_keypoint_to_keypoint(flip: bool) -> None:
    """And what lies beside it, at an angle, to the angle less the turn, or the turn less the angle after a flip."""
    one, other = np.float32([[0.3, 0.6, 0.1]]), np.float32([[0.5, 0.2, 0.15]])
    maps = map_between(one, other, np.float32([0.4]), np.array([flip]))
    np.testing.assert_allclose(maps[0] @ [0.3, 0.6, 1], [0.5, 0.2], atol=1e-6)
    beside = maps[0] @ [0.3 + 0.1 * np.cos(1), 0.6 + 0.1 * np.sin(1), 1]
    turned = 0.4 - 1 if flip else 1 - 0.4
    np.testing.assert_allclose(beside, [0.5 + 0.15 * np.cos(turned), 0.2 + 0.15 * np.sin(turned)], atol=1e-6)


def test_pairs_are_of_one_sign_and_the_most_alike() -> None:
    vectors = np.eye(8, dtype=np.float32)[None].repeat(2, 0)
    first, second = likely_pairs(vectors, vectors[:, [1, 0, 2, 3, 4, 5, 7, 6]], 8)
    assert sorted(zip(first[0].tolist(), second[0].tolist(), strict=True)) == [
        (0, 1), (1, 0), (2, 2), (3, 3), (4, 4), (5, 5), (6, 7), (7, 6),
    ]  # fmt: skip


def test_the_score_is_the_correlation() -> None:
    one, other = thumbnails(0), thumbnails(1)
    score, difference = correlate(one, other, IDENTITY, EVERY)
    assert score[0] == pytest.approx(np.corrcoef(one, other)[0, 1], abs=0.01)
    assert difference.shape == (1, 1024)
    assert correlate(one, one, IDENTITY, EVERY)[0][0] > 0.98


def test_only_the_overlap_is_compared_and_a_small_one_counts_less() -> None:
    image = thumbnails(0)
    shifted = np.roll(image.reshape(32, 32), 8, axis=1)
    shifted[:, :8] = 100 * np.random.default_rng(0).standard_normal((32, 8))  # not the same skin
    by_8 = IDENTITY + np.float32([[0, 0, 8 / 32], [0, 0, 0]])
    assert correlate(image, shifted.reshape(1, -1), by_8, EVERY)[0][0] > 0.95
    by_24 = IDENTITY + np.float32([[0, 0, 24 / 32], [0, 0, 0]])
    far = np.roll(image.reshape(32, 32), 24, axis=1).reshape(1, -1)
    assert correlate(image, far, by_24, EVERY)[0][0] == pytest.approx(0.25 / 0.5, abs=0.05)


def test_an_overlay_beside_the_image_scores_nothing() -> None:
    away = IDENTITY + np.float32([[0, 0, 3], [0, 0, 0]])
    assert correlate(thumbnails(0), thumbnails(0), away, EVERY)[0][0] == pytest.approx(0, abs=1e-6)


def test_no_change_moves_nothing_and_a_turn_keeps_the_centre() -> None:
    maps = np.float32([[[0.9, 0.1, 0.02], [-0.1, 0.9, 0.05]]])
    np.testing.assert_allclose(moved(maps, np.zeros((1, 4), np.float32)), maps, atol=1e-7)
    turned = moved(maps, np.float32([[0.3, 0.1, 0, 0]]))
    np.testing.assert_allclose(turned[0] @ [0.5, 0.5, 1], maps[0] @ [0.5, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize("change", [(0.06, 0, 0, 0), (0, 0.06, 0, 0), (0, 0, 0.03, 0), (0.04, -0.04, 0.02, -0.02)])
def test_steps_find_back(change: tuple[float, ...]) -> None:
    image = thumbnails(2)
    maps = moved(IDENTITY, np.float32([change]))
    before = correlate(image, image, maps, EVERY)[0][0]
    after = refined(image, image, maps, descent(image.reshape(1, 32, 32)), 6)[0]
    assert after > 0.97 > before
