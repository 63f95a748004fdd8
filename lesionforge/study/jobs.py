"""What a study consists of: jobs, each a chain of verb calls that make one folder, and the cells that they fill."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lesionforge import resolve
from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.recipe import Recipe, find_recipe
from lesionforge.verbs import config_class_of

JOBS, RECIPES, LOGS, REPLACED = "jobs", "recipes", "logs", "replaced"  # folders of a study
WORKFLOW, FINGERPRINTS = "workflow.json", "fingerprints.json"
# In the order of the data flow; the first ones are long and others wait for them.
KINDS = ("finetune", "generate", "audit", "train", "ensemble", "explain", "preview", "submit")
ALL = ""  # of a job that is needed: all its steps, not one verb's result
ON_GPU = ("finetune", "generate", "audit", "train", "explain")


class Step(NamedTuple):
    """One call of a verb."""

    verb: str
    config: Config
    folder: Path  # what it makes: a folder, or one file
    recipe: Path  # the YAML that the call reads


class Job(NamedTuple):
    """Steps that run in one process, one after the other, so that torch is loaded once."""

    kind: str
    name: str
    steps: tuple[Step, ...]
    needs: tuple[tuple[str, str], ...] = ()  # (job, verb) whose results are read; ALL for every step's

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def folder(self) -> Path:
        return self.steps[0].folder


class Cell(NamedTuple):
    """One trained model, or ensemble, of the table."""

    model: str
    arm: str
    fold: int | None
    seed: int
    job: str
    folder: Path


def named(*parts: str | int | None) -> str:
    """edgenext-0x-fold1-0: the name of a folder; a fold that is None is left out."""
    return "-".join(str(part) for part in parts if part is not None)


def fold_name(fold: int | None) -> str | None:
    return None if fold is None else f"fold{fold}"


def step(study: Path, verb: str, settings: Mapping[str, Any], folder: Path, job: str, what: str) -> Step:
    """Resolve the settings of one call, as its command would.

    Raises:
        BadInput: a setting that the verb does not know, or whose value is wrong; `what` says where it was given.
    """
    name = f"{what}, settings of {verb}"
    try:
        config = resolve.resolve(config_class_of(verb), Recipe(name, dict(settings), {}), {})
    except BadInput as error:
        raise BadInput(str(error) if name in str(error) else f"{name}: {error}") from error
    return Step(verb, config, folder, study / RECIPES / f"{job.replace('/', '-')}.{verb}.yaml")


def over(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over settings; keys may be dotted (`optim.lr: 1e-3`)."""
    settings: dict[str, Any] = {}
    for layer in layers:
        settings = resolve.merged(settings, undotted(layer))
    return settings


def undotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        inner = undotted(value) if isinstance(value, dict) else value
        nested = resolve.merged(nested, resolve.nested(tuple(key.split(".")), inner))
    return nested


def with_recipe(settings: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Settings over those of the recipe that their key `recipe` names."""
    own = {key: value for key, value in settings.items() if key != "recipe"}
    return over(settings_of_recipe(settings["recipe"], what) if "recipe" in settings else {}, own)


def settings_of_recipe(name: Any, what: str) -> dict[str, Any]:
    if not isinstance(name, str):
        raise BadInput(f"{what}: recipe: found {name!r}, expected the name of a recipe or a YAML file")
    try:
        return find_recipe(name).settings
    except BadInput as error:
        raise BadInput(f"{what}: {error}") from error


def counts_times(settings: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The counts of a training recipe times a factor, rounded down; 1 at least where it was not 0."""
    if factor == 1 or "data" not in settings:
        return dict(settings)
    data: dict[str, Any] = dict(settings["data"])
    mix = {key: times(value, factor) if key != "seed" else value for key, value in data.get("mix", {}).items()}
    if mix:
        data["mix"] = mix
    if data.get("samples_per_epoch"):
        data["samples_per_epoch"] = times(data["samples_per_epoch"], factor)
    return {**settings, "data": data}


def times(value: Any, factor: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return max(1, int(value * factor + 1e-9)) if value else 0


def in_order(jobs: Sequence[Job]) -> dict[str, Job]:
    """Jobs by key, those that are needed first.

    Raises:
        BadInput: jobs that wait for each other.
    """
    left, ordered = {job.key: job for job in jobs}, dict[str, Job]()
    while left:
        ready = [key for key, job in left.items() if all(needed in ordered for needed, _ in job.needs)]
        if not ready:
            raise BadInput(f"{', '.join(left)} wait for each other; look at features_from and start_from")
        for key in ready:
            ordered[key] = left.pop(key)
    return ordered
