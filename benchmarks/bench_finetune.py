"""A step of fine-tuning adapters: ours (the package's Stage and NoiseGoal) beside what diffusers' script does in one.

    python benchmarks/bench_finetune.py [--rounds 5] [--batch 4] [--size 256] [--write]
    python benchmarks/bench_finetune.py --device cuda            # SD 1.5's real architecture, 512 px, bf16

The anchor does per step what examples/text_to_image/train_text_to_image_lora.py of diffusers does: VAE encode, text
encode, add noise, UNet, loss, backward, clip, AdamW; its images are ready in memory, so that no loader slows it down.
Ours encodes images (in 8 flips and turns) and prompts once, before the first step; what that costs is a row of its own.
Both draw the same noise: `drift` is how far the losses of the first steps are apart, asserted in float32.

Weights are random. On the CPU the pipeline is SD 1.5's with a fifth of its channels and a quarter of its heads, so that
a head is about as wide, at 256 px instead of 512. The head of the output holds the shares of VAE, text encoder and UNet
in the multiplications of a step, there and in SD 1.5.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import anchor  # first: it pins the threads

# isort: split
import numpy as np
import sides
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from lesionforge.diffusion import denoising, generator_data, methods, pipeline, scratch
from lesionforge.diffusion.goals import NoiseGoal
from lesionforge.diffusion.settings import STUDY_PROMPT
from lesionforge.diffusion.stage import Stage
from lesionforge.engine import inference

SEED, STEPS, LR, TEXT_LR, RANK, NUM_IMAGES = 0, 3, 1e-4, 5e-6, 16, 8
TARGET, MOST_DRIFT = 1.5, 1e-5
TOKENS = 77
PACKAGES = ("torch", "diffusers", "peft", "transformers")


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--size", type=int, help="pixels; 256, on a GPU 512")
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments.add_argument("--shrink", type=int, help="a fraction of the channels; 5, on a GPU 1: all of them")
    given = arguments.parse_args()
    pipeline.quiet()
    on_gpu = given.device == "cuda"
    size, shrink = given.size or (512 if on_gpu else 256), given.shrink or (1 if on_gpu else 5)
    precision = "bf16" if on_gpu else "fp32"
    lines = [
        anchor.header(PACKAGES, SEED),
        f"# device    {torch.cuda.get_device_name() if on_gpu else 'CPU, CPU seconds'}; {precision}",
        f"# data      batches of {given.batch} random images of {size} px, one prompt of {TOKENS} tokens",
        f"# a step    {shares(shrink, size)}",
        f"# SD 1.5    {shares(1, 512)}",
        "",
        f"{'':44}  {'a step':>10}  {'ratio':>7}  {'asked':8}{'':10}drift of the loss",
    ]
    print("\n".join(lines), flush=True)
    shape = (shrink, size, given.batch, given.device, precision)
    for title, full, targets in (("adapters", False, {"ours": TARGET}), ("UNet and text encoder", True, {})):
        plain = "diffusers' script"
        makers: dict[str, tuple] = {plain: (make_plain, full, *shape), "ours": (make_ours, full, True, *shape)}
        if not full:
            makers["ours, images encoded at each step"] = (make_ours, full, False, *shape)
        answers, seconds = (on_the_gpu if on_gpu else sides.compare)(makers, given.rounds)
        expected = np.array(answers[plain])
        rows = [sides.Row(f"{title}, {plain}", seconds[plain], 1.0, None, f"(loss {expected[0]:.3f})")]
        for side in list(makers)[1:]:
            drift = float(np.abs(np.array(answers[side]) - expected).max())
            assert drift <= MOST_DRIFT or precision != "fp32", f"{side}: losses are {drift:.1e} apart"
            ratio = seconds[plain] / seconds[side]
            rows.append(sides.Row(f"{title}, {side}", seconds[side], ratio, targets.get(side), f"{drift:.1e}"))
        lines += [str(row) for row in rows] + [""]
        print("\n".join([*map(str, rows), ""]), flush=True)
    encoding = measure_encoding(*shape)
    lines.append(f"{'encoding an image once, in 8 flips and turns':44}  {anchor.per_item(encoding):>10}")
    print(lines[-1], "\n")
    anchor.show("\n".join(lines), "finetune", given.write)


# ----------------------------------------------------------------------------------------------------- the pipeline


def build_unet(shrink: int) -> UNet2DConditionModel:
    groups = 32 if shrink == 1 else 8
    return UNet2DConditionModel(
        sample_size=64, cross_attention_dim=width_of(768, shrink), norm_num_groups=groups,
        attention_head_dim=max(8 // shrink, 2),  # the number of heads, by an old mistake in diffusers
        block_out_channels=[width_of(width, shrink) for width in (320, 640, 1280, 1280)],
    )  # fmt: skip


def build_vae(shrink: int, size: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[width_of(width, shrink) for width in (128, 256, 512, 512)], layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4,
        norm_num_groups=32 if shrink == 1 else 8, sample_size=size,
    )  # fmt: skip


def build_text_encoder(shrink: int, vocab_size: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=width_of(768, shrink), intermediate_size=4 * width_of(768, shrink),
            num_hidden_layers=12, num_attention_heads=12 if shrink == 1 else 4, max_position_embeddings=TOKENS,
        )
    )  # fmt: skip


def width_of(width: int, shrink: int) -> int:
    """A share of the channels, a multiple of 8."""
    return max(width // shrink // 8, 1) * 8


def build_pipeline(shrink: int, size: int) -> Any:
    torch.manual_seed(SEED)
    tokenizer = scratch.word_tokenizer([])
    tokenizer.model_max_length = TOKENS
    pipe = StableDiffusionPipeline(
        vae=build_vae(shrink, size), text_encoder=build_text_encoder(shrink, len(tokenizer)), tokenizer=tokenizer,
        unet=build_unet(shrink), scheduler=build_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    return pipe


def build_scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def shares(shrink: int, size: int) -> str:
    """Multiplications of VAE, text encoder and UNet in a step of one image; the UNet forward and backward."""
    with torch.device("meta"):
        networks = (build_vae(shrink, size), build_text_encoder(shrink, 1000), build_unet(shrink))
        width = networks[1].config.hidden_size
        calls: list[Callable[[], object]] = [
            lambda: networks[0].encode(torch.zeros(1, 3, size, size)),
            lambda: networks[1](torch.zeros(1, TOKENS, dtype=torch.int64)),
            lambda: networks[2](torch.zeros(1, 4, size // 8, size // 8), 1, torch.zeros(1, TOKENS, width)),
        ]
        counts = []
        for call in calls:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                call()
            counts.append(counter.get_total_flops() / 2e9)
    counts[2] *= 2  # backward through frozen weights costs as much as forward
    vae, text, unet = (count / sum(counts) for count in counts)
    return f"VAE {vae:.0%}, text encoder {text:.1%}, UNet {unet:.0%} of {sum(counts):,.1f} G multiplications an image"


# -------------------------------------------------------------------------------------------------------- the sides


def random_images(size: int) -> torch.Tensor:
    """(N, S, S, 3) uint8, smooth as skin is."""
    rng = np.random.default_rng(SEED)
    coarse = torch.from_numpy(rng.uniform(0, 255, (NUM_IMAGES, 3, 8, 8)).astype(np.float32))
    return functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 255).byte().permute(0, 2, 3, 1)


def build_goal(pipe: Any, size: int, device: torch.device, moments: Any, trains_text: bool) -> NoiseGoal:
    return NoiseGoal(
        pipe, pipe.unet, build_scheduler(), moments=moments, num_images=NUM_IMAGES, num_symmetries=8,
        prompts=[STUDY_PROMPT] * NUM_IMAGES, held_out=None, trains_text=trains_text, min_snr_gamma=None,
        noise_offset=0.0, dropout=0.0, drops_words=False, class_images=None, image_size=size, device=device, seed=SEED,
    )  # fmt: skip


def build_trained(pipe: Any, full: bool) -> methods.Trained:
    return methods.train_full(pipe, TEXT_LR / LR) if full else methods.train_lora(pipe, RANK, None)


def make_ours(
    full: bool, cached: bool, shrink: int, size: int, batch: int, device_name: str, precision: str
) -> Callable[[], list[float]]:
    accelerator = inference.build_accelerator(device_name, precision)
    pipe, images = build_pipeline(shrink, size).to(accelerator.device), random_images(size)
    trained = build_trained(pipe, full)

    def encode(positions: np.ndarray, symmetries: torch.Tensor) -> torch.Tensor:
        turned = generator_data.turned(images[torch.from_numpy(positions)], symmetries)
        return generator_data.as_moments(pipe.vae, turned, accelerator.device)

    if cached:
        everything = np.arange(NUM_IMAGES)
        kept = torch.stack([encode(everything, torch.full((NUM_IMAGES,), k)).cpu() for k in range(8)], dim=1)
        goal = build_goal(
            pipe, size, accelerator.device, lambda p, symmetries: kept[torch.from_numpy(p), symmetries], full
        )
    else:
        goal = build_goal(pipe, size, accelerator.device, encode, full)
    stage = Stage(
        "generator", goal, accelerator, SEED, names=trained.names, params=trained.params, lr_scales=trained.lr_scales,
        modules=trained.modules, num_steps=10**6, batch_size=batch, steps_per_epoch=-(-NUM_IMAGES // batch),
        steps_per_row=1, lr=LR, schedule="constant", warmup_steps=0, weight_decay=0.01, betas=(0.9, 0.999),
        clip_grad_norm=1.0, micro_batch_size=None, ema_decay=None,
    )  # fmt: skip

    def step() -> float:
        stage.take_step()
        return stage.mean_loss()

    return first_steps(step)


def make_plain(
    full: bool, shrink: int, size: int, batch: int, device_name: str, precision: str
) -> Callable[[], list[float]]:
    """As the script's loop; frozen networks are in bf16 where it computes in it, as there. Draws are our own's."""
    accelerator = inference.build_accelerator(device_name, precision)
    device = accelerator.device
    pipe = build_pipeline(shrink, size).to(device)
    trained = build_trained(pipe, full)
    if precision == "bf16":
        for module in (pipe.vae, *(() if full else (pipe.unet, pipe.text_encoder))):
            module.to(torch.bfloat16)
        for param in trained.params:
            param.data = param.data.float()
    vae, text_encoder, unet, scheduler = pipe.vae, pipe.text_encoder, pipe.unet, build_scheduler()
    if not full:
        unet.train()
    groups = [
        {
            "params": [p for p, own in zip(trained.params, trained.lr_scales, strict=True) if own == scale],
            "lr": LR * scale,
        }
        for scale in dict.fromkeys(trained.lr_scales)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)
    ids = pipe.tokenizer(
        [STUDY_PROMPT] * NUM_IMAGES, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    images = random_images(size)
    draws = DrawsOfOurs(build_goal(pipe, size, device, None, full), batch)

    def step() -> float:
        positions, drawn = draws.following()
        pixels = generator_data.as_input(generator_data.turned(images[positions], drawn["symmetry"]), device)
        with torch.no_grad():
            posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        latents = (posterior.mean + posterior.std * drawn["posterior"].to(device)) * vae.config.scaling_factor
        noise, timesteps = drawn["noise"].to(device), drawn["timestep"].to(device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with accelerator.autocast():
            with torch.set_grad_enabled(full):
                told = text_encoder(ids[positions].to(device), return_dict=False)[0]
            predicted = unet(noisy, timesteps, told, return_dict=False)[0]
            loss = functional.mse_loss(predicted.float(), noise.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return first_steps(step)


class DrawsOfOurs:
    """The images and random numbers that our side sees, step after step."""

    def __init__(self, goal: NoiseGoal, batch: int) -> None:
        accelerator = inference.build_accelerator("cpu", "fp32")
        nothing = [torch.nn.Parameter(torch.zeros(1))]
        self.goal, self.step = goal, 0
        self.stage = Stage(
            "generator", goal, accelerator, SEED, names=["nothing"], params=nothing, lr_scales=[1.0], modules=[],
            num_steps=10**6, batch_size=batch, steps_per_epoch=-(-NUM_IMAGES // batch), steps_per_row=1, lr=LR,
            schedule="constant", warmup_steps=0, weight_decay=0.0, betas=(0.9, 0.999), clip_grad_norm=None,
            micro_batch_size=None, ema_decay=None,
        )  # fmt: skip

    def following(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        positions = self.stage.positions_of(self.step)
        draws = self.goal.draws(positions, self.stage.generator_of(self.step))
        self.step += 1
        return torch.from_numpy(positions), draws


def first_steps(step: Callable[[], float]) -> Callable[[], list[float]]:
    """The losses of a few steps on the first call, then one step a call."""
    called = False

    def function() -> list[float]:
        nonlocal called
        num, called = (1, True) if called else (STEPS, True)
        return [step() for _ in range(num)]

    return function


def on_the_gpu(makers: dict[str, tuple], rounds: int) -> tuple[dict[str, object], dict[str, float]]:
    """As sides.compare, in this process and in wall time: a GPU's memory is no matter of the C library's."""
    functions = {name: make(*args) for name, (make, *args) in makers.items()}
    answers: dict[str, object] = {name: function() for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(10):
                function()
            torch.cuda.synchronize()
            times[name].append((time.perf_counter() - started) / 10)
    return answers, {name: statistics.median(found[1:]) for name, found in times.items()}


def measure_encoding(shrink: int, size: int, batch: int, device_name: str, precision: str) -> float:
    """Seconds that our cache takes an image."""
    pipe, images = build_pipeline(shrink, size).to(device_name), random_images(size)
    found = []
    for _ in range(2):
        started = time.perf_counter() if device_name == "cuda" else anchor.cpu_seconds()
        for symmetry in range(8):
            turned = generator_data.turned(images, torch.full((NUM_IMAGES,), symmetry))
            denoising.moments_of(pipe.vae, generator_data.as_input(turned, torch.device(device_name))).cpu()
        found.append((time.perf_counter() if device_name == "cuda" else anchor.cpu_seconds()) - started)
    return min(found) / NUM_IMAGES


if __name__ == "__main__":
    main()
