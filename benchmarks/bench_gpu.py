"""Training and scoring on an NVIDIA GPU, beside timm's scripts on the same model, batch and images.

    python benchmarks/bench_gpu.py [--num-train 20000] [--num-score 401059] [--num-files 20000] [--write]
    python benchmarks/bench_gpu.py --device cpu --tiny         # a rehearsal: every line runs, no number means anything

Images are the phantom's. timm's side is what its train.py and validate.py do with --amp --amp-dtype bfloat16
--channels-last and as many workers as cores: its ImageDataset on JPEG files, create_loader, and their loops (the
scripts are not in timm's package). It reads --num-files images; both sides are compared by the image. Wall time.
Ours: bf16, `cache: device`, and for scoring the store's bytes decoded by threads.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import anchor  # first: it pins the threads

# isort: split
import numpy as np
import polars as pl
import timm.data
import timm.optim
import timm.utils
import torch

from lesionforge import tables
from lesionforge.classifier import speed
from lesionforge.classifier.device_images import DeviceImages, device_batches, load_device_images
from lesionforge.classifier.learner import Learner
from lesionforge.classifier.objective import Objective
from lesionforge.config import AugmentConfig
from lesionforge.data import augment, sampler
from lesionforge.data.loader import load_batches
from lesionforge.data.phantom import PhantomConfig, phantom
from lesionforge.data.prepare import PrepareConfig, prepare
from lesionforge.data.store import Store, open_store
from lesionforge.engine import inference, model

SEED, LR = 0, 1e-4
PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless")
TINY = {"model": "efficientnet:tiny", "size": 64, "batch": 8, "num_train": 64, "num_score": 300, "num_files": 64}


class Line(NamedTuple):
    what: str
    value: str
    asked: str = ""
    reached: bool = True

    def __str__(self) -> str:
        return f"{self.what:58}  {self.value:>16}  {self.asked}{'' if self.reached else '  MISSED'}".rstrip()


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_argument("--tiny", action="store_true", help="a rehearsal with a tiny model and few images")
    arguments.add_argument("--model", default="efficientnet")
    arguments.add_argument("--size", type=int, default=224, help="pixels")
    arguments.add_argument("--batch", type=int, default=256)
    arguments.add_argument("--num-train", type=int, default=20_000)
    arguments.add_argument("--num-score", type=int, default=401_059)
    arguments.add_argument("--num-files", type=int, default=20_000)
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="ours, and timm's workers")
    given = arguments.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here; nothing measured (--device cpu --tiny rehearses)")
        return
    if given.tiny:
        vars(given).update(TINY)
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU: a rehearsal, no number means anything"
    head = [
        f"{anchor.header(PACKAGES, SEED).replace('one core used', f'{given.threads} loader threads')}",
        f"# device    {name}",
        f"# data      phantom, {given.size} px, batches of {given.batch}, {given.model}, bf16",
    ]
    with tempfile.TemporaryDirectory() as folder:
        store, table = phantom_store(Path(folder), max(given.num_train, given.num_score, given.num_files))
        files = write_files(Path(folder) / "files", store, table.head(given.num_files))
        lines = [*train(given, device, store, table.head(given.num_train), files)]
        lines += score(given, device, store, table.head(given.num_score), files)
    anchor.show("\n".join([*head, "", *map(str, lines)]), "gpu", given.write and not given.tiny)


def phantom_store(work: Path, num_images: int) -> tuple[Store, pl.DataFrame]:
    """A store and its table: image_id, target."""
    phantom(PhantomConfig(out=work / "phantom", num_images=num_images))
    hdf5, metadata = work / "phantom" / "train-image.hdf5", work / "phantom" / "train-metadata.csv"
    prepare(PrepareConfig(out=work / "store", images=hdf5, metadata=metadata))
    store = open_store(work / "store")
    return store, store.samples().select(tables.IMAGE_ID, tables.TARGET)


def write_files(folder: Path, store: Store, table: pl.DataFrame) -> Path:
    """What timm's ImageDataset reads: a folder a class."""
    for name in ("benign", "malignant"):
        (folder / name).mkdir(parents=True)
    ids = table[tables.IMAGE_ID]
    for image_id, row, target in zip(ids, store.rows(ids), table[tables.TARGET], strict=True):
        file = folder / ("malignant" if target else "benign") / f"{image_id}.jpg"
        file.write_bytes(store.read(int(row)))
    return folder


