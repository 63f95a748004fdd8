"""What compare reads: the cells of a study, or runs by name, and their scores of the same lesions, fold by fold."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lesionforge import files, run, tables
from lesionforge.errors import BadInput
from lesionforge.evaluation import predictions
from lesionforge.evaluation.paired import Lesions
from lesionforge.metrics import Floats


class Cell(NamedTuple):
    name: str  # as the study names the run, or the folder's
    folder: Path
    model: str | None
    arm: str
    fold: int | None
    seed: int | None


class Pair(NamedTuple):
    """A comparison: a model's arm with another arm of that model, or with another model on that arm."""

    model: str | None
    arm: str
    reference: str  # the other arm, or the other model
    against: str  # tables.AGAINST_ARM or tables.AGAINST_MODEL

    @property
    def other(self) -> tuple[str | None, str]:
        """(model, arm) of the reference."""
        return (self.model, self.reference) if self.against == tables.AGAINST_ARM else (self.reference, self.arm)


class Asked(NamedTuple):
    """What is to be compared."""

    cells: tuple[Cell, ...]
    reference: str  # the arm that others are compared with, where they have none of their own
    part: str
    pairs: tuple[Pair, ...]


class Fold(NamedTuple):
    """Runs that scored the same lesions."""

    number: int | None
    cells: list[Cell]
    scores: Floats  # (C, N)
    lesions: Lesions
    num_patients: int  # known ones


class Found(NamedTuple):
    folds: list[Fold]
    left_out: list[dict[str, str]]  # run, why
    sources: dict[str, str]  # SHA-256 of each run's predictions
    notes: list[str]


def of_study(folder: Path, part: str | None) -> Asked:
    """The cells that study.json names.

    Raises:
        BadInput: no study.json, a damaged one, one without cells or one that names a run twice.
    """
    path = folder / run.STUDY
    if not path.is_file():
        raise BadInput(f"{folder}: no {run.STUDY}, so no study; make one with `lesionforge study`, or give --runs")
    said = files.read_json(path)
    try:
        cells = tuple(
            Cell(cell["run"], folder / cell["run"], cell["model"], cell["arm"], cell.get("fold"), cell.get("seed"))
            for cell in said["cells"]
        )
        reference, of_part = said["reference"], part or said["part"]
        others = {arm: facts.get("compared_with") or reference for arm, facts in said.get("arms", {}).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: damaged ({error!r}); make it anew with `lesionforge study`") from error
    if not cells:
        raise BadInput(f"{path}: a study without cells, so nothing to compare; run `lesionforge study` again")
    named = [cell.name for cell in cells]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise BadInput(f"{path}: {tables.in_short(twice)} named as two cells; a run has one place in a comparison")
    return Asked(cells, reference, of_part, pairs_of(cells, reference, others, said.get("reference_model")))


def pairs_of(
    cells: Sequence[Cell], reference: str, others: Mapping[str, str], reference_model: str | None
) -> tuple[Pair, ...]:
    """Each arm of a model with its reference arm; each model with the reference model, if there is one, on each arm."""
    arms = list(dict.fromkeys((cell.model, cell.arm) for cell in cells))
    pairs = [
        Pair(model, arm, others.get(arm, reference), tables.AGAINST_ARM) for model, arm in arms if arm != reference
    ]
    if reference_model is not None:
        pairs += [
            Pair(model, arm, reference_model, tables.AGAINST_MODEL) for model, arm in arms if model != reference_model
        ]
    return tuple(pairs)


def of_runs(runs: Sequence[Path], against: Sequence[Path], part: str | None) -> Asked:
    """Two sides, the runs of each being seeds of one arm.

    Raises:
        BadInput: one run on both sides, or twice on one, whatever the paths; no such folder.
    """
    paths = [path.resolve() for path in (*runs, *against)]
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise BadInput(
            f"found {tables.in_short(twice)} twice, expected each run once, on one side; a run differs from itself in "
            "nothing"
        )
    if missing := [str(path) for path in (*runs, *against) if not path.is_dir()]:
        raise BadInput(f"{tables.in_short(missing)}: no such run folder; make it with `lesionforge train`")
    arm, reference = (side_name([path.resolve().name for path in side]) for side in (runs, against))
    if arm == reference:
        arm, reference = f"{arm} (runs)", f"{reference} (against)"
    if part is None:
        has_test = all((path / run.PREDICTIONS / f"{tables.TEST}.parquet").is_file() for path in paths)
        part = tables.TEST if has_test else tables.VAL
    cells = [
        Cell(str(path), path, None, name, None, seed)
        for name, side in ((arm, runs), (reference, against))
        for seed, path in enumerate(side)
    ]
    return Asked(tuple(cells), reference, part, pairs_of(cells, reference, {}, None))


def side_name(names: Sequence[str]) -> str:
    """`resnet-1x` for resnet-1x-0, resnet-1x-1, ...; the first with a count where they share no beginning."""
    if len(names) == 1:
        return names[0]
    shared = len(list(takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))))
    return names[0][:shared].rstrip("-_. ") or f"{names[0]} and {len(names) - 1} more"


