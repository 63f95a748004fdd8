"""Stores of "generated" blobs with their provenance, as `generate` and `audit` leave them, without any generator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from conftest import blob

from lesionforge import run, tables
from lesionforge.data.manifests import parquet_bytes
from lesionforge.data.provenance import manifest_id, write_provenance
from lesionforge.data.store import write_store
from lesionforge.files import read_json, sha256_of_bytes


def manifest_of(seen: pl.DataFrame, **changes: Any) -> dict[str, Any]:
    """The manifest of a generator that learned from `seen` (image_id, patient_id, sha256)."""
    return {
        "version": 1,
        "kind": "sd",
        "method": "lora",
        "image_size": 64,
        "targets": [1],
        "fold": None,
        "split_sha256": None,
        "num_seen": len(seen),
        "seen_sha256": sha256_of_bytes(parquet_bytes(seen)),
        **changes,
    }


def write_synthetic_store(
    folder: Path,
    seen: pl.DataFrame | Sequence[pl.DataFrame],
    *,
    num_images: int = 6,
    target: int = 1,
    seed: int = 0,
    sources: pl.DataFrame | None = None,
    prefix: str = "SYN",
    **changes: Any,
) -> Path:
    """A finished store of `num_images`, dealt in turn to one generator for each table of `seen`.

    Args:
        sources: real images that the generated ones started from, one after another.
        changes: of the manifests.
    """
    manifests = [(manifest_of(each, **changes), each) for each in ([seen] if isinstance(seen, pl.DataFrame) else seen)]
    rng = np.random.default_rng([seed, 1])  # not conftest's blobs
    ids = [f"{prefix}_{i:04d}" for i in range(num_images)]
    names = [manifest_id(manifest) for manifest, _ in manifests]
    started = [] if sources is None else sources[tables.IMAGE_ID].to_list()
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: pl.Series([None] * num_images, dtype=pl.String),
            tables.TARGET: pl.Series([target] * num_images, dtype=pl.Int8),
            tables.SOURCE: [tables.SYNTHETIC] * num_images,
            tables.GENERATOR: [names[i % len(names)] for i in range(num_images)],
            tables.GENERATION: ["image_to_image" if started else "text_to_image"] * num_images,
            tables.SOURCE_IMAGE: pl.Series(
                [started[i % len(started)] if started else None for i in range(num_images)], dtype=pl.String
            ),
        }
    )
    folder.mkdir(parents=True)
    write_store(folder, [(image_id, blob(rng, bool(target))) for image_id in ids], samples)
    provenance_sha256 = write_provenance(folder, manifests, sources)
    store_sha256 = read_json(folder / run.STORE)["samples_sha256"]
    run.mark_done(folder, store_sha256=store_sha256, provenance_sha256=provenance_sha256)
    return folder
