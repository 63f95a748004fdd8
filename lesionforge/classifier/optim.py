"""The optimizer and the learning-rate schedule, as functions of the step."""

import math

import torch
from torch import nn


def build_optimizer(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW, its rate set by `set_lr`; biases and norm scales (one-dimensional) are not decayed, as in timm."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=betas)


def lr_at(step: int, num_steps: int, warmup_fraction: float, lr: float, min_lr: float) -> float:
    """Linear warm-up to `lr`, then half a cosine down to `min_lr` at the last step. `step` counts from 0."""
    num_warmup_steps = round(warmup_fraction * num_steps)
    if step < num_warmup_steps:
        return lr * (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - 1 - num_warmup_steps)  # 0..1
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as flat named tensors: `12.exp_avg` is parameter 12's first moment."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, row in state.items() for name, value in row.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
