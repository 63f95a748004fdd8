"""Generating images: ours beside diffusers' plain pipeline, called image by image, at the same steps and seeds.

    python benchmarks/bench_generate.py [--images 8] [--rounds 3] [--compile] [--generator RUN] [--write]
    python benchmarks/bench_generate.py --device cuda [--images 64] [--batch 32] [--size 512] [--compile] [--write]

On a CPU, base scratch's default architecture at 64 px, one core, CPU time; with --device cuda Stable Diffusion 1.5's
real architecture, wall time. Weights are random unless --generator names a finished run: times are the same, and the
difference (mean absolute, of images in [0, 1]) then is that of real images. All sides take turns in one process. The
first block is asked to change nothing; what stands below changes the images, and by how much stands beside it.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anchor  # first: it pins the threads

# isort: split
import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lesionforge.diffusion import pipeline, sampling, scratch

SEED, STEPS, GUIDANCE, SCHEDULER = 0, 25, 7.0, "ddim"
PROMPT, NEGATIVE = "malignant", ""
ASKED, MOST_DIFFERENCE = 3.0, 1e-2  # of the fastest side that changes nothing
LOSSY = [
    ("dpmsolver", 25), ("unipc", 25), ("euler", 25), ("ddim", 12), ("dpmsolver", 12), ("unipc", 12), ("dpmsolver", 8),
]  # fmt: skip
PACKAGES = ("torch", "diffusers", "transformers")


class Side(NamedTuple):
    what: str
    make: Callable[[], np.ndarray]  # (N, S, S, 3) float64 in [0, 1]
    may_differ: bool


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    arguments.add_argument("--images", type=int, default=8)
    arguments.add_argument("--batch", type=int, default=None, help="default: all images at once")
    arguments.add_argument("--size", type=int, default=None, help="pixels; default 64 on a CPU, 512 on a GPU")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--compile", action="store_true", help="also torch.compile, minutes at the start")
    arguments.add_argument("--generator", type=Path, help="a finished generator instead of random weights")
    given = arguments.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here; nothing measured")
        return
    warnings.simplefilter("ignore")
    pipeline.quiet()
    torch.set_num_threads(1)
    given.batch = given.batch or given.images
    sides = build_sides(given)
    images, seconds = measured(sides, given.rounds, given.device)
    where = torch.cuda.get_device_name() if given.device == "cuda" else "one core of the CPU, CPU time"
    weights = given.generator.name if given.generator else "random weights"
    head = [
        anchor.header(PACKAGES, SEED), f"# device    {where}",
        f"# data      {given.images} images of {size_of(given)} px, {SCHEDULER}, {STEPS} steps, guidance {GUIDANCE:g}",
        f"# sides     batches of {given.batch}, {weights}",
    ]  # fmt: skip
    anchor.show("\n".join([*head, "", *table(sides, images, seconds, given.images)]), "generate", given.write)


def table(sides: list[Side], images: list[np.ndarray], seconds: list[float], num_images: int) -> list[str]:
    lines = [f"{'':44}  {'an image':>10}  {'ratio':>7}  {'asked':8}{'':10}mean difference"]
    ratios = [seconds[0] / one for one in seconds]
    same = [i for i, side in enumerate(sides) if i and not side.may_differ]
    fastest = max(same, key=lambda i: ratios[i])
    for i, side in enumerate(sides):
        if side.may_differ and not sides[i - 1].may_differ:
            lines.append("")
        difference = float(np.abs(images[i] - images[0]).mean())
        asked = f">= {ASKED:g}" if i == fastest else ""
        missed = "MISSED" if i == fastest and ratios[i] < ASKED else ""
        wrong = "  MISSED" if not side.may_differ and difference > MOST_DIFFERENCE else ""
        shown = anchor.per_item(seconds[i] / num_images)
        lines.append(f"{side.what:44}  {shown:>10}  {ratios[i]:6.2f}x  {asked:8}{missed:10}{difference:.1e}{wrong}")
    return lines


def build_sides(given: argparse.Namespace) -> list[Side]:
    plain, ours = build_pipe(given), build_pipe(given)
    sampling.make_fast(ours, channels_last=True, compile=False)
    fast = build_pipe(given).to(torch.bfloat16)
    sampling.make_fast(fast, channels_last=True, compile=False)
    sides = [
        Side("diffusers, image by image", lambda: one_by_one(plain, given), False),
        Side("ours, fp32, one at a time", lambda: by_us(ours, given, batch=1), False),
        Side("ours, fp32, channels last", lambda: by_us(ours, given), False),
        Side("ours, bf16, channels last", lambda: by_us(fast, given), False),
    ]
    if given.compile:
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            compiled = build_pipe(given).to(dtype)
            sampling.make_fast(compiled, channels_last=True, compile=True)
            sides.append(Side(f"ours, {name}, compiled", lambda pipe=compiled: by_us(pipe, given), False))
    for scheduler, steps in LOSSY:
        what = f"ours, bf16, {scheduler}, {steps} steps"
        sides.append(
            Side(what, lambda name=scheduler, steps=steps: by_us(fast, given, scheduler=name, steps=steps), True)
        )
    return sides


def build_pipe(given: argparse.Namespace) -> Any:
    if given.generator is not None:
        pipe = pipeline.load_generator(given.generator, device=given.device).pipe
    else:
        torch.manual_seed(SEED)
        pipe = stable_diffusion() if given.device == "cuda" else scratch_model()
        for module in (pipe.unet, pipe.vae, pipe.text_encoder):
            module.eval().requires_grad_(False)
        pipe.to(given.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def scratch_model() -> StableDiffusionPipeline:
    """Base scratch with its default widths."""
    vae = scratch.build_vae(64, width=32, factor=4, latent_channels=4)
    return scratch.build_pipeline(vae, ["malignant", "benign"], 64, unet_width=64, unet_levels=3, text_width=128)


def stable_diffusion() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's architecture: its configs are diffusers' and CLIP ViT-L/14's, which these numbers are."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
            num_attention_heads=12, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, sample_size=512,
    )  # fmt: skip
    noise = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    )
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=noise, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def size_of(given: argparse.Namespace) -> int:
    return int(given.size or (512 if given.device == "cuda" else 64))


def one_by_one(pipe: Any, given: argparse.Namespace) -> np.ndarray:
    """diffusers' pipeline as its documentation calls it."""
    size = size_of(given)
    pipe.scheduler = sampling.build_scheduler(pipe, SCHEDULER, STEPS)
    images = [
        pipe(
            PROMPT, negative_prompt=NEGATIVE, height=size, width=size, num_inference_steps=STEPS,
            guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(seed), output_type="np",
        ).images[0]
        for seed in range(given.images)
    ]  # fmt: skip
    return np.stack(images).astype(np.float64)


def by_us(
    pipe: Any, given: argparse.Namespace, batch: int | None = None, scheduler: str = SCHEDULER, steps: int = STEPS
) -> np.ndarray:
    requests = [
        sampling.Request(PROMPT, NEGATIVE, seed, GUIDANCE, steps, scheduler) for seed in range(given.images)
    ]  # fmt: skip
    return np.concatenate(list(sampling.sample(pipe, requests, size_of(given), batch or given.batch))) / 255


def measured(sides: list[Side], rounds: int, device: str) -> tuple[list[np.ndarray], list[float]]:
    """(what each side makes, its fastest seconds); the first call of each, with compiling, does not count."""

    def clock() -> float:
        if device == "cpu":
            return anchor.cpu_seconds()
        torch.cuda.synchronize()
        return time.perf_counter()

    images = [side.make() for side in sides]
    seconds = [float("inf")] * len(sides)
    for _ in range(rounds):
        for i, side in enumerate(sides):
            started = clock()
            side.make()
            seconds[i] = min(seconds[i], clock() - started)
    return images, seconds


if __name__ == "__main__":
    main()
