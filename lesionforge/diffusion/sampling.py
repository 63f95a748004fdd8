"""Drawing images from a latent diffusion pipeline in batches, each image by its own random numbers alone.

The loop is that of diffusers' StableDiffusion, Img2Img and Inpaint pipelines (Rombach et al. 2022; SDEdit, Meng et al.
2022, for image-to-image; the known part put back after each step for inpainting), with what these lack: requests of
several prompts, guidance scales and seeds share a batch, a prompt is encoded once, latents stay float32 whatever
the networks compute in, so that noise and steps do not depend on the precision.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from lesionforge.diffusion.denoising import is_sdxl, vae_factor
from lesionforge.diffusion.generate_settings import INPAINTING, TEXT_TO_IMAGE

Pipe = Any  # StableDiffusionPipeline or StableDiffusionXLPipeline, which have no types

DECODED_TOGETHER = 8  # images, our choice: the VAE at full size needs many times the memory of the UNet on latents


class SchedulerKind(NamedTuple):
    scheduler: Any  # the class
    settings: dict[str, Any]


# The others' settings come from the pipeline's own scheduler: its betas, its prediction type. Latents are not in
# [-1, 1], to which DDPM and DDIM clip by default, as where the pipeline's own scheduler knows no clipping.
SCHEDULERS = {
    "ddpm": SchedulerKind(DDPMScheduler, {"clip_sample": False}),
    "ddim": SchedulerKind(DDIMScheduler, {"clip_sample": False}),
    "pndm": SchedulerKind(PNDMScheduler, {"skip_prk_steps": True}),
    "euler": SchedulerKind(EulerDiscreteScheduler, {}),
    "euler_ancestral": SchedulerKind(EulerAncestralDiscreteScheduler, {}),
    "dpmsolver": SchedulerKind(DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpmsolver_karras": SchedulerKind(
        DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}
    ),
    "dpmsolver_sde": SchedulerKind(DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": SchedulerKind(UniPCMultistepScheduler, {}),
}


class Request(NamedTuple):
    """One image that is asked for."""

    prompt: str
    negative_prompt: str | None
    seed: int
    guidance_scale: float  # 1 or less: without guidance, the negative prompt is not used
    num_inference_steps: int
    scheduler: str  # a key of SCHEDULERS
    generation: str = TEXT_TO_IMAGE
    strength: float | None = None  # (0, 1], of image-to-image and inpainting
    source: np.ndarray | None = None  # (S, S, 3) uint8 RGB, what those two start from
    mask: np.ndarray | None = None  # (S, S) bool, what inpainting makes anew


Embeddings = dict[str | None, tuple[torch.Tensor, torch.Tensor | None]]  # prompt: (1, L, D) and, of SDXL, (1, P)


def sample(
    pipe: Pipe,
    requests: Sequence[Request],
    image_size: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
    embeddings: Embeddings | None = None,
) -> Iterator[np.ndarray]:
    """Draw the images of `requests`, in their order.

    In float32 an image is the same to 1e-4 of its range, before rounding, whatever else is in its batch.

    Args:
        pipe: in eval mode, on its device; its own scheduler only gives the settings of those asked for.
        image_size: pixels, a multiple of the VAE's factor.
        batch_size: images at once at most; those of one scheduler, number of steps and start share a batch.
        embeddings: text embeddings by prompt, filled as they are made; give the same dict again to reuse them.

    Yields:
        arrays (B, S, S, 3) uint8 RGB, B from 1 to batch_size.

    Raises:
        ValueError: a size that the VAE cannot make, or a request that does not fit its generation.
        torch.OutOfMemoryError: the batch does not fit.
    """
    if image_size % vae_factor(pipe.vae):
        raise ValueError(f"images of {image_size} px of a VAE that shrinks by {vae_factor(pipe.vae)}")
    embeddings = {} if embeddings is None else embeddings
    done: dict[int, np.ndarray] = {}
    following = 0
    for positions in batches_of(requests, batch_size):
        images = to_uint8(denoised(pipe, [requests[i] for i in positions], image_size, embeddings))
        advance(len(positions))
        done |= dict(zip(positions, images, strict=True))
        ready: list[np.ndarray] = []
        while following in done and len(ready) < batch_size:
            ready.append(done.pop(following))
            following += 1
        if ready:
            yield np.stack(ready)  # (B, S, S, 3)
    while following in done:
        ready = [done.pop(i) for i in range(following, min(following + batch_size, len(requests)))]
        following += len(ready)
        yield np.stack(ready)  # (B, S, S, 3)


def batches_of(requests: Sequence[Request], batch_size: int) -> list[list[int]]:
    """Positions of requests that share a batch; batches in the order of their first request."""
    groups: dict[tuple, list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(batch_key(request), []).append(i)
    batches = [places[i : i + batch_size] for places in groups.values() for i in range(0, len(places), batch_size)]
    return sorted(batches)


def batch_key(request: Request) -> tuple:
    """What requests must agree in to share a batch."""
    guided = request.guidance_scale > 1
    return request.scheduler, request.num_inference_steps, request.generation, request.strength, guided


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """(B, 3, S, S) float in [0, 1] to (B, S, S, 3) uint8, rounded as diffusers does."""
    return (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()  # (B, S, S, 3)


@torch.inference_mode()
def denoised(pipe: Pipe, batch: Sequence[Request], image_size: int, embeddings: Embeddings) -> torch.Tensor:
    """The images of requests that share a `batch_key`, (B, 3, S, S) float32 in [0, 1], on the pipe's device."""
    first, device = batch[0], pipe.device
    side = image_size // vae_factor(pipe.vae)
    shape = (1, pipe.vae.config.latent_channels, side, side)
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in batch]
    conditions = conditions_of(pipe, batch, image_size, embeddings)
    guidance_scale = torch.tensor([request.guidance_scale for request in batch], device=device).view(-1, 1, 1, 1)

    scheduler = build_scheduler(pipe, first.scheduler, first.num_inference_steps)
    timesteps = scheduler.timesteps
    known = None if first.generation == TEXT_TO_IMAGE else encoded_sources(pipe, batch, image_size, generators)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    noise = noise.to(device)  # (B, C, s, s) float32
    skipped = first.num_inference_steps - num_steps(first)
    timesteps = timesteps[skipped * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * scheduler.order)
    if known is None or (first.generation == INPAINTING and first.strength == 1):
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(known, noise, timesteps[:1].repeat(len(batch)))
    mask = latent_masks(batch, side).to(device) if first.generation == INPAINTING else None
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters

    for i, timestep in enumerate(timesteps):
        predicted = predict(pipe, scheduler.scale_model_input(latents, timestep), timestep, conditions, guidance_scale)
        extra = {"generator": generators} if takes_generator else {}
        latents = scheduler.step(predicted, timestep, latents, **extra, return_dict=False)[0]
        if mask is not None and known is not None:
            rest = known
            if i + 1 < len(timesteps):
                rest = scheduler.add_noise(known, noise, timesteps[i + 1 : i + 2].repeat(len(batch)))
            latents = torch.where(mask, latents, rest)
    return decoded(pipe, latents)


