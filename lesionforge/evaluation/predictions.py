"""Predictions tables from runs and from other people, read strictly: what cannot be scored honestly is refused."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lesionforge import bootstrap, run, tables
from lesionforge.errors import BadInput
from lesionforge.metrics import Floats

log = logging.getLogger("lesionforge")

SAME_SCORE = 1e-3  # our choice: how far a score may lie from its logit's, for files that round


def read_parts(folder: Path, names: tuple[str, ...] = ()) -> dict[str, tuple[Path, pl.DataFrame]]:
    """The predictions that a run folder holds, by part: val and test where they are there, and all of `names`."""
    for name in names:
        if name in ("", ".", "..") or Path(name).name != name:
            raise BadInput(f"names: found {name!r}, expected a plain file name without its ending")
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such run folder; make it with `lesionforge train`")
    paths = {part: folder / run.PREDICTIONS / f"{part}.parquet" for part in (tables.VAL, tables.TEST, *names)}
    found = {part: (path, read_predictions(path)) for part, path in paths.items() if path.is_file()}
    if missing := [name for name in names if name not in found]:
        raise BadInput(f"{folder}: no predictions {', '.join(missing)}; make them with `lesionforge predict --name`")
    if not found:
        raise BadInput(
            f"{folder}: no predictions in it (looked for {run.PREDICTIONS}/{tables.VAL}.parquet and "
            f"{tables.TEST}.parquet); finish its training, or make them with `lesionforge predict`"
        )
    return found


def read_predictions(path: Path) -> pl.DataFrame:
    """image_id, patient_id, part (null where the file has none), target (Int8, nullable), score (float64, finite),
    logit (float64, null where the file has none).

    Raises:
        BadInput: all problems of the file at once: missing column, null or repeated id, target other than 0 and 1,
            score that is not a finite number.
    """
    table = with_image_id(tables.read_table(path), path)
    tables.require_columns(table, [tables.SCORE], path)
    if table.is_empty():
        raise BadInput(f"{path}: no rows, expected one for each image")
    for name in (tables.PATIENT_ID, tables.PART, tables.TARGET, tables.LOGIT):
        if name not in table.columns:
            table = table.with_columns(pl.lit(None).alias(name))
    if table[tables.SCORE].dtype == pl.Float32:
        log.warning("%s: scores are float32; rounding may have made ties that move the scores a little", path)
    ids, targets, scores = table[tables.IMAGE_ID], as_target(table[tables.TARGET]), as_number(table[tables.SCORE])
    other = table[tables.TARGET].is_not_null() & targets.is_null()
    problems = [
        *problem(ids, ids.is_duplicated() & ids.is_not_null(), "hold an id that another row holds too", ids),
        *problem(ids, ids.is_null(), "have no id", ids),
        *problem(ids, other, "have a target other than 0 (benign) and 1 (malignant)", table[tables.TARGET]),
        *problem(
            ids, ~scores.is_finite().fill_null(False), "have a score that is not a finite number", table[tables.SCORE]
        ),
    ]
    refuse(problems, path, len(table))
    text = (pl.col(name).cast(pl.String) for name in (tables.IMAGE_ID, tables.PATIENT_ID, tables.PART))
    return table.select(*text, targets, scores, as_number(table[tables.LOGIT]))


def read_truth(path: Path) -> pl.DataFrame:
    """image_id, target (Int8) of a CSV or Parquet file with image_id or isic_id, and target or malignant."""
    table = with_image_id(tables.read_table(path), path)
    if tables.TARGET not in table.columns and tables.MALIGNANT in table.columns:
        table = table.rename({tables.MALIGNANT: tables.TARGET})
    tables.require_columns(table, [tables.TARGET], path)
    ids, targets = table[tables.IMAGE_ID].cast(pl.String), as_target(table[tables.TARGET])
    problems = [
        *problem(ids, ids.is_duplicated() | ids.is_null(), "have no id of their own", ids),
        *problem(ids, targets.is_null(), "have a target other than 0 and 1", table[tables.TARGET]),
    ]
    refuse(problems, path, len(table))
    return pl.DataFrame([ids, targets])


def read_sample_submission(path: Path) -> pl.Series:
    """The ids of the challenge's sample_submission.csv, in its order."""
    table = tables.read_table(path)
    tables.require_columns(table, [tables.ISIC_ID, tables.TARGET], path)
    ids = table[tables.ISIC_ID].cast(pl.String)
    refuse(problem(ids, ids.is_duplicated() | ids.is_null(), "have no id of their own", ids), path, len(table))
    return ids


def with_truth(parts: dict[str, pl.DataFrame], truth: pl.DataFrame, path: Path) -> dict[str, pl.DataFrame]:
    """Fill in targets that are null; ids are checked both ways, and targets that are there must agree."""
    known = pl.concat(
        [table.select(tables.IMAGE_ID, tables.TARGET, pl.lit(part).alias(tables.PART)) for part, table in parts.items()]
    )  # two parts may hold the same image
    joined = truth.join(known, on=tables.IMAGE_ID, how="full", suffix="_predicted", coalesce=True)
    joined = joined.sort(tables.IMAGE_ID, tables.PART)  # the ids that a message names are then the same ones every time
    predicted = joined[f"{tables.TARGET}_predicted"]
    ids, targets = joined[tables.IMAGE_ID], joined[tables.TARGET]
    has_prediction = ids.is_in(known[tables.IMAGE_ID].implode())
    problems = [
        *problem(ids, ~has_prediction, "of the truth have no prediction", ids),
        *problem(ids, targets.is_null() & predicted.is_null(), "predicted have neither a target nor a truth", ids),
    ]
    if problems:
        problems.append(
            "the truth must be of the lesions that are scored: name the right predictions, with --names NAME or "
            "--predictions RUN/predictions/NAME.parquet, or score that store with `lesionforge predict --store`"
        )
    problems += problem(ids, (targets != predicted).fill_null(False), "have another target in the predictions", ids)
    refuse(problems, path, len(joined))
    joined = joined.select(tables.IMAGE_ID, targets.fill_null(predicted), tables.PART)
    of_part = {part: joined.filter(pl.col(tables.PART) == part).drop(tables.PART) for part in parts}
    return {
        part: table.drop(tables.TARGET).join(of_part[part], on=tables.IMAGE_ID, how="left", maintain_order="left")
        for part, table in parts.items()
    }


