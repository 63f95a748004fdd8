"""Our sampling loop against diffusers' own pipelines, image by image; and that an image does not know its batch."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from lesionforge.diffusion import generate_settings, pipeline, sampling, sampling_limits, scratch
from lesionforge.diffusion.generate_settings import IMAGE_TO_IMAGE, INPAINTING
from lesionforge.diffusion.sampling import SCHEDULERS, Request, denoised

SIDE = 64
STOCHASTIC = ("ddpm", "euler_ancestral", "dpmsolver_sde")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sd(tiny_sd: Path) -> Any:
    return pipeline.load_pipeline(pipeline.find_base(str(tiny_sd)))


@pytest.fixture(scope="module")
def sdxl(tiny_sdxl: Path) -> Any:
    return pipeline.load_pipeline(pipeline.find_base(str(tiny_sdxl)))


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[16:48, 24:56] = True
    return mask


def asked(seed: int = 5, scheduler: str = "ddim", **changes: Any) -> Request:
    return Request("a mole", "blurry", seed, 4.0, 5, scheduler)._replace(**changes)


def in_diffusers(pipe: Any, kind: type, request: Request, **extra: Any) -> torch.Tensor:
    """The image that diffusers' own pipeline makes of the same request, (1, 3, S, S)."""
    parts = dict(pipe.components) | {"scheduler": sampling.build_scheduler(pipe, request.scheduler, 1)}
    options = {} if kind is StableDiffusionXLPipeline else {"requires_safety_checker": False}
    theirs = kind(**parts, **options)
    theirs.set_progress_bar_config(disable=True)
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # between numpy and torch
    return theirs(
        request.prompt, negative_prompt=request.negative_prompt, guidance_scale=request.guidance_scale,
        num_inference_steps=request.num_inference_steps, generator=torch.Generator().manual_seed(request.seed),
        output_type="pt", **extra,
    ).images  # fmt: skip


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_image_of_each_scheduler_is_that_of_diffusers(sd: Any, scheduler: str) -> None:
    request = asked(scheduler=scheduler)
    theirs = in_diffusers(sd, StableDiffusionPipeline, request, height=SIDE, width=SIDE)
    assert largest_difference(denoised(sd, [request], SIDE, {}), theirs) < 1e-5


def test_an_image_of_sdxl_is_that_of_diffusers(sdxl: Any) -> None:
    for request in (asked(), asked(negative_prompt=None), asked(guidance_scale=1.0)):
        theirs = in_diffusers(sdxl, StableDiffusionXLPipeline, request, height=SIDE, width=SIDE)
        assert largest_difference(denoised(sdxl, [request], SIDE, {}), theirs) < 1e-5


@pytest.fixture(scope="module")
def ours() -> Any:
    """Base scratch, small: v-prediction, a noise schedule that ends in pure noise, a VAE that shrinks by 4."""
    torch.manual_seed(0)
    vae = scratch.build_vae(32, width=8, factor=4, latent_channels=4)
    pipe = scratch.build_pipeline(vae, ["malignant"], 32, unet_width=16, unet_levels=2, text_width=16)
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    return pipe


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if sampling_limits.knows_zero_snr(name)])
def test_base_scratch_takes_every_scheduler_that_ends_in_pure_noise(ours: Any, scheduler: str) -> None:
    one = asked(scheduler=scheduler, prompt="malignant", negative_prompt="")
    image = denoised(ours, [one], 32, {})
    assert image.shape == (1, 3, 32, 32)
    assert float(image.std()) > 0.01
    assert largest_difference(image, denoised(ours, [asked(9, scheduler), one], 32, {})[1:]) < 1e-4
    theirs = in_diffusers(ours, StableDiffusionPipeline, one, height=32, width=32)
    assert largest_difference(image, theirs) < 1e-5


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver", "euler_ancestral"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_that_of_diffusers(sd: Any, source: np.ndarray, scheduler: str, strength: float) -> None:
    request = asked(scheduler=scheduler, generation=IMAGE_TO_IMAGE, strength=strength, source=source)
    theirs = in_diffusers(
        sd, StableDiffusionImg2ImgPipeline, request, image=Image.fromarray(source), strength=strength
    )  # fmt: skip
    assert largest_difference(denoised(sd, [request], SIDE, {}), theirs) < 1e-5


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver"])  # diffusers' own draws noise for a mask that we do not
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_is_that_of_diffusers(
    sd: Any, source: np.ndarray, mask: np.ndarray, scheduler: str, strength: float
) -> None:
    request = asked(scheduler=scheduler, generation=INPAINTING, strength=strength, source=source, mask=mask)
    theirs = in_diffusers(
        sd, StableDiffusionInpaintPipeline, request, image=Image.fromarray(source), strength=strength, height=SIDE,
        width=SIDE, mask_image=Image.fromarray(mask.astype(np.uint8) * 255),
    )  # fmt: skip
    assert largest_difference(denoised(sd, [request], SIDE, {}), theirs) < 1e-5


@pytest.mark.parametrize("scheduler", ["ddim", *STOCHASTIC])
def test_an_image_does_not_know_its_batch(sd: Any, scheduler: str) -> None:
    """Alone, among five, in another order; the others differ in seed, prompt, negative prompt and guidance."""
    one = asked(scheduler=scheduler)
    others = [
        asked(seed, scheduler, prompt=prompt, negative_prompt=negative, guidance_scale=1.0 + seed)
        for seed, prompt, negative in ((1, "b", ""), (2, "a mole", None), (3, "", "bad"), (4, "c", ""))
    ]
    alone = denoised(sd, [one], SIDE, {})[0]
    first = denoised(sd, [one, *others], SIDE, {})[0]
    last = denoised(sd, [*others[::-1], one], SIDE, {})[-1]
    assert largest_difference(alone, first) < 1e-4
    assert largest_difference(alone, last) < 1e-4