def train(
    given: argparse.Namespace, device: torch.device, store: Store, table: pl.DataFrame, files: Path
) -> list[Line]:
    learner = build_learner(given)
    images = load_device_images([store], table, given.size, device, given.threads)
    targets = table[tables.TARGET].to_numpy()
    num_steps = len(table) // given.batch
    order = sampler.shuffle_order(len(table), num_steps * given.batch, SEED, 0)
    strong = augment.build_augmentation(AugmentConfig(preset="strong"))
    assert strong is not None
    first = next(iter(device_batches(images, targets, order, given.batch, strong, SEED, 0)))

    def learn(batches: Iterable[inference.DeviceBatch]) -> None:
        for batch in batches:
            learner.take_step(batch, LR, image_ids=table[tables.IMAGE_ID])

    learn([first] * 5)  # kernels are chosen, memory is taken
    resident = seconds_of(device, lambda: learn([first] * num_steps)) / num_steps
    from_device = seconds_of(
        device, lambda: learn(device_batches(images, targets, order, given.batch, strong, SEED, 0))
    )
    from_host = seconds_of(
        device,
        lambda: learn(
            inference.on_device(
                load_batches([store], table, order, given.batch, given.size, strong, SEED, 0, given.threads), device
            )
        ),
    )
    augmenting = seconds_of(device, lambda: augment_only(images, order, given.batch, strong)) / num_steps
    share, part = resident * num_steps / from_device, augmenting / resident
    timms = timm_train(given, device, files)
    ratio = timms / (from_device / num_steps / given.batch)
    return [
        Line("a step on a batch that lies there", f"{resident * 1e3:,.1f} ms"),
        Line("training with cache: device / the same steps there", f"{share:.0%}", ">= 90%", share >= 0.9),
        Line("training from the store by threads / the same steps there", f"{resident * num_steps / from_host:.0%}"),
        Line("strong augmentation / step", f"{part:.1%}", "<= 10%", part <= 0.1),
        Line("training, images a second", f"{num_steps * given.batch / from_device:,.0f}"),
        Line("timm's train.py, images a second", f"{1 / timms:,.0f}"),
        Line("training / timm's train.py", f"{ratio:.2f}x", ">= 2", ratio >= 2),
    ]


def score(
    given: argparse.Namespace, device: torch.device, store: Store, table: pl.DataFrame, files: Path
) -> list[Line]:
    built = model.build_model(given.model, "random", given.size)
    net = speed.prepared_for_prediction(built.model.to(device), given.size, "bf16")
    scorer = inference.torch_scorer(net, inference.Normalise(built.mean, built.std).to(device), device)

    def ours(some: pl.DataFrame) -> None:
        inference.score_images(scorer, [store], some, given.batch, given.size, given.threads)

    ours(table.head(4 * given.batch))
    seconds = seconds_of(device, lambda: ours(table)) / len(table)
    timms = timm_validate(given, device, files)
    ratio = timms / seconds
    return [
        Line(f"scoring {len(table):,} images, images a second", f"{1 / seconds:,.0f}"),
        Line("timm's validate.py, images a second", f"{1 / timms:,.0f}"),
        Line("scoring / timm's validate.py", f"{ratio:.2f}x", ">= 3", ratio >= 3),
    ]


