"""The jobs of a study as a Snakemake workflow: the files that it reads, and the process that runs it."""

import importlib.util
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lesionforge.config import to_yaml
from lesionforge.errors import BadInput
from lesionforge.files import write_json, write_whole
from lesionforge.study.jobs import KINDS, LOGS, ON_GPU, WORKFLOW, Job
from lesionforge.study.outdated import marker_of

log = logging.getLogger("lesionforge")

SNAKEFILE = Path(__file__).with_name("Snakefile")
SNAKEMAKE_LOG = "snakemake.log"
PROFILE_FILES = ("config.yaml", "config.v8+.yaml")
CLUSTER_THREADS = 4  # of a job on a cluster, which also gets a GPU there; our choice
GPUS = "gpus"  # folder of locks, one a GPU


def require_snakemake() -> None:
    if importlib.util.find_spec("snakemake") is None:
        raise BadInput("study: needs Snakemake; install the extra: pip install 'lesionforge[study]'")


class Machine(NamedTuple):
    """What the jobs of a study share."""

    cores: int
    threads: int  # CPU cores of one job
    gpus: int | None  # shared out, one a job; None where a cluster does that


def machine_of(cores: int | None, threads: int | None, gpus: int | None, profile: Path | None) -> Machine:
    """What was asked for, and for the rest what this machine has. Raises as `gpus_to_use`."""
    cores = cores or len(os.sched_getaffinity(0))
    if profile is not None:
        if not any((profile / name).is_file() for name in PROFILE_FILES):
            raise BadInput(
                f"--profile {profile}: found no {PROFILE_FILES[0]} in it, expected a Snakemake profile's folder"
            )
        return Machine(cores, threads or CLUSTER_THREADS, None)
    found = gpus_to_use(gpus)
    return Machine(cores, min(cores, threads or (max(1, cores // found) if found else 1)), found)


def gpus_to_use(asked: int | None) -> int:
    """How many GPUs of this machine are shared out; none asked for takes all.

    Raises:
        BadInput: more are asked for than there are.
    """
    traces = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
    if asked == 0 or (asked is None and not any(Path(trace).exists() for trace in traces)):  # without loading torch
        return 0
    from lesionforge.engine import timing

    found = timing.num_gpus()
    if asked is not None and asked > found:
        raise BadInput(
            f"--gpus: {asked} asked for, torch finds {found} on this machine; give --gpus {found}, or --profile for a "
            "cluster"
        )
    return found if asked is None else asked


def with_needed(jobs: dict[str, Job], targets: list[str]) -> list[str]:
    """Jobs and all that they need, in the plan's order."""
    wanted = set(targets)
    for key in reversed(jobs):
        if key in wanted:
            wanted |= {needed for needed, _ in jobs[key].needs}
    return [key for key in jobs if key in wanted]


def write_workflow(study: Path, jobs: dict[str, Job], machine: Machine) -> None:
    """Write workflow.json and the recipe of each call; a recipe that has not changed keeps its file."""
    (study / LOGS).mkdir(parents=True, exist_ok=True)
    for job in jobs.values():
        for each in job.steps:
            text = f"# lesionforge {each.verb} --recipe {each.recipe.relative_to(study)}\n{to_yaml(each.config)}"
            if not each.recipe.is_file() or each.recipe.read_text() != text:
                with write_whole(each.recipe, "w") as file:
                    file.write(text)
    write_json(
        study / WORKFLOW,
        {
            "kinds": [kind for kind in KINDS if any(job.kind == kind for job in jobs.values())],
            "priorities": {kind: 10 * (len(KINDS) - place) for place, kind in enumerate(KINDS)},
            "gpus_a_job": {kind: int(kind in ON_GPU and machine.gpus != 0) for kind in KINDS},
            "threads": machine.threads,
            "jobs": {
                key: {
                    "command": command_of(study, job, machine.gpus),
                    "needs": sorted({needed for needed, _ in job.needs}),
                    "makes": str(job.folder.relative_to(study)),
                }
                for key, job in jobs.items()
            },
        },
    )


def command_of(study: Path, job: Job, num_gpus: int | None) -> str:
    """The shell command of a job, to be typed by hand too; from the folder in which the study was started."""
    words = ["exec", "env", "-C", os.getcwd(), sys.executable, "-m", "lesionforge.chain"]
    words += ["--marker", str(marker_of(study, job.key))]
    if num_gpus is not None:
        words += ["--gpus", str(study / GPUS), str(num_gpus if job.kind in ON_GPU else 0)]
    for number, each in enumerate(job.steps):
        words += [*(["::"] if number else []), each.verb, "--recipe", str(each.recipe)]
    return shlex.join(words)


def snakemake_words(study: Path, machine: Machine, profile: Path | None, targets: list[str]) -> list[str]:
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(study)]
    words += ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime", "--nolock", "--scheduler", "greedy"]
    if profile is None:
        words += ["--executor", "local", "--cores", str(machine.cores)]
        words += ["--resources", f"gpu={machine.gpus}"] if machine.gpus else []
    else:
        words += ["--profile", str(profile)]
    return [*words, "--", *targets]


@contextmanager
def running(
    words: list[str], study: Path, on_cluster: bool
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[int], None]]]:
    """Snakemake as a process group of its own; yields it and how to pass a signal on.

    On this machine every job gets the signal too, and saves; on a cluster Snakemake cancels the jobs that it submitted.
    Leaving the block by an error ends the group, and so does the death of this process.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with open(study / SNAKEMAKE_LOG, "ab") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True, env=environment
        )

    # Its input ends without a line when this process is killed.
    guard = ["sh", "-c", f"read -r over || kill -{'INT' if on_cluster else 'TERM'} -{process.pid}"]
    with subprocess.Popen(guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as guarding:

        def pass_on(number: int) -> None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT if on_cluster else number)

        try:
            yield process, pass_on
        except BaseException:
            pass_on(signal.SIGTERM)
            raise
        finally:
            process.wait()
            guarding.communicate(b"over\n")


def tail(path: Path, num_lines: int) -> list[str]:
    """The last lines of a log that say something, as they are."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 2**16))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip()][-num_lines:]
