"""What a pipeline can be asked for is told before it is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from lesionforge.diffusion import pipeline, sampling_limits
from lesionforge.diffusion.generate_settings import IMAGE_TO_IMAGE
from lesionforge.diffusion.sampling import SCHEDULERS, Request
from lesionforge.errors import BadInput


@pytest.fixture(scope="module")
def sd(tiny_sd: Path) -> Any:
    return pipeline.load_pipeline(pipeline.find_base(str(tiny_sd)))


def test_sides_fit_all_levels_of_vae_and_unet(sd: Any) -> None:
    """A VAE of four levels and a UNet of two: 8 times 2."""
    assert sampling_limits.size_multiple(sd) == 16


def test_only_pndm_does_not_know_noise_that_ends_pure(sd: Any) -> None:
    assert [name for name in SCHEDULERS if not sampling_limits.knows_zero_snr(name)] == ["pndm"]
    for name in SCHEDULERS:
        sampling_limits.require_scheduler(sd, name)  # this model's does not end pure


def test_zero_snr_models_refuse_pndm(sd: Any) -> None:
    plain = sd.scheduler
    sd.scheduler = type(plain).from_config(plain.config, rescale_betas_zero_snr=True)
    try:
        sampling_limits.require_scheduler(sd, "ddim")
        with pytest.raises(BadInput, match=r"scheduler: pndm does not know .* choose among ddpm, ddim, euler"):
            sampling_limits.require_scheduler(sd, "pndm")
    finally:
        sd.scheduler = plain


@pytest.mark.parametrize(("most", "fits"), [(9, 4), (3, 2), (1, 1), (0, 0)])
def test_halves_are_tried_until_one_fits(sd: Any, monkeypatch: pytest.MonkeyPatch, most: int, fits: int) -> None:
    """Of 8 images that did not fit at once: with guidance the UNet gets two rows an image."""
    forward = UNet2DConditionModel.forward

    def small(self: Any, latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if len(latents) > 2 * most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, latents, *arguments, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", small)
    source = np.zeros((64, 64, 3), np.uint8)
    requests = [Request("a", "", seed, 3.0, 30, "euler", IMAGE_TO_IMAGE, 0.2, source) for seed in range(8)]
    assert sampling_limits.batch_that_fits(sd, requests, 64) == fits


def test_other_errors_are_not_taken_for_memory(sd: Any) -> None:
    requests = [Request("a", "", seed, 3.0, 30, "euler", IMAGE_TO_IMAGE, 0.2) for seed in range(2)]
    with pytest.raises(ValueError, match="needs a source"):
        sampling_limits.batch_that_fits(sd, requests, 64)
