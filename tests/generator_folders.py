"""Finished generator runs, written by hand around a pipeline of random weights: what `finetune` makes, in no time."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from lesionforge import run, tables
from lesionforge.data.manifests import parquet_bytes
from lesionforge.data.parts import part_of, read_split
from lesionforge.data.store import open_store
from lesionforge.diffusion.pipeline import find_base
from lesionforge.files import sha256_of_bytes, write_json

PROMPTS = ("Malignant skin lesions", "a mole", "melanoma on the back")


def write_generator(
    folder: Path,
    pipeline: Path,
    store_path: Path,
    split: Path,
    *,
    fold: int | None = None,
    targets: Sequence[int] = (1,),
    epochs: Sequence[int] = (),
    with_prior: bool = False,
    **changes: Any,
) -> Path:
    """A run folder with a whole pipeline in it. changes: keys of the manifest."""
    store = open_store(store_path)
    parts = read_split(split, fold)
    learned = part_of(store.samples(), parts, tables.TRAIN).filter(pl.col(tables.TARGET).is_in(list(targets)))
    shutil.copytree(pipeline, folder / run.PIPELINE)
    kept = [f"epoch-{epoch:04d}" for epoch in epochs]
    for name in kept:
        shutil.copytree(pipeline, folder / run.EPOCHS / name / run.PIPELINE)
    if with_prior:
        shutil.copytree(pipeline, folder / run.PRIOR)
    data = {"store": str(store_path), "split": str(split), "fold": fold}
    (folder / run.CONFIG).write_text(f"# lesionforge finetune --recipe {run.CONFIG}\n{yaml.dump({'data': data})}")
    seen = parquet_bytes(learned)
    (folder / run.SEEN).write_bytes(seen)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(learned))]
    tables.write_table(
        folder / run.CAPTIONS,
        learned.select(tables.IMAGE_ID, tables.TARGET).with_columns(pl.Series(tables.PROMPT, prompts)),
    )
    base = find_base(str(pipeline))
    manifest = {
        "version": 1, "kind": "sd", "method": "full", "image_size": 64, "targets": list(targets),
        "base": {"name": str(pipeline), "licence": "unknown", "files": base.files}, "base_sha256": base.sha256,
        "adapter_sha256": base.sha256, "prior_sha256": base.sha256, "epochs": dict.fromkeys(kept, base.sha256),
        "split_sha256": tables.digest(parts), "split_name": split.name, "store_sha256": store.digest, "fold": fold,
        "num_seen": len(learned), "seen_sha256": sha256_of_bytes(seen), "prediction_type": "epsilon",
        "negative_prompt": "",
    }  # fmt: skip
    write_json(folder / run.GENERATOR, manifest | changes)
    run.mark_done(folder)
    return folder
