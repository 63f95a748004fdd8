"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019): the images of a batch mixed in pairs, on their device."""

from typing import NamedTuple

import numpy as np
import torch

LAMBDA, PARTNER = 10, 11  # random numbers of their own, beside the sampler's walks


class Blend(NamedTuple):
    """How a batch is mixed: an image keeps the weight `lam`, its partner comes in with 1 - lam."""

    lam: float  # in [0, 1]; for cutmix, 1 - the box's share of the pixels
    partner: np.ndarray  # (B,) int64, a permutation of the batch
    box: tuple[int, int, int, int] | None  # top, bottom, left, right: the partner's pixels; None for mixup


def draw_blend(
    seed: int,
    step: int,
    batch_size: int,
    image_size: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float,
    rank: int = 0,
) -> Blend | None:
    """The mix of one batch, or None where it stays as it is. Depends on (seed, step) alone, the partners on rank too.

    With several processes, each mixes its slice of the batch within itself: weight and box are those of the whole
    batch, partners are drawn for each slice. So another number of processes gives other pairs.

    Args:
        batch_size: images in this process's slice.
        image_size: side, pixels.
        mixup_alpha, cutmix_alpha: lam is from Beta(alpha, alpha); 0 switches one off. With both on, a fair coin takes
            one of them for the batch, as in timm.
        probability: share of the batches that are mixed.
        rank: number of the process.
    """
    rng = np.random.default_rng([seed, LAMBDA, step])
    if not (mixup_alpha or cutmix_alpha) or rng.random() >= probability:
        return None
    is_cutmix = rng.random() < 0.5 if mixup_alpha and cutmix_alpha else bool(cutmix_alpha)
    alpha = cutmix_alpha if is_cutmix else mixup_alpha
    lam, box = float(rng.beta(alpha, alpha)), None
    if is_cutmix:
        box = draw_box(rng, image_size, lam)
        top, bottom, left, right = box
        lam = 1 - (bottom - top) * (right - left) / image_size**2
    partner = np.random.default_rng([seed, PARTNER, step, rank]).permutation(batch_size)
    return Blend(lam, partner, box)


def draw_box(rng: np.random.Generator, image_size: int, lam: float) -> tuple[int, int, int, int]:
    """A square of 1 - lam of the pixels, its centre anywhere, clipped at the edges (Yun et al. 2019, equation 2)."""
    side = int(image_size * (1 - lam) ** 0.5)
    y, x = rng.integers(0, image_size, 2).tolist()
    top, left = y - side // 2, x - side // 2
    bottom, right = top + side, left + side
    return max(0, top), min(image_size, bottom), max(0, left), min(image_size, right)


def blend(images: torch.Tensor, targets: torch.Tensor, drawn: Blend) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixed images and targets; the given ones stay as they are.

    Args:
        images: (B, 3, S, S) float: after the normalisation, which changes nothing as it is affine.
        targets: (B,) float; with 0 and 1 they come out as shares of malignancy.
    """
    others = partners(images, drawn)  # (B, 3, S, S)
    if drawn.box is None:
        images = others.lerp(images, drawn.lam)
    else:
        top, bottom, left, right = drawn.box
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return images, partners(targets, drawn).lerp(targets, drawn.lam)


def partners(values: torch.Tensor, drawn: Blend) -> torch.Tensor:
    """Each image's partner's value, for what cannot be mixed itself: a class's loss is the lam-weighted mean of two."""
    return values[torch.from_numpy(drawn.partner).to(values.device, non_blocking=values.is_cuda)]
