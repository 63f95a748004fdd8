"""From made images to a store of candidates: shards while it is unfinished, then the store and its provenance.

OUT/shards/00000032.parquet   number, encoded, as_made of the images of one batch; gone when the store is written
OUT/store.json ...            the store, a row of provenance an image
OUT/provenance/               the generator's manifest, what it saw, the real images that these started from
OUT/raw/                      a store of the first images as they were made, PNG, with the same ids
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.data import provenance
from lesionforge.data.store import write_store
from lesionforge.diffusion.generation_plan import Planned
from lesionforge.diffusion.output_format import ImageFormat, encoded
from lesionforge.files import read_json

SHARD_COLUMNS = {tables.NUMBER: pl.Int64, tables.ENCODED: pl.Binary, tables.AS_MADE: pl.Binary}
PROVENANCE_COLUMNS = {
    tables.GENERATOR: pl.String, tables.GENERATION: pl.String, tables.PROMPT: pl.String,
    tables.NEGATIVE_PROMPT: pl.String, tables.SEED: pl.Int64, tables.GUIDANCE_SCALE: pl.Float64,
    tables.NUM_INFERENCE_STEPS: pl.Int64, tables.SCHEDULER: pl.String, tables.STRENGTH: pl.Float64,
    tables.SOURCE_IMAGE: pl.String, tables.CHECKPOINT: pl.String, tables.BASE_SHA256: pl.String,
    tables.ADAPTER_SHA256: pl.String, tables.SPLIT_SHA256: pl.String, tables.JPEG_QUALITY: pl.Int64,
}  # fmt: skip


def finished_numbers(shards: Path) -> set[int]:
    """Numbers of the images that are on disk already."""
    files = sorted(shards.glob("*.parquet"))
    return {number for file in files for number in pl.read_parquet(file, columns=[tables.NUMBER])[tables.NUMBER]}


def write_shard(shards: Path, batch: Sequence[Planned], images: np.ndarray, keep_raw: int) -> None:
    """Format and keep a batch. images: (B, S, S, 3) uint8 RGB; those numbered below keep_raw are kept as PNG too."""
    side = images.shape[1]
    rows = [
        (
            image.number,
            encoded(made, image.format),
            encoded(made, ImageFormat(side, side, None, None)) if image.number < keep_raw else None,
        )
        for image, made in zip(batch, images, strict=True)
    ]
    table = pl.DataFrame(rows, schema=SHARD_COLUMNS, orient="row")
    tables.write_table(shards / f"{batch[0].number:08d}.parquet", table)


def samples_of(
    images: Sequence[Planned],
    prefix: str,
    target: int,
    generation: str,
    negative_prompt: str | None,
    manifest: Mapping[str, Any],
    weights: Mapping[str, tuple[str, str]],
) -> pl.DataFrame:
    """The samples table: a row of provenance an image.

    Args:
        prefix: of the image ids, the same for all images of one generator and settings.
        weights: {checkpoint asked for: (what it is called in the rows, SHA-256 of its weights)}.
    """
    rows = []
    for image in images:
        cell = image.cell
        checkpoint, adapter_sha256 = weights[cell.checkpoint]
        rows.append(
            (
                provenance.manifest_id(manifest), generation, image.prompt, negative_prompt or None, image.seed,
                cell.guidance_scale, cell.num_inference_steps, cell.scheduler, cell.strength, image.source_image,
                checkpoint, manifest["base_sha256"], adapter_sha256, manifest["split_sha256"], image.format.quality,
            )
        )  # fmt: skip
    table = pl.DataFrame(rows, schema=PROVENANCE_COLUMNS, orient="row")
    given: list[Any] = [
        pl.Series(tables.IMAGE_ID, [f"{prefix}_{image.number:06d}" for image in images]),
        pl.lit(None, pl.String).alias(tables.PATIENT_ID),
        pl.lit(target, pl.Int8).alias(tables.TARGET),
        pl.lit(tables.SYNTHETIC).alias(tables.SOURCE),
    ]
    return table.select(*given, *PROVENANCE_COLUMNS)


def write_generated(
    out: Path, samples: pl.DataFrame, manifest: Mapping[str, Any], seen: Path, sources: pl.DataFrame | None
) -> None:
    """Join the shards into the finished store.

    Args:
        seen: the generator's seen.parquet.
        sources: image_id, patient_id, sha256 of the real images that images started from.
    """
    shards = out / run.SHARDS
    rows = pl.concat([pl.read_parquet(file) for file in sorted(shards.glob("*.parquet"))]).sort(tables.NUMBER)
    if rows[tables.NUMBER].to_list() != list(range(len(samples))):
        raise ValueError(f"{len(rows):,} images in {shards} for {len(samples):,} rows")
    ids = samples[tables.IMAGE_ID]
    write_store(out, zip(ids, rows[tables.ENCODED], strict=True), samples)
    kept = rows[tables.AS_MADE].drop_nulls()
    if len(kept):
        (out / run.RAW).mkdir(exist_ok=True)
        raw = samples.head(len(kept)).with_columns(pl.lit(None, pl.Int64).alias(tables.JPEG_QUALITY))
        write_store(out / run.RAW, zip(ids.head(len(kept)), kept, strict=True), raw)
        run.mark_done(out / run.RAW, num_images=len(kept))
    provenance_sha256 = provenance.write_provenance(out, [(manifest, seen)], sources)
    run.mark_done(
        out,
        num_images=len(samples),
        num_raw=len(kept),
        generator=provenance.manifest_id(manifest),
        store_sha256=read_json(out / run.STORE)["samples_sha256"],
        provenance_sha256=provenance_sha256,
    )
    shutil.rmtree(shards)
