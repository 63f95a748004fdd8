"""The shortcut test of an audit: by class, of the images as they were made and as they were formatted."""

from typing import Any

import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.auditing import shortcut
from lesionforge.auditing.audit_inputs import Inputs, some_of
from lesionforge.auditing.audit_sets import CLASSES, as_table, codes, read_images
from lesionforge.data.store import Store, open_store
from lesionforge.errors import BadInput
from lesionforge.progress import progress

MOST = 400  # images of each kind: a few hundred are enough
BYTES = "bytes_per_pixel"  # of the encoded image: a cue that the pixels do not hold
BEFORE, AFTER, KEPT = "before formatting", "after formatting, the same images", "after formatting, all that is kept"
COLUMNS = {
    "class": pl.String, "format": pl.String, "num_real": pl.Int64, "num_synthetic": pl.Int64, "estimate": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "cues": pl.Float64, "network": pl.Float64, "strongest_cue": pl.String,
    "strongest_cue_auc": pl.Float64, "reason": pl.String,
}  # fmt: skip


def no_test() -> pl.DataFrame:
    return as_table([], COLUMNS)


def shortcut_table(inputs: Inputs, kept: np.ndarray, seed: int, device: Any) -> pl.DataFrame:
    """A row per class and format; `estimate` is the AUC of telling generated images from part train's."""
    raw = raw_store(inputs.candidates)
    rows = []
    for target in sorted(set(inputs.samples[tables.TARGET].to_list()), reverse=True):
        of_class = inputs.samples.filter(pl.col(tables.TARGET) == target)
        is_kept = inputs.samples.filter((pl.col(tables.TARGET) == target) & pl.Series(kept))
        real = inputs.references.filter(pl.col(tables.TARGET) == target)
        wanted: list[tuple[str, Store, pl.DataFrame]] = []
        if raw is not None:
            same = of_class.filter(pl.col(tables.IMAGE_ID).is_in(raw.image_ids.implode()))
            as_made = same.select(tables.IMAGE_ID).join(
                raw.samples(), on=tables.IMAGE_ID, how="left", maintain_order="left"
            )
            wanted += [(BEFORE, raw, as_made), (AFTER, inputs.candidates, same)]
        else:
            reason = f"no images as the generator made them (no {run.RAW} in the candidates' folder)"
            rows.append({"class": CLASSES[target], "format": BEFORE, "reason": reason})
        wanted.append((KEPT, inputs.candidates, is_kept))
        for name, store, table in wanted:
            rows.append(
                {"class": CLASSES[target], "format": name} | row_of(inputs.real, real, store, table, seed, device)
            )
    return as_table(rows, COLUMNS)


def raw_store(candidates: Store) -> Store | None:
    path = candidates.path / run.RAW
    return open_store(path) if (path / run.DONE).is_file() else None


def facts_of(table: pl.DataFrame) -> dict[str, np.ndarray]:
    """What a file tells beside its pixels, by the cue's name: (N,) float64."""
    size, width, height = (table[name].cast(pl.Float64) for name in (tables.SIZE, tables.WIDTH, tables.HEIGHT))
    return {BYTES: (size / (width * height)).to_numpy()}


def row_of(
    real_store: Store, real: pl.DataFrame, store: Store, table: pl.DataFrame, seed: int, device: Any
) -> dict[str, Any]:
    """The test of as many real as generated images."""
    num = min(len(real), len(table), MOST)
    real, table = some_of(real, num, seed), some_of(table, num, seed)
    try:
        with progress("shortcut test", shortcut.NUM_FOLDS, "folds") as advance:
            found = shortcut.shortcut_auc(
                read_images(real_store, real), read_images(store, table), seed, facts_of(real), facts_of(table),
                codes(real), device, advance,
            )  # fmt: skip
    except BadInput as error:
        return {"reason": str(error)}
    strongest = next(iter(found.by_cue))
    return {
        "num_real": found.num_real, "num_synthetic": found.num_synthetic, "estimate": found.auc, "low": found.low,
        "high": found.high, "cues": found.cues.estimate, "network": found.network.estimate,
        "strongest_cue": strongest, "strongest_cue_auc": found.by_cue[strongest],
    }  # fmt: skip
