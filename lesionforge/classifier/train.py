"""`lesionforge train`: one classifier on one training distribution, into a run folder; or one a fold and seed.

The same command resumes an unfinished run, mid-epoch and bitwise, and leaves a finished one alone. With several
devices: `torchrun --nproc-per-node N -m lesionforge train ...`.
"""

import itertools
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from lesionforge import run, signals
from lesionforge.classifier.settings import TrainConfig
from lesionforge.progress import in_words, progress

if TYPE_CHECKING:
    import numpy as np

    from lesionforge.classifier.learner import Learner
    from lesionforge.classifier.training_data import Orders, TrainingData
    from lesionforge.engine import model
    from lesionforge.engine.inference import Accelerator, DeviceBatch

log = logging.getLogger("lesionforge")


def train(config: TrainConfig) -> None:
    """Train, resume, or leave a finished run alone. The weights, the mix and the metrics lie in `config.out`."""
    if run.num_processes() == 1 and run.already_done(config.out, config):  # before torch is loaded
        return
    from lesionforge.classifier import members
    from lesionforge.engine import inference, ranks

    accelerator = inference.build_accelerator(config.hardware.device, config.optim.precision)
    with ranks.quiet_unless_first(accelerator):
        if config.data.fold != "all" and config.num_seeds == 1:
            train_one(config, accelerator)
            return
        with ranks.run_folder(accelerator, "train", config) as (done, keep):
            if done:
                return
            runs = members.member_configs(config)
            with ranks.same_fate(accelerator):
                members.check_members(runs)
            keep()
            for name, member in runs.items():
                log.info("%s", name)
                train_one(member, accelerator)
            if accelerator.is_main_process:
                members.write_out_of_fold(config.out, list(runs), config.hardware.loader_threads, accelerator)


def train_one(config: TrainConfig, accelerator: "Accelerator") -> None:
    """One run: the data, the model, then step after step."""
    import torch

    from lesionforge import tables
    from lesionforge.engine import checkpoint, ranks, schedule, tracking

    started = time.monotonic()
    first = accelerator.is_main_process
    with ranks.run_folder(accelerator, "train", config) as (done, keep):
        if done:
            return
        data, orders = read_everything(config, accelerator)
        steps_per_epoch, num_steps = orders.steps_per_epoch, orders.steps_per_epoch * config.optim.epochs
        torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
        torch.manual_seed(config.seed)
        learner = build_learner(config, accelerator, data, orders)
        if (found := checkpoint.load_checkpoint(config.out / run.CHECKPOINTS)) is not None:
            learner.restore(found, config.out)
            log.info("going on at step %d of %d", learner.step, num_steps)
        if config.optim.freeze_epochs:
            log.info("epoch 1 to %d: only the last layer learns", config.optim.freeze_epochs)
        log.info("%s on %s, %d steps of %d images", learner, ranks.in_words(accelerator), num_steps, orders.batch_size)
        batches_of = build_batches(config, accelerator, data, orders, learner.built)
        val_cache: dict[int, np.ndarray] | None = {} if config.hardware.cache != "none" else None

        def lr_of(step: int) -> float:
            least = min(config.optim.min_lr, config.optim.lr)
            return schedule.lr_at(step, num_steps, config.optim.warmup_fraction, config.optim.lr, least)

        first_step, earlier_seconds, last_save = learner.step, learner.seconds, time.monotonic()
        with signals.stop_signals() as stop_signal:  # before this there is nothing to save: a signal ends the process
            with (
                tracking.Tracker(
                    config.out, first_step, config.track.wandb, config.track.project, config.model_dump(mode="json")
                )
                if first
                else nullcontext() as tracker,
                progress("training", num_steps - first_step, "steps") if first else nullcontext(int) as advance,
            ):
                keep()
                finished = learner.step == num_steps and not learner.row_owed
                while not finished:
                    epoch, first_batch = divmod(learner.step, steps_per_epoch)
                    learner.freeze(epoch < config.optim.freeze_epochs)
                    owed = [None] if learner.row_owed else []  # a signal broke off the scoring of val: that comes first
                    for batch in itertools.chain(owed, batches_of(epoch, first_batch)):
                        # schedule, then forward, backward and step
                        if batch is not None:
                            learner.take_step(batch, lr_of(learner.step), image_ids=data.mix[tables.IMAGE_ID])
                            advance(1)
                            learner.row_owed = learner.step % steps_per_epoch == 0
                        # log and evaluate
                        scores = (
                            score_val(config, learner, data, orders, val_cache, stop_signal)
                            if learner.row_owed
                            else None
                        )
                        if scores is not None:
                            row = {
                                "epoch": learner.step // steps_per_epoch,
                                "lr": lr_of(learner.step - 1),
                                "train_loss": learner.mean_loss(steps_per_epoch),
                                **scores,
                            }
                            learner.row_owed = False
                            if tracker is not None:
                                tracker.write(learner.step, **row)
                            log.info("%s", epoch_line(row, config.optim.epochs))
                            finished = learner.step == num_steps or is_stopping_early(config, learner)
                        # save
                        due = time.monotonic() - last_save >= 60 * config.hardware.checkpoint_minutes
                        number = ranks.agreed_signal(accelerator, stop_signal())
                        if first and not finished and (number is not None or due):
                            learner.seconds = earlier_seconds + time.monotonic() - started
                            checkpoint.save_checkpoint(config.out / run.CHECKPOINTS, *learner.state())
                            last_save = time.monotonic()
                        if finished:
                            break
                        if number is not None:
                            log.warning("stopped at step %d of %d; the same command goes on", learner.step, num_steps)
                            raise SystemExit(128 + number)

            if first:
                learner.seconds = earlier_seconds + time.monotonic() - started
                finish(config, learner, orders)
            if (number := ranks.agreed_signal(accelerator, stop_signal())) is not None:
                raise SystemExit(128 + number)  # for a group's sake: its next member is not begun


