"""What the stages of a generator are charged for: images put back together, and noise found in latents."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lesionforge.diffusion import denoising, scratch
from lesionforge.diffusion.captions import split_words
from lesionforge.diffusion.denoising import Embedding
from lesionforge.diffusion.generator_data import CHUNK, Images, as_input, as_moments, turned
from lesionforge.diffusion.stage import Draws, StopSignal, never
from lesionforge.signals import Stopped

NUM_TIMESTEPS = 4  # at which a held-out image is looked at: the middles of four equal stretches (our choice)
MOST_WORDS = 8  # of a caption of base scratch
MOST_STANDARDISED = 1024  # images that the scale of the latents is taken from, our choice

Moments = Callable[[np.ndarray, torch.Tensor], torch.Tensor]  # positions (B,), symmetries (B,) => (B, 2C, h, w)


class VaeGoal:
    """Put images back together from their latents."""

    def __init__(self, vae: Any, images: Images, held_out: Images, num_symmetries: int, device: torch.device) -> None:
        self.vae, self.images, self.held_out, self.device = vae, images, held_out, device
        self.num_symmetries = num_symmetries
        self.num_images = len(images)
        side = images.image_size // denoising.vae_factor(vae)
        self.latent_shape = (vae.config.latent_channels, side, side)

    def draws(self, positions: np.ndarray, generator: torch.Generator) -> Draws:
        num = len(positions)
        return {
            "symmetry": torch.randint(self.num_symmetries, (num,), generator=generator),
            "posterior": torch.randn(num, *self.latent_shape, generator=generator),
        }

    def losses(self, positions: np.ndarray, draws: Draws) -> torch.Tensor:
        images = as_input(turned(self.images(positions), draws["symmetry"]), self.device)
        return scratch.vae_loss(self.vae, images, draws["posterior"].to(self.device))

    def held_out_loss(self, stop_signal: StopSignal = never) -> float | None:
        return mean_over_chunks(len(self.held_out), self.held_out_losses, stop_signal)

    @torch.no_grad()
    def held_out_losses(self, positions: np.ndarray) -> torch.Tensor:
        images = as_input(self.held_out(positions), self.device)
        return scratch.vae_loss(self.vae, images, torch.zeros(len(images), *self.latent_shape, device=self.device))

    def standardise(self, seed: int) -> None:
        """Bring each latent channel of training images to mean 0 and deviation 1, inside the VAE."""
        self.vae.eval()
        positions = np.random.default_rng(seed).permutation(self.num_images)[:MOST_STANDARDISED]
        chunks = np.array_split(positions, -(-len(positions) // CHUNK))
        moments = torch.cat([as_moments(self.vae, self.images(chunk), self.device) for chunk in chunks])
        scratch.standardise_latents(self.vae, moments.chunk(2, dim=1)[0])

    @torch.no_grad()
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio of held-out images put back together, decibels, their mean."""

        def ratios(positions: np.ndarray) -> torch.Tensor:
            images = as_input(self.held_out(positions), self.device)
            back = self.vae.decode(self.vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
            return -10 * ((back - images) / 2).square().mean(dim=(1, 2, 3)).clamp(min=1e-12).log10()

        return mean_over_chunks(len(self.held_out), ratios)


class ClassImages(NamedTuple):
    """DreamBooth's prior preservation."""

    moments: torch.Tensor  # (M, 1, 2C, h, w)
    prompt: str
    weight: float


class NoiseGoal:
    """Find the noise in the latents of images, told by their prompts."""

    def __init__(
        self,
        pipe: Any,
        unet: nn.Module,
        scheduler: Any,
        *,
        moments: Moments,
        num_images: int,
        num_symmetries: int,
        prompts: Sequence[str],
        held_out: tuple[torch.Tensor, Sequence[str]] | None,
        trains_text: bool,
        min_snr_gamma: float | None,
        noise_offset: float,
        dropout: float,
        drops_words: bool,
        class_images: ClassImages | None,
        image_size: int,
        device: torch.device,
        seed: int,
    ) -> None:
        """
        Args:
            pipe: whose text encoders and VAE are used; unet: its UNet, or the same compiled.
            held_out: moments (M, 1, 2C, h, w) and prompts of lesions that are not learned from.
            dropout: share of images shown without a prompt; with `drops_words` also of words left out.
        """
        self.pipe, self.unet, self.scheduler = pipe, unet, scheduler
        self.moments, self.num_images, self.num_symmetries = moments, num_images, num_symmetries
        self.prompts, self.held_out, self.trains_text = list(prompts), held_out, trains_text
        self.min_snr_gamma, self.noise_offset = min_snr_gamma, noise_offset
        self.dropout, self.drops_words, self.class_images = dropout, drops_words, class_images
        self.image_size, self.device, self.seed = image_size, device, seed
        side = image_size // denoising.vae_factor(pipe.vae)
        self.latent_shape = (pipe.vae.config.latent_channels, side, side)
        self.known: dict[str, Embedding] = {}  # embeddings of prompts, where the text encoder does not learn

    def draws(self, positions: np.ndarray, generator: torch.Generator) -> Draws:
        num = len(positions)
        draws = {"symmetry": torch.randint(self.num_symmetries, (num,), generator=generator)}
        draws |= self.noise_draws(num, generator)
        draws["drop"] = torch.rand(num, generator=generator)
        draws["drop_words"] = torch.rand(num, MOST_WORDS, generator=generator)
        if self.class_images is not None:
            draws["class_position"] = torch.randint(len(self.class_images.moments), (num,), generator=generator)
            draws |= {f"class_{name}": draw for name, draw in self.noise_draws(num, generator).items()}
        return draws

    def noise_draws(self, num: int, generator: torch.Generator) -> Draws:
        noise = torch.randn(num, *self.latent_shape, generator=generator)
        if self.noise_offset:
            noise += self.noise_offset * torch.randn(num, self.latent_shape[0], 1, 1, generator=generator)
        last = self.scheduler.config.num_train_timesteps
        return {
            "posterior": torch.randn(num, *self.latent_shape, generator=generator),
            "noise": noise,
            "timestep": torch.randint(last, (num,), generator=generator),
        }

    def losses(self, positions: np.ndarray, draws: Draws) -> torch.Tensor:
        moments = self.moments(positions, draws["symmetry"]).to(self.device)
        prompts = [
            self.shown(self.prompts[position], float(drop), words)
            for position, drop, words in zip(positions, draws["drop"], draws["drop_words"], strict=True)
        ]
        losses = self.weighted(moments, prompts, draws["posterior"], draws["noise"], draws["timestep"])
        if self.class_images is None:
            return losses
        others = self.class_images.moments[draws["class_position"], 0].to(self.device)
        prior = self.weighted(
            others, [self.class_images.prompt] * len(others), draws["class_posterior"], draws["class_noise"],
            draws["class_timestep"],
        )  # fmt: skip
        return losses + self.class_images.weight * prior

    def shown(self, prompt: str, drop: float, drop_words: torch.Tensor) -> str:
        """What is told of an image: its prompt, nothing, or some of its words."""
        if drop < self.dropout:
            return ""
        if not self.drops_words:
            return prompt
        first, *others = split_words(prompt)  # the class is always told
        return " ".join([first, *(w for w, d in zip(others, drop_words.tolist(), strict=False) if d >= self.dropout)])

    def weighted(
        self, moments: torch.Tensor, prompts: Sequence[str], posterior: torch.Tensor, noise: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        timesteps = timesteps.to(self.device)
        losses = self.plain(moments, prompts, posterior, noise, timesteps)
        return losses * denoising.snr_weights(self.scheduler, timesteps, self.min_snr_gamma)

    def plain(
        self, moments: torch.Tensor, prompts: Sequence[str], posterior: torch.Tensor, noise: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        latents = denoising.scaled_latents(self.pipe.vae, moments, posterior.to(self.device))
        return denoising.noise_loss(
            self.pipe, self.unet, self.scheduler, latents, noise.to(self.device), timesteps, self.embedded(prompts),
            self.image_size,
        )  # fmt: skip

    def embedded(self, prompts: Sequence[str]) -> Embedding:
        if self.trains_text:
            return denoising.encode_prompts(self.pipe, prompts)
        with torch.no_grad():
            for prompt in dict.fromkeys(prompts):
                if prompt not in self.known:
                    self.known[prompt] = denoising.encode_prompts(self.pipe, [prompt])
        rows = [self.known[prompt] for prompt in prompts]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    @torch.no_grad()
    def held_out_loss(self, stop_signal: StopSignal = never) -> float | None:
        """Mean squared error on held-out lesions at fixed noise and `held_out_timesteps`, unweighted."""
        if self.held_out is None:
            return None
        moments, prompts = self.held_out
        generator = torch.Generator().manual_seed(self.seed)
        looked_at = held_out_timesteps(self.scheduler)
        noise = torch.randn(len(looked_at), len(moments), *self.latent_shape, generator=generator)

        def losses(positions: np.ndarray) -> torch.Tensor:
            total = torch.zeros(len(positions), device=self.device)
            for number, timestep in enumerate(looked_at):
                if stop_signal() is not None:
                    raise Stopped
                part = noise[number, positions]
                timesteps = torch.full((len(positions),), timestep, device=self.device)
                told, middle = [prompts[p] for p in positions], torch.zeros_like(part)  # of the posterior
                total += self.plain(moments[positions, 0].to(self.device), told, middle, part, timesteps)
            return total / len(looked_at)

        return mean_over_chunks(len(moments), losses, stop_signal)


def held_out_timesteps(scheduler: Any) -> list[int]:
    """The middles of four stretches; of a schedule that ends in pure noise also its end, where sampling begins."""
    num = scheduler.config.num_train_timesteps
    middles = [int((number + 0.5) * num / NUM_TIMESTEPS) for number in range(NUM_TIMESTEPS)]
    return [*middles, num - 1] if denoising.ends_in_pure_noise(scheduler) else middles


def mean_over_chunks(
    num: int, losses: Callable[[np.ndarray], torch.Tensor], stop_signal: StopSignal = never
) -> float | None:
    """The mean loss of `num` images; None where there are none.

    Raises:
        Stopped: a signal came on the way.
    """
    total = 0.0
    for first in range(0, num, CHUNK):
        if stop_signal() is not None:
            raise Stopped
        total += float(losses(np.arange(first, min(first + CHUNK, num))).double().sum())
    return total / num if num else None
