"""A latent diffusion model of our own, from random weights: a small VAE, UNet and text encoder as one pipeline.

It is an ordinary Stable Diffusion pipeline, so that all that diffusers can do with one works with it. Its tokenizer
knows bytes and the words of captions.words_of, one token each. A door to diffusers and transformers.
"""

from collections.abc import Iterable
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AddedToken, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lesionforge.diffusion.denoising import vae_factor

GROUPS = 8  # of the group norms: widths are multiples of it
FIRST_LOG_VARIANCE = -6.0  # of the latents, our choice
MAX_TOKENS = 16  # of a caption, with its two ends: class and five conditions need 8


def build_vae(image_size: int, width: int, factor: int, latent_channels: int) -> Any:
    """A KL autoencoder (Rombach et al. 2022) that shrinks the side by `factor`; scale of its latents: 1."""
    num_levels = factor.bit_length()
    vae: Any = AutoencoderKL(
        block_out_channels=(width, *(2 * width,) * (num_levels - 1)), latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * num_levels, up_block_types=("UpDecoderBlock2D",) * num_levels,
        layers_per_block=1, norm_num_groups=GROUPS, sample_size=image_size, scaling_factor=1.0,
    )  # fmt: skip
    with torch.no_grad():  # at first the posterior's noise would drown what the encoder has to say (docs/log.md)
        vae.quant_conv.bias[latent_channels:] += FIRST_LOG_VARIANCE
    return vae


def build_pipeline(
    vae: Any, words: Iterable[str], image_size: int, unet_width: int, unet_levels: int, text_width: int
) -> Any:
    """The pipeline around a trained VAE; UNet and text encoder have random weights from torch's global generator."""
    tokenizer = word_tokenizer(words)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=text_width, intermediate_size=2 * text_width, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    inner = unet_levels - 1
    unet = UNet2DConditionModel(
        sample_size=image_size // vae_factor(vae),
        in_channels=vae.config.latent_channels, out_channels=vae.config.latent_channels,
        block_out_channels=(unet_width, *(2 * unet_width,) * inner), layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * inner),
        up_block_types=(*("CrossAttnUpBlock2D",) * inner, "UpBlock2D"),
        norm_num_groups=GROUPS, cross_attention_dim=text_width, attention_head_dim=4,
    )  # fmt: skip
    # v-prediction with a schedule that ends in pure noise, so that no mean colour leaks through (Lin et al. 2024)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def word_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """CLIP's tokenizer over bytes (514 tokens, no merges), with each of `words` as a token of its own."""
    letters = list(bytes_to_unicode().values())
    known = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: number for number, word in enumerate(known)}, merges=[], model_max_length=MAX_TOKENS
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in sorted(words)])
    return tokenizer


def vae_loss(vae: Any, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Squared error of the pixels, and a little KL. (B, 3, S, S) in [-1, 1] => (B,)

    Args:
        noise: (B, C, h, w), draws of the posterior.
    """
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    error = (decoded - images).square().mean(dim=(1, 2, 3))
    return error + 1e-7 * posterior.kl() / posterior.mean[0].numel()


@torch.no_grad()
def standardise_latents(vae: Any, means: torch.Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1, by an affine map inside the 1x1 convolutions on both sides.

    Args:
        means: (N, C, h, w), posterior means of training images.
    """
    centre, deviation = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))  # (C,)
    channels = len(centre)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    out_of.bias += torch.einsum("oiyx,i->o", out_of.weight, centre.to(out_of.weight))
    out_of.weight *= deviation.view(1, -1, 1, 1)
    into.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - centre) / deviation
    into.bias[channels:] -= 2 * deviation.log()  # the second half are log variances
