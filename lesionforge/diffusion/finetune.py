"""`lesionforge finetune`: a generator of skin lesions from part train, into a run folder; or one a fold.

The same command resumes an unfinished run, in the middle of an epoch and bitwise, and leaves a finished one alone. With
several devices: `torchrun --nproc-per-node N -m lesionforge finetune ...`.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from lesionforge import files, run, signals
from lesionforge.diffusion.settings import SCRATCH, FinetuneConfig
from lesionforge.errors import BadInput
from lesionforge.progress import in_words, progress

if TYPE_CHECKING:
    from lesionforge.diffusion.building import Inputs
    from lesionforge.diffusion.methods import Trained
    from lesionforge.diffusion.recording import Grids
    from lesionforge.diffusion.stage import Stage, StopSignal
    from lesionforge.engine.inference import Accelerator

log = logging.getLogger("lesionforge")


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
            names = [groups.name_of(fold) for fold in folds]
            for fold, name in zip(folds, names, strict=True):
                log.info("%s", name)
                data = config.data.model_copy(update={"fold": fold})
                member = config.model_copy(update={"out": config.out / run.MEMBERS / name, "data": data})
                finetune_one(member, accelerator, keep)
            if accelerator.is_main_process:
                run.mark_done(config.out, members=names)


def finetune_one(
    config: FinetuneConfig, accelerator: "Accelerator", keep_group: Callable[[], None] = lambda: None
) -> None:
    """One generator: its inputs, its stages one after the other, its record."""
    import torch

    from lesionforge.diffusion import building, methods, recording
    from lesionforge.engine import ranks

    started = time.monotonic()
    with ranks.run_folder(accelerator, "finetune", config) as (done, keep):
        if done:
            keep_group()
            return
        inputs = ranks.first_then_others(accelerator, lambda: building.read_inputs(config))
        torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
        torch.manual_seed(config.seed)

        def keep_all() -> None:
            keep()
            keep_group()

        with memory_errors():
            if config.base == SCRATCH:
                pipe = scratch_prior(config, inputs, accelerator, keep_all)
            else:
                with ranks.same_fate(accelerator):
                    pipe, size = building.build_base(config, inputs)
                inputs = inputs._replace(image_size=size)
            with ranks.same_fate(accelerator):
                trained = building.build_trained(config, pipe)
            keep_all()
            stage = building.build_last_stage(config, inputs, pipe, trained, accelerator)
            grids = recording.Grids(config, inputs, pipe, trained, stage)
            with saving_first(accelerator) as stop_signal:
                run_stage(config, stage, accelerator, stop_signal, steps_before(config), grids)
                stage.settle()
                if accelerator.is_main_process:
                    if not methods.is_saved(config.out):
                        methods.save(pipe, trained, config.out, config.textual_inversion.token, inputs.seen)
                    finish(config, inputs, pipe, trained, stage, time.monotonic() - started)


@contextmanager
def memory_errors() -> Iterator[None]:
    """One line for what does not fit outside a step, which has a cure of its own."""
    from lesionforge.engine import inference

    try:
        yield
    except RuntimeError as error:
        if not inference.is_out_of_memory(error):
            raise
        raise BadInput(
            "out of memory while images were encoded or drawn; try a smaller --data.image-size, or a device with more"
        ) from error


@contextmanager
def saving_first(accelerator: "Accelerator") -> "Iterator[StopSignal]":
    """A signal in the block ends the process, but only at its end or where the block itself has saved."""
    from lesionforge.engine import ranks

    with signals.stop_signals() as stop_signal:
        yield stop_signal
        number = ranks.agreed_signal(accelerator, stop_signal())
    if number is not None:
        raise SystemExit(128 + number)


def steps_before(config: FinetuneConfig) -> int:
    """Steps of the stages before the last."""
    return config.scratch.vae_steps + config.scratch.prior_steps if config.base == SCRATCH else 0


def scratch_prior(
    config: FinetuneConfig, inputs: "Inputs", accelerator: "Accelerator", keep: Callable[[], None]
) -> Any:
    """Base scratch before it specialises: a VAE, then UNet and text encoder, on all training lesions."""
    from lesionforge.diffusion import building, methods, pipeline
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
            with saving_first(accelerator) as stop_signal:
                run_stage(config, stage, accelerator, stop_signal, 0)
                goal: Any = stage.goal
                goal.standardise(config.seed)
                vae, psnr = goal.vae, goal.psnr()
                log.info("VAE: held-out lesions come back at %s dB", "-" if psnr is None else f"{psnr:.1f}")
                if accelerator.is_main_process:
                    methods.save_whole(vae, vae_folder)
        pipe = building.build_prior_pipeline(config, inputs, vae)
        stage = building.build_prior_stage(config, inputs, pipe, accelerator)
        with saving_first(accelerator) as stop_signal:
            run_stage(config, stage, accelerator, stop_signal, config.scratch.vae_steps)
            stage.settle()
            if accelerator.is_main_process:
                methods.save_whole(pipe, prior, inputs.seen)
            accelerator.wait_for_everyone()
    return pipeline.load_pipeline(pipeline.find_base(str(prior)))


def run_stage(
    config: FinetuneConfig, stage: "Stage", accelerator: "Accelerator", stop_signal: "StopSignal", steps_done: int,
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
        if grids is not None and stage.step == 0 and first:
            with suppress(signals.Stopped):  # drawn by the next command, which begins here too
                grids.after(0, stop_signal)
        number = ranks.agreed_signal(accelerator, stop_signal())
        while not stage.finished:
            # schedule, then forward, backward and step
            if not stage.row_owed and number is None:
                stage.take_step()
                advance(1)
                stage.row_owed = stage.step % stage.steps_per_row == 0 or stage.step == stage.num_steps
            # draw samples, look at held-out lesions, log; process 0 draws and looks, the others wait
            if stage.row_owed and number is None:
                seen = ranks.told_by_first(accelerator, looked_at(config, stage, grids, stop_signal) if first else None)
                if seen is not None:
                    write_row(stage, tracker, steps_done, seen)
                    stage.row_owed = False
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


def looked_at(
    config: FinetuneConfig, stage: "Stage", grids: "Grids | None", stop_signal: "StopSignal"
) -> dict[str, float | None] | None:
    """Draws what is due; the loss on held-out lesions at its turn. None where a signal broke it off."""
    is_last = stage.step == stage.num_steps
    is_turn = config.val_every and (is_last or (stage.step // stage.steps_per_row) % config.val_every == 0)
    try:
        if grids is not None:
            grids.after(stage.step // stage.steps_per_epoch, stop_signal)
        if not is_turn:
            return {}
        with stage.averaged():
            stage.val_loss = stage.goal.held_out_loss(stop_signal)
        return {"val_loss": stage.val_loss}
    except signals.Stopped:
        return None


def write_row(stage: "Stage", tracker: Any, steps_done: int, seen: dict[str, float | None]) -> None:
    """One row of metrics.jsonl and of the log: the loss, and what was `seen` of held-out lesions."""
    epoch = stage.step / stage.steps_per_epoch
    prefix = "" if stage.name == "generator" else f"{stage.name}_"
    row = {"lr": stage.lr_of(stage.step - 1), "train_loss": stage.mean_loss(), **seen}
    row = {f"{prefix}{name}": value for name, value in row.items()}
    if tracker is not None:
        tracker.write(steps_done + stage.step, epoch=round(epoch, 4), **row)
    told = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if value is not None)
    log.info("%s: step %d of %d (epoch %.4g): %s", stage.name, stage.step, stage.num_steps, epoch, told)


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
        skipped_steps=stage.bad_steps, val_loss=stage.val_loss,
        seconds=round(seconds, 1),
    )  # fmt: skip
    shutil.rmtree(out / run.CHECKPOINTS, ignore_errors=True)  # only an unfinished run needs them
    shutil.rmtree(out / building.VAE, ignore_errors=True)  # it is in the pipeline
    log.info("%s: generator %s, in %s", out, provenance.manifest_id(manifest)[:12], in_words(seconds))
