"""Runs that belong to no study, as a report sees them: models, arms and seeds told from their configs."""

import shlex
from pathlib import Path
from typing import Any

from lesionforge import run, tables
from lesionforge.errors import BadInput
from lesionforge.reporting.collected import ENSEMBLE, Cell, Collected, optional, read_cell
from lesionforge.reporting.inputs import Sources


def read_runs(
    folders: tuple[Path, ...], part: str | None, compare: Path | None, subgroups: Path | None,
    maps: tuple[Path, ...], previews: tuple[Path, ...], synthetic: tuple[Path, ...],
) -> Collected:  # fmt: skip
    """Runs by their folders; the arm of the first is the reference.

    Raises:
        BadInput: a folder that is no run.
    """
    from lesionforge.reporting.collected import Generator

    for folder in folders:
        if not (folder / run.CONFIG).is_file():
            raise BadInput(f"{folder}: not a run folder (no {run.CONFIG} in it); give folders of train or ensemble")
    sources = Sources(Path())
    part = part or part_of_all(folders)
    places = [place_of(sources, folder) for folder in folders]
    cells = tuple(
        read_cell(
            sources,
            folder,
            str(folder),
            model,
            arm if places.count((model, arm, fold, seed)) == 1 else folder.resolve().name,
            fold,
            seed,
            part,
        )
        for folder, (model, arm, fold, seed) in zip(folders, places, strict=True)
    )
    data: dict[str, Any] = next(
        (cell.config["data"] for cell in cells if isinstance(cell.config.get("data"), dict)), {}
    )
    arms = dict.fromkeys(cell.arm for cell in cells)
    return Collected(
        title="Report of " + ("1 run" if len(cells) == 1 else f"{len(cells)} runs"),
        question="", part=part, reference=cells[0].arm, store=optional(data.get("store")),
        split=optional(data.get("split")), models={cell.model: {} for cell in cells},
        arms={arm: next(arm_of(cell) for cell in cells if cell.arm == arm) for arm in arms},
        cells=cells,
        generators=tuple(Generator(folder.resolve().name, None, None, None, folder) for folder in synthetic),
        maps=maps, previews=previews, submissions=(), compare=compare, subgroups=subgroups, failed=(),
        published=False, sources=sources,
    )  # fmt: skip


def part_of_all(folders: tuple[Path, ...]) -> str:
    """test where every run has scores of it, else val."""
    has_test = all((folder / run.PREDICTIONS / f"{tables.TEST}.parquet").is_file() for folder in folders)
    return tables.TEST if has_test else tables.VAL


def place_of(sources: Sources, folder: Path) -> tuple[str, str, int | None, int | None]:
    """(model, arm, fold, seed) of a run, the arm by the recipe that its command named."""
    config = sources.settings(folder / run.CONFIG)
    words = shlex.split(str(sources.object(folder / run.ENVIRONMENT).get("command", "")))
    recipe = words[words.index("--recipe") + 1] if "--recipe" in words[:-1] else folder.resolve().name
    if run.verb_of(folder) == ENSEMBLE:
        return ENSEMBLE, folder.resolve().name, None, None
    model = config.get("model") or {}
    data = config.get("data") or {}
    return str(model.get("name", "model")), Path(recipe).stem, data.get("fold"), config.get("seed")


def arm_of(cell: Cell) -> dict[str, Any]:
    """What a study says of an arm, told from a run's config."""
    mix = (cell.config.get("data") or {}).get("mix") or {}
    return {"asked": {key: mix[key] for key in ("malignant", "benign", "synthetic_malignant") if key in mix}}
