"""`lesionforge generate`: candidates from a generator, as a store with a row of provenance an image.

The same command goes on where a stopped one was and leaves a finished one alone; the store is the same, bit for bit.
With several devices: `torchrun --nproc-per-node N -m lesionforge generate ...`, each makes its share.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lesionforge import run, signals
from lesionforge.diffusion.generate_settings import TEXT_TO_IMAGE, FormatConfig, GenerateConfig
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_bytes
from lesionforge.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lesionforge.diffusion.generation_inputs import Real
    from lesionforge.diffusion.generation_plan import Planned
    from lesionforge.diffusion.output_format import Format
    from lesionforge.diffusion.pipeline import Generator
    from lesionforge.diffusion.sampling import Embeddings, Request
    from lesionforge.engine.inference import Accelerator

__all__ = ["GenerateConfig", "generate"]

log = logging.getLogger("lesionforge")


class Work(NamedTuple):
    """All that is known before the first image is made."""

    manifest: dict[str, Any]
    images: "list[Planned]"
    samples: "pl.DataFrame"
    sources: "pl.DataFrame | None"
    negative_prompt: str | None
    real: "Real | None"
    inputs: dict[str, str | None]


def generate(config: GenerateConfig) -> None:
    """Write a store of candidates; of a group of generators, one a fold in OUT/members."""
    from lesionforge.data import groups
    from lesionforge.engine import inference, ranks

    accelerator = inference.build_accelerator(config.hardware.device, "fp32")  # bf16 is the loaded networks' own
    with ranks.quiet_unless_first(accelerator):
        with ranks.same_fate(accelerator):
            is_all = groups.is_group(config.generator) and config.fold is None
            members = groups.members_of(config.generator)
            generator = members[0] if is_all else groups.member_of_fold(config.generator, config.fold)
        if not is_all:
            generate_one(config, generator, accelerator)
            return
        with ranks.run_folder(accelerator, "generate", config) as (done, keep):
            if done:
                return
            for member in members:
                out = config.out / run.MEMBERS / member.name
                generate_one(config.model_copy(update={"generator": member, "out": out}), member, accelerator, keep)
            if accelerator.is_main_process:
                run.mark_done(config.out, members=[member.name for member in members])


def generate_one(
    config: GenerateConfig, generator: Path, accelerator: "Accelerator", keep_group: Callable[[], None] = lambda: None
) -> None:
    import torch

    from lesionforge.diffusion import generated_store, generation_inputs
    from lesionforge.engine import ranks

    torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
    with ranks.run_folder(accelerator, "generate", config) as (done, keep), signals.stop_signals() as stop_signal:
        if done:
            return
        with ranks.same_fate(accelerator):
            first = load(config, generator, config.checkpoint[0], accelerator)
            work = read_everything(config, generator, first)
            generation_inputs.require_same(config.out, work.inputs, is_writer=accelerator.is_main_process)
        keep()
        keep_group()
        make_all(config, generator, first, work, accelerator, stop_signal)
        if (number := ranks.agreed_signal(accelerator, stop_signal())) is not None:
            num_done = len(generated_store.finished_numbers(config.out / run.SHARDS))
            log.warning("stopped at %d of %d images; the same command goes on", num_done, config.num_images)
            raise SystemExit(128 + number)
        if accelerator.is_main_process:
            generated_store.write_generated(config.out, work.samples, work.manifest, generator / run.SEEN, work.sources)
            log.info("%s: %s candidates, to be audited before they are used", config.out, f"{config.num_images:,}")


def load(config: GenerateConfig, generator: Path, checkpoint: str, accelerator: "Accelerator") -> "Generator":
    """A checkpoint of the generator, laid out for speed.

    Raises:
        BadInput: what `pipeline.load_generator` refuses; a size or a scheduler that does not go with the model.
    """
    from lesionforge.diffusion import pipeline, sampling, sampling_limits

    found = pipeline.load_generator(
        generator, checkpoint, int(config.target == "malignant"), accelerator.device, config.precision
    )
    size, multiple = config.image_size or found.image_size, sampling_limits.size_multiple(found.pipe)
    if size % multiple:
        below = max(size // multiple, 1) * multiple
        raise BadInput(
            f"image_size: {size} px, expected a multiple of {multiple} for this model; take {below} or "
            f"{below + multiple}, the files' own size is format's"
        )
    for name in config.scheduler:
        sampling_limits.require_scheduler(found.pipe, name)
    sampling.make_fast(found.pipe, config.channels_last, config.hardware.compile)
    return found


def read_everything(config: GenerateConfig, generator: Path, loaded: "Generator") -> Work:
    """Decide on every image.

    Raises:
        BadInput: no prompts, no sources, other data than the generator's; a checkpoint that is not there.
    """
    from lesionforge import tables
    from lesionforge.data.manifests import read_generator
    from lesionforge.diffusion import denoising, generated_store, generation_inputs, generation_plan

    manifest, _ = read_generator(generator)
    if config.fold is not None and manifest.get("fold") != config.fold:
        raise BadInput(f"fold: {generator} was trained for fold {manifest.get('fold')}, not {config.fold}")
    target = int(config.target == "malignant")
    size = config.image_size or loaded.image_size
    needs_real = config.generation != TEXT_TO_IMAGE or (config.format.match == "real" and not is_fixed(config.format))
    real = None
    if needs_real:
        real = generation_inputs.read_real(generator, manifest, config.sources.store, config.sources.split)
    source_ids = [] if real is None else generation_plan.eligible_sources(
        real.train, config.generation, target, config.sources.image_ids, real.parts
    )  # fmt: skip
    formats = formats_of(config, real, target, size)
    prompts = prompts_of(config, loaded, target)
    if too_long := denoising.too_long(loaded.pipe, sorted(set(prompts))):
        log.warning(
            "%d of %d prompts are longer than the text encoder reads, what is beyond does nothing: %s", len(too_long),
            len(set(prompts)), tables.in_short(too_long, 2),
        )  # fmt: skip
    cells = generation_plan.cells_of(
        config.checkpoint, config.scheduler, config.num_inference_steps, config.guidance_scale, config.strengths
    )
    images = generation_plan.plan(config.num_images, config.seed, cells, prompts, source_ids, formats)
    negative_prompt = config.negative_prompt
    if negative_prompt is None:
        negative_prompt = manifest.get("negative_prompt")
    samples = generated_store.samples_of(
        images, prefix_of(config, loaded.manifest_id), target, config.generation, negative_prompt, manifest,
        {name: generation_inputs.weights_of(name, target, manifest) for name in config.checkpoint},
    )  # fmt: skip
    log.info("generator %s: %s at %d px", loaded.manifest_id[:12], generator, size)
    log.info("safety checker: off, it was made for photographs in general and takes bare skin for what it looks for")
    in_cells = f", {len(cells)} combinations of settings" if len(cells) > 1 else ""
    log.info("%s %s images by %s%s", f"{config.num_images:,}", config.target, config.generation, in_cells)
    sources = None if real is None else generation_inputs.used_sources(real, samples)
    inputs = {"generator": loaded.manifest_id, "store": None if real is None else real.store.digest}
    return Work(manifest, images, samples, sources, negative_prompt, real, inputs)


def is_fixed(settings: FormatConfig) -> bool:
    """Whether nothing of the format is drawn from real images."""
    return settings.side is not None and settings.quality is not None


def formats_of(config: GenerateConfig, real: "Real | None", target: int, size: int) -> "Format":
    """What the images' formats are drawn from."""
    import polars as pl

    from lesionforge import tables
    from lesionforge.diffusion import output_format

    side, quality = config.format.side, config.format.quality
    if config.format.match == "none" or real is None:
        return output_format.fixed(side or size, side or size, quality)
    of_class = real.train.filter(pl.col(tables.TARGET) == target)
    found = output_format.measured(real.store, of_class if len(of_class) else real.train, config.seed)
    log.info("format of the real images: %s", output_format.in_words(found))
    replaced = output_format.replaced(found, side, quality)
    if (larger := output_format.share_larger(replaced, size)) > 0:
        log.warning(
            "%.0f%% of the formats are larger than the %d px that images are made at: enlarged ones are blurred, by "
            "which a classifier may tell them from real ones; the audit's shortcut test shows how well", 100 * larger,
            size,
        )  # fmt: skip
    return replaced


