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
    samples = samples.select(*first, *(name for name in samples.columns if name not in first))
    return samples.rechunk()  # now, while polars has memory to spare: each later step would do it at 200 MB a time


def samples_of_ids(image_ids: Sequence[str]) -> pl.DataFrame:
    """Samples of images without any table: neither patients nor targets are known."""
    unknown = [
        pl.lit(None, pl.String).alias(PATIENT_ID),
        pl.lit(None, pl.Int8).alias(TARGET),
        pl.lit(REAL).alias(SOURCE),
    ]
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
    table = read_typed(path, [name for name in (image_column, target_column, patient_column) if name is not None])
    problems: list[str] = []
    if table.height == 0:
        problems.append("no rows, expected one per image")

    challenge = sum(name in table.columns for name in TEST_COLUMNS) > len(TEST_COLUMNS) / 2
    test = challenge and not any(name in table.columns for name in TRAIN_ONLY_COLUMNS)
    image = find_column(table, image_column, IMAGE_ID_NAMES, "--image-column", True, secondary, problems)
    patient = find_column(
        table, patient_column, PATIENT_ID_NAMES, "--patient-column", challenge and not secondary, secondary, problems
    )
    needs_target = not (unlabelled or secondary or test)
    target = find_column(table, target_column, TARGET_NAMES, "--target-column", needs_target, secondary, problems)
    if target is None and test and not secondary:
        log.info("%s: no column %s, read as the challenge's test table: targets are unknown", path, TARGET)
    if target is not None and unlabelled:
        problems.append(f"column {target} holds targets; leave out --unlabelled, or take the column out")
    if challenge:
        problems += renamed_columns(table.columns, path)

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
        raise BadInput(
            f"{path}: {counted} found; mend the table, or name its columns by the flags:{in_lines(problems)}"
        )

    given = {IMAGE_ID: image, PATIENT_ID: patient}
    table = with_free_names(table, [name for name in (image, patient, target) if name is not None], path)
    table = table.rename({old: new for new, old in given.items() if old is not None})
    if target is not None and target != TARGET:
        table = table.drop(target) if not malignant_values else table  # dx, diagnostic: keep what was diagnosed
    return table.with_columns(**columns)


def read_typed(path: Path, named: Sequence[str]) -> pl.DataFrame:
    """The table with ids, targets and the challenge's categories as text, and the challenge's numbers as numbers.

    A column of numbers that holds something else stays text, for numbers_of to tell all that is wrong in it. (Reading
    the numbers as such takes a quarter of the time that polars needs to find the types, and half the memory.)
    """
    names = (*IMAGE_ID_NAMES, *TARGET_NAMES, *PATIENT_ID_NAMES, *TRAIN_COLUMNS, *named)
    text: dict[str, type[pl.DataType]] = {n: pl.String for n in names if n not in NUMBER_COLUMNS or n in named}
    try:
        return read_table(path, types=dict.fromkeys(NUMBER_COLUMNS, pl.Float64) | text)
    except BadInput:
        return read_table(path, types=text)


def find_column(
    table: pl.DataFrame,
    asked: str | None,
    known: Sequence[str],
    flag: str,
    required: bool,
    secondary: bool,
    problems: list[str],
) -> str | None:
    """The column that was asked for, or the first known one; None, with a problem noted, where that is a mistake."""
    found = next((name for name in known if name in table.columns), None)
    if asked is not None and asked in table.columns:
        return asked
    if asked is not None and not (secondary and found):  # a flag may name a column of the other table
        like = look_alike([asked], table.columns)
        meant = f"; did you mean {like}?" if like else f"; found {in_short(table.columns, 8)}"
        problems.append(f"no column {asked}, which {flag} names{meant}")
        return None
    if found is None:
        like = look_alike(known, [name for name in table.columns if name not in TRAIN_COLUMNS])
        if like is not None:
            problems.append(f"no column {known[0]}; did you mean {like}? rename it, or say {flag} {like!r}")
        elif required:
            problems.append(f"no column {known[0]}; name it by {flag}; found {in_short(table.columns, 8)}")
    return found


