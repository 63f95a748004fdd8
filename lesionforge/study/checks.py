"""What is looked at before a study runs: the folder, the data, whether recipes can be filled; and study.json."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lesionforge import run, tables
from lesionforge.data import parts
from lesionforge.data.store import open_store
from lesionforge.engine.families import FAMILIES, kind_of, timm_name_of
from lesionforge.errors import BadInput
from lesionforge.recipe import read_recipe
from lesionforge.study.jobs import Cell, over
from lesionforge.study.planning import Plan, about_recipe, compared_part
from lesionforge.study.settings import ENSEMBLE, ArmConfig, StudyConfig


class Data(NamedTuple):
    """What the split gives to learn from."""

    parts: tuple[str, ...]  # those of val and test that there are
    counts: dict[str, int]  # malignant and benign lesions of part train; of the fold with the fewest malignant ones
    num_scored: int  # lesions that each run scores


def refuse_other_study(out: Path, config: StudyConfig) -> None:
    """A folder holds one study, and nothing else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / run.CONFIG).is_file():
        raise BadInput(f"{out} exists and is not a study (no {run.CONFIG} in it); name another folder with --out")
    verb = run.verb_of(out)
    if verb != "study":
        raise BadInput(f"{out} was made by `lesionforge {verb}`, not by study; name another folder with --out")
    held = read_recipe(out / run.CONFIG).settings.get("name")
    if held != config.name:
        raise BadInput(
            f"{out} holds the study '{held}', this one is '{config.name}'; one folder, one study: name another --out"
        )


def read_data(config: StudyConfig) -> Data:
    """Counts of each fold's part train.

    Raises:
        BadInput: no store, no split, a fold that does not exist, folds named for a split with parts or the reverse.
    """
    refuse_missing(config)
    has_folds = tables.FOLD in parts.read_split_table(config.data.split).columns
    if config.folds and not has_folds:
        raise BadInput(
            f"folds: found {tables.in_short(config.folds)}, but {config.data.split} holds parts; give --folds [], or "
            "a split with folds"
        )
    if has_folds and not config.folds:
        raise BadInput(f"folds: {config.data.split} holds folds; name those to hold out, such as --folds 0 1 2")
    samples = open_store(config.data.store).samples((tables.IMAGE_ID, tables.TARGET))
    malignant, benign, scored = [], [], []
    found: tuple[str, ...] = ()
    for fold in config.folds or (None,):
        split = parts.read_split(config.data.split, fold)
        train = parts.part_of(samples, split, tables.TRAIN)
        found = tuple(part for part in (tables.VAL, tables.TEST) if part in split[tables.PART])
        malignant.append(int((train[tables.TARGET] == 1).sum()))
        benign.append(int((train[tables.TARGET] == 0).sum()))
        scored.append(int(split[tables.PART].is_in(found).sum()))
    return Data(found, {"malignant": min(malignant), "benign": min(benign)}, max(scored))


def refuse_missing(config: StudyConfig) -> None:
    """Refuse files and stores that jobs far down the line would look for."""
    stores = [config.data.hidden, *(generator.store for generator in config.generators.values())]
    for store in stores:
        if store is not None:
            open_store(store)
    sample = config.data.sample_submission
    if sample is not None and not sample.is_file():
        raise BadInput(f"data.sample_submission: {sample}: no such file; it is one of the challenge's own")


def refuse_unknown_models(config: StudyConfig, plan: Plan) -> None:
    """Refuse architectures and weights that do not exist; torch is loaded for names that are not ours only."""
    for name in config.models:
        settings = plan.jobs[next(cell.job for cell in plan.cells if cell.model == name)].steps[0].config
        model = settings.model_dump(mode="json")["model"]
        try:
            if model["name"] not in FAMILIES:
                from lesionforge.engine.model import refuse_unknown

                refuse_unknown(model["name"])
            if model["weights"] not in ("hub", "random") and not Path(model["weights"]).is_file():
                raise BadInput(f"model.weights: {model['weights']}: no such file; expected hub, random, or a file")
        except BadInput as error:
            raise BadInput(f"models.{name}: {error}") from error


