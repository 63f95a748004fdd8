"""`lesionforge finetune`: a generator of skin lesions from part train, into a run folder; or one a fold.

The same command resumes an unfinished run, in the middle of an epoch and bitwise, and leaves a finished one alone. With
several devices: `torchrun --nproc-per-node N -m lesionforge finetune ...`.
"""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from lesionforge import files, run, signals
from lesionforge.diffusion.settings import SCRATCH, FinetuneConfig
from lesionforge.progress import in_words, progress

if TYPE_CHECKING:
    from lesionforge.diffusion.building import Inputs
    from lesionforge.diffusion.methods import Trained
    from lesionforge.diffusion.stage import Stage
    from lesionforge.engine.inference import Accelerator

log = logging.getLogger("lesionforge")

StopSignal = Callable[[], int | None]


def finetune(config: FinetuneConfig) -> None:
    """Make a generator, go on with one, or leave a finished one alone."""
    if run.num_processes() == 1 and run.already_done(config.out, config):  # before torch is loaded
        return
    from lesionforge.data import groups
    from lesionforge.data.parts import folds_of
    from lesionforge.diffusion import extras
    from lesionforge.engine import inference, ranks

    extras.require()
    from lesionforge.diffusion import pipeline

    pipeline.quiet()
    accelerator = inference.build_accelerator(config.hardware.device, config.optim.precision)
    with ranks.quiet_unless_first(accelerator):
        if config.data.fold != "all":
            finetune_one(config, accelerator)
            return
        with ranks.run_folder(accelerator, "finetune", config) as (done, keep):
            if done:
                return
            with ranks.same_fate(accelerator):
                folds = folds_of(config.data.split)
            keep()
            names = [groups.name_of(fold) for fold in folds]
            for fold, name in zip(folds, names, strict=True):
                log.info("%s", name)
                data = config.data.model_copy(update={"fold": fold})
                member = config.model_copy(update={"out": config.out / run.MEMBERS / name, "data": data})
                finetune_one(member, accelerator)
            if accelerator.is_main_process:
                run.mark_done(config.out, members=names)


def finetune_one(config: FinetuneConfig, accelerator: "Accelerator") -> None:
    """One generator: its inputs, its stages one after the other, its record."""
    import torch

    from lesionforge.diffusion import building, methods
    from lesionforge.engine import ranks

    started = time.monotonic()
    with ranks.run_folder(accelerator, "finetune", config) as (done, keep):
        if done:
            return
        inputs = ranks.first_then_others(accelerator, lambda: building.read_inputs(config))
        torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
        torch.manual_seed(config.seed)
        with signals.stop_signals() as stop_signal:
            if config.base == SCRATCH:
                pipe = scratch_prior(config, inputs, accelerator, keep, stop_signal)
            else:
                with ranks.same_fate(accelerator):
                    pipe, size = building.build_base(config, inputs)
                inputs = inputs._replace(image_size=size)
            with ranks.same_fate(accelerator):
                trained = building.build_trained(config, pipe)
            keep()
            stage = building.build_last_stage(config, inputs, pipe, trained, accelerator)
            grids = Grids(config, inputs, pipe, trained, stage)
            run_stage(config, stage, accelerator, stop_signal, steps_before(config), grids)
            stage.settle()
            if accelerator.is_main_process:
                if not (config.out / run.PIPELINE).is_dir() and not (config.out / run.ADAPTER).is_dir():
                    methods.save(pipe, trained, config.out, config.textual_inversion.token)
                finish(config, inputs, pipe, trained, stage, time.monotonic() - started)
            number = ranks.agreed_signal(accelerator, stop_signal())
        if number is not None:
            raise SystemExit(128 + number)  # for a group's sake: its next member is not begun


def steps_before(config: FinetuneConfig) -> int:
    """Steps of the stages before the last."""
    return config.scratch.vae_steps + config.scratch.prior_steps if config.base == SCRATCH else 0


