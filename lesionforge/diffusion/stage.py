"""A stretch of training with one goal: its parameters, optimizer, average and counters, and one step of it.

A generator is made in one stage, base scratch in three. The randomness of a step comes from (seed, stage, step) alone,
and is drawn for the whole batch, so that neither a resumed run nor another number of processes sees other noise.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from lesionforge.data import sampler
from lesionforge.engine import inference, optimizer_state, ranks, schedule
from lesionforge.engine.average import Average
from lesionforge.engine.checkpoint import Checkpoint
from lesionforge.engine.inference import Accelerator
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

MAX_BAD_STEPS = 5  # in a row with a loss or gradient that is not finite, then the run stops; as in `train`
COUNTERS = ("row_loss", "bad_steps", "bad_in_a_row", "seconds", "row_owed")

Draws = dict[str, torch.Tensor]  # name -> (B, ...), on the CPU
StopSignal = Callable[[], int | None]  # the number of the signal that came


def never() -> None:
    """No signal."""


class Goal(Protocol):
    """What a stage charges for."""

    num_images: int

    def draws(self, positions: np.ndarray, generator: torch.Generator) -> Draws:
        """All randomness of a batch; positions: (B,) into the images."""
        ...

    def losses(self, positions: np.ndarray, draws: Draws) -> torch.Tensor:
        """Loss of each image of a part of the batch. (b,) on the device"""
        ...

    def held_out_loss(self, stop_signal: StopSignal = never) -> float | None:
        """The loss on lesions that it does not learn from; None where there are none. Raises Stopped at a signal."""
        ...


class Stage:
    """Learns step by step towards a goal."""

    def __init__(
        self,
        name: str,
        goal: Goal,
        accelerator: Accelerator,
        seed: int,
        *,
        names: Sequence[str], params: Sequence[nn.Parameter], lr_scales: Sequence[float], modules: Sequence[nn.Module],
        num_steps: int, batch_size: int, steps_per_epoch: int, steps_per_row: int, lr: float, schedule: str,
        warmup_steps: int, weight_decay: float, betas: tuple[float, float], clip_grad_norm: float | None,
        micro_batch_size: int | None, ema_decay: float | None,
    ) -> None:  # fmt: skip
        if batch_size < accelerator.num_processes:
            raise BadInput(
                f"{name}: batches of {batch_size} cannot be dealt to {accelerator.num_processes} processes; start "
                "fewer, or make its batches larger"
            )
        self.name, self.goal, self.accelerator = name, goal, accelerator
        self.entropy = [seed, *name.encode()]
        self.seed = seed
        self.names = list(names)
        self.trained = nn.ParameterList(params)  # the same parameters, for the average and the checkpoint
        self.modules = modules
        self.num_steps, self.batch_size = num_steps, batch_size
        self.steps_per_epoch, self.steps_per_row = steps_per_epoch, steps_per_row
        self.order, self.order_epoch = np.zeros(0, np.int64), -1  # of the epoch in hand
        self.lr, self.schedule, self.warmup_steps = lr, schedule, warmup_steps
        groups = [
            {"params": [p for p, own in zip(params, lr_scales, strict=True) if own == scale], "lr_scale": scale}
            for scale in dict.fromkeys(lr_scales)
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        self.max_norm = clip_grad_norm or math.inf
        self.micro_batch_size = micro_batch_size
        self.average = None if ema_decay is None else Average(self.trained, ema_decay, warmup=True)
        self.step = 0
        self.row_loss = 0.0  # sum over the good steps since the last row
        self.val_loss: float | None = None  # as last seen, by process 0
        self.bad_steps = self.bad_in_a_row = 0
        self.seconds = 0.0
        self.row_owed = False  # a row was due, and a signal came before it was written

    @property
    def finished(self) -> bool:
        return self.step == self.num_steps and not self.row_owed

    def in_words(self) -> str:
        millions = sum(p.numel() for p in self.trained) / 1e6
        images = f"{self.goal.num_images:,} images"
        return f"{self.name}: {millions:.2f} M parameters learn {images}, {self.num_steps:,} steps of {self.batch_size}"

    def lr_of(self, step: int) -> float:
        if self.schedule == "cosine":
            return schedule.lr_at(step, self.num_steps, self.warmup_steps / self.num_steps, self.lr, 0.01 * self.lr)
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def positions_of(self, step: int) -> np.ndarray:
        """The images of a step: each once in an epoch, what is left over comes first in the next. (B,) int64"""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self.order_epoch:
            num_samples = self.steps_per_epoch * self.batch_size
            self.order = sampler.shuffle_order(self.goal.num_images, num_samples, self.seed, epoch)
            self.order_epoch = epoch
        return self.order[number * self.batch_size : (number + 1) * self.batch_size]

    def generator_of(self, step: int) -> torch.Generator:
        """Where the draws of a step come from."""
        seed = np.random.SeedSequence([*self.entropy, step]).generate_state(1, np.uint64).item() >> 1
        return torch.Generator().manual_seed(seed)

    def take_step(self) -> None:
        """One optimizer step. A loss or gradient that is not finite changes nothing and is counted.

        Raises:
            BadInput: too many bad steps in a row; out of memory.
        """
        for module in self.modules:
            module.train()
        schedule.set_lr(self.optimizer, self.lr_of(self.step))
        positions = self.positions_of(self.step)
        draws = self.goal.draws(positions, self.generator_of(self.step))
        inference.seed_device([*self.entropy, self.step, self.accelerator.process_index], self.accelerator.device)
        try:
            loss = self.gradients(positions, draws)
        except RuntimeError as error:
            if not inference.is_out_of_memory(error):
                raise
            raise self.too_large() from error
        ranks.average_gradients(self.accelerator, self.trained)
        norm = torch.nn.utils.clip_grad_norm_([p for p in self.trained if p.grad is not None], self.max_norm)
        total, length = float(ranks.summed(self.accelerator, loss)), float(norm)
        if math.isfinite(total) and math.isfinite(length):
            self.optimizer.step()
            if self.average is not None:
                self.average.update()
            self.row_loss += total
            self.bad_in_a_row = 0
        else:
            self.note_bad_step(total, length)
        self.optimizer.zero_grad(set_to_none=True)
        for module in self.modules:
            module.eval()
        self.step += 1

    def gradients(self, positions: np.ndarray, draws: Draws) -> torch.Tensor:
        """Gradients of this process's share of the batch; returns its part of the mean loss. ()"""
        share = ranks.share_of(self.accelerator, len(positions))
        micro_size = self.micro_batch_size or len(share)
        loss = torch.zeros((), device=self.accelerator.device)
        for first in range(share.start, share.stop, micro_size):
            part = slice(first, min(first + micro_size, share.stop))
            with self.accelerator.autocast():
                losses = self.goal.losses(positions[part], {name: draw[part] for name, draw in draws.items()})  # (b,)
            mean = losses.sum() / len(positions)
            # gradients are averaged over processes: each gives its images' share times the number of processes
            (mean * self.accelerator.num_processes).backward()
            loss += mean.detach()
        return loss

    def too_large(self) -> BadInput:
        now = self.micro_batch_size or self.batch_size // self.accelerator.num_processes
        fewer = f"--optim.micro-batch-size {now // 2}, " if now > 1 else ""
        return BadInput(
            f"out of memory: {now} images at once do not fit; try {fewer}--optim.grad-checkpointing, or a smaller "
            "--data.image-size"
        )

    def note_bad_step(self, loss: float, norm: float) -> None:
        self.bad_steps += 1
        self.bad_in_a_row += 1
        log.warning("%s: step %d skipped: loss %g, gradient norm %g", self.name, self.step, loss, norm)
        if self.bad_in_a_row >= MAX_BAD_STEPS:
            raise BadInput(
                f"{self.name}: {MAX_BAD_STEPS} steps in a row had a loss or gradient that is not finite; what learns "
                "is as before. Lower optim.lr, or use --optim.precision fp32"
            )

    def mean_loss(self) -> float:
        """Mean training loss since the last row; starts the next one."""
        steps = (self.step - 1) % self.steps_per_row + 1
        loss, self.row_loss = self.row_loss / steps, 0.0
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In the block what learns has its averaged values, where an average is kept."""
        if self.average is None:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.trained.state_dict().items()}
        self.trained.load_state_dict(self.average.tensors)
        try:
            yield
        finally:
            self.trained.load_state_dict(own)

    def settle(self) -> None:
        """Take the averaged values for good."""
        if self.average is not None:
            self.trained.load_state_dict(self.average.tensors)

    def state(self) -> tuple[int, dict[str, torch.Tensor], dict[str, Any]]:
        """(step, tensors, facts) for a checkpoint."""
        parts = {
            "trained": self.trained.state_dict(),
            "optimizer": optimizer_state.optimizer_tensors(self.optimizer),
            "ema": self.average.tensors if self.average else {},
        }
        tensors = {f"{part}.{name}": tensor for part, rows in parts.items() for name, tensor in rows.items()}
        facts = {name: getattr(self, name) for name in COUNTERS}
        return self.step, tensors, {
            **facts, "names": self.names, "num_averaged": self.average.num_steps if self.average else 0
        }  # fmt: skip

    def restore(self, found: Checkpoint, path: Path) -> None:
        """Go back to a checkpoint.

        Raises:
            BadInput: it is of other parameters.
        """
        if found.facts["names"] != self.names:
            raise BadInput(f"{path}: its checkpoint is of another model; delete the run folder and start anew")
        self.trained.load_state_dict(found.part("trained"))
        optimizer_state.load_optimizer_tensors(self.optimizer, found.part("optimizer"))
        if self.average is not None:
            self.average.restore(found.part("ema"), found.facts["num_averaged"])
        self.step = found.facts["step"]
        for name in COUNTERS:
            setattr(self, name, found.facts[name])


def steps_per_epoch_of(num_images: int, batch_size: int) -> int:
    """Whole batches that show each image at least once."""
    return -(-num_images // batch_size)
