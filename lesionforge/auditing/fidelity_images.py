"""Measures over pixels: how alike the images of one prompt are, and how much of each spatial frequency images hold."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lesionforge.auditing.fidelity import torchmetrics_or_refuse
from lesionforge.bootstrap import Estimate, estimate
from lesionforge.data import augment
from lesionforge.errors import BadInput

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
MS_SSIM_SIDE = 176  # pixels; five scales of an 11 px window need more than 160
NUM_REPLICATES = 1000
FLOOR = 1e-6  # added to power, of pixels in [0, 1]: below it lies the rounding of 8 bits


class Spectrum(NamedTuple):
    """Radially averaged log power of two sets; to plot, and as a distance."""

    frequency: np.ndarray  # (F,) cycles per pixel, of the common size
    real: np.ndarray  # (F,) mean over the images, dB
    synthetic: np.ndarray  # (F,) dB
    difference_low: np.ndarray  # (F,) 95 % interval of synthetic - real
    difference_high: np.ndarray
    distance: Estimate  # dB, root mean square of the difference over frequencies, without what chance adds to it


def ms_ssim(
    images: Sequence[np.ndarray], prompts: Sequence[str], num_pairs: int, seed: int, side: int = MS_SSIM_SIDE
) -> Estimate:
    """Mean MS-SSIM of pairs of images of the same prompt; high where a generator repeats itself (Odena et al. 2017).

    Pairs are drawn at random, no image is in two, so they are independent and the interval is the bootstrap's over
    pairs. Luminance; images are stretched to `side` first, because Wang et al.'s (2003) five scales need it: compare
    with real images at the same native size.

    Args:
        images: (H, W, 3) uint8 each.
        prompts: one per image.
        num_pairs: the most to draw.

    Raises:
        BadInput: no two images share a prompt, or torchmetrics is missing.
    """
    pairs = pairs_within(prompts, num_pairs, seed)
    if not pairs:
        raise BadInput(f"MS-SSIM: no two of {len(images)} images share a prompt; generate more of each")
    torchmetrics_or_refuse()
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    values = []
    for start in range(0, len(pairs), 32):
        first, second = (
            torch.from_numpy(np.stack([luminance(images[pair[i]], side) for pair in pairs[start : start + 32]]))[
                :, None
            ]
            for i in (0, 1)
        )  # (B, 1, side, side)
        values.append(measure(first, second, data_range=1.0, reduction="none").numpy())
    return of_means(np.concatenate(values).astype(np.float64)[:, None], seed)


def pairs_within(prompts: Sequence[str], num_pairs: int, seed: int) -> list[tuple[int, int]]:
    """Disjoint pairs of positions with the same prompt, in random order, at most `num_pairs`."""
    rng = np.random.default_rng(seed)
    of_prompt: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        of_prompt.setdefault(prompt, []).append(position)
    pairs = []
    for positions in of_prompt.values():
        shuffled = rng.permutation(positions).tolist()
        pairs += list(zip(shuffled[0::2], shuffled[1::2], strict=False))
    return [pairs[i] for i in rng.permutation(len(pairs))[:num_pairs]]


def luminance(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 => (side, side) float32 in [0, 1]."""
    out = np.empty((side, side, 3), np.uint8)
    augment.resize(image, out)
    return out @ LUMINANCE / np.float32(255)


def spectrum(real: Sequence[np.ndarray], synthetic: Sequence[np.ndarray], side: int, seed: int = 0) -> Spectrum:
    """Power spectra of two sets, radially averaged (Durall et al. 2020), all images at one common size.

    Args:
        real, synthetic: (H, W, 3) uint8 each.
        side: pixels to bring all images to; the smaller set's own size, else upsampling shows as missing power.

    The intervals are the bootstrap's over the images of both sets; the distance has none where a set is a single image.
    """
    if not len(real) or not len(synthetic):
        raise BadInput(f"spectrum of {len(real)} real and {len(synthetic)} synthetic images, expected some of each")
    curves = [np.stack([radial_power(luminance(image, side)) for image in images]) for images in (real, synthetic)]
    means = [curve.mean(0) for curve in curves]
    rng = np.random.default_rng(seed)
    drawn = [resampled_means(curve, rng) for curve in curves]  # (R, F) each
    difference = drawn[1] - drawn[0]
    low, high = np.quantile(difference, [0.025, 0.975], axis=0)
    distance = distance_of(means[1] - means[0], difference, min(len(real), len(synthetic)) > 1)
    frequency = (np.arange(len(means[0])) + 1) / side
    return Spectrum(frequency, means[0], means[1], low, high, distance)


def radial_power(pixels: np.ndarray) -> np.ndarray:
    """Log power of a square image at radius 1, 2, ... side // 2 of its spectrum, mean over directions, dB.

    The mean is taken off and a Hann window laid over, so that the edges' jump does not fill all frequencies.
    """
    side = len(pixels)
    window = np.outer(np.hanning(side), np.hanning(side))
    weighted = (pixels - pixels.mean()) * window
    power = np.abs(np.fft.rfft2(weighted)) ** 2 / np.square(window).sum()
    down, across = np.fft.fftfreq(side) * side, np.fft.rfftfreq(side) * side
    radius = np.rint(np.hypot(down[:, None], across)).astype(np.int64)  # (side, side // 2 + 1)
    twice = np.where((across > 0) & (across < side / 2), 2.0, 1.0)  # rfft2 leaves out the mirrored half
    inside = radius <= side // 2
    weight = np.broadcast_to(twice, radius.shape)[inside]
    sums = np.bincount(radius[inside], power[inside] * weight)
    return 10 * np.log10(sums / np.bincount(radius[inside], weight) + FLOOR)[1:]


def distance_of(difference: np.ndarray, replicates: np.ndarray, has_interval: bool) -> Estimate:
    """The root mean square over frequencies, 0 at least.

    Chance adds its variance to the mean square once, and once more to that of every replicate; both are taken off, so
    that the interval holds its estimate and sets of unlike sizes can be compared.

    Args:
        difference: (F,) dB.
        replicates: (R, F) the same of the bootstrap's replicates.
    """
    variance = replicates.var(0).mean()
    squares = np.square(replicates).mean(1) - 2 * variance  # (R,)
    found = rooted(np.square(difference).mean() - variance).item()
    return estimate(found, rooted(squares)) if has_interval else Estimate(found, None, None, 0)


def rooted(squares: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(squares, 0))


def resampled_means(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean row of each bootstrap replicate; (N, F) => (R, F)."""
    times = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=NUM_REPLICATES)
    return times @ rows / len(rows)


def of_means(rows: np.ndarray, seed: int) -> Estimate:
    """The mean of (N, 1) values with its bootstrap interval; no interval of a single one."""
    if len(rows) < 2:
        return Estimate(float(rows.mean()), None, None, 0)
    return estimate(float(rows.mean()), resampled_means(rows, np.random.default_rng(seed))[:, 0])
