"""What faster sampling costs: CPU time and KID, by scheduler, steps and precision, of a real generator.

    python benchmarks/bench_samplers.py --generator RUN --store REAL --split SPLIT --weights FILE [--write]

Every setting makes the same number of images of the same seeds, unformatted. KID (lower is nearer) is
to the malignant lesions of part train in the features of MobileNetV2 (ImageNet, FILE), with a 95 % interval; the first
row is the slowest setting, the anchor of the ratios, the last the KID of real held-out lesions.
"""

import time
from pathlib import Path

import anchor  # first: it pins the threads

# isort: split
import numpy as np
import polars as pl
import torch

from lesionforge import run, tables
from lesionforge.auditing import features, fidelity
from lesionforge.data import parts
from lesionforge.data.store import open_store
from lesionforge.diffusion import pipeline, sampling
from lesionforge.diffusion.generator_data import Images
from lesionforge.files import read_json

GUIDANCE, BATCH, SIZE = 2.0, 48, 128
SETTINGS = [
    ("ddim", 100, "fp32"), ("ddim", 25, "fp32"), ("dpmsolver", 20, "fp32"), ("dpmsolver", 20, "bf16"),
    ("dpmsolver", 10, "fp32"), ("unipc", 10, "fp32"), ("dpmsolver", 6, "fp32"), ("ddim", 6, "fp32"),
]  # fmt: skip
TIMM = {"pad_type": "same"}  # of the MobileNetV2 weights


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    for name in ("generator", "store", "split", "weights"):
        arguments.add_argument(f"--{name}", type=Path)
    arguments.add_argument("--images", type=int, default=237)
    arguments.add_argument("--fold", type=int)
    given = arguments.parse_args()
    if None in (given.generator, given.store, given.split, given.weights):
        print("needs --generator, --store, --split and --weights; nothing measured")
        return
    torch.set_num_threads(1)
    pipeline.quiet()
    half = (0.5, 0.5, 0.5)
    extractor = features.build_extractor(
        "mobilenetv2_100", str(given.weights), None, SIZE, half, half, TIMM, torch.device("cpu")
    )
    store, split = open_store(given.store), parts.read_split(given.split, given.fold)
    real = {}
    for part in (tables.TRAIN, tables.VAL):
        rows = parts.part_of(store.samples(), split, part).filter(pl.col(tables.TARGET) == 1)
        images = Images(store, rows, SIZE, 1)
        real[part] = vectors_of(extractor, images(np.arange(len(rows))).numpy())

    lines, slowest = [f"{'':22}{'CPU s / image':>14}{'ratio':>8}   KID x 1000, 95 % interval"], 0.0
    for scheduler, steps, precision in SETTINGS:
        made = pipeline.load_generator(given.generator, precision=precision)
        prompts = made.captions.filter(pl.col(tables.TARGET) == 1)[tables.PROMPT].to_list()
        requests = [
            sampling.Request(prompts[k % len(prompts)], "", k, GUIDANCE, steps, scheduler) for k in range(given.images)
        ]
        started = time.process_time()
        with torch.inference_mode():
            images = np.concatenate(list(sampling.sample(made.pipe, requests, made.image_size, BATCH)))
        seconds = (time.process_time() - started) / len(images)
        slowest = slowest or seconds
        found = fidelity.kid(real[tables.TRAIN], vectors_of(extractor, images))
        name = f"{scheduler} {steps} {precision}"
        lines.append(f"{name:22}{seconds:14.3f}{slowest / seconds:7.1f}x   {in_words(found)}")
        print(lines[-1], flush=True)
    lines.append(f"{'real, held out':44}   {in_words(fidelity.kid(real[tables.TRAIN], real[tables.VAL]))}")
    made_at = read_json(given.generator / run.ENVIRONMENT)["commit"]
    num_real = f"{len(real[tables.TRAIN])} malignant lesions of part train, {len(real[tables.VAL])} of val"
    told = f"{given.images} images at guidance {GUIDANCE:g} by the generator of commit {made_at}; {num_real}"
    head = anchor.header(("torch", "diffusers"), seed=0)
    anchor.show("\n".join([head, f"# {told}", "", *lines]), "samplers", given.write)


def vectors_of(extractor: features.Extractor, images: np.ndarray) -> np.ndarray:
    """Features of images of any size, enlarged as an audit's loader does. (N, S, S, 3) uint8 => (N, D)"""
    from lesionforge.data import augment

    batch = np.empty((len(images), SIZE, SIZE, 3), np.uint8)
    for image, place in zip(images, batch, strict=True):
        augment.resize(image, place)
    return np.concatenate([extractor.extract(part) for part in np.array_split(batch, -(-len(batch) // 32))])


def in_words(estimate: fidelity.Estimate) -> str:
    assert estimate.estimate is not None
    if estimate.low is None or estimate.high is None:
        return f"{1000 * estimate.estimate:.2f}"
    return f"{1000 * estimate.estimate:.2f} ({1000 * estimate.low:.2f} to {1000 * estimate.high:.2f})"


if __name__ == "__main__":
    main()
