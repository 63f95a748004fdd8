"""Artefact measures: each sees what it is for, and the limits spare nearly all real lesions."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from lesionforge.auditing import artefacts
from lesionforge.data import pixels


def lesion(seed: int, size: int = 120, centres: tuple[tuple[float, float], ...] = ((0.5, 0.5),)) -> np.ndarray:
    """Skin with noise and shading, and a dark disc with a soft edge at each centre; (S, S, 3) uint8."""
    rng = np.random.default_rng(seed)
    image = np.ones((size, size, 3)) * rng.normal((215, 170, 150), 8) + np.linspace(-8, 8, size)[:, None, None]
    for across, down in centres:
        disc = np.zeros((size, size), np.float32)
        cv2.circle(disc, (int(across * size), int(down * size)), int(rng.uniform(0.1, 0.14) * size), 1.0, -1)
        image -= cv2.GaussianBlur(disc, (0, 0), 2)[..., None] * rng.uniform(50, 80)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def lettered(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    scale = image.shape[0] / 140
    return cv2.putText(image.copy(), "SAMPLE", (3, image.shape[0] // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, 16)


def collage(images: list[np.ndarray]) -> np.ndarray:
    """Four lesions on one image, as a generator of grids makes them."""
    small = [cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in images]
    return np.vstack([np.hstack(small[:2]), np.hstack(small[2:])])


FLAT, BLACK = np.full((90, 70, 3), (200, 160, 140), np.uint8), np.zeros((60, 60, 3), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("contrast", FLAT),
        ("extremes", BLACK),
        ("extremes", np.pad(lesion(0, 90), ((15, 15), (15, 15), (0, 0)))),
        ("noise", NOISE),
        ("bright_strokes", lettered(lesion(1), (255, 255, 255))),
        ("dark_strokes", lettered(lesion(2), (0, 0, 0))),
        ("seam", collage([lesion(i) for i in range(4)])),
        ("second_lesion", lesion(3, centres=((0.28, 0.5), (0.72, 0.5)))),
    ],
)
def test_each_measure_sees_its_artefact(name: str, image: np.ndarray) -> None:
    sound = artefacts.measure([lesion(seed) for seed in range(100, 140)])
    limits = artefacts.calibrate(sound, 0.01)
    found = artefacts.beyond(artefacts.measure([image]), limits)
    assert found[name][0], {name: bool(is_beyond[0]) for name, is_beyond in found.items()}


def test_limits_drop_at_most_the_asked_share_of_real_images_all_together() -> None:
    rng = np.random.default_rng(0)
    real = {name: rng.normal(size=1000) for name in artefacts.MEASURES}
    for false_alarms in (0.0005, 0.01, 0.05):
        limits = artefacts.calibrate(real, false_alarms)
        dropped = np.zeros(1000, bool)
        for name, (side, _) in artefacts.MEASURES.items():
            dropped |= real[name] > limits[name] if side == "high" else real[name] < limits[name]
        assert dropped.mean() <= false_alarms
        assert dropped.mean() >= 0.5 * false_alarms or false_alarms < 0.001  # and spends what it may


def test_too_few_real_images_put_a_limit_at_their_most_extreme() -> None:
    real = {name: np.arange(10.0) for name in artefacts.MEASURES}
    limits = artefacts.calibrate(real, 0.01)
    assert limits["contrast"] == 0
    assert limits["noise"] == 9


@pytest.mark.parametrize("size", [20, 51, 128, 300])
def test_any_size_can_be_measured(size: int) -> None:
    found = artefacts.measure([lesion(0, size), np.zeros((size, size + 7, 3), np.uint8)])
    assert all(np.isfinite(values).all() and len(values) == 2 for values in found.values())


@pytest.mark.real
@pytest.mark.slow
def test_on_real_lesions_planted_artefacts_are_seen_and_others_spared(real_lesions: Path) -> None:
    """Limits of 800 lesions on 400 others; the shares found are those of our choice of measures, with some slack."""
    with h5py.File(real_lesions / "train-image.hdf5") as file:
        names = sorted(file)
        data = [bytes(file[names[i]][()]) for i in np.random.default_rng(0).permutation(len(names))[:1200]]
    images = [pixels.decode(one) for one in data]
    limits = artefacts.calibrate(artefacts.measure(images[:800]), 0.01)
    others = images[800:]

    def dropped(changed: list[np.ndarray]) -> float:
        return float(np.any(list(artefacts.beyond(artefacts.measure(changed), limits).values()), axis=0).mean())

    assert dropped(others) <= 0.03
    assert dropped([lettered(image, (255, 255, 255)) for image in others[:100]]) >= 0.9
    assert dropped([lettered(image, (0, 0, 0)) for image in others[:100]]) >= 0.9
    assert dropped([collage(others[i : i + 4]) for i in range(0, 200, 2)]) >= 0.8
    noise = np.random.default_rng(1)
    noisy = [np.clip(image + noise.normal(0, 25, image.shape), 0, 255).astype(np.uint8) for image in others[:100]]
    assert dropped(noisy) >= 0.95
    assert dropped([np.full_like(image, 128) for image in others[:20]]) == 1
