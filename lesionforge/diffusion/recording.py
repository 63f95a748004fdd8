"""What is kept of a generator besides its weights: its manifest, and sample grids with the same seeds at each epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lesionforge import run
from lesionforge.data import manifests
from lesionforge.diffusion import grids, methods, pipeline, sampling
from lesionforge.diffusion.building import Inputs
from lesionforge.diffusion.settings import SCRATCH, FinetuneConfig
from lesionforge.diffusion.stage import Stage, StopSignal, never
from lesionforge.signals import Stopped


def manifest_of(
    config: FinetuneConfig, inputs: Inputs, pipe: Any, method: str, sha256: str, epochs: dict[str, str],
    prior_sha256: str | None, seen_sha256: str,
) -> dict[str, Any]:  # fmt: skip
    """What is to be known of the generator wherever its images go."""
    base = inputs.base
    return {
        "version": manifests.VERSION,
        "kind": SCRATCH if base is None else "sdxl" if hasattr(pipe, "text_encoder_2") else "sd",
        "method": method,
        "image_size": inputs.image_size,
        "targets": {"malignant": [1], "benign": [0], "both": [0, 1]}[config.data.target],
        "base": {"name": SCRATCH, "licence": "the user's own", "files": {}} if base is None else {
            "name": base.name, "licence": base.licence, "files": base.files
        },
        "base_sha256": prior_sha256 if base is None else base.sha256,
        "adapter_sha256": sha256,
        "prior_sha256": prior_sha256,
        "epochs": epochs,
        "prediction_type": pipe.scheduler.config.prediction_type,
        "negative_prompt": config.prompts.negative,
        "seed": config.seed,
        **inputs.data.facts,
        "num_seen": len(inputs.seen),
        "seen_sha256": seen_sha256,
        "versions": pipeline.versions(),
    }  # fmt: skip


def requests_of_grid(config: FinetuneConfig, prompts: Sequence[str]) -> list[sampling.Request]:
    """The same requests for every grid of a run: image k has seed k, and one of the training prompts."""
    chosen = np.random.default_rng([config.seed, 3]).permutation(len(prompts))
    settings = config.samples
    return [
        sampling.Request(
            prompts[chosen[k % len(prompts)]], config.prompts.negative, k, settings.guidance_scale,
            settings.num_inference_steps, "ddim",
        )
        for k in range(settings.num_images)
    ]  # fmt: skip


def grid_of(
    pipe: Any, requests: list[sampling.Request], image_size: int, batch_size: int, stop_signal: StopSignal = never
) -> np.ndarray:
    """Images of a grid, (N, S, S, 3) uint8.

    Raises:
        Stopped: a signal came between two steps of the scheduler.
    """

    def look(*_: object) -> None:
        if stop_signal() is not None:
            raise Stopped

    hook = pipe.unet.register_forward_pre_hook(look)
    try:
        with torch.inference_mode():
            return np.concatenate(list(sampling.sample(pipe, requests, image_size, batch_size)))
    finally:
        hook.remove()


class Grids:
    """Sample grids after chosen epochs with the same seeds (the study's Figure 4a), and checkpoints that are kept."""

    def __init__(
        self, config: FinetuneConfig, inputs: Inputs, pipe: Any, trained: methods.Trained, stage: Stage
    ) -> None:
        self.config, self.pipe, self.trained, self.stage = config, pipe, trained, stage
        self.image_size, self.seen = inputs.image_size, inputs.seen
        last = config.optim.epochs
        self.epochs = {epoch for epoch in config.samples.epochs if epoch <= last} | {last}
        prompts = stage.goal.prompts  # type: ignore[attr-defined]
        self.requests = requests_of_grid(config, prompts)

    def after(self, epoch: int, stop_signal: StopSignal) -> None:
        """Draw and keep what is due and not yet there.

        Raises:
            Stopped: a signal broke a grid off.
        """
        path = self.config.out / run.SAMPLES_FOLDER / f"{name_of(epoch)}.png"
        with self.stage.averaged():
            if self.requests and epoch in self.epochs and not path.is_file():
                size, batch_size = self.image_size, self.config.data.batch_size
                grids.write_strip(path, grid_of(self.pipe, self.requests, size, batch_size, stop_signal))
            kept = self.config.out / run.EPOCHS / name_of(epoch)
            if epoch in self.config.keep_epochs and not methods.is_saved(kept):
                methods.save(self.pipe, self.trained, kept, self.config.textual_inversion.token, self.seen)


def name_of(epoch: int) -> str:
    return f"epoch-{epoch:04d}"
