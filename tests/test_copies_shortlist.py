"""Shortlists: what no rotation changes is compared, cells lose little, and the likeliest reference comes first."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lesionforge.auditing import copies_shortlist
from lesionforge.auditing.copies_alignment import ORDER_OF
from lesionforge.auditing.copies_shortlist import (
    NUM_MATCHES,
    complex_harmonics,
    fit_whitening,
    invariants,
    match,
    shortlist,
    whitened,
)


def units(seed: int, *shape: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def as_int8(rings: np.ndarray) -> np.ndarray:
    return np.rint(np.stack([rings.real, rings.imag], axis=-1) * copies_shortlist.HARMONICS_SCALE).astype(np.int8)


def test_invariants_do_not_change_with_angle_or_flip() -> None:
    rng = np.random.default_rng(0)
    rings = rng.uniform(-0.4, 0.4, (20, 8, 60)) + 1j * rng.uniform(-0.4, 0.4, (20, 8, 60)) * (ORDER_OF > 0)
    turned = (rings * np.exp(-1j * ORDER_OF * 0.7)).conj()
    np.testing.assert_allclose(invariants(as_int8(rings)), invariants(as_int8(turned)), atol=0.1)
    np.testing.assert_allclose(np.abs(complex_harmonics(as_int8(rings)) - rings).max(), 0, atol=0.005)


def test_whitened_keypoints_have_length_1_and_spread() -> None:
    harmonics = np.random.default_rng(0).integers(-60, 60, (200, 8, 60, 2)).astype(np.int8)
    with ThreadPoolExecutor(2) as pool:
        found = whitened(harmonics, fit_whitening(harmonics), pool)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    assert np.abs(found.mean((0, 1))).max() < 0.02


def test_one_cell_finds_what_sorting_finds() -> None:
    candidates, references = units(0, 30, 32), units(1, 500, 32)
    with ThreadPoolExecutor(1) as pool:
        found = match(candidates, references, pool)
    expected = np.sort(np.argsort(-(candidates @ references.T), axis=1)[:, :NUM_MATCHES], axis=1)
    order = np.lexsort((found.reference_keypoint, found.keypoint))
    np.testing.assert_array_equal(found.reference_keypoint[order].reshape(30, -1), expected)


def test_many_cells_find_a_near_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among 64 cells, of which 16 are looked into."""
    monkeypatch.setattr(copies_shortlist, "CELL", 100)
    references = units(1, 6400, 16)
    candidates = references[:300] + 0.3 * units(2, 300, 16)
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    with ThreadPoolExecutor(2) as pool:
        found = match(candidates, references, pool)
    assert np.bincount(found.keypoint).max() == NUM_MATCHES
    assert np.sum(found.keypoint == found.reference_keypoint) >= 290


def test_keypoints_all_alike_do_not_flood_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank images: every similarity is the same, and no more than NUM_MATCHES are kept."""
    monkeypatch.setattr(copies_shortlist, "CELL", 100)
    with ThreadPoolExecutor(1) as pool:
        found = match(np.zeros((10, 8), np.float32), np.zeros((1000, 8), np.float32), pool)
    assert len(found.keypoint) == 10 * NUM_MATCHES


def test_the_source_heads_the_list_and_an_image_is_not_its_own() -> None:
    references = units(0, 300, 8, 32)
    candidates = references + 0.3 * units(1, 300, 8, 32)
    candidates /= np.linalg.norm(candidates, axis=-1, keepdims=True)
    with ThreadPoolExecutor(1) as pool:
        rows = shortlist(candidates, references, 20, False, pool)
        others = shortlist(references, references, 20, True, pool)
    assert rows.shape == (300, 20)
    np.testing.assert_array_equal(rows[:, 0], np.arange(300))
    assert not (others == np.arange(300)[:, None]).any()


def test_few_references_are_all_listed() -> None:
    with ThreadPoolExecutor(1) as pool:
        rows = shortlist(units(0, 3, 8, 32), units(0, 3, 8, 32), 20, True, pool)
    np.testing.assert_array_equal(rows, [[-1, 1, 2], [0, -1, 2], [0, 1, -1]])
