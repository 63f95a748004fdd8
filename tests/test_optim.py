"""The schedule's shape, what is not decayed, and an optimizer that goes on after a save."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lesionforge.classifier import optim


def test_schedule_warms_up_peaks_and_ends_at_the_minimum() -> None:
    rates = [optim.lr_at(step, 100, 0.1, lr=1e-3, min_lr=1e-5) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)  # a tenth of the peak: the first of ten warm-up steps
    assert rates[9] == rates[10] == 1e-3  # the peak ends the warm-up and begins the cosine
    assert rates[99] == pytest.approx(1e-5)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_schedule_is_torchs_cosine() -> None:
    """Without warm-up it is CosineAnnealingLR, whose last value comes at its T_max."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=19, eta_min=0.01)
    for step in range(20):
        assert optim.lr_at(step, 20, 0.0, lr=0.1, min_lr=0.01) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_schedule_of_one_step() -> None:
    assert optim.lr_at(0, 1, 0.05, lr=0.1, min_lr=0.0) == 0.1


def test_biases_and_norms_are_not_decayed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 1))
    decayed, free = optim.build_optimizer(model, 0.05, (0.9, 0.999)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert decayed["weight_decay"] == 0.05
    assert [p.ndim for p in free["params"]] == [1, 1, 1, 1]
    assert free["weight_decay"] == 0.0


def test_optimizer_goes_on_after_a_save() -> None:
    """Three steps at once, and two steps, a save into a new optimizer, and the third: the same weights to the bit."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        torch.manual_seed(number)
        optimizer.zero_grad()
        model(torch.randn(8, 5)).square().mean().backward()
        optim.set_lr(optimizer, 0.01)
        optimizer.step()

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(5, 1)
        return model, optim.build_optimizer(model, 0.05, (0.9, 0.999))

    whole, whole_optimizer = fresh()
    half, half_optimizer = fresh()
    for number in range(3):
        step(whole, whole_optimizer, number)
    for number in range(2):
        step(half, half_optimizer, number)
    other, other_optimizer = fresh()
    other.load_state_dict(half.state_dict())
    optim.load_optimizer_tensors(other_optimizer, optim.optimizer_tensors(half_optimizer))
    step(other, other_optimizer, 2)
    assert torch.equal(other.weight, whole.weight)
