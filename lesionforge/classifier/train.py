"""`lesionforge train`: one classifier on one training distribution, into a run folder.

The same command resumes an unfinished run, mid-epoch and bitwise, and leaves a finished one alone.
"""

import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lesionforge import run
from lesionforge.config import AugmentConfig, Config, HardwareConfig, MixConfig
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_json
from lesionforge.progress import in_words, progress

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lesionforge.data.store import Store

log = logging.getLogger("lesionforge")


class DataConfig(Config):
    """Which lesions are learned from, and in which order."""

    store: Path
    """Store of real lesions (`lesionforge prepare`)."""
    split: Path
    """Split of that store (`lesionforge split`): a folder, or a table with image_id and part or fold."""
    fold: int | None = None
    """Fold that is held out as val, for a split with folds."""
    synthetic: tuple[Path, ...] = ()
    """Stores of synthetic lesions that the mix may draw from."""
    mix: MixConfig = MixConfig()
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """shuffle: each image once, then again. balanced: every batch holds as many malignant as benign images."""
    samples_per_epoch: int | None = Field(None, ge=1)
    """Images drawn in one epoch; none takes the number of images in the mix."""
    image_size: int | None = Field(None, ge=16, le=1024)
    """Pixels; none takes the size the architecture's weights were trained at."""
    batch_size: int = Field(32, ge=1)
    """Images per optimizer step."""


class ModelConfig(Config):
    """The architecture, its first weights and its normalisation."""

    name: str = "edgenext"
    """A short name (vit swin eva02 edgenext deit3 beitv2 convnext resnet densenet efficientnet), or any timm name."""
    weights: str = "hub"
    """hub: the pretrained weights that the name stands for; random: none; or the path of a weights file."""
    mean: tuple[float, float, float] | None = None
    """Mean of the normalisation, RGB in [0, 1]; none takes the weights' own."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of the normalisation; none takes the weights' own."""
    freeze_batch_norm: bool = False
    """Keep batch norm's running statistics as the weights have them; for small batches, and for folded weights."""
    timm_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of timm's constructor, e.g. --model.timm_args.drop_path_rate 0.1."""


class OptimConfig(Config):
    """AdamW with linear warm-up and cosine decay."""

    epochs: int = Field(30, ge=1)
    """Passes of samples_per_epoch images."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(1e-6, ge=0)
    """Learning rate of the last step."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises to its peak."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's; not on biases and norm scales."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moments."""
    clip_grad_norm: float | None = Field(1.0, gt=0)
    """Largest gradient norm of a step; none clips nothing."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Images that pass through the model at once, gradients accumulated to the batch; none takes the whole batch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the model in mixed precision; weights and optimizer stay float32."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Keep an exponential moving average of the weights with this decay per step, and use it; none keeps none."""


class TrackConfig(Config):
    """Weights & Biases beside metrics.jsonl and TensorBoard, which are always written."""

    wandb: Literal["off", "offline", "online"] = "off"
    """offline writes to the run folder only; online sends metrics and the recipe to your account."""
    project: str = "lesionforge"
    """Weights & Biases project."""


class TrainConfig(Config):
    """Train a timm classifier with one malignant-or-benign output."""

    out: Path
    """Run folder to make, or to go on with."""
    seed: int = Field(0, ge=0)
    """Of the first weights, the order and the augmentation; the mix has its own."""
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    select: Literal["last", "best_val"] = "last"
    """Weights that count: the last epoch's, or those of the best pAUC on val (which then is no fair score)."""
    val_every: int = Field(1, ge=0)
    """Epochs between two scorings of val; 0 scores it never."""
    track: TrackConfig = TrackConfig()
    hardware: HardwareConfig = HardwareConfig()


