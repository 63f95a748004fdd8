"""A model with its optimizer, average and counters: what one step changes, and all that a checkpoint holds."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lesionforge.classifier import optim, speed
from lesionforge.classifier.objective import Objective
from lesionforge.data.store import Store
from lesionforge.engine import inference, model, optimizer_state, ranks, schedule
from lesionforge.engine.average import Average
from lesionforge.engine.checkpoint import Checkpoint
from lesionforge.engine.inference import Accelerator, DeviceBatch
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

MAX_BAD_STEPS = 5  # in a row with a loss or gradient that is not finite, then the run stops (our choice)
COUNTERS = (
    "epoch_loss", "bad_steps", "bad_in_a_row", "seconds", "row_owed", "best_epoch", "best_pauc", "scorings_since_best",
)  # fmt: skip

Tensors = dict[str, torch.Tensor]


class Learner:
    """Learns step by step. Its randomness (dropout, mixing) depends on (seed, step) alone: a resumed run repeats it.

    With several processes each holds the whole model and takes its share of every batch; gradients are averaged, so all
    make the same step.
    """

    def __init__(
        self,
        built: model.Built,
        accelerator: Accelerator,
        objective: Objective,
        seed: int,
        *,
        lr: float, head_lr: float | None, layer_decay: float | None, weight_decay: float, betas: tuple[float, float],
        clip_grad_norm: float | None, micro_batch_size: int | None, ema_decay: float | None, ema_warmup: bool,
        freeze_batch_norm: bool, compile: bool, halve_micro_batch: bool,
    ) -> None:  # fmt: skip
        self.built = built
        self.accelerator = accelerator
        self.objective = objective
        self.seed = seed
        self.raw = built.model.to(accelerator.device)
        self.extra: nn.Module | None = None  # the second head
        self.whole: nn.Module = self.raw
        if objective.num_classes:
            self.whole = model.WithAuxiliary(self.raw, objective.num_classes).to(accelerator.device)
            self.extra = self.whole.auxiliary
        self.whole = speed.prepared_for_training(
            self.whole, accelerator.device, accelerator.mixed_precision.replace("no", "fp32"), compile
        )
        self.normalise = inference.Normalise(built.mean, built.std).to(accelerator.device)
        self.params = list(self.whole.parameters())
        self.optimizer = optim.build_optimizer(
            self.raw,
            lr,
            head_lr,
            layer_decay,
            weight_decay,
            betas,
            heads=[self.extra] if self.extra is not None else [],
            fused=True,
        )
        self.max_norm = clip_grad_norm or math.inf
        self.micro_batch_size = micro_batch_size
        self.halve_micro_batch = halve_micro_batch
        self.always_frozen = model.batch_norms(self.raw) if freeze_batch_norm else []
        self.still = self.always_frozen  # layers in evaluation mode
        self.frozen = False
        self.net = self.wrapped()
        self.average = None if ema_decay is None else Average(self.raw, ema_decay, ema_warmup)
        self.best: Tensors = {}
        self.best_epoch, self.best_pauc, self.scorings_since_best = 0, -1.0, 0
        self.step = 0
        self.row_owed = False  # an epoch has ended, and a signal came before val was scored
        self.epoch_loss = 0.0  # sum over the good steps of this epoch
        self.bad_steps = self.bad_in_a_row = 0
        self.seconds = 0.0  # spent by all commands that worked on this run

    def __str__(self) -> str:
        built = self.built
        size = f"{self.num_parameters / 1e6:.1f} M parameters, {built.image_size} px"
        return f"{built.name} ({size}, weights: {built.weights})"

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.raw.parameters())

    def wrapped(self) -> nn.Module:
        """The module that steps go through: with other processes, one that averages the gradients."""
        return DistributedDataParallel(self.whole) if self.accelerator.num_processes > 1 else self.whole

    def freeze(self, frozen: bool) -> None:
        """Let only the heads learn, or everything again. Frozen layers keep their batch norm statistics too."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        heads = {id(p) for layer in (model.last_layer(self.raw), self.extra) if layer for p in layer.parameters()}
        for p in self.params:
            p.requires_grad_(not frozen or id(p) in heads)
        self.still = model.batch_norms(self.raw) if frozen else self.always_frozen
        self.net = self.wrapped()  # DistributedDataParallel looks at requires_grad once, when it is made

    def take_step(self, batch: DeviceBatch, lr: float, image_ids: pl.Series) -> None:
        """One optimizer step on this process's share of a batch. A loss or gradient that is not finite changes nothing
        and is counted.

        Raises:
            BadInput: too many bad steps in a row, with the images of the last; out of memory, with what would fit.
        """
        self.net.train()
        for layer in self.still:
            layer.eval()
        schedule.set_lr(self.optimizer, lr)
        before = {name: tensor.clone() for name, tensor in self.raw.named_buffers()}
        loss = self.gradients(batch, before)
        norm = torch.nn.utils.clip_grad_norm_([p for p in self.params if p.grad is not None], self.max_norm)
        total, length = float(ranks.summed(self.accelerator, loss)), float(norm)
        if math.isfinite(total) and math.isfinite(length):
            self.optimizer.step()
            if self.average is not None:
                self.average.update()
            self.epoch_loss += total
            self.bad_in_a_row = 0
        else:
            self.raw.load_state_dict(before, strict=False)  # batch norm has seen the bad batch: take that back
            ids = ranks.joined(self.accelerator, image_ids[batch.positions].to_list())
            self.note_bad_step(total, length, ids)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def gradients(self, batch: DeviceBatch, buffers: Tensors) -> torch.Tensor:
        """Gradients of the whole batch's mean loss; returns this process's part of that loss. ()"""
        micro_size = self.micro_batch_size or len(batch.targets)
        while True:
            try:
                return self.accumulated(batch, micro_size)
            except RuntimeError as error:
                if not inference.is_out_of_memory(error):
                    raise
                del error
            self.forget(buffers)
            if not self.halve_micro_batch or micro_size == 1 or self.accelerator.num_processes > 1:
                raise self.too_large(batch, micro_size, buffers)
            micro_size = self.micro_batch_size = micro_size // 2
            log.warning("out of memory: going on with micro-batches of %d images", micro_size)

    def accumulated(self, batch: DeviceBatch, micro_size: int) -> torch.Tensor:
        entropy = (self.seed, self.step, self.accelerator.process_index)
        num_images, device = len(batch.targets), self.accelerator.device
        inference.seed_device(entropy, device)
        loss = torch.zeros((), device=device)
        shares = self.objective.shares(self.normalise(batch.images), batch, micro_size, entropy)
        for number, share in enumerate(shares, 1):
            last = number * micro_size >= num_images
            together = self.net.no_sync() if isinstance(self.net, DistributedDataParallel) and not last else None
            with together or contextlib.nullcontext():
                with self.accelerator.autocast():
                    outputs = self.net(share.images)
                part = self.objective.loss(outputs, share).sum() / num_images  # mean over this process's images
                part.backward()
            loss += part.detach()
        return loss / self.accelerator.num_processes  # the mean over processes is the mean over the batch

    def forget(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """Undo what a batch that was not finished left behind."""
        self.optimizer.zero_grad(set_to_none=True)
        self.raw.load_state_dict(dict(buffers), strict=False)
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()

    def too_large(self, batch: DeviceBatch, micro_size: int, buffers: Tensors) -> BadInput:
        """Say how many images at once would have fitted, by trying."""
        asked = f"out of memory: {micro_size} images of {self.built.image_size} px at once do not fit"
        cure = "close other programs on the device, or take a smaller model or data.image_size"
        if self.accelerator.num_processes == 1:
            while micro_size := micro_size // 2:
                try:
                    self.accumulated(batch, micro_size)
                except RuntimeError as error:
                    if not inference.is_out_of_memory(error):
                        raise
                else:
                    cure = f"{micro_size} do: --optim.micro-batch-size {micro_size}, or --hardware.halve-micro-batch"
                    break
                finally:
                    self.forget(buffers)
        else:
            cure = f"lower --optim.micro-batch-size, now {micro_size}"
        return BadInput(f"{asked}; {cure}")

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
    def lent(self, weights: Tensors) -> Iterator[None]:
        """In the block the model has other weights, where there are any."""
        if not weights:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.raw.state_dict().items()}
        self.raw.load_state_dict(weights)
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
        stopped: Callable[[], object] = lambda: None,
    ) -> np.ndarray:
        """Logits of a table's images by the average where one is kept, else by the present weights. (N,) float64,
        on every process, each having scored its share; fewer where `stopped` came true on the way.
        """
        ranks.share_tensors(self.accelerator, self.raw.buffers())
        ranks.share_tensors(self.accelerator, self.average.tensors.values() if self.average else ())
        rows = ranks.share_of(self.accelerator, len(table))
        with self.lent(self.average.tensors if self.average else {}), self.accelerator.autocast():
            scorer = inference.torch_scorer(self.raw, self.normalise, self.accelerator.device)
            logits = inference.score_images(
                scorer, stores, table[rows.start : rows.stop], batch_size, self.built.image_size, num_threads,
                decoded=decoded, stopped=stopped,
            )  # fmt: skip
        return np.array(ranks.joined(self.accelerator, logits.tolist()))

    def note_score(self, pauc: float, epoch: int) -> None:
        """Keep the weights if they are the best on val so far."""
        self.scorings_since_best += 1
        if pauc > self.best_pauc:
            self.best_pauc, self.best_epoch, self.scorings_since_best = pauc, epoch, 0
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.current().items()}

    def weights(self) -> Tensors:
        """The weights that count: the best where they were kept, else the average, else the last."""
        return self.best or self.current()

    def current(self) -> Tensors:
        return self.average.tensors if self.average else dict(self.raw.state_dict())

    def state(self) -> tuple[int, Tensors, dict[str, Any]]:
        """(step, tensors, facts) for a checkpoint."""
        parts = {
            "model": self.raw.state_dict(),
            "auxiliary": self.extra.state_dict() if self.extra else {},
            "optimizer": optimizer_state.optimizer_tensors(self.optimizer),
            "ema": self.average.tensors if self.average else {},
            "best": self.best,
        }
        tensors = {f"{part}.{name}": tensor for part, rows in parts.items() for name, tensor in rows.items()}
        facts = {name: getattr(self, name) for name in COUNTERS}
        facts["num_averaged"] = self.average.num_steps if self.average else 0
        return self.step, tensors, facts

    def restore(self, found: Checkpoint, path: Path) -> None:
        """Go back to a checkpoint."""
        model.load_weights(self.raw, found.part("model"), path)
        if self.extra is not None:
            model.load_weights(self.extra, found.part("auxiliary"), path)
        optimizer_state.load_optimizer_tensors(self.optimizer, found.part("optimizer"))
        if self.average is not None:
            self.average.restore(found.part("ema"), found.facts["num_averaged"])
        self.best = found.part("best")
        self.step = found.facts["step"]
        for name in COUNTERS:
            setattr(self, name, found.facts[name])