def build_scheduler(pipe: Pipe, name: str, num_inference_steps: int) -> Any:
    """A scheduler of its own for each batch, as it counts its steps; its timesteps on the pipe's device."""
    kind = SCHEDULERS[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # between numpy and torch
        scheduler = kind.scheduler.from_config(pipe.scheduler.config, **kind.settings)
        scheduler.set_timesteps(num_inference_steps, device=pipe.device)
    return scheduler


def num_steps(request: Request) -> int:
    """Steps that are taken: with a source only the last share of them, `strength`, as in diffusers."""
    if request.generation == TEXT_TO_IMAGE:
        return request.num_inference_steps
    if request.strength is None or not 0 < request.strength <= 1:
        raise ValueError(f"a strength of {request.strength}, expected more than 0 and at most 1")
    return min(max(int(request.num_inference_steps * request.strength), 1), request.num_inference_steps)


def conditions_of(pipe: Pipe, batch: Sequence[Request], image_size: int, embeddings: Embeddings) -> dict[str, Any]:
    """What the UNet is told besides latents and time; with guidance the negative prompts' half stands first."""
    texts: list[str | None] = [request.prompt for request in batch]
    if batch[0].guidance_scale > 1:
        texts = [request.negative_prompt or None for request in batch] + texts
    for text in texts:
        if text not in embeddings:
            embeddings[text] = embedded(pipe, text)
    found = [embeddings[text] for text in texts]
    conditions: dict[str, Any] = {"encoder_hidden_states": torch.cat([tokens for tokens, _ in found])}  # (B, L, D)
    if is_sdxl(pipe):
        pooled = torch.cat([vector for _, vector in found if vector is not None])  # (B, P)
        place = torch.tensor([[image_size, image_size, 0, 0, image_size, image_size]], device=pooled.device)
        time_ids = place.to(pooled.dtype).repeat(len(texts), 1)  # (B, 6): original size, crop, target size
        conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids}
    return conditions


