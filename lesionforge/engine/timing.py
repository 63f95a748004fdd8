"""How fast a classifier trains and scores on this machine: a few real steps on noise, for an estimate."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from lesionforge.engine.model import RANDOM, build_model

NUM_STEPS = 2  # timed, after one that is not
MOST_IMAGES = 4  # of a step on a CPU, where time is about proportional to it; our choice
LONG_SECONDS = 5.0  # a first step that takes longer is taken for the time


class Speed(NamedTuple):
    training_seconds: float  # per image: forward, backward and optimizer step
    scoring_seconds: float  # per image
    num_parameters: int
    image_size: int  # pixels


def num_gpus() -> int:
    """GPUs that this process may use."""
    return torch.cuda.device_count()


def speed_of(
    name: str, image_size: int | None, batch_size: int, precision: str, timm_args: Mapping[str, Any], threads: int
) -> Speed:
    """Time a model with random weights on a GPU where there is one, else on `threads` CPU cores.

    Raises:
        BadInput: as `build_model`.
    """
    built = build_model(name, RANDOM, image_size, timm_args=timm_args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = batch_size if device.type == "cuda" else min(batch_size, MOST_IMAGES)
        net = built.model.to(device).to(memory_format=torch.channels_last)
        images = torch.randn(batch, 3, built.image_size, built.image_size, device=device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
        mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

        def step() -> None:
            with mixed:
                loss = nn.functional.softplus(net(images).float()).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        def score() -> None:
            with torch.inference_mode(), mixed:
                net(images)

        training = seconds_of(step, device) / batch
        net.eval()
        return Speed(
            training, seconds_of(score, device) / batch, sum(p.numel() for p in net.parameters()), built.image_size
        )
    finally:
        torch.set_num_threads(before)


def seconds_of(call: Any, device: torch.device) -> float:
    first = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    if started - first > LONG_SECONDS:
        return started - first
    for _ in range(NUM_STEPS):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / NUM_STEPS
