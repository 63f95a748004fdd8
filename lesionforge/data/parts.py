"""Split tables: reading and checking them, the rows of one part, and what leaks between parts.

image_id, part    train, val, test
image_id, fold    0..K-1; fold k is `val` when k is asked for, and all others are `train`.
                  -1 is in training whatever fold is asked for (institutions that are never held out).
"""

from pathlib import Path
from typing import Any

import polars as pl

from lesionforge import run, tables
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_file

NEVER_HELD_OUT = -1  # fold of an image that every fold trains on
ALWAYS_TRAINED_ON = "always trained on"  # its title in the leak report


def read_split(path: Path, fold: int | None = None) -> pl.DataFrame:
    """Read a split as (image_id, part).

    Args:
        path: folder made by `lesionforge split`, or a Parquet or CSV file as `read_split_table` takes it.
        fold: which fold is `val`; only for a split into folds.

    Raises:
        BadInput: the table is not a split, a fold is missing or one too many, the fold does not exist.
    """
    table = read_split_table(path)
    if tables.PART in table.columns:
        if fold is not None:
            raise BadInput(f"{path}: holds parts, not folds, but fold {fold} is asked for; leave --data.fold away")
        return table
    folds = sorted(set(table[tables.FOLD].unique()) - {NEVER_HELD_OUT})
    if fold is None:
        raise BadInput(
            f"{path}: holds {len(folds)} folds; say which one is val, {folds[0]} to {folds[-1]}, by --data.fold"
        )
    if fold not in folds:
        raise BadInput(f"{path}: has no fold {fold}; it has {tables.in_short(folds)}")
    held_out = pl.col(tables.FOLD) == fold
    part = pl.when(held_out).then(pl.lit(tables.VAL)).otherwise(pl.lit(tables.TRAIN)).alias(tables.PART)
    return table.select(tables.IMAGE_ID, part)


