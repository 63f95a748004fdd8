"""Where generated images come from: each store of them carries the manifests of their generators and what those saw.

provenance/GENERATOR_ID.json      the generator's manifest; the id is the SHA-256 of its canonical JSON
provenance/GENERATOR_ID.parquet   image_id, patient_id, sha256 of every real image that it learned from (run.SEEN)
provenance/sources.parquet        the same of the real images that image-to-image and inpainting started from, if any
done.json                         provenance_sha256 {file name: SHA-256} of these, store_sha256 of the samples table

Each names the next by its SHA-256 (rows -> manifest -> what it saw), so that no part of the chain can be left out,
altered or taken from another store unseen. Who writes all of it anew can lie: a chain of hashes is no signature.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from lesionforge import run, tables
from lesionforge.data.manifests import (
    SEEN_COLUMNS,
    in_words,
    manifest_id,
    parquet_bytes,
    read_images,
    read_seen,
    require_manifest,
)
from lesionforge.data.store import Store
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_bytes, sha256_of_file, write_json, write_whole

__all__ = [
    "copy_provenance",
    "manifest_id",
    "read_provenance",
    "refuse_leaky",
    "refuse_unaudited",
    "seen_by",
    "write_provenance",
]

log = logging.getLogger("lesionforge")

FROM_AN_IMAGE = ("image_to_image", "inpainting")  # kinds of generation that start from a real image
DECLARE = "`lesionforge prepare --source synthetic --trained-on TABLE` declares what an outside generator learned from"


class Provenance(NamedTuple):
    manifests: dict[str, dict[str, Any]]  # by id
    seen: pl.DataFrame  # image_id, patient_id (or null), sha256 (or null), generator
    sources: pl.DataFrame  # image_id, patient_id (or null), sha256 (or null); no rows where nothing started from one


def write_provenance(
    folder: Path,
    manifests: Sequence[tuple[Mapping[str, Any], pl.DataFrame | Path]],
    sources: pl.DataFrame | None = None,
) -> dict[str, str]:
    """Write the folder `provenance` of a store.

    Args:
        folder: of the store, unfinished.
        manifests: each generator's manifest, and what it saw: its seen.parquet, or the table that this holds.
        sources: image_id, patient_id, sha256 of the real images that generated ones started from.

    Returns:
        {file name: SHA-256}, for done.json's provenance_sha256.

    Raises:
        BadInput: what a generator saw is not what its manifest says.
    """
    contents: dict[str, bytes] = {}
    for manifest, seen in manifests:
        data = seen.read_bytes() if isinstance(seen, Path) else parquet_bytes(seen)
        if sha256_of_bytes(data) != manifest["seen_sha256"]:
            raise BadInput(
                f"{seen if isinstance(seen, Path) else run.SEEN}: not what the generator's manifest says that it saw "
                "(its SHA-256 differs); make the generator anew with `lesionforge finetune`"
            )
        contents[f"{manifest_id(manifest)}.parquet"] = data
    if sources is not None and len(sources):
        contents[run.SOURCES] = parquet_bytes(sources.unique(tables.IMAGE_ID).sort(tables.IMAGE_ID))
    (folder / run.PROVENANCE).mkdir(parents=True, exist_ok=True)
    for manifest, _ in manifests:
        write_json(folder / run.PROVENANCE / f"{manifest_id(manifest)}.json", dict(manifest))
    for name, data in contents.items():
        with write_whole(folder / run.PROVENANCE / name) as file:
            file.write(data)
    return sha256_of_files(folder)


def copy_provenance(source_store: Path, folder: Path) -> dict[str, str]:
    """Copy a finished store's checked provenance into a store made of its images; returns {file name: SHA-256}."""
    read_provenance(source_store)
    for path in sorted((source_store / run.PROVENANCE).iterdir()):
        with write_whole(folder / run.PROVENANCE / path.name) as file:
            file.write(path.read_bytes())
    return sha256_of_files(folder)


def sha256_of_files(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in sorted((folder / run.PROVENANCE).iterdir())}


def digest_of(store_path: Path) -> str | None:
    """One SHA-256 for all of a store's provenance, as its done.json tells it; None where it has none."""
    files = read_json(store_path / run.DONE).get("provenance_sha256")
    return manifest_id(files) if isinstance(files, dict) else None


