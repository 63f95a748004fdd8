"""study: a whole comparison, from one YAML: models x training distributions x folds x seeds, generators and report."""

import logging
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lesionforge import files, run, signals
from lesionforge.errors import BadInput
from lesionforge.progress import in_words
from lesionforge.study.jobs import LOGS
from lesionforge.study.settings import StudyConfig

if TYPE_CHECKING:
    from lesionforge.study.checks import Data
    from lesionforge.study.planning import Plan
    from lesionforge.study.workflow import Machine

__all__ = ["StudyConfig", "study"]

log = logging.getLogger("lesionforge")

# Made from the jobs' results in a minute, each time that a run of the study ends; whole or not at all.
DERIVED = {"compare": "compare", "subgroups": "subgroups", "report": "report"}


def study(config: StudyConfig) -> None:
    """Run what is left of a study, then compare, break down by subgroup and report; or show what would be done.

    Raises:
        BadInput: settings that cannot be run, another study in the folder, jobs that failed (all others have run).
    """
    from lesionforge.study import checks, outdated, planning, workflow

    workflow.require_snakemake()
    out = config.out.resolve()
    checks.refuse_other_study(out, config)
    data = checks.read_data(config)
    machine = workflow.machine_of(config.cores, config.threads, config.gpus, config.profile)
    plan = planning.build_plan(config, out, data.parts, machine.threads)
    checks.refuse_unfillable(config, plan, data)
    checks.refuse_unknown_models(config, plan)
    if config.dry_run:
        show_dry_run(config, out, plan, data, machine)
        return
    prints = outdated.fingerprints_of(out, plan.jobs)
    if is_finished(out, config, prints):
        log.info("%s: finished already, nothing to do", out)
        print(out / DERIVED["report"] / run.REPORT)
        return
    with files.disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with files.locked(out, out), run.logged(out):
        run.record(out, "study", config)
        (out / run.DONE).unlink(missing_ok=True)
        stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H-%M-%S")
        outdated.set_aside(out, plan.jobs, prints, stamp)
        workflow.write_workflow(out, plan.jobs, machine)
        files.write_json(out / run.STUDY, checks.study_facts(config, plan, data))
        number = run_jobs(config, out, plan, data, machine)
        finish(config, out, plan, prints, number)


def is_finished(out: Path, config: StudyConfig, prints: dict[str, list[str]]) -> bool:
    if not (out / run.DONE).is_file() or not (out / DERIVED["report"] / run.REPORT).is_file():
        return False
    from lesionforge.recipe import read_recipe

    same = not run.differing_keys(read_recipe(out / run.CONFIG).settings, config)
    return same and files.read_json(out / run.DONE).get("fingerprints") == prints