def build_learner(given: argparse.Namespace) -> Learner:
    torch.manual_seed(SEED)
    objective = Objective(
        kind="bce", positive_weight=1.0, focal_gamma=2.0, label_smoothing=0.0, mixup=0.0, cutmix=0.0,
        mix_probability=1.0, classes=None, auxiliary_weight=0.0,
    )  # fmt: skip
    return Learner(
        model.build_model(given.model, "random", given.size), inference.build_accelerator(given.device, "bf16"),
        objective, SEED, lr=LR, head_lr=None, layer_decay=None, weight_decay=0.05, betas=(0.9, 0.999),
        clip_grad_norm=1.0, micro_batch_size=None, ema_decay=None, ema_warmup=False, freeze_batch_norm=False,
        compile=False, halve_micro_batch=False,
    )  # fmt: skip


def augment_only(images: DeviceImages, order: np.ndarray, batch: int, settings: dict[str, float]) -> None:
    for places in np.arange(len(order)).reshape(-1, batch):
        images.batch(order[places], augment.draw(SEED, 0, places, **settings))


def timm_loader(given: argparse.Namespace, device: torch.device, files: Path, is_training: bool) -> Iterable:
    config = timm.data.resolve_data_config({"input_size": (3, given.size, given.size)})
    return timm.data.create_loader(
        timm.data.create_dataset("", root=str(files), is_training=is_training), config["input_size"], given.batch,
        is_training=is_training, use_prefetcher=True, interpolation=config["interpolation"], mean=config["mean"],
        std=config["std"], num_workers=0 if given.tiny else given.threads, persistent_workers=not given.tiny,
        pin_memory=device.type == "cuda", device=device, scale=(0.08, 1.0), hflip=0.5, color_jitter=0.4,
        auto_augment=None, re_prob=0.0, crop_pct=config["crop_pct"],
    )  # fmt: skip


def timm_model(given: argparse.Namespace, device: torch.device) -> torch.nn.Module:
    built = model.build_model(given.model, "random", given.size)
    built.model.reset_classifier(2)
    return built.model.to(device).to(memory_format=torch.channels_last)


def timm_train(given: argparse.Namespace, device: torch.device, files: Path) -> float:
    """Seconds an image of an epoch, the second one: workers are up."""
    net, loader = timm_model(given, device).train(), timm_loader(given, device, files, is_training=True)
    optimizer = timm.optim.create_optimizer_v2(net, opt="adamw", lr=LR, weight_decay=0.05)
    loss_fn, meter = torch.nn.CrossEntropyLoss().to(device), timm.utils.AverageMeter()

    def epoch() -> None:
        for number, (images, targets) in enumerate(loader):
            images = images.contiguous(memory_format=torch.channels_last)
            with autocast(device):
                loss = loss_fn(net(images), targets)
            loss.backward()
            timm.utils.dispatch_clip_grad(net.parameters(), value=1.0)
            optimizer.step()
            optimizer.zero_grad()
            if number % 50 == 0:  # its --log-interval
                meter.update(loss.item(), images.size(0))

    epoch()
    return seconds_of(device, epoch) / (len(loader) * given.batch)  # its training loader drops the last part


def timm_validate(given: argparse.Namespace, device: torch.device, files: Path) -> float:
    """Seconds an image, on the second pass."""
    net, loader = timm_model(given, device).eval(), timm_loader(given, device, files, is_training=False)
    loss_fn, losses, top1 = torch.nn.CrossEntropyLoss().to(device), timm.utils.AverageMeter(), timm.utils.AverageMeter()

    @torch.inference_mode()
    def validate() -> None:
        for images, targets in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            with autocast(device):
                output = net(images)
                loss = loss_fn(output, targets)
            (accuracy,) = timm.utils.accuracy(output.detach(), targets, topk=(1,))
            losses.update(loss.item(), images.size(0))
            top1.update(accuracy.item(), images.size(0))

    validate()
    return seconds_of(device, validate) / given.num_files


def autocast(device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16)


def seconds_of(device: torch.device, function: Callable[[], object]) -> float:
    """Wall time, with all that the device still has to do."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