def read_provenance(store_path: Path) -> Provenance:
    """The provenance of a finished store, every link of it checked; the images' bytes are `Store.verify`'s.

    Raises:
        BadInput: it is missing, or a file of it, or the samples table, is not the one that was written; or rows name
            no generator, or one without a manifest, or a source image that is not listed.
    """
    folder = store_path / run.PROVENANCE
    run.require_done(store_path, "audit")
    done = read_json(store_path / run.DONE)
    recorded = done.get("provenance_sha256")
    if not folder.is_dir() and recorded is None:
        raise BadInput(
            f"{store_path}: no {run.PROVENANCE}, so what the generator of these images learned from is unknown; make "
            f"them by `lesionforge generate` and `lesionforge audit`, or declare it: {DECLARE}"
        )
    require_recorded(store_path, done)
    manifests, seen = {}, []
    for path in sorted(folder.glob("*.json")):
        manifest = read_json(path)
        require_manifest(manifest, path)
        if manifest_id(manifest) != path.stem:
            raise BadInput(f"{path}: altered, it is not the manifest whose id is its name; make the store anew")
        manifests[path.stem] = manifest
        seen.append(
            read_seen(path.with_suffix(".parquet"), manifest).with_columns(pl.lit(path.stem).alias(tables.GENERATOR))
        )
    if not manifests:
        raise BadInput(f"{folder}: no manifest of a generator in it; make the store anew")
    sources = (
        read_images(folder / run.SOURCES) if (folder / run.SOURCES).exists() else pl.DataFrame(schema=SEEN_COLUMNS)
    )
    require_links(store_path, manifests, sources)
    return Provenance(manifests, pl.concat(seen), sources)


def require_recorded(store_path: Path, done: Mapping[str, Any]) -> None:
    """Refuse files that are not those which done.json was written beside."""
    recorded = done.get("provenance_sha256")
    if not isinstance(recorded, dict) or "store_sha256" not in done:
        raise BadInput(
            f"{store_path / run.DONE}: does not say which {run.PROVENANCE} and which samples it was written with "
            "(provenance_sha256, store_sha256); it was edited, or copied from elsewhere: make the store anew"
        )
    found = sha256_of_files(store_path) if (store_path / run.PROVENANCE).is_dir() else {}
    wrong = [name for name in sorted(recorded.keys() | found.keys()) if recorded.get(name) != found.get(name)]
    if wrong:
        what = {name: "added" if name not in recorded else "altered" if name in found else "gone" for name in wrong}
        raise BadInput(
            f"{store_path / run.PROVENANCE}: not as it was written: "
            f"{tables.in_short([f'{name} {how}' for name, how in what.items()])}; make the store anew"
        )
    described = read_json(store_path / run.STORE) if (store_path / run.STORE).is_file() else {}
    samples = store_path / run.SAMPLES
    if described.get("samples_sha256") != done["store_sha256"] or sha256_of_file(samples) != done["store_sha256"]:
        raise BadInput(f"{samples}: not the table that {run.DONE} was written with; make the store anew")


def require_links(store_path: Path, manifests: Mapping[str, Any], sources: pl.DataFrame) -> None:
    """Refuse rows whose generator has no manifest, and rows whose source image is not among the sources."""
    path = store_path / run.SAMPLES
    held = pl.read_parquet_schema(path)
    if tables.GENERATOR not in held:
        raise BadInput(f"{path}: no column {tables.GENERATOR}, so these images' generators are unknown; {DECLARE}")
    wanted = (tables.IMAGE_ID, tables.GENERATOR, tables.GENERATION, tables.SOURCE_IMAGE)
    rows = pl.read_parquet(path, columns=[name for name in wanted if name in held], memory_map=False)
    known = pl.col(tables.GENERATOR).is_in(list(manifests)).fill_null(False)
    refuse_rows(path, rows.filter(~known), "are of a generator whose manifest is not here")
    if tables.SOURCE_IMAGE in rows.columns:
        listed = pl.col(tables.SOURCE_IMAGE).is_in(sources[tables.IMAGE_ID].implode())
        refuse_rows(path, rows.filter(~listed), f"started from a real image that {run.SOURCES} does not list")
    if tables.GENERATION in rows.columns:
        started = rows.filter(pl.col(tables.GENERATION).is_in(FROM_AN_IMAGE))
        if tables.SOURCE_IMAGE in rows.columns:
            started = started.filter(pl.col(tables.SOURCE_IMAGE).is_null())
        refuse_rows(path, started, f"started from a real image that no {tables.SOURCE_IMAGE} names")


def refuse_rows(path: Path, rows: pl.DataFrame, what: str) -> None:
    if len(rows):
        raise BadInput(
            f"{path}: {len(rows):,} images {what}: {tables.in_short(rows[tables.IMAGE_ID].to_list())}; "
            "make the store anew"
        )


