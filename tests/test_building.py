"""What stages are built of: which lesions are looked at, what is kept in memory, what learns."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from lesionforge import tables
from lesionforge.diffusion import building, pipeline, scratch
from lesionforge.diffusion.building import Inputs
from lesionforge.diffusion.settings import FinetuneConfig
from lesionforge.engine import inference


@pytest.fixture
def accelerator() -> Any:
    return inference.build_accelerator("cpu", "fp32")


def config_of(out: Path, store: Path, split: Path, base: str, **changes: Any) -> FinetuneConfig:
    out.mkdir(parents=True)
    data = {"store": store, "split": split, "batch_size": 4, "image_size": 32, "flips": "horizontal"}
    small = {"vae_width": 8, "unet_width": 8, "unet_levels": 2, "text_width": 16}
    config = {"out": out, "base": base, "data": data, **({"scratch": small} if base == "scratch" else {}), **changes}
    return FinetuneConfig.model_validate(config)


def built(config: FinetuneConfig) -> tuple[Inputs, Any]:
    """(inputs, pipeline)"""
    inputs = building.read_inputs(config)
    pipe, size = building.build_base(config, inputs)
    return inputs._replace(image_size=size), pipe


def last_goal(config: FinetuneConfig, accelerator: Any) -> Any:
    inputs, pipe = built(config)
    return building.build_last_stage(config, inputs, pipe, building.build_trained(config, pipe), accelerator).goal


def test_what_learns_both_classes_looks_at_both(
    blobs: Path, blob_split: Path, tmp_path: Path, accelerator: Any
) -> None:
    config = config_of(tmp_path / "r", blobs, blob_split, "scratch", val_images=20)
    inputs = building.read_inputs(config)
    assert set(inputs.held_out[tables.TARGET]) == {1}
    assert len(inputs.held_out_both) == 20
    vae = building.build_vae_stage(config, inputs, accelerator).goal
    assert len(vae.held_out) == 20  # type: ignore[attr-defined]
    pipe = building.build_prior_pipeline(config, inputs, vae.vae)  # type: ignore[attr-defined]
    prior: Any = building.build_prior_stage(config, inputs, pipe, accelerator).goal
    moments, prompts = prior.held_out
    assert len(moments) == len(prompts) == 20
    assert set(prompts) == {"<malignant>", "<benign>"}
    assert prompts == [("<benign>", "<malignant>")[target] for target in inputs.held_out_both[tables.TARGET]]
    assert len(prior.prompts) == 72


def test_no_look_at_val_is_none_at_all(blobs: Path, blob_split: Path, tmp_path: Path, accelerator: Any) -> None:
    config = config_of(tmp_path / "r", blobs, blob_split, "scratch", val_every=0)
    inputs = building.read_inputs(config)
    assert len(inputs.held_out) == len(inputs.held_out_both) == 0
    goal: Any = building.build_vae_stage(config, inputs, accelerator).goal
    assert goal.psnr() is None
    assert goal.held_out_loss() is None


def test_latents_that_take_too_much_memory_are_made_when_shown(
    tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path, accelerator: Any, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """18 images, 2 flips, 8 channels of 4 x 4: 18,432 bytes."""
    positions, symmetries = np.array([3, 0]), torch.tensor([1, 0])
    monkeypatch.setattr(building, "MOST_CACHED", 18432)
    kept = last_goal(config_of(tmp_path / "kept", blobs, blob_split, str(tiny_sd)), accelerator)
    assert "latents of all images" not in caplog.text
    monkeypatch.setattr(building, "MOST_CACHED", 18431)
    asked: list[str] = []
    monkeypatch.setattr(building, "encoded", lambda *words: asked.append(words[-1]) or torch.zeros(6, 1, 8, 4, 4))
    shown = last_goal(config_of(tmp_path / "shown", blobs, blob_split, str(tiny_sd)), accelerator)
    assert "latents of all images would take 0.0 GiB of memory, more than 0.0: each is encoded when" in caplog.text
    assert asked == ["encoding val"]
    torch.testing.assert_close(
        shown.moments(positions, symmetries), kept.moments(positions, symmetries), atol=1e-5, rtol=1e-5
    )


def test_text_encoders_at_a_rate_of_zero_stay_as_they_are(
    tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    for rate, learns in ((0, False), (1e-6, True)):
        changes = {"method": "full", "optim": {"text_encoder_lr": rate}}
        config = config_of(tmp_path / str(rate), blobs, blob_split, str(tiny_sd), **changes)
        _, pipe = built(config)
        trained = building.build_trained(config, pipe)
        assert trained.trains_text == learns
        assert any(name.startswith("text_encoder") for name in trained.names) == learns
        assert all(p.requires_grad == learns for p in pipe.text_encoder.parameters())


def test_min_snr_weights_are_warned_of_where_they_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weighted, plain = (
        FinetuneConfig.model_validate({"out": tmp_path, "data": {"store": "s", "split": "p"}, "loss": loss})
        for loss in ({"min_snr_gamma": 5}, {})
    )
    pure = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with caplog.at_level(logging.WARNING, "lesionforge"):
        building.warn_of_weights(plain, pure)
        building.warn_of_weights(weighted, DDPMScheduler())
        assert not caplog.messages
        building.warn_of_weights(weighted, pure)
    (line,) = caplog.messages
    assert line.startswith("loss.min_snr_gamma: its weight of pure noise is 0 for this base")
    assert "\n" not in line


def test_a_base_of_ours_is_told_in_its_own_words(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    vae = scratch.build_vae(32, width=8, factor=4, latent_channels=4)
    pipe = scratch.build_pipeline(vae, ["<malignant>", "<benign>"], 32, 8, 2, 16)
    pipeline.quiet()
    pipe.save_pretrained(tmp_path / "ours")
    config = config_of(tmp_path / "r", blobs, blob_split, str(tmp_path / "ours"))
    assert set(building.read_inputs(config).captions[tables.PROMPT]) == {"<malignant>"}
