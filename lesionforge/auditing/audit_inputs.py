"""What an audit reads: the candidates with their provenance, and the real lesions that they are held against."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.data.parts import part_of, read_split, read_split_table
from lesionforge.data.provenance import Provenance, read_provenance, refuse_leaky
from lesionforge.data.store import Store, open_store
from lesionforge.errors import BadInput
from lesionforge.files import read_json

log = logging.getLogger("lesionforge")

HELD_BACK = 0.2  # of the patients of part train, for calibration where the split has no val (our choice)


class Inputs(NamedTuple):
    candidates: Store
    samples: pl.DataFrame  # of the candidates, in their store's order
    provenance: Provenance
    real: Store
    references: pl.DataFrame  # samples of part train: all that the generator may have seen
    held_out: pl.DataFrame  # samples of part val; of some patients of part train where the split has none
    fitting: pl.DataFrame  # references without the patients of held_out: what these are held against
    facts: dict[str, Any]  # for the report


def read_inputs(candidates: Path, real: Path, split_path: Path, fold: int | None, seed: int) -> Inputs:
    """Open and check both stores.

    Raises:
        BadInput: real images among the candidates; no or altered provenance; a split of other images; a generator that
            saw images of val or test, or none of this store.
    """
    candidate_store = open_store(candidates)
    samples = candidate_store.samples()
    refuse_real(candidates, samples)
    real_store = open_store(real)
    known = real_store.samples()
    if not (known[tables.SOURCE] == tables.REAL).all():
        num = int((known[tables.SOURCE] != tables.REAL).sum())
        raise BadInput(f"data.store: {num:,} images of {real} are not real; name the store of real lesions")
    split = read_split(split_path, fold)
    references = part_of(known, split, tables.TRAIN)
    kept_out = known.join(split.filter(pl.col(tables.PART) != tables.TRAIN), on=tables.IMAGE_ID, how="inner",
                          maintain_order="left")  # fmt: skip
    split_sha256 = tables.digest(split)
    (provenance,) = refuse_leaky([candidate_store], kept_out, known, split_sha256)
    num_seen, num_found = count_seen(provenance, references, candidates, real)
    held_out, fitting, calibrated_on = hold_out(references, kept_out, seed)
    facts = {
        "num_candidates": len(samples),
        "num_references": len(references),
        "num_seen": num_seen,
        "num_seen_not_in_store": num_seen - num_found,
        "num_held_out": len(held_out),
        "held_out": calibrated_on,
        "candidates_sha256": candidate_store.digest,
        "real_sha256": real_store.digest,
        "split_sha256": split_sha256,
        "other_splits": sum(
            manifest.get("split_sha256") not in (None, split_sha256) for manifest in provenance.manifests.values()
        ),
    }
    return Inputs(candidate_store, samples, provenance, real_store, references, held_out, fitting, facts)


def refuse_real(path: Path, samples: pl.DataFrame) -> None:
    real = samples.filter(pl.col(tables.SOURCE) != tables.SYNTHETIC)[tables.IMAGE_ID].to_list()
    if real:
        raise BadInput(
            f"candidates: {len(real):,} of {len(samples):,} images of {path} are real ({tables.in_short(real)}); an "
            "audit is of images that `lesionforge generate` made"
        )
    unlabelled = samples.filter(pl.col(tables.TARGET).is_null())[tables.IMAGE_ID].to_list()
    if unlabelled:
        raise BadInput(
            f"candidates: {len(unlabelled):,} images of {path} have no target ({tables.in_short(unlabelled)}); a "
            "synthetic image is malignant (1) or benign (0); make the store anew"
        )


def count_seen(provenance: Provenance, references: pl.DataFrame, candidates: Path, real: Path) -> tuple[int, int]:
    """How many real images stand behind the candidates, and how many of them can be compared."""
    behind = pl.concat([provenance.seen.drop(tables.GENERATOR), provenance.sources]).unique(tables.IMAGE_ID)
    found = behind.filter(
        pl.col(tables.IMAGE_ID).is_in(references[tables.IMAGE_ID].implode())
        | pl.col(tables.SHA256).is_in(references[tables.SHA256].implode()).fill_null(False)
    )
    if len(behind) and not len(found):
        raise BadInput(
            f"data.store: none of the {len(behind):,} images that the generator of {candidates} saw is in part train "
            f"of {real} (they are {tables.in_short(behind[tables.IMAGE_ID].to_list())}), so copies of them could not "
            "be found; name the store and split that it was trained on"
        )
    if len(found) < len(behind):
        log.warning(
            "%s of %s images that the generator saw are not in %s: copies of those cannot be found",
            f"{len(behind) - len(found):,}", f"{len(behind):,}", real,
        )  # fmt: skip
    return len(behind), len(found)


def hold_out(references: pl.DataFrame, kept_out: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    """Real lesions that no generator of this split saw, what they are held against, and how they were chosen."""
    val = kept_out.filter(pl.col(tables.PART) == tables.VAL)
    if len(val):
        return val, references, "part val"
    whose = references[tables.PATIENT_ID].fill_null(references[tables.IMAGE_ID])  # an unknown patient is one's own
    patients = whose.unique().sort().to_list()
    if len(patients) < 2:
        raise BadInput(
            "data.split: it has no part val, and all of part train is of one patient, so that no real lesion is held "
            "out to calibrate on; make a split with a val part"
        )
    count = max(int(HELD_BACK * len(patients)), 1)
    chosen = np.random.default_rng([seed, 1]).choice(len(patients), count, replace=False)
    is_held_out = whose.is_in([patients[i] for i in chosen])
    log.info(
        "the split has no part val: %s of %s patients of part train are calibrated on; the generator saw them",
        f"{count:,}", f"{len(patients):,}",
    )  # fmt: skip
    return references.filter(is_held_out), references.filter(~is_held_out), "some patients of part train"


def some_of(table: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    """At most so many rows, drawn at random, in their order."""
    if len(table) <= most:
        return table
    rows = np.random.default_rng([seed, 2]).choice(len(table), most, replace=False)
    return table[np.sort(rows)]


def fold_of(candidates: Path, split_path: Path, fold: int | None) -> int | None:
    """The fold that is asked for, else the one that the candidates' generator was trained for."""
    if fold is not None or tables.FOLD not in read_split_table(split_path).columns:
        return fold
    found = {manifest.get("fold") for manifest in read_provenance(candidates).manifests.values()}
    return found.pop() if len(found) == 1 else None


