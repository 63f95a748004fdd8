"""From the axes of a study to its jobs and cells. Every setting of every job is resolved here, before anything runs."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from lesionforge import run
from lesionforge.errors import BadInput
from lesionforge.recipe import first_sentence, shipped
from lesionforge.study import jobs
from lesionforge.study.jobs import Cell, Job, fold_name, named, over, step
from lesionforge.study.settings import ENSEMBLE, ArmConfig, GeneratorConfig, StudyConfig

HIDDEN = "hidden"  # predictions of the challenge's test images


class Plan(NamedTuple):
    jobs: dict[str, Job]  # by key, those that are needed first
    cells: list[Cell]
    generators: list[dict[str, Any]]  # as study.json has them
    maps: list[str]
    previews: list[str]
    submissions: list[dict[str, Any]]


class Layout(NamedTuple):
    """Where things lie, and what all jobs share."""

    out: Path  # absolute
    data: dict[str, str]  # store and split, absolute
    parts: tuple[str, ...]  # that runs are scored on
    part: str  # that is compared
    hardware: dict[str, Any]


def build_plan(config: StudyConfig, out: Path, parts: tuple[str, ...], threads: int = 1) -> Plan:
    """All jobs of a study.

    Args:
        parts: those of val and test that the split has.
        threads: CPU threads of each job.

    Raises:
        BadInput: a recipe, a setting or a model that does not exist; a part that the split does not have.
    """
    part = compared_part(config, parts)
    data = {"store": str(config.data.store.resolve()), "split": str(config.data.split.resolve())}
    layout = Layout(out, data, parts, part, {"torch_threads": threads, "loader_threads": threads})
    folds: list[int | None] = list(config.folds) or [None]
    made: list[Job] = []
    generators = []
    for (name, generator), fold in itertools.product(config.generators.items(), folds):
        generators.append(generator_facts(name, generator, fold, out))
        if generator.store is None:
            made += generator_jobs(config, layout, name, generator, fold)
    cells = []
    for (model, arm), fold, seed in itertools.product(
        itertools.product(config.models, config.recipes), folds, config.seeds
    ):
        job = train_job(config, layout, model, arm, fold, seed)
        made.append(job)
        cells.append(Cell(model, arm, fold, seed, job.key, job.folder))
    if config.ensemble:
        for arm, fold, seed in itertools.product(config.recipes, folds, config.seeds):
            job = ensemble_job(config, layout, arm, fold, seed)
            made.append(job)
            cells.append(Cell(ENSEMBLE, arm, fold, seed, job.key, job.folder))
    submissions = []
    if config.data.hidden is not None:
        for cell in cells:
            if (cell.fold, cell.seed) == (folds[0], config.seeds[0]):
                job = submit_job(config, layout, cell)
                made.append(job)
                folder = str(job.folder.relative_to(out))
                submissions.append({"folder": folder, "model": cell.model, "arm": cell.arm, "seed": cell.seed})
    maps, previews = [], []
    if config.maps:
        made.append(explain_job(config, layout, folds[0]))
        maps.append("maps")
    made.append(preview_job(config, layout, folds[0]))
    previews.append("preview")
    return Plan(jobs.in_order(made), cells, generators, maps, previews, submissions)


def compared_part(config: StudyConfig, parts: tuple[str, ...]) -> str:
    if config.part == "auto":
        return "test" if "test" in parts and not config.folds else "val"
    if config.part not in parts or (config.folds and config.part != "val"):
        found = "folds, each held out as val" if config.folds else f"the parts train, {', '.join(parts)}"
        raise BadInput(f"part: found {config.part}, but the split has {found}; leave part to auto")
    return config.part


def train_settings(config: StudyConfig, model: str, arm: str, fold: int | None, seed: int) -> dict[str, Any]:
    """What one training is: its recipe times the counts' factor, the study's, the sizes, the model's and its own."""
    sizes = config.sizes
    shared: dict[str, Any] = {"data": {}, "optim": {}}
    for section, key, value in (
        ("data", "image_size", sizes.image_size),
        ("data", "batch_size", sizes.batch_size),
        ("optim", "epochs", sizes.epochs),
    ):
        if value is not None:
            shared[section][key] = value
    recipe = jobs.settings_of_recipe(config.recipes[arm].recipe, f"recipes.{arm}")
    recipe = jobs.counts_times(recipe, sizes.counts)
    return over(recipe, config.train, shared, config.models[model], config.recipes[arm].settings, {"seed": seed})


