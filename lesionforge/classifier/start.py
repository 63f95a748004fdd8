"""Starting from another run's weights: they must fit, and that run must not have seen what this one is scored on."""

from pathlib import Path

import polars as pl

from lesionforge import run, tables
from lesionforge.data.parts import read_split
from lesionforge.engine import model, trained
from lesionforge.errors import BadInput
from lesionforge.recipe import read_recipe


def start_from(built: model.Built, folder: Path) -> model.Built:
    """The model with the weights and the normalisation of a finished run, to learn on from.

    Raises:
        BadInput: as `load_run`, or the run is of another architecture or image size.
    """
    found = trained.load_run(folder)
    theirs, ours = shapes(found), shapes(built)
    if (found.name, theirs) != (built.name, ours):
        raise BadInput(
            f"model.init_from: {folder} holds {found.name} at {found.image_size} px, this run is to be {built.name} at "
            f"{built.image_size} px; the architecture, and for plain transformers the size, must be equal"
        )
    model.load_weights(built.model, found.model.state_dict(), folder)
    return built._replace(weights=f"run {folder.name}", mean=found.mean, std=found.std)


def shapes(built: model.Built) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in built.model.state_dict().items()}


def refuse_seen_before(init_from: Path, held_out: pl.DataFrame) -> None:
    """Refuse to start from a run that learned from an image or a patient of this run's val or test, itself or through
    the generators of its synthetic images; so for the run that that one started from, and on.
    """
    seen_runs: set[Path] = set()
    folder: Path | None = init_from
    while folder is not None and folder.resolve() not in seen_runs:
        seen_runs.add(folder.resolve())
        trained.require_trained(folder)
        if not (folder / run.MIX).is_file():
            raise BadInput(f"model.init_from: {folder} has no {run.MIX}, so what it saw is unknown; name another run")
        mix, settings = tables.read_table(folder / run.MIX), read_recipe(folder / run.CONFIG).settings
        for column, what in ((tables.IMAGE_ID, "images"), (tables.PATIENT_ID, "images of patients")):
            refuse_shared(folder, f"learned from {what}", mix, held_out, column)
        refuse_generators(folder, mix, held_out)
        if settings.get("select") == "best_val":  # a val in common is no new harm: it chooses the epoch here too
            test = held_out.filter(pl.col(tables.PART) == tables.TEST)
            parts = read_split(Path(settings["data"]["split"]), settings["data"]["fold"])
            val = parts.filter(pl.col(tables.PART) == tables.VAL)
            refuse_shared(folder, "chosen its epoch on images", val, test, tables.IMAGE_ID)
        before = settings.get("model", {}).get("init_from")
        folder = None if before is None else Path(before)


def refuse_generators(folder: Path, mix: pl.DataFrame, held_out: pl.DataFrame) -> None:
    """Refuse a run whose synthetic images come from generators that saw this run's val or test, or from who knows."""
    if not (folder / run.SEEN).is_file():
        if tables.SOURCE in mix.columns and (mix[tables.SOURCE] == tables.SYNTHETIC).any():
            raise BadInput(
                f"model.init_from: {folder} learned from synthetic images and has no {run.SEEN}, so what their "
                "generators saw is unknown; name another run"
            )
        return
    seen = tables.read_table(folder / run.SEEN)
    for column, what in (
        (tables.IMAGE_ID, "images"),
        (tables.SHA256, "images, byte for byte,"),
        (tables.PATIENT_ID, "images of patients"),
    ):
        refuse_shared(folder, f"learned from synthetic images whose generator saw {what}", seen, held_out, column)


def refuse_shared(folder: Path, how: str, seen: pl.DataFrame, held_out: pl.DataFrame, column: str) -> None:
    shared = seen.filter(pl.col(column).is_in(held_out[column].drop_nulls().implode()))
    if len(shared):
        raise BadInput(
            f"model.init_from: {folder} has {how} of this run's val or test, {len(shared):,} of them: "
            f"{tables.in_short(shared[tables.IMAGE_ID].to_list())}; scores would mean nothing, start from a run on the "
            "same split and fold"
        )
