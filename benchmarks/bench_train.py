"""A training step on one core of a CPU: ours (the package's Learner) beside what timm's train script does by default.

    python benchmarks/bench_train.py [--rounds 5] [--batch 32] [--size 128] [--compile] [--write]

From a batch of bytes to changed weights: normalise, forward, loss, backward, clip the gradient, AdamW. Every side is a
process of its own; times are medians. `drift` is how far the losses of the first steps are from the plain side's, where
both start from the same weights and see the same images; models without dropout only round otherwise.
"""

import argparse
from collections.abc import Callable
from functools import partial

import anchor  # first: it pins the threads

# isort: split
import numpy as np
import sides
import torch

from lesionforge.classifier.learner import Learner
from lesionforge.classifier.objective import Objective
from lesionforge.engine import inference, model

SEED, STEPS, LR = 0, 3, 1e-4
MODELS = {
    "efficientnet": "EfficientNet-B0",
    "resnet:small": "ResNet-18",
    "edgenext:small": "EdgeNeXt-small",
    "convnext:tiny": "ConvNeXt-atto",
    "vit:tiny": "ViT-tiny",
}
TARGETS = {("efficientnet", "fp32"): 1.25}
PACKAGES = ("torch", "timm")


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--size", type=int, default=128, help="pixels")
    arguments.add_argument("--models", nargs="+", default=list(MODELS))
    arguments.add_argument("--compile", action="store_true", help="a compiled side too; minutes more")
    given = arguments.parse_args()
    lines = [anchor.header(PACKAGES, SEED), f"# data      batches of {given.batch} random images of {given.size} px"]
    lines += ["", f"{'':44}  {'a step':>10}  {'ratio':>7}  {'asked':8}{'':10}drift of the loss"]
    for name in given.models:
        lines += [str(row) for row in measure(name, given)] + [""]
        print("\n".join(lines[-5:]), flush=True)
    anchor.show("\n".join(lines).rstrip(), "train", given.write)


def measure(name: str, given: argparse.Namespace) -> list[sides.Row]:
    plain = "timm's defaults"
    ours = partial(make_ours, name, given.size, given.batch)
    makers: dict[str, tuple] = {
        plain: (make_plain, name, given.size, given.batch),
        "fp32": (ours, "fp32", False),
        "bf16": (ours, "bf16", False),
    }
    if given.compile:
        makers["fp32, compiled"] = (ours, "fp32", True)
    answers, seconds = sides.compare(makers, given.rounds)
    title, expected = MODELS.get(name, name), np.array(answers[plain])
    rows = [sides.Row(f"{title}, {plain}", seconds[plain], 1.0, None, f"(loss {expected[0]:.3f})")]
    for side in list(makers)[1:]:
        ratio, drift = seconds[plain] / seconds[side], np.abs(np.array(answers[side]) - expected).max()
        rows.append(sides.Row(f"{title}, {side}", seconds[side], ratio, TARGETS.get((name, side)), f"{drift:.1e}"))
    return rows


def random_batch(batch: int, size: int) -> inference.DeviceBatch:
    rng = np.random.default_rng(SEED)
    images = torch.from_numpy(rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8))
    targets = torch.from_numpy((np.arange(batch) % 2).astype(np.float32))
    return inference.DeviceBatch(images, targets, np.arange(batch))


def started(name: str, size: int) -> model.Built:
    torch.manual_seed(SEED)
    return model.build_model(name, "random", size)


def make_plain(name: str, size: int, batch: int) -> Callable[[], list[float]]:
    """As timm's train.py without a GPU: bytes in NCHW from its loader, normalised there; float32, AdamW, clipped."""
    built = started(name, size)
    net, normalise = built.model.train(), inference.Normalise(built.mean, built.std)
    given = random_batch(batch, size)
    images, targets = given.images.permute(0, 3, 1, 2).contiguous(), given.targets[:, None]
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)

    def step() -> float:
        optimizer.zero_grad()
        logits = net(images.float().sub(normalise.mean).div(normalise.std))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return first_steps(step)


def make_ours(name: str, size: int, batch: int, precision: str, compile_it: bool) -> Callable[[], list[float]]:
    objective = Objective(
        kind="bce", positive_weight=1.0, focal_gamma=2.0, label_smoothing=0.0, mixup=0.0, cutmix=0.0,
        mix_probability=1.0, classes=None, auxiliary_weight=0.0,
    )  # fmt: skip
    learner = Learner(
        started(name, size), inference.build_accelerator("cpu", precision), objective, SEED, lr=LR, head_lr=None,
        layer_decay=None, weight_decay=0.05, betas=(0.9, 0.999), clip_grad_norm=1.0, micro_batch_size=None,
        ema_decay=None, ema_warmup=False, freeze_batch_norm=False, compile=compile_it, halve_micro_batch=False,
    )  # fmt: skip
    given = random_batch(batch, size)

    def step() -> float:
        learner.take_step(given, LR, image_ids=None)  # type: ignore[arg-type]  # read when a step goes wrong
        return learner.mean_loss(1)

    return first_steps(step)


def first_steps(step: Callable[[], float]) -> Callable[[], list[float]]:
    """The losses of a few steps on the first call, then one step a call."""
    called = False

    def function() -> list[float]:
        nonlocal called
        num, called = (1, True) if called else (STEPS, True)
        return [step() for _ in range(num)]

    return function


if __name__ == "__main__":
    main()