def score_val(
    config: TrainConfig, learner: "Learner", data: "TrainingData", orders: "Orders",
    cache: "dict[int, np.ndarray] | None", stop_signal: Callable[[], int | None],
) -> dict[str, Any] | None:  # fmt: skip
    """Scores of the epoch that ended, none where it is not val's turn; None where a signal broke the scoring off."""
    from lesionforge import metrics, tables

    num_epochs = learner.step // orders.steps_per_epoch
    if not config.val_every or (num_epochs % config.val_every and num_epochs < config.optim.epochs):
        return {}
    logits = learner.score(
        data.stores, data.val, orders.batch_size, config.hardware.loader_threads, cache, stopped=stop_signal
    )
    if len(logits) < len(data.val):
        return None
    targets = data.val[tables.TARGET].to_numpy()
    scores: dict[str, Any] = {"val_pauc": metrics.pauc(targets, logits), "val_auc": metrics.roc_auc(targets, logits)}
    if config.select == "best_val":
        learner.note_score(scores["val_pauc"], num_epochs)
    return scores


def is_stopping_early(config: TrainConfig, learner: "Learner") -> bool:
    if config.select != "best_val" or not config.optim.patience or learner.scorings_since_best < config.optim.patience:
        return False
    log.info(
        "no better pAUC in %d scorings: stopping early, with the weights of epoch %d", config.optim.patience,
        learner.best_epoch,
    )  # fmt: skip
    return True


def read_everything(config: TrainConfig, accelerator: "Accelerator") -> "tuple[TrainingData, Orders]":
    """Data and orders; process 0 draws and writes the mix, then the others read it."""
    from lesionforge import tables
    from lesionforge.classifier import start, training_data
    from lesionforge.engine import ranks

    def read() -> "TrainingData":
        assert config.data.fold != "all"  # a member has its own
        return training_data.read_data(
            config.out, config.data.store, config.data.synthetic, config.data.split, config.data.fold,
            config.data.mix.model_dump(), config.val_every > 0,
        )  # fmt: skip

    data = ranks.first_then_others(accelerator, read)
    with ranks.same_fate(accelerator):
        ranks.require_even_shares(accelerator, config.data.batch_size, config.data.sampler)
        if config.model.init_from is not None:
            start.refuse_seen_before(config.model.init_from, data.held_out)
        orders = training_data.orders_of(
            data.mix[tables.TARGET].to_numpy(), config.data.sampler, config.data.benign_per_malignant,
            config.data.samples_per_epoch, config.data.batch_size, config.seed,
        )  # fmt: skip
    return data, orders


def build_model(config: TrainConfig) -> "model.Built":
    """The model with its first weights."""
    from lesionforge.classifier import start
    from lesionforge.engine import model

    rates = {"drop_path_rate": config.model.drop_path_rate, "drop_rate": config.model.drop_rate}
    weights = config.model.weights if config.model.init_from is None else model.RANDOM
    built = model.build_model(
        config.model.name, weights, config.data.image_size, config.model.mean, config.model.std,
        {**config.model.timm_args, **{name: rate for name, rate in rates.items() if rate is not None}},
    )  # fmt: skip
    if config.model.init_from is not None:
        built = start.start_from(built, config.model.init_from)
    model.check_forward(built)
    if weights != model.RANDOM and not config.model.freeze_batch_norm and model.is_folded(built.model):
        log.warning("these weights' batch norms are folded away; train them with --model.freeze-batch-norm")
    if config.model.grad_checkpointing:
        model.checkpoint_gradients(built)
    return built


