"""The learning rate as a function of the step."""

import math

import torch


def lr_at(step: int, num_steps: int, warmup_fraction: float, lr: float, min_lr: float) -> float:
    """Linear warm-up to `lr`, then half a cosine down to `min_lr` at the last step. `step` counts from 0."""
    num_warmup_steps = round(warmup_fraction * num_steps)
    if step < num_warmup_steps:
        return lr * (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - 1 - num_warmup_steps)  # 0..1
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group learns at its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