def show_dry_run(config: StudyConfig, out: Path, plan: "Plan", data: "Data", machine: "Machine") -> None:
    from lesionforge.study import checks, estimate, outdated, watching, workflow

    wanted = workflow.with_needed(plan.jobs, checks.targets_of(config, plan))
    stale = outdated.stale_steps(out, plan.jobs, outdated.fingerprints_of(out, plan.jobs))
    plan = plan._replace(jobs={key: plan.jobs[key] for key in wanted})
    done = {key for key in watching.state_of(out, plan.jobs).done if not stale[key]}
    estimates = estimate.estimate_jobs(out, plan, data.counts, data.num_scored, machine, timed=True)
    at_once = None if config.profile is not None else max(1, machine.gpus or machine.cores // machine.threads)
    print(f"{config.name}: {len(plan.cells)} cells of {' x '.join(axes_in_words(config))}")
    print(estimate.as_text(plan, estimates, at_once, done))
    for key in plan.jobs:
        print(f"  {'done   ' if key in done else 'to do  '} {key}")
    free = shutil.disk_usage(files.nearest_folder(out)).free
    print(f"{estimate.size(free)} are free in {files.nearest_folder(out)}. Nothing was written or run.")


def axes_in_words(config: StudyConfig) -> list[str]:
    axes = {"model": len(config.models), "recipe": len(config.recipes), "fold": len(config.folds)}
    axes["seed"] = len(config.seeds)
    return [f"{num} {name}{'s' if num > 1 else ''}" for name, num in axes.items() if num]


def run_jobs(config: StudyConfig, out: Path, plan: "Plan", data: "Data", machine: "Machine") -> int | None:
    """Run what is left; the number of the signal that broke it off, if one did."""
    from lesionforge.study import checks, estimate, outdated, watching, workflow

    targets = checks.targets_of(config, plan)
    left = [key for key in targets if not outdated.marker_of(out, key).is_file()]
    log.info("%s: %d of %d jobs are done", config.name, len(targets) - len(left), len(targets))
    if not left:
        return None
    watching.wait_for_running(out, plan.jobs)  # of a study that was killed
    watching.clear_failures(out, plan.jobs)
    shares = estimate.estimate_jobs(out, plan, data.counts, data.num_scored, machine, timed=False)
    words = workflow.snakemake_words(out, machine, config.profile, [f"jobs/{key}.json" for key in left])
    jobs = {key: plan.jobs[key] for key in workflow.with_needed(plan.jobs, targets)}
    with (
        signals.stop_signals() as stop_signal,
        workflow.running(words, out, config.profile is not None) as (process, pass_on),
    ):
        passed_on = False

        def is_over() -> bool:
            nonlocal passed_on
            number = stop_signal()
            if number is not None and not passed_on:
                passed_on = True
                pass_on(number)
            return process.poll() is not None

        watching.watch(out, jobs, is_over, {key: shares[key].seconds for key in jobs})
        watching.wait_for_running(out, jobs)
        number = stop_signal()
    if number is not None:
        return number
    if process.returncode and not watching.failures(out, jobs):
        lines = "".join(f"\n  {line}" for line in workflow.tail(out / workflow.SNAKEMAKE_LOG, 8))
        raise BadInput(
            f"Snakemake stopped with exit code {process.returncode}; see {out / workflow.SNAKEMAKE_LOG}:{lines}"
        )
    return None


def finish(config: StudyConfig, out: Path, plan: "Plan", prints: dict[str, list[str]], number: int | None) -> None:
    """Compare and report what there is, name what failed, mark the study done if nothing is left."""
    from lesionforge.study import checks, watching, workflow

    jobs = {key: plan.jobs[key] for key in workflow.with_needed(plan.jobs, checks.targets_of(config, plan))}
    if number is not None:
        state = watching.state_of(out, jobs)
        log.warning("stopped with %d of %d jobs done; the same command goes on", len(state.done), len(jobs))
        raise SystemExit(128 + number)
    failed = watching.failures(out, plan.jobs)
    files.write_json(out / run.FAILED, failed)
    unmade = [verb for verb, folder in DERIVED.items() if not make_derived(out, verb, folder)]
    state = watching.state_of(out, jobs)
    report = out / DERIVED["report"] / run.REPORT
    if report.is_file():
        print(report)
    for job in failed:
        lines = "".join(f"\n      {line}" for line in job["last_lines"])
        log.error("FAILED %s (%s), %s:%s", job["job"], job["verb"], out / job["log"], lines)
    if failed:
        waiting = f", {len(state.waiting)} could not start without them" if state.waiting else ""
        raise BadInput(
            f"{len(failed)} of {len(jobs)} jobs failed{waiting}; all others are done and in the report. Mend what "
            "the lines above say and run the same command again: only these will run"
        )
    if unmade:
        raise BadInput(
            f"all jobs are done, but {' and '.join(unmade)} could not be made; see {out / LOGS}, and run the same "
            "command again"
        )
    if left := len(watching.state_of(out, plan.jobs).waiting):
        log.info("%d jobs of the study are still to be run (--only left them out)", left)
        return
    seconds = sum(watching.seconds_of(out, key) or 0.0 for key in plan.jobs)
    run.mark_done(out, num_jobs=len(plan.jobs), num_cells=len(plan.cells), job_seconds=seconds, fingerprints=prints)
    log.info("%d jobs, %s of work: %s", len(plan.jobs), in_words(seconds), out)


def make_derived(out: Path, verb: str, folder: str) -> bool:
    """Make a table or the report anew; False where that fails, and the one before stays."""
    made, before = out / folder, out / f".{folder}.before"
    if before.exists():  # broken off when this was made last
        shutil.rmtree(made, ignore_errors=True)
    elif made.exists():
        os.replace(made, before)
    log.info("study: %s", verb)
    with open(out / LOGS / f"{verb}.log", "wb") as said:
        words = [sys.executable, "-m", "lesionforge", verb, "--study", str(out)]
        code = subprocess.run(words, stdout=said, stderr=said, stdin=subprocess.DEVNULL).returncode
    if code == 0:
        shutil.rmtree(before, ignore_errors=True)
        return True
    not_for_these_data = verb == "subgroups" and code == 2  # a store without the metadata that make groups
    shutil.rmtree(made, ignore_errors=True)
    if before.exists():
        os.replace(before, made)
    from lesionforge.study import workflow

    lines = "".join(f"\n  {line}" for line in workflow.tail(out / LOGS / f"{verb}.log", 3))
    log.warning("%s could not be made (%s):%s", verb, out / LOGS / f"{verb}.log", lines)
    return not_for_these_data
