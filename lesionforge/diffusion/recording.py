"""What is kept of a generator besides its weights: its manifest, and sample grids with the same seeds at each epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lesionforge.data import manifests
from lesionforge.diffusion import pipeline, sampling
from lesionforge.diffusion.building import Inputs
from lesionforge.diffusion.settings import SCRATCH, FinetuneConfig


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


def grid_of(pipe: Any, requests: list[sampling.Request], image_size: int, batch_size: int) -> np.ndarray:
    """Images of a grid, (N, S, S, 3) uint8."""
    with torch.inference_mode():
        return np.concatenate(list(sampling.sample(pipe, requests, image_size, batch_size)))