@pytest.mark.parametrize("generation", [IMAGE_TO_IMAGE, INPAINTING])
def test_nor_do_images_that_start_from_others(
    sd: Any, source: np.ndarray, mask: np.ndarray, generation: str
) -> None:  # fmt: skip
    one = asked(generation=generation, strength=0.6, source=source, mask=mask, scheduler="euler_ancestral")
    other = one._replace(seed=9, source=source[::-1].copy(), mask=~mask, guidance_scale=2.0)
    alone = denoised(sd, [one], SIDE, {})[0]
    assert largest_difference(alone, denoised(sd, [other, one], SIDE, {})[1]) < 1e-4


def test_noise_is_the_seeds_alone(sd: Any) -> None:
    assert largest_difference(denoised(sd, [asked(1)], SIDE, {}), denoised(sd, [asked(2)], SIDE, {})) > 0.01
    assert torch.equal(denoised(sd, [asked(1)], SIDE, {}), denoised(sd, [asked(1)], SIDE, {}))


def test_inpainting_keeps_the_skin_as_the_vae_sees_it(sd: Any, source: np.ndarray, mask: np.ndarray) -> None:
    """Outside the mask, away from its rim, the latents of the last step are the source's own."""
    none_masked = asked(generation=INPAINTING, strength=1.0, source=source, mask=np.zeros_like(mask))
    generator = torch.Generator().manual_seed(none_masked.seed)
    known = sampling.encoded_sources(sd, [none_masked], SIDE, [generator])
    with torch.inference_mode():
        kept = sampling.decoded(sd, known)
    assert largest_difference(denoised(sd, [none_masked], SIDE, {}), kept) < 1e-5


def test_samples_come_in_the_order_of_the_requests(sd: Any) -> None:
    """Requests of several batches, mixed: each image is that of its own request, and each prompt is encoded once."""
    requests = [
        asked(seed, ("ddim", "dpmsolver")[seed % 2], num_inference_steps=2 + seed % 3, prompt=f"mole {seed % 2}")
        for seed in range(9)
    ]
    counts: list[int] = []
    embeddings: sampling.Embeddings = {}
    batches = list(sampling.sample(sd, requests, SIDE, 2, counts.append, embeddings))
    images = np.concatenate(batches)
    assert images.shape == (9, SIDE, SIDE, 3)
    assert images.dtype == np.uint8
    assert max(map(len, batches)) <= 2
    assert sum(counts) == 9
    assert set(embeddings) == {"mole 0", "mole 1", "blurry"}
    for request, image in zip(requests, images, strict=True):
        alone = sampling.to_uint8(denoised(sd, [request], SIDE, {}))[0]
        assert np.abs(alone.astype(int) - image).max() <= 1


def test_bfloat16_and_channels_last_give_nearly_the_same(sd: Any, tiny_sd: Path) -> None:
    fast = pipeline.load_pipeline(pipeline.find_base(str(tiny_sd))).to(torch.bfloat16)
    sampling.make_fast(fast, channels_last=True, compile=False)
    requests = [asked(seed) for seed in range(3)]
    difference = (denoised(fast, requests, SIDE, {}) - denoised(sd, requests, SIDE, {})).abs()
    assert float(difference.mean()) < 1e-2


def test_requests_that_cannot_be_are_told(sd: Any, source: np.ndarray) -> None:
    with pytest.raises(ValueError, match="images of 60 px of a VAE that shrinks by 8"):
        next(sampling.sample(sd, [asked()], 60, 1))
    with pytest.raises(ValueError, match="needs a source of 64 x 64 px"):
        denoised(sd, [asked(generation=IMAGE_TO_IMAGE, strength=0.5)], SIDE, {})
    with pytest.raises(ValueError, match=r"strength of 1\.5, expected more than 0"):
        denoised(sd, [asked(generation=IMAGE_TO_IMAGE, strength=1.5, source=source)], SIDE, {})
    with pytest.raises(ValueError, match="needs a mask"):
        denoised(sd, [asked(generation=INPAINTING, strength=1.0, source=source)], SIDE, {})


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim"])
def test_latents_are_not_clipped_where_the_base_knows_no_clipping(
    sd: Any, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published bases' schedulers do not: of DDPM and DDIM the default would clip what latents are to [-1, 1]."""
    settings = {name: value for name, value in sd.scheduler.config.items() if name != "clip_sample"}
    monkeypatch.setattr(sd, "scheduler", EulerDiscreteScheduler.from_config(settings))
    assert "clip_sample" not in sd.scheduler.config
    built = sampling.build_scheduler(sd, scheduler, 5)
    assert not built.config.clip_sample
    latents = torch.full((1, 4, 8, 8), 5.0)  # without noise: what is predicted as the clean ones
    last = int(built.timesteps[-1])
    clean = built.step(torch.zeros_like(latents), last, latents, return_dict=False)[0]
    torch.testing.assert_close(clean, latents / built.alphas_cumprod[last] ** 0.5)


def test_the_command_line_knows_the_same_schedulers() -> None:
    assert tuple(SCHEDULERS) == generate_settings.SCHEDULER_NAMES
