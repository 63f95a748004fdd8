"""What a generator is charged for, against diffusers' own pipelines and formulas."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler
from diffusers.training_utils import compute_snr

from lesionforge.diffusion import denoising, pipeline

PROMPTS = ["Malignant skin lesions", "", "melanoma on the back of a 55-year-old"]


@pytest.fixture(scope="module")
def sd(tiny_sd: Path) -> object:
    return pipeline.load_pipeline(pipeline.find_base(str(tiny_sd)))


@pytest.fixture(scope="module")
def sdxl(tiny_sdxl: Path) -> object:
    return pipeline.load_pipeline(pipeline.find_base(str(tiny_sdxl)))


def scheduler(prediction_type: str = "epsilon", **settings: object) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type, **settings
    )


def test_prompts_are_told_as_the_pipeline_tells_them(sd, sdxl) -> None:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        told = denoising.encode_prompts(sd, PROMPTS)
        assert told.keys() == {"hidden"}
        expected, _ = sd.encode_prompt(PROMPTS, "cpu", 1, False)
        assert torch.equal(told["hidden"], expected)
        told = denoising.encode_prompts(sdxl, PROMPTS)
        expected, negative, pooled, negative_pooled = sdxl.encode_prompt(PROMPTS, device="cpu")
        expected[1], pooled[1] = negative[1], negative_pooled[1]  # without a prompt: as without a negative one
        assert torch.equal(told["hidden"], expected)
        assert torch.equal(told["pooled"], pooled)
        assert not told["hidden"][1].any()
    assert not denoising.is_sdxl(sd)
    assert len(denoising.text_encoders(sdxl)) == len(denoising.tokenizers(sdxl)) == 2


def test_a_prompt_that_was_left_out_is_zeros_only_where_the_pipeline_takes_zeros(sdxl) -> None:  # type: ignore[no-untyped-def]
    sdxl.register_to_config(force_zeros_for_empty_prompt=False)
    try:
        with torch.no_grad():
            told = denoising.encode_prompts(sdxl, [""])
            _, negative, _, negative_pooled = sdxl.encode_prompt(["a mole"], device="cpu")
        assert torch.equal(told["hidden"], negative)
        assert torch.equal(told["pooled"], negative_pooled)
        assert negative.any()
    finally:
        sdxl.register_to_config(force_zeros_for_empty_prompt=True)


def test_what_latents_are_smaller_by(sd) -> None:  # type: ignore[no-untyped-def]
    assert denoising.vae_factor(sd.vae) == 8 == sd.vae_scale_factor


def test_prompts_that_are_cut_are_named(sd) -> None:  # type: ignore[no-untyped-def]
    """The tiny tokenizer has a token for each letter: 75 fit beside the two ends."""
    fits, cut = "m" * 75, "m" * 76
    assert denoising.too_long(sd, [fits, cut, fits, cut, "a mole"]) == [cut]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_those_of_the_paper(prediction_type: str, gamma: float) -> None:
    """As in diffusers' own training scripts, over all timesteps."""
    noise = scheduler(prediction_type)
    timesteps = torch.arange(1000)
    snr = compute_snr(noise, timesteps)
    clipped = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    expected = {"epsilon": clipped / snr, "v_prediction": clipped / (snr + 1), "sample": clipped}[prediction_type]
    torch.testing.assert_close(denoising.snr_weights(noise, timesteps, gamma), expected.float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(denoising.snr_weights(noise, timesteps, None), torch.ones(1000))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_finite_in_pure_noise(prediction_type: str) -> None:
    noise = scheduler(prediction_type, rescale_betas_zero_snr=True)
    assert torch.isfinite(denoising.snr_weights(noise, torch.arange(1000), 5.0)).all()


def test_min_snr_gives_pure_noise_no_weight_where_v_is_predicted() -> None:
    """Measured to harm, so building warns of it; and that is where the signal is zero."""
    pure = scheduler("v_prediction", rescale_betas_zero_snr=True)
    assert float(denoising.snr_weights(pure, torch.tensor([999]), 5.0)) < 1e-6
    assert denoising.ends_in_pure_noise(pure)
    assert not denoising.ends_in_pure_noise(scheduler("v_prediction"))
    assert not denoising.ends_in_pure_noise(scheduler("epsilon", rescale_betas_zero_snr=True))
    assert not denoising.ends_in_pure_noise(PNDMScheduler())  # which does not know of it


def test_targets() -> None:
    """v = sqrt(a) noise - sqrt(1 - a) latents (Salimans & Ho 2022)."""
    latents, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    timesteps = torch.tensor([0, 500, 999])
    assert denoising.target_of(scheduler("epsilon"), latents, noise, timesteps) is noise
    assert denoising.target_of(scheduler("sample"), latents, noise, timesteps) is latents
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, dim=0)[timesteps].view(3, 1, 1, 1)
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    torch.testing.assert_close(denoising.target_of(scheduler("v_prediction"), latents, noise, timesteps), velocity)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_the_loss_by_hand(sd, prediction_type: str) -> None:  # type: ignore[no-untyped-def]
    latents, noise, timesteps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([3, 400, 998])
    hidden, _ = sd.encode_prompt(PROMPTS, "cpu", 1, False)
    losses = denoising.noise_loss(
        sd, sd.unet, scheduler(prediction_type), latents, noise, timesteps, {"hidden": hidden}, 64
    )
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, dim=0)
    for row, timestep in enumerate(timesteps.tolist()):
        a = kept[timestep]
        noisy = a.sqrt() * latents[row] + (1 - a).sqrt() * noise[row]
        answer = sd.unet(noisy[None], timestep, encoder_hidden_states=hidden[row : row + 1]).sample[0]
        wanted = noise[row] if prediction_type == "epsilon" else a.sqrt() * noise[row] - (1 - a).sqrt() * latents[row]
        assert float(losses[row]) == pytest.approx(float(((answer - wanted) ** 2).mean()), rel=1e-4)


