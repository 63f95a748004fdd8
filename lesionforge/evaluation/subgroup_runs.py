"""What subgroups reads: the cells of a study or runs by name, their predictions of one part, and their thresholds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lesionforge import files, run, tables
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput
from lesionforge.evaluation import predictions, threshold
from lesionforge.evaluation.subgroup_scores import Population, Scored

RULE = "youden"  # where a run was not evaluated; the default of `evaluate`
RUNS = "runs"  # what runs that are no study's count as: one model, each run an arm


class Cell(NamedTuple):
    run: str  # as the study names it, or the folder's name
    folder: Path
    model: str
    arm: str
    fold: int | None
    seed: int | None


class Asked(NamedTuple):
    """What is to be measured."""

    cells: tuple[Cell, ...]
    part: str
    reference: str | None  # the arm that others are compared with, where they have none of their own
    store: Path
    compared_with: Mapping[str, str] = {}  # an arm's own reference


class Read(NamedTuple):
    """What was found of it."""

    cells: list[Cell]
    runs: list[Scored]  # in the order of the cells
    lesions: pl.DataFrame  # image_id, patient_id, target; the lesions of all runs
    population: Population
    thresholds: list[dict[str, Any]]  # value, rule, in_sample, how
    left_out: list[str]  # cells without predictions, and why
    sources: dict[str, str]  # SHA-256 of each cell's predictions


def asked_of_study(folder: Path, part: str | None, store: Path | None) -> Asked:
    """The cells that study.json names.

    Raises:
        BadInput: no study.json, or one without cells.
    """
    path = folder / run.STUDY
    if not path.is_file():
        raise BadInput(f"{folder}: no {run.STUDY}, so no study; make one with `lesionforge study`, or give --runs")
    said = files.read_json(path)
    try:
        cells = tuple(
            Cell(one["run"], folder / one["run"], one["model"], one["arm"], one.get("fold"), one.get("seed"))
            for one in said["cells"]
        )
        found_store = store or Path(said["data"]["store"])
        reference = said["reference"]
        others = {arm: facts.get("compared_with") or reference for arm, facts in said.get("arms", {}).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: damaged ({error!r}); make it anew with `lesionforge study`") from error
    if not cells:
        raise BadInput(f"{path}: a study without cells, so nothing to measure; run `lesionforge study` again")
    return Asked(cells, part or said.get("part") or tables.VAL, reference, found_store, others)


def asked_of_runs(folders: Sequence[Path], reference: Path | None, part: str | None, store: Path) -> Asked:
    """Each run by itself: an arm of one model."""
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    cells = tuple(Cell(name, folder, RUNS, name, None, None) for name, folder in zip(names, folders, strict=True))
    if part is None:
        has_test = all(predictions_file(cell, tables.TEST).is_file() for cell in cells)
        part = tables.TEST if has_test else tables.VAL
    arm = (
        None
        if reference is None
        else next(name for name, each in zip(names, folders, strict=True) if each == reference)
    )
    return Asked(cells, part, arm, store)


def predictions_file(cell: Cell, part: str) -> Path:
    return cell.folder / run.PREDICTIONS / f"{part}.parquet"


def read(asked: Asked, is_study: bool) -> Read:
    """The predictions of all cells; those of a study that lack them are named and left out.

    Raises:
        BadInput: no predictions at all, or cells whose lesions overlap without being the same.
    """
    cells, found, left_out, sources = [], [], [], {}
    for cell in asked.cells:
        path = predictions_file(cell, asked.part)
        try:
            if not path.is_file():
                raise BadInput(f"{path}: no such file; finish the run, or make them with `lesionforge predict`")
            table = predictions.read_predictions(path).sort(tables.IMAGE_ID)
            predictions.require_targets(table, str(path))
        except BadInput as error:
            if not is_study:
                raise
            left_out.append(f"{cell.run}: {str(error).splitlines()[0]}")
            continue
        cells.append(cell)
        found.append(table)
        sources[cell.run] = files.sha256_of_file(path)
    if not cells:
        raise BadInput(f"no cell has predictions of part {asked.part}; of {len(asked.cells)}, first {left_out[0]}")
    sets, of_cell = sets_of(cells, found)
    lesions = pl.concat([table.select(tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET) for table in sets])
    rows = np.split(np.arange(len(lesions)), np.cumsum([len(table) for table in sets])[:-1])
    population = Population(lesions[tables.TARGET].to_numpy() == 1, predictions.cluster_numbers(lesions), tuple(rows))
    thresholds = [
        threshold_of(cell, asked.part, table, sources[cell.run]) for cell, table in zip(cells, found, strict=True)
    ]
    runs = [
        Scored(number, table[tables.SCORE].to_numpy(), chosen["value"])
        for number, table, chosen in zip(of_cell, found, thresholds, strict=True)
    ]
    return Read(cells, runs, lesions, population, thresholds, left_out, sources)


def sets_of(cells: Sequence[Cell], found: Sequence[pl.DataFrame]) -> tuple[list[pl.DataFrame], list[int]]:
    """The distinct sets of lesions (the val parts of folds, or one), and the number of each cell's.

    Raises:
        BadInput: runs of one fold that scored other lesions, or gave them other targets; folds that overlap.
    """
    sets: dict[str, int] = {}
    first: list[int] = []
    of_cell = []
    for at, (cell, table) in enumerate(zip(cells, found, strict=True)):
        key = files.sha256_of_bytes("\n".join(table[tables.IMAGE_ID].to_list()).encode())
        if key not in sets:
            sets[key] = len(first)
            first.append(at)
        before = first[sets[key]]
        if not table[tables.TARGET].equals(found[before][tables.TARGET]):
            raise BadInput(f"{cell.run}: other targets than {cells[before].run} has for the same lesions")
        of_cell.append(sets[key])
    of_fold: dict[int | None, int] = {}
    for at, cell in enumerate(cells):
        before = of_fold.setdefault(cell.fold, at)
        if of_cell[at] != of_cell[before]:
            shared = num_shared(found[at], found[before])
            raise BadInput(
                f"{cell.run}: {len(found[at]):,} lesions, of which {shared:,} are among the {len(found[before]):,} of "
                f"{cells[before].run}; runs are compared on the same lesions: predict the same part of the same store "
                "with each, or leave one out"
            )
    for at, one in enumerate(first):
        for other in first[:at]:
            if shared := num_shared(found[one], found[other]):
                raise BadInput(
                    f"{cells[one].run}: shares {shared:,} of its {len(found[one]):,} lesions with {cells[other].run}, "
                    "a run of another fold; folds must share none or all: were they dealt by the same split?"
                )
    return [found[at] for at in first], of_cell


def num_shared(table: pl.DataFrame, other: pl.DataFrame) -> int:
    return int(table[tables.IMAGE_ID].is_in(other[tables.IMAGE_ID].implode()).sum())


def threshold_of(cell: Cell, part: str, table: pl.DataFrame, digest: str) -> dict[str, Any]:
    """The threshold that evaluate chose on val; where these predictions were not evaluated, chosen here."""
    path = cell.folder / run.EVALUATION / run.SCORES
    if path.is_file():
        said = files.read_json(path)
        held = said.get("parts", {}).get(part, {}).get(tables.THRESHOLD)
        if held is not None and said.get("sources", {}).get(f"predictions of {part}") == digest:
            return {**held, "from": "evaluation"}
    val = predictions_file(cell, tables.VAL)
    parts = {tables.VAL: table if part == tables.VAL else predictions.read_predictions(val)} if val.is_file() else {}
    try:
        chosen = threshold.choose(RULE, {part: table} | parts, None)
    except BadInput as error:
        raise BadInput(f"{cell.run}: {error}") from error
    return {**threshold.of_part(part, chosen), "from": "subgroups"}


def with_metadata(lesions: pl.DataFrame, store: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The lesions with those of `columns` that the store has.

    Raises:
        BadInput: not a store, or one that lacks some of the lesions.
    """
    opened = open_store(store)
    have = set(pl.read_parquet_schema(store / run.SAMPLES))
    samples = opened.samples([tables.IMAGE_ID, *(name for name in columns if name in have)])
    missing = lesions.filter(~pl.col(tables.IMAGE_ID).is_in(samples[tables.IMAGE_ID].implode()))[tables.IMAGE_ID]
    if len(missing):
        raise BadInput(
            f"{store}: lacks {len(missing):,} of the {len(lesions):,} lesions that were scored "
            f"({tables.in_short(missing.to_list(), 3)}); name the store that they are in with --store"
        )
    return lesions.join(samples, on=tables.IMAGE_ID, how="left", maintain_order="left")
