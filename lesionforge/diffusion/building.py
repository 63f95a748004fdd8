"""From a config to what a generator's training needs: its base, its captions, and a stage for each goal."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from diffusers import DDPMScheduler

from lesionforge import run, tables
from lesionforge.diffusion import captions, generator_data, methods, pipeline, sampling, scratch
from lesionforge.diffusion.denoising import ends_in_pure_noise, moments_of, too_long
from lesionforge.diffusion.generator_data import SYMMETRIES, GeneratorData, Images, encoded
from lesionforge.diffusion.goals import ClassImages, NoiseGoal, VaeGoal
from lesionforge.diffusion.prompts import told_of
from lesionforge.diffusion.settings import SCRATCH, SCRATCH_SIZE, FinetuneConfig
from lesionforge.diffusion.stage import Stage, steps_per_epoch_of
from lesionforge.engine import checkpoint, inference, ranks
from lesionforge.engine.inference import Accelerator
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_file

log = logging.getLogger("lesionforge")

STEPS_PER_ROW = 250  # of the stages that are counted in steps; our choice
VAE, PRIOR, SPECIALISE = "vae", "prior", "generator"  # stages
MOST_CACHED = 8 * 2**30  # bytes of latents kept in memory by a process, our choice
CLASS_IMAGES = "class-images.safetensors"


class Inputs(NamedTuple):
    base: pipeline.Base | None  # None for base scratch
    data: GeneratorData
    captions: pl.DataFrame  # image_id, target, prompt of all that it learns from
    held_out: pl.DataFrame  # the same of the lesions of part val that are looked at, those of the target
    held_out_both: pl.DataFrame  # of either class, for what base scratch learns first
    image_size: int
    seen: pl.DataFrame
    class_rows: pl.DataFrame | None  # DreamBooth's class images, where they are real


def read_inputs(config: FinetuneConfig) -> Inputs:
    """Everything that can be refused before a network is built.

    Raises:
        BadInput: base, store, split, prompt or size cannot be used.
    """
    is_scratch = config.base == SCRATCH
    base = None if is_scratch else pipeline.find_base(config.base)
    assert config.data.fold != "all"  # a member has its own
    data = generator_data.read_data(
        config.out, config.data.store, config.data.split, config.data.fold, config.data.target, config.seed,
        {"base_sha256": None if base is None else base.sha256},
    )  # fmt: skip
    rows = data.train if is_scratch else data.chosen
    is_ours = base is not None and captions.knows_words(base.folder / "tokenizer")
    num_looked_at = config.val_images if config.val_every else 0
    told, held_out, held_out_both = (
        told_of(config, part, is_ours)
        for part in (rows, data.held_out[:num_looked_at], data.val[: num_looked_at if is_scratch else 0])
    )
    class_rows = None
    if config.method == "dreambooth" and config.dreambooth.class_images == "benign":
        benign = data.train.filter(pl.col(tables.TARGET) == 0)
        if benign.is_empty():
            raise BadInput("dreambooth.class_images: part train has no benign image; use generated ones")
        order = np.random.default_rng([config.seed, 2]).permutation(len(benign))
        class_rows = benign[order[: config.dreambooth.num_class_images]]
    seen = generator_data.seen_of(rows, None if base is None else read_seen(base))
    if class_rows is not None:
        seen = generator_data.seen_of(class_rows, seen)
    size = config.data.image_size or SCRATCH_SIZE if is_scratch else 0
    return Inputs(base, data, told, held_out, held_out_both, size, seen, class_rows)


def read_seen(base: pipeline.Base) -> pl.DataFrame | None:
    """What an earlier generator saw: as its run records it, or as a copy of its folder does; None of a public model.

    Raises:
        BadInput: its run is unfinished, or the table is not the recorded one.
    """
    folder = base.run
    if folder is None:
        copied = base.folder / run.SEEN
        return tables.read_table(copied) if copied.is_file() else None
    run.require_done(folder, "finetune")
    recorded = read_json(folder / run.GENERATOR)["seen_sha256"]
    if not (folder / run.SEEN).is_file() or sha256_of_file(folder / run.SEEN) != recorded:
        raise BadInput(f"base: {folder / run.SEEN} is missing or was altered; restore it, or start from another base")
    return tables.read_table(folder / run.SEEN)


def build_base(config: FinetuneConfig, inputs: Inputs) -> tuple[Any, int]:
    """The pipeline that a pretrained base is, and the size to work at."""
    assert inputs.base is not None
    pipe = pipeline.load_pipeline(inputs.base)
    log.info("base: %s, licence %s, %s; its safety checker is off, these are medical images", inputs.base.name,
             inputs.base.licence, inputs.base.sha256[:12])  # fmt: skip
    warn_of_weights(config, pipe.scheduler)
    return pipe, pipeline.image_size_of(pipe, config.data.image_size)


def warn_of_weights(config: FinetuneConfig, scheduler: Any) -> None:
    if config.loss.min_snr_gamma is not None and ends_in_pure_noise(scheduler):
        log.warning("loss.min_snr_gamma: its weight of pure noise is 0 for this base, which predicts v to the very end "
                    "(zero terminal SNR): where sampling begins stays unlearned; better leave it out")  # fmt: skip


def build_vae_stage(config: FinetuneConfig, inputs: Inputs, accelerator: Accelerator) -> Stage:
    size, settings = inputs.image_size, config.scratch
    vae = scratch.build_vae(size, settings.vae_width, settings.vae_factor, settings.latent_channels)
    vae.to(accelerator.device)
    threads = config.hardware.loader_threads
    goal = VaeGoal(
        vae, Images(inputs.data.store, inputs.data.train, size, threads),
        Images(inputs.data.store, inputs.held_out_both, size, threads),
        SYMMETRIES[config.data.flips], accelerator.device,
    )  # fmt: skip
    named = list(vae.named_parameters())
    return build_stage(
        config, VAE, goal, accelerator, [name for name, _ in named], [p for _, p in named], [1.0] * len(named), [vae],
        num_steps=settings.vae_steps, batch_size=settings.vae_batch_size, lr=settings.vae_lr, schedule="cosine",
        warmup_steps=min(100, settings.vae_steps // 10), weight_decay=0.0,
    )  # fmt: skip


def build_prior_pipeline(config: FinetuneConfig, inputs: Inputs, vae: Any) -> Any:
    words = {word for caption in inputs.captions[tables.PROMPT] for word in captions.split_words(caption)}
    settings = config.scratch
    # the same on every process, and whether the VAE was trained by this command or an earlier one
    inference.seed_device([config.seed, *PRIOR.encode()], torch.device("cpu"))
    pipe = scratch.build_pipeline(
        vae, words, inputs.image_size, settings.unet_width, settings.unet_levels, settings.text_width
    )
    warn_of_weights(config, pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    vae.eval().requires_grad_(False)
    return pipe


def build_prior_stage(config: FinetuneConfig, inputs: Inputs, pipe: Any, accelerator: Accelerator) -> Stage:
    settings = config.scratch
    trained = methods.train_full(pipe, 1.0)
    goal = build_noise_goal(config, inputs, pipe, accelerator, inputs.captions, inputs.held_out_both, trained, None)
    return build_stage(
        config, PRIOR, goal, accelerator, trained.names, trained.params, trained.lr_scales, trained.modules,
        num_steps=settings.prior_steps, batch_size=settings.prior_batch_size, lr=settings.prior_lr, schedule="cosine",
        warmup_steps=min(200, settings.prior_steps // 10), weight_decay=config.optim.weight_decay,
    )  # fmt: skip


def build_trained(config: FinetuneConfig, pipe: Any) -> methods.Trained:
    """What learns in the last stage."""
    optim = config.optim
    full = config.base == SCRATCH or config.method == "full"
    full |= config.method == "dreambooth" and config.dreambooth.train == "full"
    if full:
        trained = methods.train_full(pipe, optim.text_encoder_lr / optim.lr)
    elif config.method == "textual_inversion":
        words = config.textual_inversion
        trained = methods.train_words(pipe, words.token, words.initializer, words.num_vectors)
    else:
        trained = methods.train_lora(pipe, config.lora.rank, config.lora.alpha)
    if optim.grad_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
        pipe.unet.train()  # else diffusers does not checkpoint
    return trained


def build_last_stage(
    config: FinetuneConfig, inputs: Inputs, pipe: Any, trained: methods.Trained, accelerator: Accelerator
) -> Stage:
    """Learning the lesions of the target."""
    rows = inputs.data.chosen
    told = inputs.captions.join(rows.select(tables.IMAGE_ID), on=tables.IMAGE_ID, how="semi", maintain_order="left")
    class_images = build_class_images(config, inputs, pipe, accelerator) if config.method == "dreambooth" else None
    goal = build_noise_goal(config, inputs, pipe, accelerator, told, inputs.held_out, trained, class_images)
    steps_per_epoch = steps_per_epoch_of(len(rows), config.data.batch_size)
    return build_stage(
        config, SPECIALISE, goal, accelerator, trained.names, trained.params, trained.lr_scales, trained.modules,
        num_steps=steps_per_epoch * config.optim.epochs, batch_size=config.data.batch_size, lr=config.optim.lr,
        schedule=config.optim.schedule, warmup_steps=config.optim.warmup_steps,
        weight_decay=config.optim.weight_decay, steps_per_row=steps_per_epoch,
    )  # fmt: skip


def build_stage(
    config: FinetuneConfig, name: str, goal: VaeGoal | NoiseGoal, accelerator: Accelerator, names: Sequence[str],
    params: Sequence[torch.nn.Parameter], lr_scales: Sequence[float], modules: Sequence[torch.nn.Module],
    steps_per_row: int = STEPS_PER_ROW, **steps: Any,
) -> Stage:  # fmt: skip
    optim = config.optim
    return Stage(
        name, goal, accelerator, config.seed, names=names, params=params, lr_scales=lr_scales, modules=modules,
        steps_per_epoch=steps_per_epoch_of(goal.num_images, steps["batch_size"]), steps_per_row=steps_per_row,
        betas=optim.betas, clip_grad_norm=optim.clip_grad_norm, micro_batch_size=optim.micro_batch_size,
        ema_decay=None if name == VAE else optim.ema_decay, **steps,
    )  # fmt: skip


def build_noise_goal(
    config: FinetuneConfig, inputs: Inputs, pipe: Any, accelerator: Accelerator, rows: pl.DataFrame,
    held_out_rows: pl.DataFrame, trained: methods.Trained, class_images: ClassImages | None,
) -> NoiseGoal:  # fmt: skip
    """rows, held_out_rows: image_id, prompt."""
    is_scratch, prompts = config.base == SCRATCH, rows[tables.PROMPT].to_list()
    if cut := too_long(pipe, prompts):
        log.warning("prompts that are longer than the text encoder reads are cut: %d of %d, as: %s", len(cut),
                    len(set(prompts)), cut[0])  # fmt: skip
    pipe.to(accelerator.device)
    size, threads = inputs.image_size, config.hardware.loader_threads
    num_symmetries = SYMMETRIES[config.data.flips]

    def encode(images: torch.Tensor) -> torch.Tensor:
        return moments_of(pipe.vae, images)

    images = Images(inputs.data.store, rows, size, threads)
    num_bytes = generator_data.bytes_of_latents(pipe.vae, len(rows), num_symmetries, size)
    if is_too_much := config.hardware.cache_latents and num_bytes > MOST_CACHED:
        log.warning("latents of all images would take %.1f GiB of memory, more than %.1f: each is encoded when it is "
                    "shown", num_bytes / 2**30, MOST_CACHED / 2**30)  # fmt: skip
    if config.hardware.cache_latents and not is_too_much:
        kept = encoded(encode, images, num_symmetries, accelerator, "encoding images")

        def moments(positions: np.ndarray, symmetries: torch.Tensor) -> torch.Tensor:
            return kept[torch.from_numpy(positions), symmetries]
    else:

        def moments(positions: np.ndarray, symmetries: torch.Tensor) -> torch.Tensor:
            turned = generator_data.turned(images(positions), symmetries)
            return encode(generator_data.as_input(turned, accelerator.device))

    held_out = None
    if len(held_out_rows):
        looked_at = Images(inputs.data.store, held_out_rows, size, threads)
        held_out = (encoded(encode, looked_at, 1, accelerator, "encoding val"), held_out_rows[tables.PROMPT].to_list())
    return NoiseGoal(
        pipe, torch.compile(pipe.unet) if config.hardware.compile else pipe.unet,  # type: ignore[arg-type]
        DDPMScheduler.from_config(pipe.scheduler.config), moments=moments, num_images=len(rows),
        num_symmetries=num_symmetries, prompts=prompts, held_out=held_out, trains_text=trained.trains_text,
        min_snr_gamma=config.loss.min_snr_gamma, noise_offset=config.loss.noise_offset,
        dropout=config.scratch.caption_dropout if is_scratch else config.prompts.dropout, drops_words=is_scratch,
        class_images=class_images, image_size=size, device=accelerator.device, seed=config.seed,
    )  # fmt: skip


def build_class_images(config: FinetuneConfig, inputs: Inputs, pipe: Any, accelerator: Accelerator) -> ClassImages:
    """DreamBooth's class images, made by the base once and kept beside the checkpoints, or real benign lesions."""
    settings, size = config.dreambooth, inputs.image_size
    pipe.to(accelerator.device)
    if inputs.class_rows is not None:
        positions = np.arange(len(inputs.class_rows))
        made = Images(inputs.data.store, inputs.class_rows, size, config.hardware.loader_threads)(positions)
    else:
        path = config.out / run.CHECKPOINTS / CLASS_IMAGES

        def make() -> torch.Tensor:
            if not path.is_file():
                requests = [
                    sampling.Request(settings.class_prompt, "", seed, 7.5, 25, "ddim")
                    for seed in range(settings.num_class_images)
                ]
                batches = list(sampling.sample(pipe, requests, size, config.data.batch_size))
                checkpoint.save_tensors(path, {"images": torch.from_numpy(np.concatenate(batches))})
            return checkpoint.load_tensors(path)["images"]

        log.info("making %d images of the class with the base", settings.num_class_images)
        with torch.inference_mode():
            made = ranks.first_then_others(accelerator, make)
    with torch.no_grad():
        moments = torch.cat(
            [moments_of(pipe.vae, generator_data.as_input(part, accelerator.device)).cpu() for part in made.split(16)]
        )
    return ClassImages(moments[:, None], settings.class_prompt, settings.prior_loss_weight)