def embedded(pipe: Pipe, text: str | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embedding of a prompt, (1, L, D) and, of SDXL, its pooled one (1, P); None is an empty negative prompt."""
    if not is_sdxl(pipe):
        tokens, _ = pipe.encode_prompt(text or "", pipe.device, 1, do_classifier_free_guidance=False)
        return tokens, None
    tokens, _, pooled, _ = pipe.encode_prompt(text or "", device=pipe.device, do_classifier_free_guidance=False)
    if text is None and pipe.config.force_zeros_for_empty_prompt:
        return torch.zeros_like(tokens), torch.zeros_like(pooled)
    return tokens, pooled


def predict(
    pipe: Pipe, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, Any], guidance_scale: torch.Tensor
) -> torch.Tensor:
    """What the UNet predicts for latents (B, C, s, s), guided where the conditions have two halves; float32."""
    num_halves = len(conditions["encoder_hidden_states"]) // len(latents)
    given = torch.cat([latents] * num_halves).to(pipe.unet.dtype)
    answer = pipe.unet(given, timestep, **conditions, return_dict=False)[0].float()
    if num_halves == 1:
        return answer
    without, with_prompt = answer.chunk(2)
    return without + guidance_scale * (with_prompt - without)


def encoded_sources(
    pipe: Pipe, batch: Sequence[Request], image_size: int, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Latents of the real images that requests start from, (B, C, s, s) float32."""
    latents = []
    for request, generator in zip(batch, generators, strict=True):
        if request.source is None or request.source.shape != (image_size, image_size, 3):
            raise ValueError(f"{request.generation} needs a source of {image_size} x {image_size} px")
        image = torch.from_numpy(request.source).to(pipe.device, pipe.vae.dtype).permute(2, 0, 1)[None] / 127.5 - 1
        latents.append(pipe.vae.encode(image).latent_dist.sample(generator=generator))
    return torch.cat(latents).float() * pipe.vae.config.scaling_factor


def latent_masks(batch: Sequence[Request], side: int) -> torch.Tensor:
    """(B, 1, s, s) bool, True where a latent pixel is made anew."""
    masks = []
    for request in batch:
        if request.mask is None or request.source is None or request.mask.shape != request.source.shape[:2]:
            raise ValueError("inpainting needs a mask of the size of its source")
        masks.append(torch.from_numpy(request.mask.astype(np.float32))[None])
    return torch.nn.functional.interpolate(torch.stack(masks), size=(side, side)) > 0.5


def decoded(pipe: Pipe, latents: torch.Tensor) -> torch.Tensor:
    """Images of latents: (B, 3, S, S) float32 in [0, 1]."""
    latents = (latents / pipe.vae.config.scaling_factor).to(pipe.vae.dtype)
    pieces = [pipe.vae.decode(some, return_dict=False)[0].float() for some in latents.split(DECODED_TOGETHER)]
    return (torch.cat(pieces) / 2 + 0.5).clamp(0, 1)


def make_fast(pipe: Pipe, channels_last: bool, compile: bool) -> None:
    """Lay the networks out for speed, in place. Compiling takes minutes at the first batch of each size."""
    pipe.set_progress_bar_config(disable=True)
    for network in (pipe.unet, pipe.vae):
        if channels_last:
            network.to(memory_format=torch.channels_last)
    if compile:
        pipe.unet.compile()
        pipe.vae.decoder.compile()
