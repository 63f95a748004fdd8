"""What a training learns from: its stores, the mix that is drawn once, val, and the order of each epoch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.data import provenance, sampler
from lesionforge.data.groups import member_of_fold
from lesionforge.data.mix import draw_mix, refuse_seen
from lesionforge.data.parts import part_of, read_split, read_split_name
from lesionforge.data.store import Store, open_store
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_json

log = logging.getLogger("lesionforge")


class TrainingData(NamedTuple):
    stores: list[Store]  # the real one first
    mix: pl.DataFrame  # image_id, patient_id, target, source, store
    val: pl.DataFrame  # rows of the real store
    held_out: pl.DataFrame  # rows of val and test, with their part


def read_data(
    out: Path,
    store: Path,
    synthetic: Sequence[Path],
    split: Path,
    fold: int | None,
    mix: dict[str, Any],
    scores_val: bool,
) -> TrainingData:
    """The mix is drawn once and written to the run, with what the generators behind it saw; a later command reads it.

    Args:
        synthetic: stores, or groups of them, of which the member of `fold` is taken.

    Raises:
        BadInput: the mix cannot be drawn, a synthetic store or its generator knows lesions of val or test, a part is
            missing, or a resumed run's data are not what it was started on.
    """
    stores = [open_store(store), *synthetic_stores(synthetic, fold)]
    parts = read_split(split, fold)
    split_name = read_split_name(split)
    inputs: dict[str, Any] = {
        "stores": [each.digest for each in stores],
        "split": tables.digest(parts),
        "split_name": split_name,
    }
    if synthetic:
        inputs["provenance"] = [provenance.digest_of(each.path) for each in stores[1:]]
    if not (out / run.INPUTS).exists():
        log.info("split: %s", split_name)
        write_json(out / run.INPUTS, inputs)
    elif read_json(out / run.INPUTS) != inputs:
        raise BadInput(f"{out} was started on other data: a store or the split was altered; name another --out")
    samples = stores[0].samples()
    val = part_of(samples, parts, tables.VAL)
    if scores_val:
        require_both_classes(val, split)
    held_out = held_out_of(samples, parts)
    checked = refuse_leaks(stores[1:], samples, parts)  # of a resumed run too: the stores may have been altered since
    if not (out / run.MIX).exists():
        generated = [each.samples() for each in stores[1:]]
        if checked:
            tables.write_table(out / run.SEEN, provenance.seen_by(checked, samples))
        tables.write_table(out / run.MIX, draw_mix(part_of(samples, parts, tables.TRAIN), generated, **mix))
    return TrainingData(stores, tables.read_table(out / run.MIX), val, held_out)


def held_out_of(samples: pl.DataFrame, parts: pl.DataFrame) -> pl.DataFrame:
    """The rows of val and test, with the column part."""
    return samples.join(parts.filter(pl.col(tables.PART) != tables.TRAIN), on=tables.IMAGE_ID, how="inner")


def synthetic_stores(paths: Sequence[Path], fold: int | None) -> list[Store]:
    """The stores of generated images; of a group, the one whose generator was trained for `fold`."""
    return [open_store(member_of_fold(path, fold)) for path in paths]


def refuse_leaks(synthetic: Sequence[Store], samples: pl.DataFrame, parts: pl.DataFrame) -> list[provenance.Provenance]:
    """Refuse synthetic stores that were altered, that hold lesions of val or test, or whose generators saw such."""
    held_out = held_out_of(samples, parts)
    refuse_seen([store.samples() for store in synthetic], held_out)
    for store in synthetic:
        provenance.refuse_unaudited(store.path)
    return provenance.refuse_leaky(synthetic, held_out, samples, tables.digest(parts))


def require_both_classes(val: pl.DataFrame, split: Path) -> None:
    if val[tables.TARGET].n_unique() != 2:
        raise BadInput(f"{split}: part val has {len(val):,} images and not both classes; set val_every to 0")


class Orders(NamedTuple):
    """In which order each epoch sees the mix; no state, so that any epoch can be asked for at any time."""

    targets: np.ndarray  # (N,)
    sampler: str
    benign_per_malignant: int
    num_samples: int  # of an epoch: whole batches; what is left over of a walk comes first in the next epoch
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.batch_size

    def of(self, epoch: int) -> np.ndarray:
        """Positions in the mix. (num_samples,) int64"""
        if self.sampler == "balanced":
            return sampler.balanced_order(self.targets, self.num_samples, self.batch_size, self.seed, epoch)
        if self.sampler == "fresh_benign":
            return sampler.fresh_benign_order(
                self.targets, self.benign_per_malignant, self.seed, epoch, self.num_samples
            )
        return sampler.shuffle_order(len(self.targets), self.num_samples, self.seed, epoch)


def orders_of(
    targets: np.ndarray, sampler_name: str, benign_per_malignant: int, samples_per_epoch: int | None, batch_size: int,
    seed: int,
) -> Orders:  # fmt: skip
    """Raises BadInput where an epoch has no whole batch, or the sampler refuses the mix."""
    length = samples_per_epoch or len(targets)
    if sampler_name == "fresh_benign":
        length = sampler.fresh_benign_length(targets, benign_per_malignant)
    if length < batch_size:
        raise BadInput(
            f"data.batch_size: {batch_size} is more than the {length} images of "
            f"{'the mix' if length == len(targets) else 'an epoch'}; lower it, or raise data.samples_per_epoch"
        )
    orders = Orders(targets, sampler_name, benign_per_malignant, length - length % batch_size, batch_size, seed)
    orders.of(0)  # what the sampler refuses, it refuses before anything is kept
    return orders


def diagnosis_classes(data: TrainingData, column: str) -> np.ndarray:
    """Each image's class in a diagnosis column, numbered in alphabetical order, -1 where unknown. (N,) int64

    Raises:
        BadInput: no store has the column, or it holds a single diagnosis.
    """
    known = []
    for number, store in enumerate(data.stores):
        samples = store.samples()
        if column in samples.columns:
            text = samples.select(tables.IMAGE_ID, pl.col(column).cast(pl.String).alias("diagnosis"))
            known.append(text.with_columns(pl.lit(number, pl.Int32).alias(tables.STORE)))
    if not known:
        raise BadInput(f"loss.auxiliary: no store of this run has the column {column}; leave it off")
    keys = [tables.STORE, tables.IMAGE_ID]
    diagnoses = data.mix.join(pl.concat(known), on=keys, how="left", maintain_order="left")["diagnosis"]
    names = diagnoses.drop_nulls().unique().sort().to_list()
    if len(names) < 2:
        raise BadInput(
            f"loss.auxiliary: {column} holds {len(names)} diagnoses in this mix, expected 2 or more; leave it off"
        )
    num_known = len(diagnoses) - diagnoses.null_count()
    log.info("second head: %d classes of %s, known for %d of %d images", len(names), column, num_known, len(diagnoses))
    for target, name in ((0, "benign"), (1, "malignant")):
        if not diagnoses.filter(data.mix[tables.TARGET] == target).drop_nulls().len():
            log.warning("second head: no %s image has a %s; it only tells the others apart", name, column)
    return diagnoses.replace_strict(names, list(range(len(names))), default=-1, return_dtype=pl.Int64).to_numpy()