def train_job(config: StudyConfig, layout: Layout, model: str, arm: str, fold: int | None, seed: int) -> Job:
    name = named(model, arm, fold_name(fold), seed)
    folder, key, what = layout.out / "runs" / name, f"train/{name}", f"models.{model} with recipes.{arm}"
    fixed: dict[str, Any] = {"out": str(folder), "data": {**layout.data, "fold": fold}, "hardware": layout.hardware}
    needs = []
    own: ArmConfig = config.recipes[arm]
    if own.generator is not None:
        fixed["data"]["synthetic"] = [str(synthetic_store(config, layout.out, own.generator, fold))]
        if config.generators[own.generator].store is None:
            needs.append((f"audit/{named(own.generator, fold_name(fold))}", "audit"))
    if own.start_from is not None:
        before = named(model, own.start_from, fold_name(fold), seed)
        fixed["model"] = {"init_from": str(layout.out / "runs" / before)}
        needs.append((f"train/{before}", "train"))
    settings = over(train_settings(config, model, arm, fold, seed), fixed)
    if own.start_from is not None:  # the normalisation is that of the run it starts from
        settings["model"] = {key: value for key, value in settings["model"].items() if key not in ("mean", "std")}
    steps = [step(layout.out, "train", settings, folder, key, what)]
    scored = {"run": str(folder), "hardware": layout.hardware}
    predictions = folder / run.PREDICTIONS
    steps.append(step(layout.out, "predict", {**scored, "parts": list(layout.parts)}, predictions, key, what))
    evaluate = over(config.evaluate, {"run": str(folder)})
    steps.append(step(layout.out, "evaluate", evaluate, folder / run.EVALUATION, key, "evaluate"))
    if config.data.hidden is not None and seed == config.seeds[0] and fold in (None, *config.folds[:1]):
        hidden = {**scored, "store": str(config.data.hidden.resolve()), "name": HIDDEN}
        last = step(layout.out, "predict", hidden, predictions / f"{HIDDEN}.parquet", f"{key}.{HIDDEN}", what)
        steps.append(last)
    return Job("train", name, tuple(steps), tuple(needs))


def synthetic_store(config: StudyConfig, out: Path, generator: str, fold: int | None) -> Path:
    store = config.generators[generator].store
    return store.resolve() if store is not None else out / "synthetic" / named(generator, fold_name(fold))


def generator_facts(name: str, generator: GeneratorConfig, fold: int | None, out: Path) -> dict[str, Any]:
    folder = named(name, fold_name(fold))
    facts: dict[str, Any] = {"name": name, "fold": fold}
    if generator.store is not None:
        return {**facts, "finetune": None, "candidates": None, "synthetic": str(generator.store.resolve())}
    made = {"finetune": "generators", "candidates": "candidates", "synthetic": "synthetic"}
    return {**facts, **{what: f"{place}/{folder}" for what, place in made.items()}}