def look_alike(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """The column that differs from one of `names` by case, a blank, or a letter or two."""
    plain = {column.strip().lower().replace(" ", "_").replace("-", "_"): column for column in columns}
    for name in names:
        like = difflib.get_close_matches(name, list(plain), 1, LIKENESS)
        if like:
            return plain[like[0]]
    return None


def renamed_columns(columns: Sequence[str], path: Path) -> list[str]:
    """Columns of the challenge that are there under another name; those that are just not there are logged."""
    essential = (*IMAGE_ID_NAMES, *TARGET_NAMES, *PATIENT_ID_NAMES)  # find_column speaks of these
    missing = [name for name in TEST_COLUMNS if name not in columns and name not in essential]
    unknown = [name for name in columns if name not in TRAIN_COLUMNS]
    likes = {name: like for name in missing if (like := look_alike([name], unknown)) is not None}
    gone = [name for name in missing if name not in likes]
    if gone:
        log.warning("%s: %d of the challenge's columns are not there: %s", path, len(gone), in_short(gone))
    return [f"no column {name}; did you mean {like}? rename it" for name, like in likes.items()]


def problems_of_ids(ids: pl.Series) -> list[str]:
    """Missing, unsafe and repeated image ids."""
    problems = rows_where(ids, ids.is_null(), "no image id")
    problems += rows_where(ids, ~ids.str.contains(SAFE_ID), "an id that is no plain name, such as a path,")
    return problems + rows_where(ids, ids.is_duplicated() & ids.is_not_null(), "an id given twice")


def rows_where(values: pl.Series, chosen: pl.Series, what: str) -> list[str]:
    """[`column isic_id: an id given twice in 2 rows (line 2: 'ISIC_1', line 3: 'ISIC_1')`], or nothing."""
    rows = chosen.fill_null(False).arg_true()
    if len(rows) == 0:
        return []
    shown = [f"line {row + 2}: {values[row]!r}" for row in rows.head(5).to_list()]  # the header is line 1
    more = ", ..." if len(rows) > len(shown) else ""
    counted = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    return [f"column {values.name}: {what} in {counted} ({', '.join(shown)}{more})"]


def targets_of(values: pl.Series, malignant_values: Sequence[str], problems: list[str]) -> pl.Series:
    """Int8 targets of a text column: 0 and 1, or whether the value is one of `malignant_values`."""
    values = values.str.strip_chars()
    problems += rows_where(values, values.is_null(), "no target")
    if malignant_values:
        found = values.drop_nulls().unique(maintain_order=True).to_list()
        unseen = [value for value in malignant_values if value not in found]
        if unseen:
            problems.append(
                f"column {values.name}: no row holds {', '.join(unseen)}, which --malignant-values names; "
                f"found {in_short(found, 12)}"
            )
        return values.is_in(list(malignant_values)).cast(pl.Int8)
    numbers = values.cast(pl.Float64, strict=False)
    wrong = values.is_not_null() & ~numbers.is_in([0.0, 1.0]).fill_null(False)
    problems += rows_where(values, wrong, "something else than 0 or 1 (see --malignant-values)")
    return numbers.set(wrong, None).cast(pl.Int8)


def numbers_of(values: pl.Series, problems: list[str]) -> pl.Series:
    """Float64 of a column that holds numbers in the challenge's files."""
    numbers = values.cast(pl.Float64, strict=False) if values.dtype != pl.Boolean else values.cast(pl.String)
    if numbers.dtype == pl.String:
        problems.append(f"column {values.name}: true and false, expected numbers")
        return numbers
    problems += rows_where(values, values.is_not_null() & numbers.is_null(), "something else than a number")
    return numbers


def with_free_names(table: pl.DataFrame, used: Sequence[str], path: Path) -> pl.DataFrame:
    """The table with its own columns out of the way of the store's (`source`, `width`, ...)."""
    taken = (IMAGE_ID, PATIENT_ID, TARGET, SOURCE, *MEASURED_COLUMNS)
    renamed = {name: f"{name}_in_table" for name in table.columns if name in taken and name not in used}
    if renamed:
        log.info("%s: renamed %s", path, ", ".join(f"{old} to {new}" for old, new in renamed.items()))
    return table.rename(renamed)


def with_metadata(samples: pl.DataFrame, others: pl.DataFrame, ground_truth: Path, metadata: Path) -> pl.DataFrame:
    """The samples with the columns of `others` where it has the image, null elsewhere; says how many.

    Raises:
        BadInput: no image in common, or the two tables disagree on a target.
    """
    if TARGET in others.columns:
        both = samples.select(IMAGE_ID, TARGET).join(others.select(IMAGE_ID, OTHER=TARGET), on=IMAGE_ID)
        differing = both.filter(pl.col(TARGET) != pl.col("OTHER"))[IMAGE_ID].to_list()
        if differing:
            raise BadInput(
                f"{metadata}: {len(differing):,} images have another target than in {ground_truth}: "
                f"{in_short(differing)}; one of the two tables is wrong"
            )
    num_known = others.join(samples, on=IMAGE_ID, how="semi").height
    if num_known == 0:
        raise BadInput(
            f"{metadata}: none of its {others.height:,} ids (such as {others[IMAGE_ID][0]}) is in {ground_truth} "
            f"(such as {samples[IMAGE_ID][0]}); give the tables of one data set"
        )
    if num_known < samples.height:
        missing = samples.height - num_known
        log.warning(
            "%s: %s of %s images have no row, their columns are null", metadata, f"{missing:,}", f"{samples.height:,}"
        )
    if num_known < others.height:
        log.info("%s: %s of its rows are not in %s, left out", metadata, f"{others.height - num_known:,}", ground_truth)
    shared = [name for name in others.columns if name in samples.columns and name != IMAGE_ID]
    return samples.join(others.drop(shared), on=IMAGE_ID, how="left", maintain_order="left")
