"""A model with its optimizer, average and counters: what one step changes, and all that a checkpoint holds."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from torch.nn.functional import binary_cross_entropy_with_logits

from lesionforge.classifier import inference, model, optim
from lesionforge.classifier.checkpoint import Checkpoint
from lesionforge.data.loader import Batch
from lesionforge.data.store import Store
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

MAX_BAD_STEPS = 5  # in a row with a loss or gradient that is not finite, then the run stops (our choice)

Tensors = dict[str, torch.Tensor]


class Learner:
    """Learns step by step. Its randomness (dropout) depends on (seed, step) alone, so a resumed run repeats it."""

    def __init__(
        self,
        built: model.Built,
        accelerator: Accelerator,
        seed: int,
        weight_decay: float,
        betas: tuple[float, float],
        clip_grad_norm: float | None,
        micro_batch_size: int | None,
        ema_decay: float | None,
        freeze_batch_norm: bool,
    ) -> None:
        self.built = built
        self.accelerator = accelerator
        self.net = accelerator.prepare_model(built.model.to(memory_format=torch.channels_last))
        self.raw = accelerator.unwrap_model(self.net)
        self.normalise = inference.Normalise(built.mean, built.std).to(accelerator.device)
        self.params = [p for p in self.raw.parameters() if p.requires_grad]
        self.optimizer = optim.build_optimizer(self.raw, weight_decay, betas)
        self.seed = seed
        self.max_norm = clip_grad_norm or math.inf
        self.micro_batch_size = micro_batch_size
        self.ema_decay = ema_decay
        self.frozen = model.batch_norms(self.raw) if freeze_batch_norm else []
        self.ema: Tensors = {}
        if ema_decay is not None:
            self.ema = {name: tensor.clone() for name, tensor in self.raw.state_dict().items()}
        self.best: Tensors = {}
        self.best_epoch, self.best_pauc = 0, -1.0
        self.step = 0
        self.epoch_loss = 0.0  # sum over the good steps of this epoch
        self.bad_steps = self.bad_in_a_row = 0
        self.seconds = 0.0  # spent by all commands that worked on this run

    def __str__(self) -> str:
        millions = sum(p.numel() for p in self.params) / 1e6
        built = self.built
        return f"{built.name} ({millions:.1f} M parameters, {built.image_size} px, weights: {built.weights})"

    def take_step(self, batch: Batch, lr: float, image_ids: pl.Series) -> None:
        """One optimizer step on one batch. A loss or gradient that is not finite changes nothing and is counted.

        Raises:
            BadInput: too many bad steps in a row; names the images of the last.
        """
        self.net.train()
        for layer in self.frozen:
            layer.eval()
        optim.set_lr(self.optimizer, lr)
        torch.manual_seed(np.random.SeedSequence((self.seed, self.step)).generate_state(1, np.uint64).item())
        images, targets = inference.to_device(batch, self.accelerator.device)
        micro_size = self.micro_batch_size or len(targets)
        loss = torch.zeros((), device=self.accelerator.device)
        buffers = {name: tensor.clone() for name, tensor in self.raw.named_buffers()}
        for some_images, some_targets in zip(images.split(micro_size), targets.split(micro_size), strict=True):
            logits = self.net(self.normalise(some_images)).float().squeeze(1)  # (b,)
            part = binary_cross_entropy_with_logits(logits, some_targets, reduction="sum") / len(targets)
            self.accelerator.backward(part)
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.max_norm)
        if math.isfinite(float(loss)) and math.isfinite(float(norm)):
            self.optimizer.step()
            self.update_average()
            self.epoch_loss += float(loss)
            self.bad_in_a_row = 0
        else:
            self.raw.load_state_dict(buffers, strict=False)  # batch norm has seen the bad batch: take that back
            self.note_bad_step(float(loss), float(norm), image_ids[batch.positions].to_list())
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def update_average(self) -> None:
        """EMA of weights and running statistics; counters (integers) are copied."""
        if self.ema_decay is None:
            return
        for name, tensor in self.raw.state_dict().items():
            if tensor.is_floating_point():
                self.ema[name].lerp_(tensor, 1 - self.ema_decay)
            else:
                self.ema[name].copy_(tensor)

    def note_bad_step(self, loss: float, norm: float, image_ids: Sequence[str]) -> None:
        self.bad_steps += 1
        self.bad_in_a_row += 1
        log.warning("step %d skipped: loss %g, gradient norm %g", self.step, loss, norm)
        if self.bad_in_a_row >= MAX_BAD_STEPS:
            raise BadInput(
                f"{MAX_BAD_STEPS} steps in a row had a loss or gradient that is not finite; the weights are as before. "
                f"Lower optim.lr or look at the images of the last batch: {', '.join(image_ids)}"
            )

    def mean_loss(self, steps_per_epoch: int) -> float:
        """Mean training loss of the epoch that ends here; starts the next one."""
        loss, self.epoch_loss = self.epoch_loss / steps_per_epoch, 0.0
        return loss

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """In the block the model has its averaged weights, where an average is kept."""
        if not self.ema:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.raw.state_dict().items()}
        self.raw.load_state_dict(self.ema)
        try:
            yield
        finally:
            self.raw.load_state_dict(own)

    def score(
        self,
        stores: Sequence[Store],
        table: pl.DataFrame,
        batch_size: int,
        num_threads: int,
        decoded: dict[int, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Logits of a table's images by the present weights, averaged where an average is kept. (N,) float64."""
        with self.averaged_weights():
            scorer = inference.torch_scorer(self.net, self.normalise, self.accelerator.device)
            return inference.score_images(
                scorer, stores, table, batch_size, self.built.image_size, num_threads, decoded=decoded
            )

    def keep_if_best(self, pauc: float, epoch: int) -> None:
        if pauc > self.best_pauc:
            self.best_pauc, self.best_epoch = pauc, epoch
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.current().items()}

    def weights(self) -> Tensors:
        """The weights that count: the best where they were kept, else the average, else the last."""
        return self.best or self.current()

    def current(self) -> Tensors:
        return self.ema or dict(self.raw.state_dict())

    def state(self) -> tuple[int, Tensors, dict[str, Any]]:
        """(step, tensors, facts) for a checkpoint."""
        parts = {
            "model": self.raw.state_dict(),
            "optimizer": optim.optimizer_tensors(self.optimizer),
            "ema": self.ema,
            "best": self.best,
        }
        tensors = {f"{part}.{name}": tensor for part, rows in parts.items() for name, tensor in rows.items()}
        facts = {name: getattr(self, name) for name in COUNTERS}
        return self.step, tensors, facts

    def restore(self, found: Checkpoint, path: Path) -> None:
        """Go back to a checkpoint."""
        model.load_weights(self.raw, found.part("model"), path)
        optim.load_optimizer_tensors(self.optimizer, found.part("optimizer"))
        self.ema = {name: tensor.to(self.accelerator.device) for name, tensor in found.part("ema").items()}
        self.best = found.part("best")
        self.step = found.facts["step"]
        for name in COUNTERS:
            setattr(self, name, found.facts[name])


COUNTERS = ("epoch_loss", "bad_steps", "bad_in_a_row", "seconds", "best_epoch", "best_pauc")