def train(config: TrainConfig) -> None:
    """Train, resume, or leave a finished run alone. The weights, the mix and the metrics lie in `config.out`."""
    if config.select == "best_val" and not config.val_every:
        raise BadInput("select: best_val needs scores on val; set val_every to 1 or more")
    if run.already_done(config.out, config):
        return
    import torch

    from lesionforge import metrics, tables
    from lesionforge.classifier import checkpoint, inference, model, optim, tracking
    from lesionforge.classifier.learner import Learner
    from lesionforge.data import augment, loader, sampler

    started = time.monotonic()
    with run.started(config.out, "train", config) as keep, run.stop_signals() as stop_signal:
        # Data: the mix is drawn once; val is real and whole.
        stores, mix, val = read_data(config)
        targets = mix[tables.TARGET].to_numpy()
        steps_per_epoch = (config.data.samples_per_epoch or len(mix)) // config.data.batch_size
        num_samples = steps_per_epoch * config.data.batch_size  # whole batches; the others come first in the next epoch
        num_steps = steps_per_epoch * config.optim.epochs
        if num_steps == 0:
            raise BadInput(
                f"data.batch_size: {config.data.batch_size} is more than the {len(mix)} images of the mix; lower it, "
                "or raise data.samples_per_epoch"
            )

        augmentation = augment.build_augmentation(config.augment)
        decoded: dict[int, np.ndarray] | None = {} if config.hardware.cache_decoded else None
        decoded_val: dict[int, np.ndarray] | None = {} if config.hardware.cache_decoded else None

        def order_of(epoch: int) -> "np.ndarray":
            if config.data.sampler == "balanced":
                return sampler.balanced_order(targets, num_samples, config.data.batch_size, config.seed, epoch)
            return sampler.shuffle_order(len(mix), num_samples, config.seed, epoch)

        order_of(0)  # what the sampler refuses, it refuses before anything is kept

        # Model, optimizer, and where an earlier command left off.
        torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
        torch.manual_seed(config.seed)
        built = model.build_model(
            config.model.name, config.model.weights, config.data.image_size, config.model.mean, config.model.std,
            config.model.timm_args,
        )  # fmt: skip
        model.check_forward(built)
        if config.model.weights != model.RANDOM and not config.model.freeze_batch_norm and model.is_folded(built.model):
            log.warning("these weights' batch norms are folded away; train them with --model.freeze-batch-norm")
        accelerator = inference.build_accelerator(config.hardware.device, config.optim.precision)
        learner = Learner(
            built, accelerator, config.seed, config.optim.weight_decay, config.optim.betas,
            config.optim.clip_grad_norm, config.optim.micro_batch_size, config.optim.ema_decay,
            config.model.freeze_batch_norm,
        )  # fmt: skip
        if (found := checkpoint.load_checkpoint(config.out / run.CHECKPOINTS)) is not None:
            learner.restore(found, config.out)
            log.info("going on at step %d of %d", learner.step, num_steps)
        log.info("%s on %s, %d steps of %d images", learner, accelerator.device, num_steps, config.data.batch_size)

        first_step, earlier_seconds, last_save = learner.step, learner.seconds, time.monotonic()
        with (
            tracking.Tracker(
                config.out, first_step, config.track.wandb, config.track.project, config.model_dump(mode="json")
            ) as tracker,
            progress("training", num_steps - first_step, "steps") as advance,
        ):
            keep()
            while learner.step < num_steps:
                epoch, first_batch = divmod(learner.step, steps_per_epoch)
                for batch in loader.load_batches(
                    stores, mix, order_of(epoch), config.data.batch_size, built.image_size, augmentation,
                    config.seed, epoch, config.hardware.loader_threads, first_batch, decoded,
                ):  # fmt: skip
                    # schedule, then forward, backward and step
                    lr = optim.lr_at(
                        learner.step, num_steps, config.optim.warmup_fraction, config.optim.lr, config.optim.min_lr
                    )
                    learner.take_step(batch, lr, image_ids=mix[tables.IMAGE_ID])
                    advance(1)
                    # log and evaluate
                    if learner.step % steps_per_epoch == 0:
                        row: dict[str, Any] = {
                            "epoch": epoch + 1,
                            "lr": lr,
                            "train_loss": learner.mean_loss(steps_per_epoch),
                        }
                        if config.val_every and ((epoch + 1) % config.val_every == 0 or learner.step == num_steps):
                            logits = learner.score(
                                stores, val, config.data.batch_size, config.hardware.loader_threads, decoded_val
                            )
                            row["val_pauc"] = metrics.pauc(val[tables.TARGET].to_numpy(), logits)
                            row["val_auc"] = metrics.roc_auc(val[tables.TARGET].to_numpy(), logits)
                            if config.select == "best_val":
                                learner.keep_if_best(row["val_pauc"], epoch + 1)
                        tracker.write(learner.step, **row)
                        log.info("%s", epoch_line(row, config.optim.epochs))
                    # save
                    due = time.monotonic() - last_save >= 60 * config.hardware.checkpoint_minutes
                    if stop_signal() is not None or (due and learner.step < num_steps):
                        learner.seconds = earlier_seconds + time.monotonic() - started
                        checkpoint.save_checkpoint(config.out / run.CHECKPOINTS, *learner.state())
                        last_save = time.monotonic()
                    if (number := stop_signal()) is not None:
                        log.warning("stopped at step %d of %d; the same command goes on", learner.step, num_steps)
                        raise SystemExit(128 + number)

        num_seen, num_benign = sampler.distinct_seen(map(order_of, range(config.optim.epochs)), targets == 0)
        log.info("saw %s of %s distinct benign images of the mix", f"{num_seen:,}", f"{num_benign:,}")
        sha256 = checkpoint.save_tensors(config.out / run.WEIGHTS, learner.weights())
        learner.seconds = earlier_seconds + time.monotonic() - started
        run.mark_done(
            config.out, weights_sha256=sha256, weights_epoch=learner.best_epoch or config.optim.epochs,
            model=built.facts(), num_steps=num_steps, skipped_steps=learner.bad_steps, benign_seen=num_seen,
            benign=num_benign, seconds=round(learner.seconds, 1),
        )  # fmt: skip
        shutil.rmtree(config.out / run.CHECKPOINTS, ignore_errors=True)  # only an unfinished run needs them
        log.info("%s: finished in %s", config.out, in_words(learner.seconds))