def scratch_prior(
    config: FinetuneConfig, inputs: "Inputs", accelerator: "Accelerator", keep: Callable[[], None],
    stop_signal: StopSignal,
) -> Any:  # fmt: skip
    """Base scratch before it specialises: a VAE, then UNet and text encoder, on all training lesions."""
    import numpy as np
    import torch

    from lesionforge.diffusion import building, generator_data, pipeline, scratch
    from lesionforge.engine import ranks

    prior = config.out / run.PRIOR
    if not prior.is_dir():
        vae_folder = config.out / building.VAE
        if vae_folder.is_dir():
            vae = pipeline.load_vae(vae_folder)
        else:
            with ranks.same_fate(accelerator):
                stage = building.build_vae_stage(config, inputs, accelerator)
            keep()
            run_stage(config, stage, accelerator, stop_signal, 0)
            goal: Any = stage.goal
            vae = goal.vae
            vae.eval()
            positions = np.random.default_rng(config.seed).permutation(len(goal.images))[:1024]  # our choice: enough
            means = [
                generator_data.as_moments(vae, goal.images(part), accelerator.device).chunk(2, dim=1)[0]
                for part in np.array_split(positions, -(-len(positions) // generator_data.CHUNK))
            ]
            scratch.standardise_latents(vae, torch.cat(means))
            psnr = goal.psnr()
            log.info("VAE: held-out lesions are put back together at %s dB", "-" if psnr is None else f"{psnr:.1f}")
            if accelerator.is_main_process:
                with files.write_folder_whole(vae_folder) as folder:
                    vae.save_pretrained(folder, safe_serialization=True)
        pipe = building.build_prior_pipeline(config, inputs, vae)
        stage = building.build_prior_stage(config, inputs, pipe, accelerator)
        run_stage(config, stage, accelerator, stop_signal, config.scratch.vae_steps)
        stage.settle()
        if accelerator.is_main_process:
            with files.write_folder_whole(prior) as folder:
                pipe.save_pretrained(folder, safe_serialization=True)
        accelerator.wait_for_everyone()
    return pipeline.load_pipeline(pipeline.find_base(str(prior)))


def run_stage(
    config: FinetuneConfig, stage: "Stage", accelerator: "Accelerator", stop_signal: StopSignal, steps_done: int,
    grids: "Grids | None" = None,
) -> None:  # fmt: skip
    """Step after step to the stage's end, from its last checkpoint. A signal saves, then ends the process.

    Args:
        steps_done: by the stages before: metrics.jsonl counts them all.
    """
    from lesionforge.engine import checkpoint, ranks, tracking

    started = last_save = time.monotonic()
    folder, first = config.out / run.CHECKPOINTS / stage.name, accelerator.is_main_process
    if (found := checkpoint.load_checkpoint(folder)) is not None:
        stage.restore(found, config.out)
        log.info("%s: going on at step %d of %d", stage.name, stage.step, stage.num_steps)
    earlier_seconds = stage.seconds
    log.info("%s on %s", stage.in_words(), ranks.in_words(accelerator))
    recipe = config.model_dump(mode="json")
    with (
        tracking.Tracker(config.out, steps_done + stage.step, config.track.wandb, config.track.project, recipe)
        if first
        else nullcontext() as tracker,
        progress(stage.name, stage.num_steps - stage.step, "steps") if first else nullcontext(int) as advance,
    ):
        if grids is not None and stage.step == 0:
            grids.after(0, first)
        while not stage.finished:
            # schedule, then forward, backward and step
            if not stage.row_owed:
                stage.take_step()
                advance(1)
                stage.row_owed = stage.step % stage.steps_per_row == 0 or stage.step == stage.num_steps
            # log, look at held-out lesions, draw samples
            if stage.row_owed and ranks.agreed_signal(accelerator, stop_signal()) is None:
                write_row(config, stage, tracker, steps_done)
                stage.row_owed = False
                if grids is not None:
                    grids.after(stage.step // stage.steps_per_epoch, first)
            # save
            number = ranks.agreed_signal(accelerator, stop_signal())
            due = time.monotonic() - last_save >= 60 * config.hardware.checkpoint_minutes
            if first and not stage.finished and (number is not None or due):
                stage.seconds = earlier_seconds + time.monotonic() - started
                checkpoint.save_checkpoint(folder, *stage.state())
                last_save = time.monotonic()
            if number is not None and not stage.finished:
                log.warning("stopped at step %d of %d; the same command goes on", stage.step, stage.num_steps)
                raise SystemExit(128 + number)
    stage.seconds = earlier_seconds + time.monotonic() - started


def write_row(config: FinetuneConfig, stage: "Stage", tracker: Any, steps_done: int) -> None:
    """One row of metrics.jsonl and of the log: the loss, and at its turn the loss on held-out lesions."""
    epoch = stage.step / stage.steps_per_epoch
    is_turn = config.val_every and (stage.step // stage.steps_per_row) % config.val_every == 0
    prefix = "" if stage.name == "generator" else f"{stage.name}_"
    row: dict[str, float | None] = {
        f"{prefix}lr": stage.lr_of(stage.step - 1),
        f"{prefix}train_loss": stage.mean_loss(),
    }
    if is_turn or stage.step == stage.num_steps:
        with stage.averaged():
            row[f"{prefix}val_loss"] = stage.goal.held_out_loss() if config.val_every else None
    if tracker is not None:
        tracker.write(steps_done + stage.step, epoch=round(epoch, 4), **row)
    told = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if value is not None)
    log.info("%s: step %d of %d (epoch %.4g): %s", stage.name, stage.step, stage.num_steps, epoch, told)


class Grids:
    """Sample grids after chosen epochs with the same seeds (the study's Figure 4a), and checkpoints that are kept."""

    def __init__(self, config: FinetuneConfig, inputs: "Inputs", pipe: Any, trained: "Trained", stage: "Stage") -> None:
        from lesionforge.diffusion import recording

        self.config, self.pipe, self.trained, self.stage = config, pipe, trained, stage
        self.image_size = inputs.image_size
        last = config.optim.epochs
        self.epochs = {epoch for epoch in config.samples.epochs if epoch <= last} | {last}
        prompts = stage.goal.prompts  # type: ignore[attr-defined]
        self.requests = recording.requests_of_grid(config, prompts)

    def after(self, epoch: int, is_first: bool) -> None:
        """Draw and keep what is due; process 0 does, the others wait for it at the next step."""
        from lesionforge.diffusion import grids, methods, recording

        path = self.config.out / run.SAMPLES_FOLDER / f"{name_of(epoch)}.png"
        if not is_first:
            return
        with self.stage.averaged():
            if self.requests and epoch in self.epochs and not path.is_file():
                images = recording.grid_of(self.pipe, self.requests, self.image_size, self.config.data.batch_size)
                grids.write_strip(path, images)
            kept = self.config.out / run.EPOCHS / name_of(epoch)
            if epoch in self.config.keep_epochs and not kept.is_dir():
                methods.save(self.pipe, self.trained, kept, self.config.textual_inversion.token)


def name_of(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def finish(
    config: FinetuneConfig, inputs: "Inputs", pipe: Any, trained: "Trained", stage: "Stage", seconds: float
) -> None:
    """The record of what was made and of what it saw, the figure, and an end to the checkpoints."""
    from lesionforge import tables
    from lesionforge.data import provenance
    from lesionforge.diffusion import building, grids, methods, pipeline, recording

    out = config.out
    tables.write_table(out / run.CAPTIONS, inputs.captions)
    tables.write_table(out / run.SEEN, inputs.seen)
    epochs = {folder.name: methods.saved_sha256(folder) for folder in sorted((out / run.EPOCHS).glob("epoch-*"))}
    prior = out / run.PRIOR
    manifest = recording.manifest_of(
        config, inputs, pipe, SCRATCH if config.base == SCRATCH else config.method, methods.saved_sha256(out), epochs,
        pipeline.find_base(str(prior)).sha256 if prior.is_dir() else None, files.sha256_of_file(out / run.SEEN),
    )  # fmt: skip
    files.write_json(out / run.GENERATOR, manifest)
    strips = sorted((out / run.SAMPLES_FOLDER).glob("epoch-*.png"))
    if strips:
        grids.write_figure4a(out / run.FIGURE4A, strips)
    run.mark_done(
        out, generator=provenance.manifest_id(manifest), num_seen=len(inputs.seen), num_steps=stage.step,
        skipped_steps=stage.bad_steps, val_loss=stage.goal.held_out_loss() if config.val_every else None,
        seconds=round(seconds, 1),
    )  # fmt: skip
    shutil.rmtree(out / run.CHECKPOINTS, ignore_errors=True)  # only an unfinished run needs them
    shutil.rmtree(out / building.VAE, ignore_errors=True)  # it is in the pipeline
    log.info("%s: generator %s, in %s", out, provenance.manifest_id(manifest)[:12], in_words(seconds))
