"""From a store's images to logits: the path that validation and prediction share. The door to accelerate."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from lesionforge import run
from lesionforge.data.loader import Batch, Images, load_batches
from lesionforge.errors import BadInput

__all__ = [
    "Accelerator", "DeviceBatch", "Normalise", "Scorer", "build_accelerator", "is_out_of_memory", "mean_logit",
    "on_device", "score_images", "seed_device", "sigmoid", "torch_scorer", "views",
]  # fmt: skip

Scorer = Callable[[np.ndarray], np.ndarray]  # (B, S, S, 3) uint8 RGB => (B,) float64 logits


def build_accelerator(device: str, precision: str) -> Accelerator:
    """Device and precision.

    Args:
        device: "auto" takes a GPU where there is one; "cpu", "cuda" and "mps" insist.
        precision: "fp32" or "bf16" (mixed precision: weights stay float32).
    """
    has_it = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not has_it.get(device, True):
        raise BadInput(f"hardware.device: {device} asked for and none found; use --hardware.device cpu, or auto")
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train twice, with other settings
    on_cpu = device == "cpu" or (device == "auto" and not any(has_it.values()))
    accelerator = Accelerator(cpu=on_cpu, mixed_precision={"fp32": "no", "bf16": "bf16"}[precision])
    if accelerator.num_processes != run.num_processes():  # they would all write to the same run
        raise BadInput(
            f"torchrun started {run.num_processes()} processes, and they do not find each other on "
            f"{accelerator.device.type}; use cpu or cuda by --hardware.device, or start one process"
        )
    return accelerator


def seed_device(entropy: Sequence[int], device: torch.device) -> None:
    """Dropout's randomness, from whole numbers; torch.manual_seed asks every kind of device, 4 ms a step."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64).item()) >> 1
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Normalise(nn.Module):
    """uint8 pixels to the model's input, on the device: the loader hands over bytes only."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # (B, S, S, 3) uint8 => (B, 3, S, S) float32
        channels_first = images.permute(0, 3, 1, 2)  # a view: memory stays channels last
        return (channels_first.float() - self.mean) / self.std


class DeviceBatch(NamedTuple):
    """A batch on the device that the model runs on."""

    images: torch.Tensor  # (B, S, S, 3) uint8
    targets: torch.Tensor  # (B,) float32
    positions: np.ndarray  # (B,) int64, into the table


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[DeviceBatch]:
    """Batches on the device, each sent off while the one before it is worked on."""
    waiting: DeviceBatch | None = None
    for batch in batches:
        images, targets = torch.from_numpy(batch.images), torch.from_numpy(batch.targets)
        if device.type == "cuda":  # only pinned memory is copied without waiting
            images, targets = images.pin_memory(), targets.pin_memory()
        sent = DeviceBatch(images.to(device, non_blocking=True), targets.to(device, non_blocking=True), batch.positions)
        if waiting is not None:
            yield waiting
        waiting = sent
    if waiting is not None:
        yield waiting


def torch_scorer(net: nn.Module, normalise: nn.Module, device: torch.device) -> Scorer:
    """The scorer of a model on its device, in evaluation mode."""

    @torch.inference_mode()
    def score(images: np.ndarray) -> np.ndarray:
        net.eval()
        pixels = torch.from_numpy(images)
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        logits = net(normalise(pixels.to(device, non_blocking=True)))  # (B, 1)
        return logits.float().squeeze(1).cpu().double().numpy()

    return score


def score_images(
    scorer: Scorer,
    stores: Sequence[Images],
    table: pl.DataFrame,
    batch_size: int,
    image_size: int,
    num_threads: int,
    tta: str = "none",
    advance: Callable[[int], None] = lambda count: None,
    decoded: dict[int, np.ndarray] | None = None,
    stopped: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Logits of a table's images, in its order; the mean over the views of `tta`. (N,) float64, fewer where `stopped`
    came true on the way.
    """
    logits = [np.zeros(0)]
    order = np.arange(len(table))
    for batch in load_batches(stores, table, order, batch_size, image_size, None, 0, 0, num_threads, 0, decoded):
        if stopped():
            break
        logits.append(np.mean([scorer(view) for view in views(batch.images, tta)], axis=0))
        advance(len(batch.images))
    return np.concatenate(logits)


def views(images: np.ndarray, tta: str) -> Iterator[np.ndarray]:
    """Each image as it is, then turned over: "none" 1 view, "flips" 4, "flips_and_transposes" all 8 of the square.

    Args:
        images: (B, S, S, 3) uint8.
    """
    transposed = (False, True) if tta == "flips_and_transposes" else (False,)
    flips = (1, -1) if tta != "none" else (1,)
    for swap in transposed:
        upright = images.transpose(0, 2, 1, 3) if swap else images
        for down in flips:
            for across in flips:
                yield np.ascontiguousarray(upright[:, ::down, ::across])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Scores in [0, 1], float64, without overflow at either end."""
    return np.exp(-np.logaddexp(0.0, -logits))


def mean_logit(logits: np.ndarray) -> np.ndarray:
    """The logit of the mean probability over the first axis, without overflow. (M, ...) => (...) float64"""
    return np.logaddexp.reduce(-np.logaddexp(0.0, -logits)) - np.logaddexp.reduce(-np.logaddexp(0.0, logits))
