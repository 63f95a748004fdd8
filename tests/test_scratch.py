"""A latent diffusion model of our own is an ordinary pipeline: saved, reopened by diffusers, guided, its VAE learns."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import blob
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

from lesionforge.diffusion import captions, pipeline, scratch

WORDS = ["<malignant>", "<benign>", "<site=head/neck>", "<age=55>", "<diagnosis=Melanoma in situ>"]


def build() -> Any:
    torch.manual_seed(0)
    vae = scratch.build_vae(32, width=8, factor=4, latent_channels=4).eval()
    pipe = scratch.build_pipeline(vae, WORDS, 32, unet_width=16, unet_levels=2, text_width=16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_of(pipe: Any, prompt: str, guidance_scale: float) -> np.ndarray:
    return pipe(
        prompt, num_inference_steps=4, guidance_scale=guidance_scale, height=32, width=32, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip


def blobs_as_input(num: int, size: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    images = [cv2.imdecode(np.frombuffer(blob(rng, i % 2 == 0), np.uint8), cv2.IMREAD_COLOR_RGB) for i in range(num)]
    small = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images])
    return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, 3, S, S)


def test_diffusers_opens_what_was_saved_and_draws_the_same_image(tmp_path: Path) -> None:
    pipe = build()
    before = image_of(pipe, "<malignant> <age=55>", 3.0)
    pipe.save_pretrained(tmp_path / "own", safe_serialization=True)
    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "own", safety_checker=None)
    opened.set_progress_bar_config(disable=True)
    assert np.array_equal(image_of(opened, "<malignant> <age=55>", 3.0), before)
    ours = pipeline.load_pipeline(pipeline.find_base(str(tmp_path / "own")))
    assert np.array_equal(image_of(ours, "<malignant> <age=55>", 3.0), before)
    assert not np.array_equal(image_of(ours, "<benign> <age=55>", 3.0), before)


def test_guidance_away_from_the_empty_prompt_changes_the_image() -> None:
    pipe = build()
    plain, guided = image_of(pipe, "<malignant>", 1.0), image_of(pipe, "<malignant>", 5.0)
    assert np.isfinite(guided).all()
    assert not np.array_equal(plain, guided)


def test_every_word_is_one_token_and_other_texts_are_bytes() -> None:
    tokenizer = scratch.word_tokenizer(WORDS)
    assert len(tokenizer) == 514 + len(WORDS)
    for word in WORDS:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    ids = tokenizer("<malignant> <site=head/neck> <diagnosis=Melanoma in situ>").input_ids
    assert len(ids) == 5  # with both ends
    assert len(set(ids)) == 5
    assert len(tokenizer("mole", add_special_tokens=False).input_ids) == 4
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_a_caption_of_all_conditions_fits() -> None:
    caption = " ".join(["<malignant>", *(f"<{field}=x>" for field in captions.COLUMNS)])
    tokenizer = scratch.word_tokenizer(captions.split_words(caption))
    assert len(tokenizer(caption).input_ids) == 8 <= scratch.MAX_TOKENS


def test_the_words_do_not_depend_on_their_order() -> None:
    one, other = scratch.word_tokenizer(WORDS), scratch.word_tokenizer(reversed(WORDS))
    assert one.get_vocab() == other.get_vocab()


def test_the_schedule_ends_in_pure_noise() -> None:
    """Lin et al. 2024: zero terminal SNR needs v-prediction and trailing steps; ours has both, also as DDIM."""
    scheduler = build().scheduler
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    assert scheduler.config.prediction_type == "v_prediction"
    sampler = DDIMScheduler.from_config(scheduler.config)
    sampler.set_timesteps(10)
    assert sampler.timesteps[0] == 999
    assert not sampler.config.clip_sample


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_vae_shrinks_by_the_factor(factor: int) -> None:
    vae = scratch.build_vae(32, width=8, factor=factor, latent_channels=3)
    with torch.no_grad():
        posterior = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist
        assert posterior.mean.shape == (1, 3, 32 // factor, 32 // factor)
        assert vae.decode(posterior.mean).sample.shape == (1, 3, 32, 32)


def test_the_vae_learns_a_few_blobs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae, images = scratch.build_vae(32, width=16, factor=4, latent_channels=4), blobs_as_input(4, 32)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    noise = torch.zeros(4, 4, 8, 8)
    first = scratch.vae_loss(vae, images, noise)
    assert first.shape == (4,)
    for _ in range(100):
        optimizer.zero_grad()
        scratch.vae_loss(vae, images, torch.randn_like(noise)).mean().backward()
        optimizer.step()
    vae.eval()
    with torch.no_grad():
        assert float(scratch.vae_loss(vae, images, noise).mean()) < 0.3 * float(first.mean())
        means = vae.encode(images).latent_dist.mean
        before = vae.decode(means).sample
        deviations = vae.encode(images).latent_dist.std / means.std(dim=(0, 2, 3)).view(1, -1, 1, 1)
        scratch.standardise_latents(vae, means)
        posterior = vae.encode(images).latent_dist
        torch.testing.assert_close(posterior.mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(posterior.mean.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(vae.decode(posterior.mean).sample, before, atol=1e-4, rtol=0)
        torch.testing.assert_close(posterior.std, deviations, atol=1e-4, rtol=1e-3)  # the noise shrinks with it
    vae.save_pretrained(tmp_path / "vae", safe_serialization=True)
    with torch.no_grad():
        again = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
        torch.testing.assert_close(again.decode(posterior.mean).sample, before, atol=1e-4, rtol=0)
        opened = pipeline.load_vae(tmp_path / "vae")
        assert torch.equal(opened.encode(images).latent_dist.mean, again.encode(images).latent_dist.mean)
