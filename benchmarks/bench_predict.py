"""Scoring on one core of a CPU: from bytes to logits, ours beside the plain model as timm's validate runs it.

    python benchmarks/bench_predict.py [--rounds 5] [--batch 32] [--no-compile] [--write]

Every side is a process of its own; times are medians. Models have seen a few training steps, so that batch norms have
statistics and logits differ; their last layer is then scaled so that logits have a standard deviation of about 1.
"Freed memory kept" shows what of a ratio is the C library's: fetching fresh pages for each layer costs more on some
machines than on others. Errors are the largest difference of a logit; the spread of the logits (standard deviation)
stands beside the first row. The compiled sides need a C++ compiler and some minutes; ONNX Runtime needs extra `export`.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anchor  # first: it pins the threads

# isort: split
import numpy as np
import sides
import torch
from safetensors.torch import load_file, save_file

from lesionforge.classifier import onnx_file, speed
from lesionforge.engine import inference, model

SIZE, SEED, STEPS = 224, 0, 8
MODELS = {"efficientnet": "EfficientNet-B0", "edgenext": "EdgeNeXt-Base", "vit:small": "ViT-small"}
TARGETS = {
    ("efficientnet", "fp32"): 2.5,  # of the fastest engine
    ("efficientnet", "bf16"): 4.0,
    ("edgenext", "bf16"): 2.2,
    ("vit:small", "bf16"): 2.2,
}
MOST_ERROR = 1e-5  # in fp32
PACKAGES = ("torch", "timm", "onnxruntime")


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--size", type=int, default=SIZE, help="pixels")
    arguments.add_argument("--models", nargs="+", default=list(MODELS))
    arguments.add_argument("--no-compile", action="store_true", help="leave the compiled sides out")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    lines = [anchor.header(PACKAGES, SEED), f"# data      {given.batch} drawn images of {given.size} px a batch"]
    lines += ["", f"{'':44}  {'a batch':>10}  {'ratio':>7}  {'asked':8}{'':10}largest error of a logit"]
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models:
            lines += [str(row) for row in measure(name, Path(folder), given)] + [""]
            print("\n".join(lines[-8:]), flush=True)
    anchor.show("\n".join(lines).rstrip(), "predict", given.write)


def measure(name: str, folder: Path, given: argparse.Namespace) -> list[sides.Row]:
    weights, onnx = folder / "weights.safetensors", folder / "model.onnx"
    built = train_shortly(name, given.size)
    save_file(built.model.state_dict(), weights)
    onnx_file.write_onnx(onnx, built, "", most_difference=1e-3)  # the error is shown below
    ours = partial(make_ours, name, weights, given.size, given.batch)
    makers: dict[str, tuple] = {
        "timm's defaults": (make_plain, name, weights, given.size, given.batch, False),
        "timm's defaults, freed memory kept": (make_plain, name, weights, given.size, given.batch, True),
        "fp32": (ours, "fp32", False),
        "fp32, ONNX Runtime": (make_onnx, onnx, given.size, given.batch),
        "bf16": (ours, "bf16", False),
    }
    if not given.no_compile:
        makers |= {"fp32, compiled": (ours, "fp32", True), "bf16, compiled": (ours, "bf16", True)}
    answers, seconds = sides.compare(makers, given.rounds)

    plain, *others = makers
    kept = others[0]
    expected, title = answers[plain], MODELS.get(name, name)
    rows = [sides.Row(f"{title}, {plain}", seconds[plain], 1.0, None, f"(spread {expected.std():.2g})")]
    rows.append(sides.Row(f"{title}, {kept}", seconds[kept], seconds[plain] / seconds[kept], None, ""))
    for precision in ("fp32", "bf16"):
        engines = [side for side in others if side.startswith(precision)]
        fastest = min(engines, key=lambda side: seconds[side])
        for side in engines:
            error = float(np.abs(answers[side] - expected).max())
            wrong = "  MISSED" if precision == "fp32" and error >= MOST_ERROR else ""
            asked = TARGETS.get((name, precision)) if side == fastest else None
            ratio = seconds[plain] / seconds[side]
            rows.append(sides.Row(f"{title}, {side}", seconds[side], ratio, asked, f"{error:.1e}{wrong}"))
    return rows


def train_shortly(name: str, size: int) -> model.Built:
    torch.manual_seed(SEED)
    built = model.build_model(name, "random", size)
    built.model.train()
    normalise = inference.Normalise(built.mean, built.std)
    for layer in model.batch_norms(built.model):
        layer.momentum = 0.5  # statistics settle within the few steps
    optimizer = torch.optim.AdamW(built.model.parameters(), lr=1e-3)
    for step in range(STEPS):
        images = normalise(torch.from_numpy(drawn(8, size, SEED + 1 + step)))
        loss = (built.model(images).squeeze(1) - images.mean((1, 2, 3))).square().mean()  # logits follow the brightness
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    built.model.eval()
    with torch.no_grad():  # a classifier's logits spread by about 1; after so few steps they may by 20, and errors too
        spread = built.model(normalise(torch.from_numpy(drawn(32, size, SEED)))).std()
        for parameter in model.last_layer(built.model).parameters():
            parameter /= spread
    return built


def drawn(num: int, size: int, seed: int) -> np.ndarray:
    """(num, size, size, 3) uint8: half of them skin with a disc, half of them noise."""
    rng = np.random.default_rng(seed)
    return np.concatenate([onnx_file.check_images(rng, num // 2, size, noise) for noise in (False, True)])


def loaded(name: str, weights: Path, size: int) -> model.Built:
    built = model.build_model(name, "random", size)
    built.model.load_state_dict(load_file(weights))
    built.model.eval()
    return built


def make_plain(name: str, weights: Path, size: int, batch: int, keep_memory: bool) -> Callable[[], np.ndarray]:
    """As timm's validate.py without a GPU: bytes in NCHW from its loader, normalised there, one call of the model."""
    if keep_memory:
        speed.keep_freed_memory()
    built = loaded(name, weights, size)
    normalise = inference.Normalise(built.mean, built.std)
    images = torch.from_numpy(drawn(batch, size, SEED)).permute(0, 3, 1, 2).contiguous()

    @torch.inference_mode()
    def score() -> np.ndarray:
        return built.model(images.float().sub(normalise.mean).div(normalise.std)).squeeze(1).double().numpy()

    return score


def make_ours(
    name: str, weights: Path, size: int, batch: int, precision: str, compile_it: bool
) -> Callable[[], np.ndarray]:
    built = loaded(name, weights, size)
    net = speed.prepared_for_prediction(built.model, size, precision, compile_it)
    scorer = inference.torch_scorer(net, inference.Normalise(built.mean, built.std), torch.device("cpu"))
    return partial(scorer, drawn(batch, size, SEED))


def make_onnx(path: Path, size: int, batch: int) -> Callable[[], np.ndarray]:
    scorer, _ = onnx_file.onnx_scorer(path, num_threads=1)
    return partial(scorer, drawn(batch, size, SEED))


if __name__ == "__main__":
    main()
