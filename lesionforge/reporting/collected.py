"""A study, or loose runs, read into frozen records; what is not there is named, and nothing stops."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lesionforge import run, tables
from lesionforge.errors import BadInput
from lesionforge.reporting.inputs import Sources

if TYPE_CHECKING:
    import polars as pl

ENSEMBLE = "ensemble"
PRIMARY = "pauc"


class Cell(NamedTuple):
    """One run: a model trained on an arm, with a fold and a seed. What it lacks is empty, and named in `missing`."""

    name: str
    folder: Path
    model: str
    arm: str
    fold: int | None
    seed: int | None
    kind: str  # train or ensemble
    config: dict[str, Any]
    done: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    scores: dict[str, Any]  # of evaluation/scores.json, the part that is compared
    predictions: "pl.DataFrame | None"  # image_id, patient_id, target, score of that part
    mix: "pl.DataFrame | None"
    missing: tuple[str, ...]

    @property
    def label(self) -> str:
        places = [f"fold {self.fold}" if self.fold is not None else "", f"seed {self.seed}"]
        return " · ".join(part for part in (self.model, self.arm, *places) if part)


class Generator(NamedTuple):
    name: str
    fold: int | None
    finetune: Path | None
    candidates: Path | None
    synthetic: Path | None


class Collected(NamedTuple):
    """All that a report shows."""

    title: str
    question: str
    part: str
    reference: str
    store: Path | None
    split: Path | None
    models: dict[str, dict[str, Any]]
    arms: dict[str, dict[str, Any]]
    cells: tuple[Cell, ...]
    generators: tuple[Generator, ...]
    maps: tuple[Path, ...]
    previews: tuple[Path, ...]
    submissions: tuple[tuple[str, Path], ...]
    compare: Path | None
    subgroups: Path | None
    failed: tuple[dict[str, Any], ...]
    published: bool
    sources: Sources
    folder: Path | None = None  # of a study

    def of(self, model: str, arm: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.model == model and cell.arm == arm]

    def parameters_of(self, model: str) -> float | None:
        """Millions, as its runs counted them; the study's own word where none is finished."""
        for cell in self.cells:
            number = cell.done.get("num_parameters")
            if cell.model == model and isinstance(number, int):
                return number / 1e6
        return self.models[model].get("parameters")

    @property
    def scored(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.scores]

    @property
    def incomplete(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.missing]


def read_study(folder: Path) -> Collected:
    """A study's folder, as its study.json describes it.

    Raises:
        BadInput: no study.json, or one that does not say what a study has to.
    """
    path = folder / run.STUDY
    if not path.is_file():
        raise BadInput(f"{folder}: no {run.STUDY}, so no study; make one with `lesionforge study`, or give --runs")
    sources = Sources(folder)
    said = sources.json(path)
    if not isinstance(said, dict) or not isinstance(said.get("cells"), list) or not said["cells"]:
        raise BadInput(f"{path}: damaged, or without cells; make it anew with `lesionforge study`")
    part = said.get("part") or tables.VAL
    try:
        cells = tuple(
            read_cell(
                sources, folder / one["run"], one["run"], one["model"], one["arm"], one.get("fold"), one.get("seed"),
                part, said.get("models", {}).get(one["model"], {}).get("kind"),
            )
            for one in said["cells"]
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: a cell without {error}; make it anew with `lesionforge study`") from error
    data = said.get("data") or {}
    return Collected(
        title=said.get("title") or said.get("name") or folder.name,
        question=said.get("question") or "",
        part=part,
        reference=said.get("reference") or cells[0].arm,
        store=optional(data.get("store")),
        split=optional(data.get("split")),
        models={cell.model: said.get("models", {}).get(cell.model) or {} for cell in cells},
        arms={arm: said.get("arms", {}).get(arm) or {} for arm in arms_in_order(said, cells)},
        cells=cells,
        generators=tuple(generator_of(folder, one) for one in said.get("generators") or ()),
        maps=tuple(folder / one for one in said.get("maps") or ()),
        previews=tuple(folder / one for one in said.get("previews") or ()),
        submissions=tuple((one["folder"], folder / one["folder"]) for one in said.get("submissions") or ()),
        compare=folder / (said.get("compare") or "compare"),
        subgroups=folder / (said.get("subgroups") or "subgroups"),
        failed=tuple(one for one in sources.json(folder / run.FAILED) or () if isinstance(one, dict)),
        published=bool(said.get("published")),
        sources=sources,
        folder=folder,
    )


def arms_in_order(said: dict[str, Any], cells: tuple[Cell, ...]) -> list[str]:
    """The arms that have cells, as the study lists them."""
    used = list(dict.fromkeys(cell.arm for cell in cells))
    return [arm for arm in said.get("arms", {}) if arm in used] + [a for a in used if a not in said.get("arms", {})]


def generator_of(folder: Path, one: dict[str, Any]) -> Generator:
    def below(key: str) -> Path | None:
        return folder / one[key] if one.get(key) else None

    name = str(one.get("name", "generator"))
    return Generator(name, one.get("fold"), below("finetune"), below("candidates"), below("synthetic"))


def optional(text: str | None) -> Path | None:
    return Path(text) if text else None


def read_cell(
    sources: Sources, folder: Path, name: str, model: str, arm: str, fold: int | None, seed: int | None, part: str,
    kind: str | None = None,
) -> Cell:  # fmt: skip
    """A run folder, whatever of it is there."""
    config = sources.settings(folder / run.CONFIG)
    verb = run.verb_of(folder) if (folder / run.CONFIG).is_file() else None
    is_ensemble = ENSEMBLE in (verb, kind)
    done = sources.object(folder / run.DONE)
    predictions = read_predictions(sources, folder / run.PREDICTIONS / f"{part}.parquet")
    evaluated = sources.object(folder / run.EVALUATION / run.SCORES)
    scores = (evaluated.get("parts") or {}).get(part) or {}
    missing = []
    if not done:
        missing.append("the run itself: it is unfinished or failed" if config else "the run itself: no such folder")
    if predictions is None:
        missing.append(f"predictions of part {part}")
    if not scores:
        missing.append(f"scores of part {part}")
    return Cell(
        name=name, folder=folder, model=model, arm=arm, fold=fold, seed=seed,
        kind=ENSEMBLE if is_ensemble else "train", config=config, done=done,
        environment=sources.object(folder / run.ENVIRONMENT),
        metrics=[] if is_ensemble else sources.lines(folder / run.METRICS),
        scores=scores, predictions=predictions, mix=None if is_ensemble else sources.table(folder / run.MIX),
        missing=tuple(missing),
    )  # fmt: skip


def read_predictions(sources: Sources, path: Path) -> "pl.DataFrame | None":
    """Predictions whose targets are known; None where there are none."""
    import polars as pl

    found = sources.table(path)
    needed = [tables.IMAGE_ID, tables.TARGET, tables.SCORE]
    if found is None or not set(needed) <= set(found.columns):
        return None
    known = found.filter(pl.col(tables.TARGET).is_not_null() & pl.col(tables.SCORE).is_finite())
    return known.select(needed) if len(known) else None
