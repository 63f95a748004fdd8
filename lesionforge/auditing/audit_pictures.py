"""Which images and curves an audit shows, and the pictures of them."""

from pathlib import Path

import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.auditing import sheets, verdicts
from lesionforge.auditing.audit_copies import Copies
from lesionforge.auditing.audit_inputs import Inputs, some_of
from lesionforge.auditing.audit_sets import ALL, read_images
from lesionforge.data.store import Store

PAIR_COLUMNS = (tables.IMAGE_ID, tables.NEAREST_IMAGE, tables.COPY_SCORE, tables.VERDICT, tables.VERDICT_REASON)


def draw(
    folder: Path, inputs: Inputs, table: pl.DataFrame, found: Copies | None, spectra: pl.DataFrame, num_pairs: int,
    num_shown: int, seed: int,
) -> pl.DataFrame:  # fmt: skip
    """Write the PNGs; returns the most similar pairs, the most alike first."""
    pairs = table.select(PAIR_COLUMNS).clear()
    if found is not None:
        pairs = (
            table.select(PAIR_COLUMNS)
            .drop_nulls(tables.NEAREST_IMAGE)
            .sort(tables.COPY_SCORE, descending=True, maintain_order=True)
            .head(num_pairs)
        )
        draw_pairs(folder / run.PAIRS, inputs, pairs, found.threshold)
        sheets.draw_histogram(folder / run.COPY_SCORES, found.score, found.held_out_score, found.threshold)
    if len(spectra):
        draw_spectra(folder / run.SPECTRUM, spectra)
    draw_images(folder / run.SHOWN, inputs, table, num_shown, seed)
    return pairs


def draw_pairs(path: Path, inputs: Inputs, pairs: pl.DataFrame, threshold: float) -> None:
    candidates = read_images(inputs.candidates, pairs)
    nearest = read_images(inputs.real, pairs.select(pl.col(tables.NEAREST_IMAGE).alias(tables.IMAGE_ID)))
    shown = [
        sheets.Pair(candidate, real, image_id, nearest_id, score, reason)
        for candidate, real, (image_id, nearest_id, score, _, reason) in zip(
            candidates, nearest, pairs.iter_rows(), strict=True
        )
    ]
    sheets.draw_pairs(path, shown, threshold)


def draw_spectra(path: Path, spectra: pl.DataFrame) -> None:
    curves = []
    for class_name in spectra["class"].unique(maintain_order=True):
        of_class = spectra.filter(pl.col("class") == class_name)
        for number, name in enumerate(of_class["set"].unique(maintain_order=True).to_list()[::-1]):
            curve = of_class.filter(pl.col("set") == name)
            frequency = curve["frequency"].to_list()
            if number == 0:
                curves.append((f"real {class_name}", frequency, curve["real"].to_list()))
            curves.append((f"{'all' if name == ALL else name} {class_name}", frequency, curve["synthetic"].to_list()))
    sheets.draw_spectra(path, curves)


def draw_images(path: Path, inputs: Inputs, table: pl.DataFrame, num_shown: int, seed: int) -> None:
    """Real lesions of the candidates' classes, kept candidates, dropped ones with their reasons."""
    num = max(num_shown // 2, 4)
    real = inputs.references.filter(pl.col(tables.TARGET).is_in(table[tables.TARGET].unique().implode()))
    kept = table.filter(pl.col(tables.VERDICT) == verdicts.KEPT)
    dropped = table.filter(pl.col(tables.VERDICT) == verdicts.DROPPED)
    # some of every reason, the rarer ones first, rather than the commonest many times
    by_reason = dropped.with_columns(pl.int_range(pl.len()).over(tables.VERDICT_REASON).alias("place"))
    dropped_shown = by_reason.sort("place", maintain_order=True).head(num).sort(tables.VERDICT_REASON)
    groups = [
        ("Real lesions of part train", sheets.REAL_COLOUR, shown(inputs.real, some_of(real, num, seed), None)),
        (f"Kept: {len(kept):,}, drawn at random", sheets.KEPT_COLOUR,
         shown(inputs.candidates, some_of(kept, num, seed), None)),
        (f"Dropped: {len(dropped):,}, some of each reason", sheets.DROPPED_COLOUR,
         shown(inputs.candidates, dropped_shown, tables.VERDICT_REASON)),
    ]  # fmt: skip
    sheets.draw_grid(path, groups)


def shown(store: Store, table: pl.DataFrame, caption: str | None) -> list[sheets.Shown]:
    words = table[tables.IMAGE_ID].to_list() if caption is None else table[caption].to_list()
    images: list[np.ndarray] = read_images(store, table)
    return [sheets.Shown(image, sheets.short(word, 24)) for image, word in zip(images, words, strict=True)]