def read_split_table(path: Path) -> pl.DataFrame:
    """Read and check (image_id, part) or (image_id, fold) from a split folder, a Parquet file or a CSV file.

    The id column may be called isic_id. All problems of the file are listed at once.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such folder or file; make a split with `lesionforge split`")
    if path.is_dir():
        run.require_done(path, "split")
        done = read_json(path / run.DONE)
        if "split_sha256" not in done:
            raise BadInput(f"{path}: not a split; make one with `lesionforge split`")
        path = path / run.SPLIT
        if not path.is_file() or sha256_of_file(path) != done["split_sha256"]:
            raise BadInput(f"{path}: missing, or changed since `lesionforge split` wrote it; make the split anew")
    table = tables.read_table(path)
    id_columns = [name for name in (tables.IMAGE_ID, tables.ISIC_ID) if name in table.columns]
    kinds = [name for name in (tables.PART, tables.FOLD) if name in table.columns]
    if len(id_columns) != 1 or len(kinds) != 1:
        raise BadInput(
            f"{path}: found columns {tables.in_short(table.columns)}; expected one of image_id or isic_id, and one of "
            f"part (train, val, test) or fold (0, 1, ...)"
        )
    kind = kinds[0]
    table = table.select(pl.col(id_columns[0]).cast(pl.String).alias(tables.IMAGE_ID), kind)
    problems = [
        *problems_of_ids(table),
        *(problems_of_parts(table) if kind == tables.PART else problems_of_folds(table)),
    ]
    if problems:
        raise BadInput("\n  ".join([f"{path}: not a split table:", *problems]))
    return table.cast({kind: pl.String if kind == tables.PART else pl.Int64})


def folds_of(path: Path) -> list[int]:
    """The folds that can be held out, in order.

    Raises:
        BadInput: the split has none.
    """
    table = read_split_table(path)
    if tables.FOLD not in table.columns:
        raise BadInput(f"data.fold: all folds are asked for, but {path} holds parts; leave data.fold away")
    return sorted(set(table[tables.FOLD].unique()) - {NEVER_HELD_OUT})


def problems_of_ids(table: pl.DataFrame) -> list[str]:
    problems = []
    if table.is_empty():
        problems.append("it has no rows")
    if num_null := table[tables.IMAGE_ID].null_count():
        problems.append(f"{num_null:,} rows without an id")
    ids = table[tables.IMAGE_ID].drop_nulls()
    if twice := ids.filter(ids.is_duplicated()).unique(maintain_order=True).to_list():
        problems.append(f"{len(twice):,} ids stand in it more than once: {tables.in_short(twice)}")
    return problems


def problems_of_parts(table: pl.DataFrame) -> list[str]:
    found = table[tables.PART].cast(pl.String)
    wrong = found.filter(~found.is_in(tables.PARTS).fill_null(False))
    if wrong.is_empty():
        return []
    return [
        f"{len(wrong):,} rows with a part that is not one of {', '.join(tables.PARTS)}: "
        f"{tables.in_short(wrong.unique(maintain_order=True).to_list())}"
    ]


def problems_of_folds(table: pl.DataFrame) -> list[str]:
    found = table[tables.FOLD]
    if not found.dtype.is_integer() or found.null_count() or found.min() < NEVER_HELD_OUT:  # type: ignore[operator]
        return [f"column fold must hold whole numbers from 0, found {tables.in_short(found.unique().to_list())}"]
    folds = sorted(set(found.unique()) - {NEVER_HELD_OUT})
    if folds != list(range(len(folds))) or len(folds) < (1 if NEVER_HELD_OUT in found else 2):
        return [f"folds must be 0, 1, ... without gaps and at least two, found {tables.in_short(folds)}"]
    return []


def part_of(samples: pl.DataFrame, split: pl.DataFrame, part: str) -> pl.DataFrame:
    """The rows of a store's samples table that belong to `part`, in the store's order, with the column part.

    Raises:
        BadInput: an image of the store is not in the split, or the reverse, or the part is empty.
    """
    check_ids(samples, split)
    rows = samples.join(split, on=tables.IMAGE_ID, how="left", maintain_order="left").filter(
        pl.col(tables.PART) == part
    )
    if rows.is_empty():
        found = [name for name in tables.PARTS if name in split[tables.PART]]
        raise BadInput(f"the split has no part {part}; it has {', '.join(found)}")
    return rows


def check_ids(samples: pl.DataFrame, split: pl.DataFrame) -> None:
    """Refuse a split that is not of exactly these images, with counts and first ids of both directions."""
    without_part = samples.join(split, on=tables.IMAGE_ID, how="anti", maintain_order="left")[tables.IMAGE_ID].to_list()
    without_image = split.join(samples, on=tables.IMAGE_ID, how="anti", maintain_order="left")[
        tables.IMAGE_ID
    ].to_list()
    problems = []
    if without_part:
        problems.append(f"{len(without_part):,} images of the store are not in it: {tables.in_short(without_part)}")
    if without_image:
        problems.append(f"{len(without_image):,} of its ids are not in the store: {tables.in_short(without_image)}")
    if problems:
        raise BadInput(
            "\n  ".join(
                [
                    "the split is of other images than the store; make it with `lesionforge split` on this store",
                    *problems,
                ]
            )
        )


def leak_report(samples: pl.DataFrame, split: pl.DataFrame) -> dict[str, Any]:
    """Count what each part holds, and which patients, lesions and identical images stand in more than one part.

    Args:
        samples: with image_id, patient_id, target, sha256, and lesion_id where the store has it.
        split: of the same images, with part or fold.
    """
    kind = tables.PART if tables.PART in split.columns else tables.FOLD
    joined = samples.join(split, on=tables.IMAGE_ID, how="inner")
    counts = joined.group_by(kind).agg(
        pl.len().alias("images"),
        pl.col(tables.PATIENT_ID).drop_nulls().n_unique().alias("patients"),
        (pl.col(tables.TARGET) == 1).sum().alias("malignant"),
        (pl.col(tables.TARGET) == 0).sum().alias("benign"),
    )
    rows = {row.pop(kind): row for row in counts.to_dicts()}
    order = [name for name in tables.PARTS if name in rows] if kind == tables.PART else sorted(rows)
    unknown = joined[tables.PATIENT_ID].null_count()
    return {
        "parts": {title(kind, name): rows[name] for name in order},
        "shared": {
            "patients": num_shared(joined, tables.PATIENT_ID, kind),
            "lesions": num_shared(joined, tables.LESION_ID, kind) if tables.LESION_ID in joined.columns else 0,
            "identical images": num_shared(joined, tables.SHA256, kind),
        },
        "images_of_unknown_patients": unknown,
    }


def title(kind: str, name: str | int) -> str:
    if kind == tables.PART:
        return str(name)
    return ALWAYS_TRAINED_ON if name == NEVER_HELD_OUT else f"fold {name}"


def num_shared(joined: pl.DataFrame, column: str, kind: str) -> int:
    known = joined.filter(pl.col(column).is_not_null())
    return known.group_by(column).agg(pl.col(kind).n_unique()).filter(pl.col(kind) > 1).height


def read_split_name(path: Path) -> str:
    """What a run's log calls its split: `5 folds by patient, seed 0`, or the name of a bare table file."""
    return str(read_json(path / run.LEAKS)["name"]) if path.is_dir() else f"given file {path.name}"
