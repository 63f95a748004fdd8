"""Small studies for the tests: settings that become a plan, and a plan whose jobs are pretended to have been run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lesionforge import resolve, run
from lesionforge.files import write_json
from lesionforge.recipe import Recipe
from lesionforge.study import jobs, outdated, planning
from lesionforge.study.jobs import Job
from lesionforge.study.planning import Plan
from lesionforge.study.settings import StudyConfig

SMALL: dict[str, Any] = {
    "models": {"next": {"model": {"name": "edgenext:tiny"}}, "net": {"model.name": "resnet:tiny"}},
    "recipes": {
        "0x": {"recipe": "matched_budget_0x"},
        "1x": {"recipe": "matched_budget_1x", "generator": "scratch"},
    },
    "reference": "0x",
    "generators": {
        "scratch": {
            "finetune": {"recipe": "generator_scratch_64"},
            "generate": {"num_images": 400, "guidance_scale": [2.0], "num_inference_steps": [20]},
        }
    },
}


def config_of(folder: Path, *changes: Mapping[str, Any]) -> StudyConfig:
    """The study SMALL in folder/study, on folder/store and folder/split, with settings over it."""
    given = {"out": str(folder / "study"), "data": {"store": str(folder / "store"), "split": str(folder / "split")}}
    return resolve.resolve(StudyConfig, Recipe("a test's", jobs.over(SMALL, given, *changes), {}), {})


def plan_of(config: StudyConfig, parts: tuple[str, ...] = ("val", "test"), threads: int = 1) -> Plan:
    return planning.build_plan(config, config.out.resolve(), parts, threads)


def settings_of(plan: Plan, job: str, verb: str = "train") -> dict[str, Any]:
    """Of the first step of a job that calls the verb: dotted key -> value."""
    step = next(step for step in plan.jobs[job].steps if step.verb == verb)
    return run.flat(step.config.model_dump(mode="json"))


def pretend(study: Path, made: dict[str, Job]) -> None:
    """Leave what the jobs would leave: the folder or file of each step, done.json, the marker."""
    for key, job in made.items():
        for step in job.steps:
            if step.folder.suffix:
                step.folder.write_text("made")
            else:
                step.folder.mkdir(parents=True, exist_ok=True)
                (step.folder / run.CONFIG).write_text("made")
        run.mark_done(job.folder)
        write_json(outdated.marker_of(study, key), {"finished": run.now(), "seconds": 10.0})
