"""What a generator learns from: lesions of part train, turned and mirrored, and what must be known of them later."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from lesionforge import run, tables
from lesionforge.data import augment, parts
from lesionforge.data.loader import read_image
from lesionforge.data.store import Store, open_store
from lesionforge.diffusion.denoising import moments_of, vae_factor
from lesionforge.engine import ranks
from lesionforge.engine.inference import Accelerator
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_json
from lesionforge.progress import progress

log = logging.getLogger("lesionforge")

SYMMETRIES = {"none": 1, "horizontal": 2, "all": 8}
MOST_KEPT = 2**31  # bytes of resized images kept in memory, our choice
CHUNK = 16  # images encoded together; fixed, since the last bits of a convolution depend on it


class GeneratorData(NamedTuple):
    store: Store
    train: pl.DataFrame  # part train, both classes, with all metadata
    chosen: pl.DataFrame  # those of the target
    val: pl.DataFrame  # part val, both classes, in an order that a seed has shuffled
    held_out: pl.DataFrame  # those of the target, in an order of their own
    facts: dict[str, object]  # for the manifest


def read_data(
    out: Path, store_path: Path, split: Path, fold: int | None, target: str, seed: int, inputs: dict[str, object]
) -> GeneratorData:
    """The rows of part train, and of val for the held-out loss. Written down is what they were read from.

    Raises:
        BadInput: no image of the target in part train; the run was started on other data.
    """
    store = open_store(store_path)
    samples, split_table = store.samples(), parts.read_split(split, fold)
    if unlabelled := samples[tables.TARGET].null_count():
        raise BadInput(f"{store_path}: {unlabelled:,} images have no target; a generator learns from labelled ones")
    if (samples[tables.SOURCE] != tables.REAL).any():
        raise BadInput(f"{store_path}: holds generated images; a generator learns from real lesions only")
    facts: dict[str, object] = {
        "store_sha256": store.digest, "split_sha256": tables.digest(split_table),
        "split_name": parts.read_split_name(split), "fold": fold,
    }  # fmt: skip
    inputs = {**facts, **inputs}
    if not (out / run.INPUTS).exists():
        write_json(out / run.INPUTS, inputs)
    elif read_json(out / run.INPUTS) != inputs:
        raise BadInput(f"{out} was started on other data, or on another base; name another --out")
    train = parts.part_of(samples, split_table, tables.TRAIN)
    wanted = {"malignant": [1], "benign": [0], "both": [0, 1]}[target]
    chosen = train.filter(pl.col(tables.TARGET).is_in(wanted))
    if missing := [name for number, name in ((1, "malignant"), (0, "benign")) if number in wanted and number not in
                   chosen[tables.TARGET]]:  # fmt: skip
        raise BadInput(
            f"{split}: part train has {len(train):,} images and none is {' or '.join(missing)}; a generator needs "
            "some: use another split, or --data.target"
        )
    has_val = tables.VAL in split_table[tables.PART]
    val = parts.part_of(samples, split_table, tables.VAL) if has_val else train.clear()
    val, held_out = (
        rows[np.random.default_rng([seed, 1]).permutation(len(rows))]
        for rows in (val, val.filter(pl.col(tables.TARGET).is_in(wanted)))
    )
    return GeneratorData(store, train, chosen, val, held_out, facts)


def seen_of(rows: pl.DataFrame, before: pl.DataFrame | None = None) -> pl.DataFrame:
    """image_id, patient_id, sha256 of training images, and of those that an earlier generator saw."""
    columns = [tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256]
    seen = rows.select(columns)
    return seen if before is None else pl.concat([seen, before.select(columns)]).unique(maintain_order=True)


def turned(images: torch.Tensor, symmetries: torch.Tensor) -> torch.Tensor:
    """Each image in its own flip or quarter turn: bit 0 mirrors, bit 1 turns upside down, bit 2 transposes.

    Args:
        images: (B, S, S, 3) uint8.
        symmetries: (B,), 0 to 7.
    """
    rows = []
    for image, symmetry in zip(images, symmetries.tolist(), strict=True):
        if symmetry & 1:
            image = image.flip(1)
        if symmetry & 2:
            image = image.flip(0)
        rows.append(image.transpose(0, 1) if symmetry & 4 else image)
    return torch.stack(rows)


def as_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(B, S, S, 3) uint8 => (B, 3, S, S) float32 in [-1, 1], on the device."""
    return images.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_moments(vae: object, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A VAE's moments of images as they are stored. (B, S, S, 3) uint8 => (B, 2C, h, w) float32"""
    return moments_of(vae, as_input(images, device))


class Images:
    """The resized images of some rows, by position; kept in memory where they fit."""

    def __init__(self, store: Store, rows: pl.DataFrame, image_size: int, num_threads: int) -> None:
        self.store, self.ids, self.image_size = store, rows[tables.IMAGE_ID], image_size
        self.rows = store.rows(self.ids)
        self.threads = ThreadPoolExecutor(num_threads, thread_name_prefix="images")
        keeps = len(rows) * image_size**2 * 3 <= MOST_KEPT
        self.kept: dict[int, np.ndarray] | None = {} if keeps else None

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, positions: np.ndarray) -> torch.Tensor:  # (B,) => (B, S, S, 3) uint8
        return torch.from_numpy(np.stack(list(self.threads.map(self.image, positions.tolist()))))

    def image(self, position: int) -> np.ndarray:
        if self.kept is not None and position in self.kept:
            return self.kept[position]
        image = np.empty((self.image_size, self.image_size, 3), np.uint8)
        augment.resize(read_image(self.store, int(self.rows[position]), self.ids[position]), image)
        if self.kept is not None:
            self.kept[position] = image
        return image


def bytes_of_latents(vae: Any, num_images: int, num_symmetries: int, image_size: int) -> int:
    """What the moments of images in all symmetries take in memory, as float32."""
    side = image_size // vae_factor(vae)
    return int(num_images * num_symmetries * 2 * vae.config.latent_channels * side**2 * 4)


def encoded(
    encode: Callable[[torch.Tensor], torch.Tensor], images: Images, num_symmetries: int, accelerator: Accelerator,
    title: str,
) -> torch.Tensor:  # fmt: skip
    """What `encode` makes of each image in each symmetry, each process having done its share.

    Returns:
        (N, symmetries, ...) float32, on the CPU.
    """
    share = ranks.share_of(accelerator, -(-len(images) // CHUNK))
    first, last = share.start * CHUNK, min(share.stop * CHUNK, len(images))
    kept = torch.empty(0)
    with progress(title, last - first) as advance:
        for start in range(first, last, CHUNK):
            stop = min(start + CHUNK, last)
            chunk = images(np.arange(start, stop))
            for symmetry in range(num_symmetries):
                turns = turned(chunk, torch.full((len(chunk),), symmetry))
                moments = encode(as_input(turns, accelerator.device)).cpu()  # (B, ...)
                if not len(kept):  # allocated once: with a list of parts both would be in memory
                    kept = torch.empty(last - first, num_symmetries, *moments.shape[1:])
                kept[start - first : stop - first, symmetry] = moments
            advance(len(chunk))
    return kept if accelerator.num_processes == 1 else torch.cat(ranks.joined(accelerator, [kept] if len(kept) else []))