def prompts_of(config: GenerateConfig, loaded: "Generator", target: int) -> list[str]:
    from lesionforge import tables

    if config.prompt is not None:
        return [config.prompt]
    captions = loaded.captions
    found: list[str] = captions.filter(captions[tables.TARGET] == target)[tables.PROMPT].to_list()
    if not found:
        raise BadInput(f"prompt: the generator knows no prompts of {config.target} lesions; give one by --prompt")
    return found


def prefix_of(config: GenerateConfig, manifest_id: str) -> str:
    """Ids begin with it: the same for equal settings of one generator, so that stores can be joined."""
    left_out = {"generator", "out", "fold", "num_images", "keep_raw", "batch_size", "hardware"}
    settings = config.model_copy(update={"sources": config.sources.model_copy(update={"store": None, "split": None})})
    return f"SYN_{sha256_of_bytes(f'{manifest_id} {settings.model_dump_json(exclude=left_out)}'.encode())[:10]}"


def make_all(
    config: GenerateConfig,
    generator: Path,
    loaded: "Generator",
    work: Work,
    accelerator: "Accelerator",
    stop_signal: Callable[[], int | None],
) -> None:
    """Make what no shard holds yet; stops after the batch in hand when a signal has come."""
    from lesionforge.diffusion import generated_store, generation_plan
    from lesionforge.engine import ranks

    shards = config.out / run.SHARDS
    have = ranks.told_by_first(accelerator, generated_store.finished_numbers(shards))
    todo = [image for image in work.images if image.number not in have]
    batches = generation_plan.batches_of(todo, config.batch_size)
    batches = batches[accelerator.process_index :: accelerator.num_processes]
    checkpoint, embeddings = config.checkpoint[0], dict[Any, Any]()
    num_images, started = sum(map(len, batches)), time.monotonic()
    with progress("generating", num_images) as advance:
        for batch in batches:
            if batch[0].cell.checkpoint != checkpoint:
                checkpoint, embeddings = batch[0].cell.checkpoint, {}
                del loaded
                loaded = load(config, generator, checkpoint, accelerator)
            images = make_batch(config, batch, loaded, work, embeddings)
            generated_store.write_shard(shards, batch, images, config.keep_raw)
            advance(len(batch))
            if stop_signal() is not None:
                return
    if num_images:
        log.info("%.2f images/s on %s", num_images / (time.monotonic() - started), ranks.in_words(accelerator))