def refuse_leaky(
    stores: Sequence[Store],
    held_out: pl.DataFrame,
    known: pl.DataFrame | None = None,
    split_sha256: str | None = None,
) -> list[Provenance]:
    """Refuse synthetic stores whose generators, or source images, are of val or test; and any that were altered.

    Args:
        stores: synthetic ones, whole: one image of a leaky generator refuses its store.
        held_out: image_id, patient_id, sha256 of parts val and test.
        known: the same of all of the real store, to find the patient of an image that is known by its id or bytes.
        split_sha256: `tables.digest` of the split in use, to say in the log where a generator had another.

    Returns:
        What was read and checked, a store each.

    Raises:
        BadInput: as `read_provenance` and `Store.verify`, or a real image behind a store is of val or test.
    """
    known = held_out if known is None else known
    checked = []
    for store in stores:
        provenance = read_provenance(store.path)
        store.verify()
        for manifest_sha256, manifest in provenance.manifests.items():
            seen = provenance.seen.filter(pl.col(tables.GENERATOR) == manifest_sha256)
            refuse_shared(store.path, f"their generator ({in_words(manifest)}) saw", seen, held_out, known)
            if split_sha256 is not None and manifest.get("split_sha256") not in (None, split_sha256):
                log.info("%s: the generator had another split; it saw nothing of val or test here", store.path)
        refuse_shared(store.path, "they started from", provenance.sources, held_out, known)
        log_checked(store, provenance, known)
        checked.append(provenance)
    return checked


def refuse_unaudited(store_path: Path) -> None:
    """Refuse candidates as a generator made them: copies of real lesions may be among them."""
    if (store_path / run.CONFIG).is_file() and run.verb_of(store_path) == "generate":
        raise BadInput(
            f"{store_path}: candidates that no audit has looked at, and copies of real lesions may be among them; "
            f"`lesionforge audit --candidates {store_path}` and name the store that it writes; filters have switches"
        )


def refuse_shared(path: Path, how: str, seen: pl.DataFrame, held_out: pl.DataFrame, known: pl.DataFrame) -> None:
    """Refuse what shares an image, its bytes under whatever id, or a patient with val or test."""
    seen = pl.concat([seen, completed(seen, known)])  # what is declared and what the real store knows may differ
    for column, what in (
        (tables.IMAGE_ID, "images"),
        (tables.SHA256, "images, byte for byte,"),
        (tables.PATIENT_ID, "images of patients"),
    ):
        shared = seen.filter(pl.col(column).is_in(held_out[column].drop_nulls().implode()))[tables.IMAGE_ID].unique()
        if len(shared):
            raise BadInput(
                f"{path}: {how} {what} of this run's val or test, {len(shared):,} of them: "
                f"{tables.in_short(shared.sort().to_list())}; scores would mean nothing; take images of a "
                "generator of this split and fold (`lesionforge finetune`; --data.fold all makes one a fold)"
            )


def completed(seen: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The table with the patient and the SHA-256 that `known` tells of its images, which it finds by id or by bytes."""
    for key in (tables.IMAGE_ID, tables.SHA256):
        others = [name for name in (tables.PATIENT_ID, tables.SHA256) if name != key]
        told = known.filter(pl.col(key).is_not_null()).unique(key, keep="first", maintain_order=True)
        told = told.select(key, *(pl.col(name).cast(pl.String).alias(f"{name} known") for name in others))
        seen = seen.join(told, on=key, how="left", maintain_order="left")
        seen = seen.with_columns(pl.coalesce(f"{name} known", name).alias(name) for name in others)
        seen = seen.drop(f"{name} known" for name in others)
    return seen


def log_checked(store: Store, provenance: Provenance, known: pl.DataFrame) -> None:
    """What was compared, and what could not be."""
    seen = completed(provenance.seen, known).unique(tables.IMAGE_ID)
    elsewhere = seen.join(known, on=tables.IMAGE_ID, how="anti").join(known, on=tables.SHA256, how="anti")
    log.info(
        "%s: %s images; their generator saw %s real images, none of val or test", store.path, f"{len(store):,}",
        f"{len(seen):,}",
    )  # fmt: skip
    for num, what in (
        (len(elsewhere), "are not in the real store; they can be compared by what is declared of them only"),
        (seen[tables.PATIENT_ID].null_count(), "are of unknown patients, who may have other images in val or test"),
    ):
        if num:
            log.warning("%s: %s of these %s", store.path, f"{num:,}", what)


def seen_by(provenances: Sequence[Provenance], known: pl.DataFrame) -> pl.DataFrame:
    """image_id, patient_id, sha256, generator of all real images behind some stores; generator is null for sources."""
    rows = [each.seen for each in provenances]
    rows += [each.sources.with_columns(pl.lit(None, pl.String).alias(tables.GENERATOR)) for each in provenances]
    told = pl.concat(rows)
    return pl.concat([told, completed(told, known)]).unique(maintain_order=True)