def generator_jobs(
    config: StudyConfig, layout: Layout, name: str, generator: GeneratorConfig, fold: int | None
) -> list[Job]:
    """Teach, generate, audit."""
    folder, what, hardware = named(name, fold_name(fold)), f"generators.{name}", {"hardware": layout.hardware}
    data = {"data": {**layout.data, "fold": fold}}
    taught, candidates = layout.out / "generators" / folder, layout.out / "candidates" / folder
    kept = layout.out / "synthetic" / folder
    finetune = over(jobs.with_recipe(generator.finetune, what), data, hardware, {"out": str(taught)})
    generate = over(
        jobs.with_recipe(generator.generate, what), hardware, {"generator": str(taught), "out": str(candidates)}
    )
    if config.sizes.candidates is not None:
        generate["num_images"] = config.sizes.candidates
    audit = over(
        {"cache": str(layout.out / "cache")}, jobs.with_recipe(generator.audit, what), data, hardware,
        {"candidates": str(candidates), "out": str(kept)},
    )  # fmt: skip
    needs = [(f"generate/{folder}", "generate")]
    if generator.features_from is not None:
        model, _, arm = generator.features_from.partition("/")
        features = named(model, arm, fold_name(fold), config.seeds[0])
        audit = over(audit, {"features": {"run": str(layout.out / "runs" / features)}})
        needs.append((f"train/{features}", "train"))
    steps = {"finetune": (finetune, taught), "generate": (generate, candidates), "audit": (audit, kept)}
    before: dict[str, list[tuple[str, str]]] = {
        "finetune": [], "generate": [(f"finetune/{folder}", "finetune")], "audit": needs,
    }  # fmt: skip
    return [
        Job(verb, folder, (step(layout.out, verb, settings, made, f"{verb}/{folder}", what),), tuple(before[verb]))
        for verb, (settings, made) in steps.items()
    ]


def ensemble_job(config: StudyConfig, layout: Layout, arm: str, fold: int | None, seed: int) -> Job:
    name = named(arm, fold_name(fold), seed)
    folder, key = layout.out / "ensembles" / name, f"ensemble/{name}"
    members = [named(model, arm, fold_name(fold), seed) for model in config.models]
    settings: dict[str, Any] = {"runs": [str(layout.out / "runs" / member) for member in members], "out": str(folder)}
    if config.data.hidden is not None and seed == config.seeds[0] and fold in (None, *config.folds[:1]):
        settings["names"] = [HIDDEN]
    steps = (
        step(layout.out, "ensemble", settings, folder, key, ENSEMBLE),
        step(
            layout.out,
            "evaluate",
            over(config.evaluate, {"run": str(folder)}),
            folder / run.EVALUATION,
            key,
            "evaluate",
        ),
    )
    return Job("ensemble", name, steps, tuple((f"train/{member}", jobs.ALL) for member in members))


def submit_job(config: StudyConfig, layout: Layout, cell: Cell) -> Job:
    name = named(cell.model, cell.arm, fold_name(cell.fold), cell.seed)
    folder, sample = layout.out / "submissions" / name, config.data.sample_submission
    assert sample is not None  # the config's own rule
    settings = {"run": str(cell.folder), "name": HIDDEN, "sample_submission": str(sample.resolve()), "out": str(folder)}
    made = step(layout.out, "submit", settings, folder, f"submit/{name}", "data.sample_submission")
    return Job("submit", name, (made,), ((cell.job, jobs.ALL),))


def explain_job(config: StudyConfig, layout: Layout, fold: int | None) -> Job:
    runs = [named(model, config.reference, fold_name(fold), config.seeds[0]) for model in config.maps]
    folder = layout.out / "maps"
    settings = {
        "runs": [str(layout.out / "runs" / name) for name in runs],
        "part": layout.part,
        "out": str(folder),
        "hardware": layout.hardware,
    }
    made = step(layout.out, "explain", settings, folder, "explain/maps", "maps")
    return Job("explain", "maps", (made,), tuple((f"train/{name}", "train") for name in runs))


def preview_job(config: StudyConfig, layout: Layout, fold: int | None) -> Job:
    """What the reference's augmentation does, for Figure 1."""
    settings = train_settings(config, next(iter(config.models)), config.reference, fold, config.seeds[0])
    folder = layout.out / "preview"
    shown = {"store": layout.data["store"], "out": str(folder), "augment": settings.get("augment", {})}
    made = step(layout.out, "preview", shown, folder, "preview/preview", "preview")
    return Job("preview", "preview", (made,))


def about_recipe(name: str) -> str:
    """The first sentence of a shipped recipe's head; the file's name for another."""
    texts = shipped()
    return first_sentence(texts[name]) if name in texts else Path(name).name
