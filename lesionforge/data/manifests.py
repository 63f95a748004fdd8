"""A generator's manifest: what it is, and by their SHA-256 the real images that it saw.

generator.json   the manifest; its id is the SHA-256 of its canonical JSON
seen.parquet     image_id, patient_id, sha256 of every real image that it, or one that it was started from, learned from
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from lesionforge import run, tables
from lesionforge.data.sources import without_extension
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_bytes, sha256_of_file

VERSION = 1
SEEN_COLUMNS = {tables.IMAGE_ID: pl.String, tables.PATIENT_ID: pl.String, tables.SHA256: pl.String}


def manifest_id(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest as JSON with sorted keys and no blanks, 64 hexadecimal digits."""
    text = json.dumps(dict(manifest), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256_of_bytes(text.encode())


def parquet_bytes(table: pl.DataFrame) -> bytes:
    """A table of real images as the file that its SHA-256 is taken of."""
    file = io.BytesIO()
    table.select(pl.col(name).cast(type_) for name, type_ in SEEN_COLUMNS.items()).write_parquet(file)
    return file.getvalue()


def read_generator(folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """The manifest of a generator's run folder, and the real images that it saw.

    Raises:
        BadInput: one of the two is missing, or the images are not those of the manifest.
    """
    run.require_done(folder, "finetune")
    if not (folder / run.GENERATOR).is_file():
        raise BadInput(f"{folder}: not a generator (no {run.GENERATOR}); make one with `lesionforge finetune`")
    manifest = read_json(folder / run.GENERATOR)
    require_manifest(manifest, folder / run.GENERATOR)
    return manifest, read_seen(folder / run.SEEN, manifest)


def read_declared(path: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """The manifest of a generator from elsewhere, and what it saw, from a table of the real images it learned from.

    Args:
        path: CSV or Parquet with image_id (or isic_id), optionally patient_id and sha256.

    Raises:
        BadInput: not such a table, no rows, rows without an id, or a sha256 that is none.
    """
    table = tables.read_table(path, types=dict.fromkeys((*tables.IMAGE_ID_NAMES, *SEEN_COLUMNS), pl.String))
    found = [name for name in tables.IMAGE_ID_NAMES if name in table.columns]
    if not found:
        raise BadInput(
            f"{path}: no column {tables.IMAGE_ID}; found {tables.in_short(table.columns)}; name in it each real image "
            "that the generator learned from"
        )
    if table.is_empty():
        raise BadInput(f"{path}: no rows, expected one for each real image that the generator learned from")
    others = [name for name in (tables.PATIENT_ID, tables.SHA256) if name in table.columns]
    texts = table.select(pl.col(name).cast(pl.String).str.strip_chars() for name in (found[0], *others))
    texts = texts.with_columns(pl.when(pl.all() != "").then(pl.all()))  # a blank is no id
    if num_null := texts[found[0]].null_count():
        raise BadInput(f"{path}: {num_null:,} rows without an image id in column {found[0]}; fill them in")
    seen = texts.select(
        pl.col(found[0]).map_elements(without_extension, return_dtype=pl.String).alias(tables.IMAGE_ID),
        *(
            pl.col(name) if name in others else pl.lit(None, pl.String).alias(name)
            for name in (tables.PATIENT_ID, tables.SHA256)
        ),
    ).with_columns(pl.col(tables.SHA256).str.to_lowercase())
    wrong = seen.filter(~pl.col(tables.SHA256).str.contains(r"^[0-9a-f]{64}$").fill_null(True))[tables.SHA256]
    if len(wrong):
        raise BadInput(
            f"{path}: {len(wrong):,} values of column {tables.SHA256} are not 64 hexadecimal digits: "
            f"{tables.in_short(wrong.to_list(), 2)}; give the SHA-256 of each image file, or leave the column away"
        )
    seen = seen.unique(maintain_order=True)
    manifest = {
        "version": VERSION,
        "kind": "declared",
        "num_seen": len(seen),
        "seen_sha256": sha256_of_bytes(parquet_bytes(seen)),
    }
    return manifest, seen


def require_manifest(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        found = manifest.get("version") if isinstance(manifest, dict) else None
        raise BadInput(f"{path}: version {found}, expected {VERSION}; make it anew with this lesionforge")
    if missing := [key for key in ("kind", "num_seen", "seen_sha256") if manifest.get(key) is None]:
        raise BadInput(f"{path}: no {', '.join(missing)} in this manifest; it was edited, make the generator anew")


def read_seen(path: Path, manifest: Mapping[str, Any]) -> pl.DataFrame:
    """What a generator saw: image_id, patient_id, sha256; the file is the one that the manifest names."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file, so what the generator saw is unknown; make it anew")
    if sha256_of_file(path) != manifest["seen_sha256"]:
        raise BadInput(f"{path}: altered, its SHA-256 is not the manifest's seen_sha256; make the generator anew")
    seen = read_images(path)
    if seen.is_empty() or len(seen) != manifest["num_seen"]:
        raise BadInput(f"{path}: {len(seen):,} images, the manifest says {manifest['num_seen']}, expected at least one")
    return seen


def read_images(path: Path) -> pl.DataFrame:
    """image_id, patient_id, sha256 of real images; a patient or a hash may be unknown, an id may not."""
    table = tables.read_table(path, list(SEEN_COLUMNS), types=SEEN_COLUMNS)
    if num_null := table[tables.IMAGE_ID].null_count():
        raise BadInput(f"{path}: {num_null:,} rows without an image id; make it anew")
    return table


def in_words(manifest: Mapping[str, Any]) -> str:
    """sd lora, fold 1."""
    words = " ".join(dict.fromkeys(str(manifest[key]) for key in ("kind", "method") if manifest.get(key)))
    return words if manifest.get("fold") is None else f"{words}, fold {manifest['fold']}"