def refuse_unfillable(config: StudyConfig, plan: Plan, data: Data) -> None:
    """Refuse recipes that ask for more lesions than there are, all at once, before anything is trained."""
    candidates = {
        job.name.split("-")[0]: job.steps[0].config.model_dump()["num_images"]
        for job in plan.jobs.values()
        if job.kind == "generate"
    }
    given = {
        name: int((open_store(generator.store).samples((tables.IMAGE_ID, tables.TARGET))[tables.TARGET] == 1).sum())
        for name, generator in config.generators.items()
        if generator.store is not None
    }
    short: dict[str, None] = {}
    for cell in plan.cells:
        if cell.model == ENSEMBLE:
            continue
        settings = plan.jobs[cell.job].steps[0].config.model_dump(mode="json")
        mix = settings["data"]["mix"]
        arm = config.recipes[cell.arm]
        if mix["synthetic_malignant"] and arm.generator is None and not settings["data"]["synthetic"]:
            short[f"{cell.arm}: asks for synthetic images and has no generator; add `generator: NAME`"] = None
        if mix["scale"] == "auto":
            continue
        wanted = {"malignant": mix["malignant"], "benign": mix["benign"] if mix["benign_source"] == "real" else 0}
        for kind, num in wanted.items():
            if num != "all" and num > data.counts[kind]:
                cure = f"lower {kind} in the settings of {cell.arm}"
                if is_scaled(config, cell, kind):
                    factor = int(data.counts[kind] / num * config.sizes.counts * 1000) / 1000
                    cure = f"--sizes.counts {factor:g} would do for this one, for all recipes alike"
                short[f"{cell.arm}: asks for {num:,} {kind}, part train holds {data.counts[kind]:,}; {cure}"] = None
        made, wanted_made = candidates.get(arm.generator or ""), mix["synthetic_malignant"]
        if made is not None and wanted_made != "all" and wanted_made > made:
            short[
                f"{cell.arm}: asks for {wanted_made:,} synthetic images, generator {arm.generator} makes {made:,} "
                "before its audit; raise --sizes.candidates"
            ] = None
        held = given.get(arm.generator or "")
        if held is not None and wanted_made != "all" and wanted_made > held:
            short[f"{cell.arm}: asks for {wanted_made:,} synthetic images, {arm.generator}'s store holds {held:,}"] = (
                None
            )
    if short:
        raise BadInput(f"{config.name}: recipes that cannot be filled:" + tables.in_lines(list(short)))


def is_scaled(config: StudyConfig, cell: Cell, kind: str) -> bool:
    """Whether a count is the recipe's own, which --sizes.counts scales, and not one that the study's YAML names."""
    given = over(config.train, config.models[cell.model], config.recipes[cell.arm].settings)
    return kind not in given.get("data", {}).get("mix", {})


def targets_of(config: StudyConfig, plan: Plan) -> list[str]:
    """The jobs to run now: all, or those of the cells that `only` names."""
    only = config.only
    if not (only.models or only.recipes or only.folds or only.seeds):
        return list(plan.jobs)

    def is_named(value: Any, among: Iterable[Any]) -> bool:
        among = list(among)
        return not among or value in among

    return [
        cell.job
        for cell in plan.cells
        if is_named(cell.model, only.models)
        and is_named(cell.arm, only.recipes)
        and is_named(cell.fold, only.folds)
        and is_named(cell.seed, only.seeds)
    ]


def study_facts(config: StudyConfig, plan: Plan, data: Data) -> dict[str, Any]:
    """study.json: what the tables and the report need to know of the study; paths are relative to its folder."""
    out = config.out.resolve()
    asked: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        if cell.model != ENSEMBLE:
            mix = plan.jobs[cell.job].steps[0].config.model_dump(mode="json")["data"]["mix"]
            asked[cell.arm] = {kind: mix[kind] for kind in ("malignant", "benign", "synthetic_malignant")}
    models = {name: model_facts(config, plan, name) for name in config.models}
    if config.ensemble:
        models[ENSEMBLE] = {"timm_name": None, "kind": ENSEMBLE, "parameters": None}
    return {
        "name": config.name,
        "title": config.title or config.name,
        "question": config.question,
        "part": compared_part(config, data.parts),
        "reference": config.reference,
        "reference_model": config.reference_model,
        "data": {"store": str(config.data.store.resolve()), "split": str(config.data.split.resolve())},
        "models": models,
        "arms": {
            name: {
                "recipe": arm.recipe,
                "about": about_arm(arm, config.sizes.counts),
                "generator": arm.generator,
                "start_from": arm.start_from,
                "compared_with": None if name == config.reference else arm.compared_with or config.reference,
                "asked": asked[name],
            }
            for name, arm in config.recipes.items()
        },
        "folds": list(config.folds),
        "seeds": list(config.seeds),
        "cells": [
            {
                "run": str(cell.folder.relative_to(out)),
                "model": cell.model,
                "arm": cell.arm,
                "fold": cell.fold,
                "seed": cell.seed,
            }
            for cell in plan.cells
        ],
        "generators": plan.generators,
        "maps": plan.maps,
        "previews": plan.previews,
        "submissions": plan.submissions,
        "compare": "compare",
        "subgroups": "subgroups",
        "report": "report",
        "published": config.published,
    }


def about_arm(arm: ArmConfig, counts: float) -> str:
    """What an arm is, in a line: its recipe's first sentence, and what this study makes of it."""
    added = [f"Synthetic lesions from the generator {arm.generator}."] if arm.generator else []
    added += [f"Starts from the weights of {arm.start_from}."] if arm.start_from else []
    changed = [f"{key} {value}" for key, value in run.flat(arm.settings).items()]
    added += [f"Here with {', '.join(changed)}."] if changed else []
    added += [f"The recipe's counts times {counts:g}."] if counts != 1 else []
    return " ".join([about_recipe(arm.recipe), *added])


def model_facts(config: StudyConfig, plan: Plan, name: str) -> dict[str, Any]:
    cell = next(cell for cell in plan.cells if cell.model == name)
    timm_name = plan.jobs[cell.job].steps[0].config.model_dump(mode="json")["model"]["name"]
    parameters = FAMILIES[timm_name].parameters if timm_name in FAMILIES else None  # millions
    return {"timm_name": timm_name_of(timm_name), "kind": kind_of(timm_name), "parameters": parameters}