def require_scorable(table: pl.DataFrame, name: str) -> None:
    """Refuse predictions that no score can be drawn from honestly: targets missing, one class, or a constant score."""
    scores = table[tables.SCORE]
    problems = target_problems(table)
    if scores.min() == scores.max():
        problems.append(f"every score is {scores[0]!r}: a constant prediction ranks nothing; check the model")
    refuse(problems, name, len(table))


def require_targets(table: pl.DataFrame, name: str) -> None:
    """Refuse rows without targets, or of one class."""
    refuse(target_problems(table), name, len(table))


def target_problems(table: pl.DataFrame) -> list[str]:
    ids, targets = table[tables.IMAGE_ID], table[tables.TARGET]
    problems = problem(ids, targets.is_null(), "have no target; give all of them, or a --truth file", ids)
    num_malignant = targets.sum()
    if num_malignant in (0, targets.count()):
        found = "malignant" if num_malignant else "benign"
        problems.append(f"all {targets.count():,} lesions are {found}; both classes are needed for every score")
    return problems


def logits_of(table: pl.DataFrame, name: str) -> Floats:
    """Log-odds of the scores, (N,): the logit column, where it is empty log(p / (1 - p)).

    Raises:
        BadInput: a score outside [0, 1], one of exactly 0 or 1 without a logit, a logit that is not the score's.
    """
    ids, scores, logits = table[tables.IMAGE_ID], table[tables.SCORE], table[tables.LOGIT]
    p = scores.to_numpy()
    empty = logits.is_null()
    from_logits = pl.Series(sigmoid(logits.fill_null(0.0).to_numpy()))
    outside = (scores < 0) | (scores > 1)
    certain = empty & ((scores == 0) | (scores == 1))
    other = ~empty & ~outside & ~((from_logits - scores).abs() <= SAME_SCORE)
    problems = [
        *problem(ids, outside, "have a score outside [0, 1], which is no probability", scores),
        *problem(ids, certain, "have a score of exactly 0 or 1 and no logit, so their log-odds are infinite", scores),
        *problem(ids, other, "have a logit whose sigmoid is not the score", logits),
    ]
    refuse(problems, name, len(table))
    with np.errstate(divide="ignore"):
        return np.where(empty, np.log(p) - np.log1p(-p), logits.fill_null(0.0).to_numpy())


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    tail = np.exp(-np.abs(logits))  # in (0, 1]
    return np.where(logits >= 0, 1, tail) / (1 + tail)


def with_scores(table: pl.DataFrame, scores: Floats, logits: Floats) -> pl.DataFrame:
    """A predictions table with other scores and logits; a logit that is infinite is left empty."""
    names = (tables.IMAGE_ID, tables.PATIENT_ID, tables.PART, tables.TARGET)
    found = pl.Series(tables.LOGIT, logits, pl.Float64)
    table = table.select(*names, pl.Series(tables.SCORE, scores, pl.Float64), found)
    return table.with_columns(pl.when(found.is_finite()).then(tables.LOGIT).alias(tables.LOGIT))


def patient_numbers(table: pl.DataFrame) -> pl.Series:
    """Each lesion's patient from 0, in the order of their ids, so that the order of rows cannot matter; -1 unknown."""
    return table.select((pl.col(tables.PATIENT_ID).rank("dense").cast(pl.Int64) - 1).fill_null(-1)).to_series()


def cluster_numbers(table: pl.DataFrame) -> NDArray[np.int64]:
    """Each lesion's cluster of the bootstrap, from 0: its patient, or one of its own in the order of rows."""
    return bootstrap.clusters_of(patient_numbers(table).to_numpy())


def with_image_id(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    if tables.IMAGE_ID not in table.columns and tables.ISIC_ID in table.columns:
        table = table.rename({tables.ISIC_ID: tables.IMAGE_ID})
    tables.require_columns(table, [tables.IMAGE_ID], path)
    return table


def as_number(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64, strict=False)


def as_target(column: pl.Series) -> pl.Series:
    """0 and 1 as Int8 from whole or decimal numbers, text or truth values; null for anything else."""
    numbers = as_number(column.cast(pl.Int8) if column.dtype == pl.Boolean else column)
    return numbers.replace_strict([0.0, 1.0], [0, 1], default=None, return_dtype=pl.Int8)


def problem(ids: pl.Series, bad: pl.Series, what: str, values: pl.Series) -> list[str]:
    """One line that counts the bad rows and names the first ones, or none."""
    if not bad.any():
        return []
    named = [
        str(name) if name == value else f"{name} ({value})"
        for name, value in zip(ids.filter(bad), values.filter(bad), strict=True)
    ]
    return [f"{len(named):,} {what}: {tables.in_short(named)}"]


def refuse(problems: list[str], source: Path | str, num_rows: int) -> None:
    if problems:
        raise BadInput("\n  ".join([f"{source}: cannot be used; of {num_rows:,} rows", *problems]))
