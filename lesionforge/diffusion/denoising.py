"""What a latent diffusion model is charged for: the noise in noisy latents, told by a prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

Embedding = dict[str, torch.Tensor]  # name -> (B, ...)


def is_sdxl(pipe: Any) -> bool:
    return getattr(pipe, "text_encoder_2", None) is not None


def text_encoders(pipe: Any) -> list[Any]:
    return [pipe.text_encoder, pipe.text_encoder_2] if is_sdxl(pipe) else [pipe.text_encoder]


def tokenizers(pipe: Any) -> list[Any]:
    return [pipe.tokenizer, pipe.tokenizer_2] if is_sdxl(pipe) else [pipe.tokenizer]


def vae_factor(vae: Any) -> int:
    """How many pixels of the image a latent pixel stands for, along a side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def encode_prompts(pipe: Any, prompts: Sequence[str]) -> Embedding:
    """What the UNet is told, as the pipeline itself tells it when it generates.

    An empty prompt is one that was left out, and so what the pipeline takes where it has no negative prompt: of SDXL's
    usual pipelines zeros, else the embedding of "".

    Returns:
        hidden: (B, tokens, width); SDXL also pooled: (B, width).
    """
    hidden, pooled = [], None
    for tokenizer, encoder in zip(tokenizers(pipe), text_encoders(pipe), strict=True):
        expanded = [pipe.maybe_convert_prompt(prompt, tokenizer) for prompt in prompts]
        tokens = tokenizer(
            expanded, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        outputs = encoder(tokens.input_ids.to(encoder.device), output_hidden_states=is_sdxl(pipe))
        hidden.append(outputs.hidden_states[-2] if is_sdxl(pipe) else outputs[0])
        pooled = outputs[0] if is_sdxl(pipe) else None  # of the last encoder
    embedding = {"hidden": torch.cat(hidden, dim=-1)}  # (B, tokens, width)
    if pooled is not None:
        embedding["pooled"] = pooled
    if is_sdxl(pipe) and pipe.config.force_zeros_for_empty_prompt:
        left_out = [row for row, prompt in enumerate(prompts) if not prompt]
        rows = torch.tensor(left_out, dtype=torch.int64, device=embedding["hidden"].device)
        embedding = {name: told.index_fill(0, rows, 0) for name, told in embedding.items()}
    return embedding


def too_long(pipe: Any, prompts: Sequence[str]) -> list[str]:
    """The prompts that a tokenizer would cut."""
    return [
        prompt
        for prompt in dict.fromkeys(prompts)
        if any(len(t(pipe.maybe_convert_prompt(prompt, t)).input_ids) > t.model_max_length for t in tokenizers(pipe))
    ]


def predict(
    pipe: Any, unet: nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, embedding: Embedding, image_size: int
) -> torch.Tensor:
    """What the UNet says of noisy latents. (B, C, h, w)"""
    added = None
    if "pooled" in embedding:
        sizes = torch.tensor([[image_size, image_size, 0, 0, image_size, image_size]], device=noisy.device)
        added = {"text_embeds": embedding["pooled"], "time_ids": sizes.expand(len(noisy), 6).to(noisy.dtype)}
    answer: torch.Tensor = unet(
        noisy, timesteps, encoder_hidden_states=embedding["hidden"], added_cond_kwargs=added, return_dict=False
    )[0]
    return answer


def target_of(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What the UNet should say, by the scheduler's prediction type. (B, C, h, w)"""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        velocity: torch.Tensor = scheduler.get_velocity(latents, noise, timesteps)
        return velocity
    return latents  # "sample"


def ends_in_pure_noise(scheduler: Any) -> bool:
    """Whether it predicts v up to a signal of zero (zero terminal SNR: Lin et al. 2024, arXiv 2305.08891)."""
    config = scheduler.config
    return config.prediction_type == "v_prediction" and bool(config.get("rescale_betas_zero_snr"))


def snr_weights(scheduler: Any, timesteps: torch.Tensor, gamma: float | None) -> torch.Tensor:
    """Weight of each timestep's loss: min(SNR, gamma) / SNR for a predicted noise (Hang et al. 2023, arXiv 2303.09556),
    the same loss on the latents written for the other targets. (B,)
    """
    if gamma is None:
        return torch.ones(len(timesteps), device=timesteps.device)
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
    snr = kept / (1 - kept)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (gamma / snr).clamp(max=1)  # finite in pure noise too, where the SNR is 0
    clipped = snr.clamp(max=gamma)
    return clipped / (snr + 1) if kind == "v_prediction" else clipped


def noise_loss(
    pipe: Any,
    unet: nn.Module,
    scheduler: Any,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    embedding: Embedding,
    image_size: int,
) -> torch.Tensor:
    """Mean squared error of each image's prediction. (B,) float32"""
    noisy = scheduler.add_noise(latents, noise, timesteps)
    prediction = predict(pipe, unet, noisy, timesteps, embedding, image_size)
    wanted = target_of(scheduler, latents, noise, timesteps)
    return (prediction.float() - wanted.float()).square().mean(dim=(1, 2, 3))


def scaled_latents(vae: Any, moments: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """Latents from the VAE's moments, drawn and scaled as the UNet sees them.

    Args:
        moments: (B, 2C, h, w), mean and log variance.
        draw: (B, C, h, w), standard normal.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    deviation = (0.5 * log_variance.clamp(-30, 20)).exp()
    return (mean + deviation * draw) * vae.config.scaling_factor


@torch.no_grad()
def moments_of(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) in [-1, 1] => (B, 2C, h, w) float32"""
    moments: torch.Tensor = vae.encode(images.to(vae.dtype)).latent_dist.parameters.float()
    return moments
