"""The shortcut test: two halves of one set are not told apart, a format is, and by which cue."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lesionforge.auditing.shortcut import (
    block_edges,
    fit_logistic,
    folds,
    logistic_logits,
    middle,
    network_input,
    ranked,
    rings,
    shortcut_auc,
)
from lesionforge.data.pixels import decode, encode_jpeg
from lesionforge.errors import BadInput

torch.set_num_threads(1)


def mole(seed: int, blur: float = 0.8, quality: int | None = 75, size: int | None = None) -> np.ndarray:
    """A drawn lesion with a camera's noise, as decoded from its JPEG (quality None: never compressed)."""
    rng = np.random.default_rng(seed)
    size = size or int(rng.integers(60, 90))
    image = np.full((size, size, 3), rng.normal((225, 180, 160), 8), np.float32)
    cv2.ellipse(
        image, (size // 2, size // 2), (int(rng.integers(10, 24)), int(rng.integers(10, 24))), rng.uniform(0, 180),
        0, 360, rng.normal((120, 80, 70), 15).tolist(), -1,
    )  # fmt: skip
    image = cv2.GaussianBlur(image + rng.normal(0, 14, image.shape).astype(np.float32), (0, 0), blur)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return pixels if quality is None else decode(encode_jpeg(pixels, quality))


@pytest.fixture(scope="module")
def real() -> list[np.ndarray]:
    return [mole(i) for i in range(60)]


@pytest.fixture
def _hasty_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test is about the cues."""
    monkeypatch.setattr("lesionforge.auditing.shortcut.NUM_STEPS", 5)


def test_two_halves_of_one_set_cannot_be_told_apart(real: list[np.ndarray]) -> None:
    found = shortcut_auc(real, [mole(i) for i in range(100, 160)], seed=0)
    assert found.low < 0.5 < found.high
    assert found.cues.low < 0.5 < found.cues.high
    assert found.network.low < 0.5 < found.network.high
    assert (found.num_real, found.num_synthetic) == (60, 60)
    assert max(found.by_cue.values()) < 0.7


def test_a_blur_is_seen_by_its_spectrum_and_by_the_network(real: list[np.ndarray]) -> None:
    found = shortcut_auc(real, [mole(i, blur=1.2) for i in range(100, 160)], seed=0)
    assert found.auc > 0.97
    assert found.low > 0.9
    assert found.network.estimate > 0.9
    assert next(iter(found.by_cue)) == "spectrum"


@pytest.mark.usefixtures("_hasty_network")
def test_a_png_among_jpegs_is_seen(real: list[np.ndarray]) -> None:
    """The same drawing and sharpness; only the compression differs."""
    found = shortcut_auc(real, [mole(i, quality=None) for i in range(100, 160)], seed=0)
    assert found.cues.estimate > 0.95
    assert found.by_cue["jpeg_blocks"] > 0.75
    assert found.by_cue["size"] < 0.7


@pytest.mark.usefixtures("_hasty_network")
def test_one_size_in_the_middle_of_the_reals_is_seen(real: list[np.ndarray]) -> None:
    """Means are equal: only a cue that need not be monotone finds it."""
    found = shortcut_auc(real, [mole(i, size=75) for i in range(100, 160)], seed=0)
    assert next(iter(found.by_cue)) == "size"
    assert found.by_cue["size"] > 0.9


@pytest.mark.usefixtures("_hasty_network")
def test_facts_of_the_files_are_cues_too(real: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    facts = [{"bytes_per_pixel": rng.normal(mean, 0.1, 60)} for mean in (1, 2)]
    told: list[int] = []
    others = [mole(i) for i in range(100, 160)]
    found = shortcut_auc(real, others, 0, *facts, advance=told.append)
    assert found.by_cue["bytes_per_pixel"] == 1
    assert found.cues.estimate > 0.99
    assert told == [1] * 5
    assert found == shortcut_auc(real, others, 0, *facts), "same seed, same score"
    with pytest.raises(ValueError, match="facts of real images"):
        shortcut_auc(real, others, 0, facts[0], None)


@pytest.mark.usefixtures("_hasty_network")
def test_patients_are_clusters_of_the_interval(real: list[np.ndarray]) -> None:
    """Known patients with gaps in their numbers, and unknown ones."""
    patients = np.where(np.arange(60) < 45, 7 * (np.arange(60) // 3), -1)
    found = shortcut_auc(real, [mole(i) for i in range(100, 130)], seed=0, real_patients=patients)
    assert found.low < 0.5 < found.high
    assert found.num_synthetic == 30


def test_too_few_images_or_patients_are_named(real: list[np.ndarray]) -> None:
    with pytest.raises(BadInput, match="60 real and 9 synthetic images, expected 10 or more of each; generate more"):
        shortcut_auc(real, real[:9], seed=0)
    with pytest.raises(BadInput, match="real images of 4 patients, expected 5 or more"):
        shortcut_auc(real, real, seed=0, real_patients=np.arange(60) % 4)


def test_folds_are_even_and_keep_patients_whole() -> None:
    patients = np.concatenate([np.repeat(np.arange(20), 3), np.full(40, -1)])
    kinds = np.repeat([0, 1], [60, 40])
    fold = folds(kinds, patients, seed=3)
    assert np.bincount(fold[kinds == 0]).tolist() == [12] * 5
    assert np.bincount(fold[kinds == 1]).tolist() == [8] * 5
    assert all(len(set(fold[patients == patient])) == 1 for patient in range(20))
    assert (folds(kinds, patients, 4) != fold).any()


def test_the_logistic_regression_is_sklearns() -> None:
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(80, 6)), (rng.random(80) < 0.5).astype(int)
    rows[:, 0] += targets
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(rows, targets)
    weights, bias = fit_logistic(rows, targets)
    np.testing.assert_allclose(weights, oracle.coef_[0], atol=1e-4)
    assert bias == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_a_cue_that_never_varies_is_left_out() -> None:
    rows, targets = np.full((40, 2), 3.0), np.arange(40) % 2
    assert np.ptp(logistic_logits(rows, targets, rows + 1)) == pytest.approx(0)


def test_ranks_within_folds_share_ties() -> None:
    fold = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(ranked(np.array([1, 5, 5, 900, 800, 700]), fold), [1 / 3, 5 / 6, 5 / 6, 1, 2 / 3, 1 / 3])


def test_cues_measure_what_they_say() -> None:
    raw = mole(1, quality=None, size=80)
    assert (block_edges(decode(encode_jpeg(raw, 40))) > block_edges(raw) + 0.2).all()
    blurred = cv2.GaussianBlur(raw, (0, 0), 1.5)
    assert rings(blurred)[-4:].max() < rings(raw)[-4:].min()
    assert rings(mole(1, size=20)).shape == rings(mole(1, size=201)).shape == (16,)
    ramp = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    np.testing.assert_array_equal(middle(ramp, 4), ramp[3:7, 4:8])
    assert middle(ramp, 64).shape == (64, 64, 3)
    np.testing.assert_array_equal(middle(ramp, 14)[2:12, 1:13], ramp)
    assert network_input(ramp).shape == (64, 64, 6)