def make_batch(
    config: GenerateConfig, batch: "Sequence[Planned]", loaded: "Generator", work: Work, embeddings: "Embeddings"
) -> "np.ndarray":
    """The images of one batch, (B, S, S, 3) uint8."""
    from lesionforge.diffusion import denoising, generation_plan, sampling
    from lesionforge.engine.inference import is_out_of_memory

    size = config.image_size or loaded.image_size
    requests = [
        generation_plan.request_of(
            image, config.generation, work.negative_prompt, size, denoising.vae_factor(loaded.pipe.vae),
            None if work.real is None else work.real.store, config.sources.mask, config.seed,
        )
        for image in batch
    ]  # fmt: skip
    num_images = len(requests)
    if config.hardware.compile or config.precision == "bf16":  # one size: compiled once, the same kernels for all
        requests += requests[-1:] * (config.batch_size - num_images)
    try:
        return next(sampling.sample(loaded.pipe, requests, size, len(requests), embeddings=embeddings))[:num_images]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    raise BadInput(out_of_memory(loaded, requests, size))


def out_of_memory(loaded: "Generator", requests: "Sequence[Request]", size: int) -> str:
    """The advice: what batch size was tried, by one step of it, and fits."""
    from lesionforge.diffusion import sampling_limits

    asked = f"batch_size: out of memory, {len(requests)} images of {size} px at once do not fit on {loaded.pipe.device}"
    fits = sampling_limits.batch_that_fits(loaded.pipe, requests, size)
    if fits:
        return f"{asked}; {fits} do: the same command with --batch-size {fits} goes on"
    return f"{asked}, and neither does one; try --precision bf16, a smaller --image-size, or another machine"