def build_learner(config: TrainConfig, accelerator: "Accelerator", data: "TrainingData", orders: "Orders") -> "Learner":
    """The model, what it is charged for, and how it learns."""
    from lesionforge.classifier import learner, losses, objective, training_data
    from lesionforge.engine import ranks

    loss = config.loss.model_dump(exclude={"auxiliary", "positive_weight"})
    with ranks.same_fate(accelerator):
        column = config.loss.auxiliary
        classes = None if column is None else training_data.diagnosis_classes(data, column)
        goal = objective.Objective(
            classes=classes,
            positive_weight=losses.positive_weight_of(config.loss.positive_weight, orders.targets[orders.of(0)]),
            **loss,
        )
        built = build_model(config)
    of_the_loop = {"epochs", "min_lr", "warmup_fraction", "precision", "freeze_epochs", "patience"}
    steps = config.optim.model_dump(exclude=of_the_loop)
    return learner.Learner(
        built, accelerator, goal, config.seed, freeze_batch_norm=config.model.freeze_batch_norm,
        compile=config.hardware.compile, halve_micro_batch=config.hardware.halve_micro_batch, **steps,
    )  # fmt: skip


def build_batches(
    config: TrainConfig, accelerator: "Accelerator", data: "TrainingData", orders: "Orders", built: "model.Built"
) -> "Callable[[int, int], Iterator[DeviceBatch]]":
    """(epoch, first batch) -> this process's share of the epoch's batches, on its device."""
    from lesionforge.data import augment, loader
    from lesionforge.engine import inference

    augmentation = augment.build_augmentation(config.augment)
    threads, share = config.hardware.loader_threads, (accelerator.process_index, accelerator.num_processes)
    if config.hardware.cache == "device":
        from lesionforge.classifier import device_images

        if accelerator.device.type == "cpu":
            log.warning("hardware.cache: device gains nothing on a CPU, where memory is 5 to 20 times faster")
        with progress("decoding for the device", len(data.mix)) as advance:
            images = device_images.load_device_images(
                data.stores, data.mix, built.image_size, accelerator.device, threads, advance
            )
        targets = orders.targets.astype("float32")
        return lambda epoch, first_batch: device_images.device_batches(
            images, targets, orders.of(epoch), orders.batch_size, augmentation, config.seed, epoch, first_batch, share
        )
    decoded: dict[int, np.ndarray] | None = {} if config.hardware.cache == "memory" else None
    return lambda epoch, first_batch: inference.on_device(
        loader.load_batches(
            data.stores, data.mix, orders.of(epoch), orders.batch_size, built.image_size, augmentation, config.seed,
            epoch, threads, first_batch, decoded, share,
        ),
        accelerator.device,
    )  # fmt: skip


def finish(config: TrainConfig, learner: "Learner", orders: "Orders") -> None:
    """The weights, the record, and an end to the checkpoints."""
    from lesionforge.data import sampler
    from lesionforge.engine import checkpoint

    num_epochs = learner.step // orders.steps_per_epoch
    num_seen, num_benign = sampler.distinct_seen(map(orders.of, range(num_epochs)), orders.targets == 0)
    log.info("saw %s of %s distinct benign images of the mix", f"{num_seen:,}", f"{num_benign:,}")
    sha256 = checkpoint.save_tensors(config.out / run.WEIGHTS, learner.weights())
    run.mark_done(
        config.out, weights_sha256=sha256, weights_epoch=learner.best_epoch or num_epochs,
        model=learner.built.facts(), num_steps=learner.step, skipped_steps=learner.bad_steps, benign_seen=num_seen,
        benign=num_benign, num_parameters=learner.num_parameters, seconds=round(learner.seconds, 1),
    )  # fmt: skip
    shutil.rmtree(config.out / run.CHECKPOINTS, ignore_errors=True)  # only an unfinished run needs them
    log.info("%s: finished in %s", config.out, in_words(learner.seconds))


def epoch_line(row: dict[str, Any], num_epochs: int) -> str:
    """`epoch 3/30: loss 0.512, val pAUC 0.061, AUC 0.778`."""
    line = f"epoch {row['epoch']}/{num_epochs}: loss {row['train_loss']:.4f}"
    return line + (f", val pAUC {row['val_pauc']:.4f}, AUC {row['val_auc']:.4f}" if "val_pauc" in row else "")
