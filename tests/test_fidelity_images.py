"""Measures over pixels: a generator that repeats itself, and one that blurs, are seen; equal sets are not accused."""

import importlib.util

import cv2
import numpy as np
import pytest
import torch

from lesionforge.auditing.fidelity_images import luminance, ms_ssim, pairs_within, radial_power, spectrum
from lesionforge.errors import BadInput

torch.set_num_threads(1)


def texture(seed: int, size: int = 64) -> np.ndarray:
    """Smooth noise, another for every seed; (size, size, 3) uint8."""
    noise = np.random.default_rng(seed).normal(0, 1, (size, size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5) * 90
    return np.clip(smooth + noise * 8 + 128, 0, 255).astype(np.uint8)


def test_pairs_are_disjoint_and_of_one_prompt() -> None:
    prompts = ["a", "b", "a", "a", "b", "c", "a"]
    pairs = pairs_within(prompts, 99, seed=0)
    assert len(pairs) == 3
    assert all(prompts[i] == prompts[j] for i, j in pairs)
    used = [position for pair in pairs for position in pair]
    assert len(set(used)) == len(used)
    assert pairs == pairs_within(prompts, 99, seed=0)
    assert len(pairs_within(["a"] * 100, 12, seed=0)) == 12


def test_ms_ssim_is_high_where_a_generator_repeats_itself() -> None:
    unlike = [texture(i) for i in range(24)]
    alike = [np.clip(texture(0).astype(int) + i % 3, 0, 255).astype(np.uint8) for i in range(24)]
    low, high = (ms_ssim(images, ["mole"] * 24, 12, seed=0) for images in (unlike, alike))
    assert low.estimate < 0.5 < 0.97 < high.estimate <= 1
    assert low.low < low.estimate < low.high
    both = ms_ssim(unlike + alike, ["a"] * 24 + ["b"] * 24, 24, seed=0)
    assert both.estimate == pytest.approx((low.estimate + high.estimate) / 2, abs=0.1)


def test_ms_ssim_takes_images_of_any_size() -> None:
    found = ms_ssim([texture(1, 30), texture(1, 200), texture(2, 131), texture(3, 90)], ["a"] * 4, 5, seed=0)
    assert 0 < found.estimate < 1
    one = ms_ssim([texture(1), texture(1)], ["a"] * 2, 5, seed=0)
    assert one.estimate == pytest.approx(1)
    assert one.low is None, "one pair has no interval"


def test_ms_ssim_needs_a_pair_and_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no two of 2 images share a prompt; generate more of each"):
        ms_ssim([texture(1), texture(2)], ["a", "b"], 5, seed=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"torchmetrics, not installed; pip install 'lesionforge\[diffusion\]'"):
        ms_ssim([texture(1), texture(2)], ["a", "a"], 5, seed=0)


def test_radial_power_finds_a_wave_at_its_frequency() -> None:
    x = np.arange(64)
    for cycles in (5, 12, 25):
        wave = (0.5 + 0.3 * np.cos(2 * np.pi * cycles * x / 64))[None].repeat(64, 0).astype(np.float32)
        for pixels in (wave, wave.T):
            power = radial_power(pixels)
            assert len(power) == 32
            assert abs(int(power.argmax()) + 1 - cycles) <= 1


def test_radial_power_is_the_mean_over_rings_of_the_whole_spectrum() -> None:
    """The plain form, with numpy's full transform and a loop."""
    pixels = luminance(texture(3), 32)
    hann = np.outer(np.hanning(32), np.hanning(32))
    power = np.abs(np.fft.fft2((pixels - pixels.mean()) * hann)) ** 2 / (hann**2).sum()
    rings: dict[int, list[float]] = {}
    for i, down in enumerate(np.fft.fftfreq(32) * 32):
        for j, across in enumerate(np.fft.fftfreq(32) * 32):
            rings.setdefault(int(np.rint(np.hypot(down, across))), []).append(power[i, j])
    expected = [10 * np.log10(np.mean(rings[radius]) + 1e-6) for radius in range(1, 17)]
    np.testing.assert_allclose(radial_power(pixels), expected, atol=1e-4)


def test_the_spectral_distance_of_few_images_is_inside_its_interval() -> None:
    """Sets of one distribution and unlike sizes: chance alone adds no distance, and 0 is not excluded."""
    rng = np.random.default_rng(0)
    pool = [texture(i, 32) for i in range(60)]
    founds = []
    for seed in range(20):
        order = rng.permutation(60)
        few, many = [pool[i] for i in order[:6]], [pool[i] for i in order[6:36]]
        founds.append(spectrum(many, few, 32, seed).distance)
    assert all(found.low <= found.estimate <= found.high for found in founds)
    assert sum(found.low > 0 for found in founds) <= 2
    assert np.median([found.estimate for found in founds]) < 0.1, "dB"
    alone = spectrum(pool, pool[:1], 32).distance
    assert alone.low is None


def test_blurred_images_lack_high_frequencies() -> None:
    real, other = [texture(i) for i in range(40)], [texture(i) for i in range(50, 90)]
    blurred = [cv2.GaussianBlur(image, (0, 0), 1.2) for image in other]
    alike, unlike = spectrum(real, other, 64), spectrum(real, blurred, 64)
    assert unlike.distance.low > 3 * alike.distance.high
    assert unlike.synthetic[-8:].mean() < unlike.real[-8:].mean() - 3, "dB"
    assert (unlike.difference_high[-8:] < 0).all()
    inside = (alike.difference_low <= 0) & (alike.difference_high >= 0)
    assert inside.mean() > 0.8
    assert alike.frequency[-1] == 0.5
    assert len(alike.frequency) == len(alike.real) == len(alike.difference_low) == 32
    with pytest.raises(BadInput, match="spectrum of 0 real and 40 synthetic images"):
        spectrum([], other, 64)