def read(asked: Asked) -> Found:
    """All scores, in one order of lesions; cells without usable predictions are named and left out.

    Raises:
        BadInput: nothing to compare at all; cells that scored different lesions, or say different things of one.
    """
    held: list[tuple[Cell, pl.DataFrame]] = []
    left_out, sources = [], {}
    for cell in asked.cells:
        path = cell.folder / run.PREDICTIONS / f"{asked.part}.parquet"
        try:
            if not path.is_file():
                raise BadInput(f"no {run.PREDICTIONS}/{asked.part}.parquet; unfinished, or without that part")
            table = predictions.read_predictions(path).sort(tables.IMAGE_ID)
            predictions.require_targets(table, str(path))
        except BadInput as error:
            left_out.append({tables.RUN: cell.name, "why": " ".join(str(error).split())})
            continue
        held.append((cell, table))
        sources[cell.name] = files.sha256_of_file(path)
    if not held:
        raise BadInput(
            f"nothing to compare: none of {len(asked.cells)} runs has usable predictions of part {asked.part}; "
            f"{left_out[0][tables.RUN]}: {left_out[0]['why']}"
        )
    numbers = sorted({cell.fold for cell, _ in held}, key=lambda number: (number is not None, number))
    ids = held[0][1][tables.IMAGE_ID]
    notes = []
    if len(numbers) > 1 and all(table[tables.IMAGE_ID].equals(ids) for _, table in held):
        notes.append("the folds' runs scored the same lesions, so each fold counts as further seeds")
        numbers, groups = [None], [held]
    else:
        groups = [[(cell, table) for cell, table in held if cell.fold == number] for number in numbers]
    folds = [as_fold(number, group) for number, group in zip(numbers, groups, strict=True)]
    require_disjoint(groups)
    return Found(folds, left_out, sources, notes)


def as_fold(number: int | None, group: Sequence[tuple[Cell, pl.DataFrame]]) -> Fold:
    """Scores in rows, lesions in the order of their ids.

    Raises:
        BadInput: other lesions, targets or patients than the first cell's.
    """
    first, known = group[0]
    for cell, table in group[1:]:
        require_same_lesions(cell.name, table[tables.IMAGE_ID], first.name, known[tables.IMAGE_ID])
        for column in (tables.TARGET, tables.PATIENT_ID):
            differs = (table[column] != known[column]).fill_null(False)
            if differs.any():
                raise BadInput(
                    f"{cell.name}: {differs.sum():,} of {len(table):,} lesions have another {column} than in "
                    f"{first.name} ({tables.in_short(table[tables.IMAGE_ID].filter(differs).to_list(), 3)}); predict "
                    "with both from one store"
                )
            known = known.with_columns(known[column].fill_null(table[column]))
    malignant = known[tables.TARGET].to_numpy() == 1
    lesions = Lesions(malignant, predictions.cluster_numbers(known))
    scores = np.stack([table[tables.SCORE].to_numpy() for _, table in group])
    return Fold(number, [cell for cell, _ in group], scores, lesions, known[tables.PATIENT_ID].drop_nulls().n_unique())


def require_same_lesions(name: str, ids: pl.Series, first: str, known: pl.Series) -> None:
    if ids.equals(known):
        return
    counts = [
        f"{len(alone):,} of {len(here):,} in {whose} only ({tables.in_short(alone.to_list(), 2)})"
        for here, there, whose in ((ids, known, name), (known, ids, first))
        if len(alone := here.filter(~here.is_in(there.implode())))
    ]
    raise BadInput(
        f"different lesions: {', '.join(counts)}; runs are compared on the same lesions: predict the same part of the "
        "same split with each, or leave one out"
    )


def require_disjoint(groups: Sequence[Sequence[tuple[Cell, pl.DataFrame]]]) -> None:
    """Folds count as independent, so none may share a lesion or a patient with another."""
    for column in (tables.IMAGE_ID, tables.PATIENT_ID):
        values = [group[0][1][column].drop_nulls().unique() for group in groups]
        every = pl.concat(values)
        if shared := len(every) - every.n_unique():
            names = ", ".join(group[0][0].name for group in groups)
            raise BadInput(
                f"the folds of {names} share {shared:,} values of {column}; expected folds without common patients, "
                "as `lesionforge split` makes them"
            )


def facts_of(folds: Sequence[Fold]) -> dict[str, Any]:
    """Counts over folds, as a row of a table has them."""
    return {
        tables.NUM_IMAGES: sum(len(fold.lesions.malignant) for fold in folds),
        tables.NUM_MALIGNANT: sum(int(fold.lesions.malignant.sum()) for fold in folds),
        tables.NUM_PATIENTS: sum(fold.num_patients for fold in folds),
    }