def require_same(out: Path, candidates: Path, real: Path) -> None:
    """A finished audit stands only for the images that it judged."""
    done = read_json(out / run.DONE)
    now = {"candidates_sha256": open_store(candidates).digest, "real_sha256": open_store(real).digest}
    changed = [name.removesuffix("_sha256") for name, digest in now.items() if done.get(name) != digest]
    if changed:
        raise BadInput(f"{out}: made from other images ({', '.join(changed)} differ); delete it, or name another --out")


def read_scores(path: Path | None, samples: pl.DataFrame) -> np.ndarray | None:
    """The classifier's score of each candidate, (N,) float64; None without a table.

    Raises:
        BadInput: not a predictions table, a score outside [0, 1], or candidates without one.
    """
    if path is None:
        return None
    table = tables.read_table(path, [tables.IMAGE_ID, tables.SCORE], types={tables.IMAGE_ID: pl.String})
    scores = table[tables.SCORE].cast(pl.Float64, strict=False)
    wrong = table.filter(~scores.is_between(0, 1).fill_null(False))[tables.IMAGE_ID].to_list()
    twice = table.filter(table[tables.IMAGE_ID].is_duplicated())[tables.IMAGE_ID].unique(maintain_order=True).to_list()
    if wrong or twice:
        what = f"{len(wrong):,} scores outside [0, 1]" if wrong else f"{len(twice):,} ids twice"
        raise BadInput(f"score.predictions: {path}: {what} ({tables.in_short(wrong or twice)}); make it anew")
    joined = samples.select(tables.IMAGE_ID).join(
        table.select(tables.IMAGE_ID, scores), on=tables.IMAGE_ID, how="left", maintain_order="left"
    )
    missing = joined.filter(pl.col(tables.SCORE).is_null())[tables.IMAGE_ID].to_list()
    if missing:
        raise BadInput(
            f"score.predictions: {path} has no score of {len(missing):,} of {len(samples):,} candidates "
            f"({tables.in_short(missing)}); make it with `lesionforge predict --store CANDIDATES`"
        )
    return joined[tables.SCORE].to_numpy()
