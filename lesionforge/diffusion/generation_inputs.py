"""What a generation is made from: the generator's own real lesions, always of its part train, and its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from lesionforge import run, tables
from lesionforge.data.parts import part_of, read_split, read_split_table
from lesionforge.data.store import Store, open_store
from lesionforge.diffusion import pipeline
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_json
from lesionforge.recipe import read_recipe


class Real(NamedTuple):
    """The real lesions that a generator learned from."""

    store: Store
    parts: pl.DataFrame  # image_id, part
    train: pl.DataFrame  # samples of part train


def read_real(generator: Path, manifest: Mapping[str, Any], store_path: Path | None, split: Path | None) -> Real:
    """The generator's own training data.

    Args:
        store_path, split: where they are now; None where they were when it learned.

    Raises:
        BadInput: they are gone, or others than the generator's.
    """
    data = read_recipe(generator / run.CONFIG).settings.get("data", {})
    places = {}
    for name, given in (("store", store_path), ("split", split)):
        places[name] = given or Path(str(data.get(name)))
        if not places[name].exists():
            raise BadInput(
                f"sources.{name}: {places[name]} is not there, and images start from its lesions or are formatted "
                f"like them; name it by --sources.{name} (or, for text to image, --format.match none)"
            )
    store = open_store(places["store"])
    if store.digest != manifest["store_sha256"]:
        raise BadInput(f"sources.store: {store.path} is not the store that {generator} learned from; name that one")
    fold = manifest.get("fold")
    has_folds = tables.FOLD in read_split_table(places["split"]).columns
    if has_folds != (fold is not None):
        learned_by = "parts" if fold is None else f"folds, without fold {fold}"
        raise BadInput(
            f"sources.split: {places['split']} is a split into {'folds' if has_folds else 'parts'}, and {generator} "
            f"learned by one into {learned_by}; name that one"
        )
    parts = read_split(places["split"], fold)
    if tables.digest(parts) != manifest["split_sha256"]:
        raise BadInput(
            f"sources.split: {places['split']} is not the split that {generator} learned by, so its part train may "
            "hold lesions of the generator's val or test; name that one"
        )
    return Real(store, parts, part_of(store.samples(), parts, tables.TRAIN))


def used_sources(real: Real, samples: pl.DataFrame) -> pl.DataFrame:
    """image_id, patient_id, sha256 of the real images that generated ones start from."""
    used = samples[tables.SOURCE_IMAGE].drop_nulls()
    rows = real.train.filter(pl.col(tables.IMAGE_ID).is_in(used.implode()))
    return rows.select(tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256)


def weights_of(checkpoint: str, target: int, manifest: Mapping[str, Any]) -> tuple[str, str]:
    """(name of a checkpoint in the rows, SHA-256 of its weights).

    Raises:
        BadInput: no such checkpoint.
    """
    kept: Mapping[str, str] = manifest["epochs"]
    if target not in manifest["targets"] and checkpoint == pipeline.LAST:
        return run.PRIOR, manifest["prior_sha256"]
    if checkpoint == pipeline.LAST:
        return checkpoint, manifest["adapter_sha256"]
    if checkpoint not in kept or target not in manifest["targets"]:
        had = [pipeline.LAST, *sorted(kept)] if target in manifest["targets"] else [pipeline.LAST]
        raise BadInput(
            f"checkpoint: the generator has no {checkpoint} of that class; it has {tables.in_short(had)}; see its "
            "--keep-epochs"
        )
    return checkpoint, kept[checkpoint]


def require_same(out: Path, inputs: Mapping[str, str | None], is_writer: bool) -> None:
    """Refuse to go on with a generator that was made anew, or on other data; one process writes down what it is."""
    path = out / run.INPUTS
    if path.exists() and read_json(path) != inputs:
        raise BadInput(f"{out} was started with another generator or other real images; name another --out")
    if is_writer and not path.exists():
        write_json(path, inputs)
