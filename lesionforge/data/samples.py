"""Reading the users' tables into one samples table: image_id, patient_id, target, source, then all their other columns.

    the challenge's metadata   train, or test, which has no target
    a ground truth             the ISIC site's isic_id and malignant, with a metadata table for all or some of its rows
    any other table            its columns named by the user (HAM10000, PAD-UFES-20)

Whatever is wrong with a table is told at once, with counts and first rows.
"""

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lesionforge.data.sources import without_extension
from lesionforge.data.store import MEASURED_COLUMNS
from lesionforge.errors import BadInput
from lesionforge.tables import (
    IMAGE_ID,
    IMAGE_ID_NAMES,
    NUMBER_COLUMNS,
    PATIENT_ID,
    PATIENT_ID_NAMES,
    REAL,
    SOURCE,
    TARGET,
    TARGET_NAMES,
    TEST_COLUMNS,
    TRAIN_COLUMNS,
    TRAIN_ONLY_COLUMNS,
    in_lines,
    in_short,
    read_table,
)

log = logging.getLogger("lesionforge")

SAFE_ID = r"^[A-Za-z0-9_][A-Za-z0-9_.() -]{0,199}$"  # nothing that is a path
LIKENESS = 0.8  # difflib's ratio from which two column names are taken for one misspelt, our choice
LINE, VALUE, OTHER = "line", "value", "other"  # columns of no file


def read_samples(
    metadata: Path | None,
    ground_truth: Path | None,
    *,
    image_column: str | None = None,
    target_column: str | None = None,
    patient_column: str | None = None,
    malignant_values: Sequence[str] = (),
    unlabelled: bool = False,
) -> pl.DataFrame:
    """The samples of one table, or of a ground truth and the metadata that belong to it.

    A column is looked for under the given name, else under those of IMAGE_ID_NAMES, TARGET_NAMES, PATIENT_ID_NAMES.
    The rows are those of `ground_truth` where it is given. target is null in the challenge's test table and where
    `unlabelled`; patient_id is null where no table knows it.

    Raises:
        BadInput: lists all problems of the first table that has any.
    """
    main = ground_truth or metadata
    if main is None:
        raise ValueError("neither metadata nor a ground truth was given")
    samples = read_one(main, image_column, target_column, patient_column, malignant_values, unlabelled)
    if ground_truth is not None and metadata is not None:
        others = read_one(metadata, image_column, None, patient_column, (), unlabelled, secondary=True)
        samples = with_metadata(samples, others, ground_truth, metadata)
    if PATIENT_ID not in samples.columns:
        log.warning("%s: no column %s, so no patient is known; split will ask how to go on", main, PATIENT_ID)
        samples = samples.with_columns(pl.lit(None, pl.String).alias(PATIENT_ID))
    first = [IMAGE_ID, PATIENT_ID, TARGET, SOURCE]
    samples = samples.with_columns(pl.lit(REAL).alias(SOURCE))
    return samples.select(*first, *(name for name in samples.columns if name not in first))


def samples_of_ids(image_ids: Sequence[str]) -> pl.DataFrame:
    """Samples of images without any table: neither patients nor targets are known."""
    unknown = [pl.lit(None, pl.String).alias(PATIENT_ID), pl.lit(None, pl.Int8).alias(TARGET), pl.lit(REAL).alias(SOURCE)]
    return pl.DataFrame({IMAGE_ID: image_ids}).with_columns(unknown)


def read_one(
    path: Path,
    image_column: str | None,
    target_column: str | None,
    patient_column: str | None,
    malignant_values: Sequence[str],
    unlabelled: bool,
    secondary: bool = False,
) -> pl.DataFrame:
    """image_id, target, patient_id (if there is one), other columns. A secondary table need not have a target."""
    text = (*IMAGE_ID_NAMES, *TARGET_NAMES, *PATIENT_ID_NAMES, *(n for n in TRAIN_COLUMNS if n not in NUMBER_COLUMNS))
    named = [name for name in (image_column, target_column, patient_column) if name is not None]
    table = read_table(path, text=(*text, *named))
    problems: list[str] = []
    if table.height == 0:
        problems.append("no rows, expected one per image")

    image = find_column(table, image_column, IMAGE_ID_NAMES, "--image-column", problems, secondary)
    patient = find_column(table, patient_column, PATIENT_ID_NAMES, "--patient-column", problems, secondary)
    target = find_column(table, target_column, TARGET_NAMES, "--target-column", problems, secondary)
    problems += missing_columns(table, image, target, patient, unlabelled or secondary)
    if target is not None and unlabelled:
        problems.append(f"column {target} holds targets; leave out --unlabelled, or take the column out")

    if image is not None:
        problems += problems_of_ids(table[image])
    columns = {}
    if target is not None:
        columns[TARGET] = targets_of(table[target], malignant_values, problems)
    elif not secondary:
        columns[TARGET] = pl.Series(TARGET, [None] * table.height, pl.Int8)
    for name in (name for name in NUMBER_COLUMNS if name in table.columns):
        columns[name] = numbers_of(table[name], problems)
    if problems:
        counted = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise BadInput(f"{path}: {counted} found; mend the table, or name its columns by the flags:{in_lines(problems)}")

    given = {IMAGE_ID: image, PATIENT_ID: patient}
    table = with_free_names(table, [name for name in (image, patient, target) if name is not None], path)
    table = table.rename({old: new for new, old in given.items() if old is not None})
    if target is not None and target != TARGET:
        table = table.drop(target) if not malignant_values else table  # dx, diagnostic: keep what was diagnosed
    return table.with_columns(**columns)


def find_column(
    table: pl.DataFrame,
    asked: str | None,
    known: Sequence[str],
    flag: str,
    problems: list[str],
    secondary: bool,
) -> str | None:
    """The column that was asked for, or the first known one; None with a problem noted where one looks misspelt."""
    if asked is not None and asked in table.columns:
        return asked
    found = next((name for name in known if name in table.columns), None)
    if asked is not None and not (secondary and found):
        like = difflib.get_close_matches(asked, table.columns, 1, LIKENESS)
        meant = f"; did you mean {like[0]}?" if like else f"; found {in_short(table.columns, 8)}"
        problems.append(f"no column {asked} ({flag}){meant}")
        return None
    if found is None:
        like = look_alike(known, [name for name in table.columns if name not in TRAIN_COLUMNS])
        if like is not None:
            problems.append(f"no column {known[0]}; did you mean {like}? rename it, or say {flag} {like}")
    return found


def look_alike(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """The column that differs from one of `names` by case, a blank, or a letter or two."""
    plain = {column.strip().lower().replace(" ", "_").replace("-", "_"): column for column in columns}
    for name in names:
        like = difflib.get_close_matches(name, list(plain), 1, LIKENESS)
        if like:
            return plain[like[0]]
    return None