def read_data(config: TrainConfig) -> "tuple[list[Store], pl.DataFrame, pl.DataFrame]":
    """(stores, mix, val): the real store first; the mix is drawn once and written to the run.

    Raises:
        BadInput: the mix cannot be drawn, a synthetic store holds lesions of val or test, a part is missing, or a
            resumed run's data are not what it was started on.
    """
    import polars as pl

    from lesionforge import tables
    from lesionforge.data.mix import draw_mix, refuse_seen
    from lesionforge.data.parts import part_of, read_split, read_split_name
    from lesionforge.data.store import open_store

    stores = [open_store(path) for path in (config.data.store, *config.data.synthetic)]
    split = read_split(config.data.split, config.data.fold)
    split_name = read_split_name(config.data.split)
    log.info("split: %s", split_name)
    inputs = {"stores": [store.digest for store in stores], "split": tables.digest(split), "split_name": split_name}
    if (config.out / run.INPUTS).exists() and read_json(config.out / run.INPUTS) != inputs:
        raise BadInput(f"{config.out} was started on other data: a store or the split was altered; name another --out")
    write_json(config.out / run.INPUTS, inputs)
    samples = stores[0].samples()
    val = part_of(samples, split, tables.VAL)
    if config.val_every and val[tables.TARGET].n_unique() != 2:
        raise BadInput(
            f"{config.data.split}: part val has {len(val):,} images and not both classes; set val_every to 0"
        )
    if not (config.out / run.MIX).exists():
        synthetic = [store.samples() for store in stores[1:]]
        held_out = split.filter(pl.col(tables.PART) != tables.TRAIN)
        refuse_seen(synthetic, samples.join(held_out, on=tables.IMAGE_ID, how="semi"))
        mix = draw_mix(part_of(samples, split, tables.TRAIN), synthetic, **config.data.mix.model_dump())
        tables.write_table(config.out / run.MIX, mix)
    mix = tables.read_table(config.out / run.MIX)
    return stores, mix, val


def epoch_line(row: dict[str, Any], num_epochs: int) -> str:
    """`epoch 3/30: loss 0.512, val pAUC 0.061, AUC 0.778`."""
    line = f"epoch {row['epoch']}/{num_epochs}: loss {row['train_loss']:.4f}"
    return line + (f", val pAUC {row['val_pauc']:.4f}, AUC {row['val_auc']:.4f}" if "val_pauc" in row else "")
