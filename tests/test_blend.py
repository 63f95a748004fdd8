"""Mixup and cutmix: the moments of their weight, the pixels, the box, and draws that hang on (seed, step) alone."""

import numpy as np
import pytest
import torch

from lesionforge.classifier.blend import Blend, blend, draw_blend, partners

B, S = 8, 20


def draws(num: int, mixup: float, cutmix: float, probability: float = 1.0, image_size: int = S) -> list[Blend | None]:
    return [draw_blend(0, step, B, image_size, mixup, cutmix, probability) for step in range(num)]


def batch(channels_last: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(B, 3, S, S, generator=torch.Generator().manual_seed(0))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, torch.tensor([1.0, 0.0] * (B // 2))


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_lambda_is_from_beta(alpha: float) -> None:
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1))."""
    lams = np.array([drawn.lam for drawn in draws(4000, alpha, 0.0) if drawn])
    assert len(lams) == 4000
    variance = 1 / (4 * (2 * alpha + 1))
    assert lams.mean() == pytest.approx(0.5, abs=4 * (variance / 4000) ** 0.5)
    assert lams.var() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("channels_last", [False, True])
def test_mixup_is_its_formula(channels_last: bool) -> None:
    images, targets = batch(channels_last)
    kept, given = images.clone(), targets.clone()
    drawn = draw_blend(3, 11, B, S, 0.5, 0.0, 1.0)
    assert drawn is not None
    assert drawn.box is None
    mixed, soft = blend(images, targets, drawn)
    for i, j in enumerate(drawn.partner):
        assert torch.allclose(mixed[i], drawn.lam * kept[i] + (1 - drawn.lam) * kept[j], atol=1e-6)
        assert float(soft[i]) == pytest.approx(float(drawn.lam * given[i] + (1 - drawn.lam) * given[j]), abs=1e-6)
    assert torch.equal(images, kept)  # a batch that stays on the device may come again
    assert torch.equal(targets, given)
    if channels_last:
        assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_cutmix_pastes_the_partners_box(channels_last: bool) -> None:
    images, targets = batch(channels_last)
    kept = images.clone()
    for step in range(30):
        drawn = draw_blend(0, step, B, S, 0.0, 1.0, 1.0)
        assert drawn is not None
        assert drawn.box is not None
        top, bottom, left, right = drawn.box
        mixed, soft = blend(images, targets, drawn)
        inside = torch.zeros(S, S, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert drawn.lam == pytest.approx(1 - inside.double().mean().item())  # of the box as clipped
        expected = torch.where(inside, kept[torch.from_numpy(drawn.partner)], kept)
        assert torch.equal(mixed, expected)
        assert torch.allclose(soft, drawn.lam * targets + (1 - drawn.lam) * targets[drawn.partner])
        assert 0 <= soft.min() <= soft.max() <= 1
    assert torch.equal(images, kept)
    if channels_last:
        assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_box_is_a_square_that_edges_clip() -> None:
    """Before the clip 1 - lam is uniform with mean 1/2; what edges cut off goes to lam."""
    boxes = [drawn for drawn in draws(3000, 0.0, 1.0, image_size=100) if drawn and drawn.box]
    lams = np.array([drawn.lam for drawn in boxes])
    inner = [d.box for d in boxes if d.box and d.box[0] > 0 and d.box[2] > 0 and d.box[1] < 100 and d.box[3] < 100]
    assert len(inner) > 300
    assert all(bottom - top == right - left for top, bottom, left, right in inner)
    assert lams.mean() > 0.55
    centres = np.array([((top + bottom) / 2, (left + right) / 2) for top, bottom, left, right in inner])
    assert centres.mean(axis=0) == pytest.approx([50, 50], abs=2)


def test_both_given_a_fair_coin_takes_one() -> None:
    kinds = np.array([drawn.box is not None for drawn in draws(1000, 0.5, 1.0) if drawn])
    assert len(kinds) == 1000
    assert kinds.mean() == pytest.approx(0.5, abs=0.07)


def test_share_of_the_batches() -> None:
    assert draws(50, 0.0, 0.0) == [None] * 50
    assert draws(50, 0.5, 0.0, 0.0) == [None] * 50
    assert np.mean([drawn is not None for drawn in draws(1000, 0.5, 0.0, 0.3)]) == pytest.approx(0.3, abs=0.05)


def test_draws_hang_on_seed_and_step_alone() -> None:
    def facts(seed: int, step: int, rank: int = 0, size: int = B) -> tuple[float, object, list[int]]:
        drawn = draw_blend(seed, step, size, S, 0.5, 1.0, 1.0, rank)
        assert drawn is not None
        return drawn.lam, drawn.box, drawn.partner.tolist()

    assert facts(1, 5) == facts(1, 5)
    assert facts(1, 5)[0] != facts(1, 6)[0]
    assert facts(1, 5)[0] != facts(2, 5)[0]
    # Two processes with half a batch each: one weight and box for the batch, partners of their own inside each half.
    halves = [facts(1, 5, rank, B // 2) for rank in (0, 1)]
    assert halves[0][:2] == halves[1][:2] == facts(1, 5)[:2]
    assert all(sorted(partner) == list(range(B // 2)) for _, _, partner in halves)
    some = [[facts(1, step, rank)[2] for step in range(5)] for rank in (0, 1)]
    assert all(a != b for a, b in zip(*some, strict=True))


def test_any_pair_can_come() -> None:
    pairs = {(i, int(j)) for drawn in draws(400, 0.5, 0.0) if drawn for i, j in enumerate(drawn.partner)}
    assert len(pairs) == B * B


def test_partners_of_what_cannot_be_mixed() -> None:
    drawn = Blend(0.25, np.array([2, 0, 1]), None)
    classes = torch.tensor([5, -1, 7])
    assert partners(classes, drawn).tolist() == [7, 5, -1]


def test_the_ends_of_lambda() -> None:
    """Beta(0.5, 0.5) comes close to 0 and 1: nothing of the partner, or nothing but the partner."""
    images, targets = batch()
    partner = np.roll(np.arange(B), 1)
    for lam, box, expected in ((1.0, None, images), (0.0, None, images.roll(1, 0)), (1.0, (4, 4, 9, 9), images),
                               (0.0, (0, S, 0, S), images.roll(1, 0))):  # fmt: skip
        mixed, _ = blend(images, targets, Blend(lam, partner, box))
        assert torch.equal(mixed, expected)