@torch.no_grad()
def test_sdxl_is_told_the_size_as_its_pipeline_tells_it(sdxl) -> None:  # type: ignore[no-untyped-def]
    heard = {}

    def unet(noisy, timesteps, *, encoder_hidden_states, added_cond_kwargs, return_dict):  # type: ignore[no-untyped-def]
        heard.update(added_cond_kwargs)
        return (noisy,)

    told = denoising.encode_prompts(sdxl, PROMPTS)
    denoising.predict(sdxl, unet, torch.zeros(3, 4, 8, 8), torch.tensor([1, 2, 3]), told, 64)  # type: ignore[arg-type]
    width = sdxl.text_encoder_2.config.projection_dim
    expected = sdxl._get_add_time_ids((64, 64), (0, 0), (64, 64), torch.float32, text_encoder_projection_dim=width)
    assert torch.equal(heard["time_ids"], expected.repeat(3, 1))
    assert torch.equal(heard["text_embeds"], told["pooled"])
    losses = denoising.noise_loss(
        sdxl, sdxl.unet, scheduler(), torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([1, 2, 3]), told,
        64,
    )  # fmt: skip
    assert losses.shape == (3,)
    assert torch.isfinite(losses).all()


@torch.no_grad()
def test_latents_are_drawn_and_scaled_as_the_vae_draws_them(sd) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    moments = denoising.moments_of(sd.vae, images)
    posterior = sd.vae.encode(images).latent_dist
    draw = torch.randn(posterior.mean.shape)
    expected = (posterior.mean + posterior.std * draw) * sd.vae.config.scaling_factor
    torch.testing.assert_close(denoising.scaled_latents(sd.vae, moments, draw), expected)
    middle = denoising.scaled_latents(sd.vae, moments, torch.zeros_like(draw))
    torch.testing.assert_close(middle, posterior.mode() * sd.vae.config.scaling_factor)
