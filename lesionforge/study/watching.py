"""What a running study is doing: which jobs are done, running, failed; what is left, and for how long."""

import json
import logging
import platform
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from lesionforge.files import hold, read_json
from lesionforge.progress import in_words
from lesionforge.study.jobs import LOGS, Job
from lesionforge.study.outdated import marker_of
from lesionforge.study.workflow import tail

log = logging.getLogger("lesionforge")

SECONDS_BETWEEN_LINES = 20.0  # our choice, where there is no terminal
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_OF_SILENCE = 60.0  # six beats of a chain
SECONDS_TO_SAVE = 60.0
NUM_LAST_LINES = 5  # of a failed job's log


class State(NamedTuple):
    """The jobs by what they are at, in the plan's order."""

    done: list[str]
    running: list[str]
    failed: list[str]
    waiting: list[str]


def log_of(study: Path, job: Job) -> Path:
    return study / LOGS / f"{job.kind}-{job.name}.log"


def state_of(study: Path, jobs: dict[str, Job]) -> State:
    state = State([], [], [], [])
    for key in jobs:
        marker = marker_of(study, key)
        if marker.is_file():
            state.done.append(key)
        elif is_running(marker.with_name(marker.name + ".running")):
            state.running.append(key)
        elif marker.with_name(marker.name + ".failed").is_file() or was_killed(marker):
            state.failed.append(key)
        else:
            state.waiting.append(key)
    return state


def is_running(path: Path) -> bool:
    """Whether a living chain holds the file, or has renewed it lately: locks do not cross every network file system."""
    try:
        return is_held(path) or time.time() - path.stat().st_mtime < SECONDS_OF_SILENCE
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process of this machine holds the file."""
    try:
        with open(path, "r+b") as file:
            return not hold(file)
    except OSError:
        return False


def other_machine(path: Path) -> str | None:
    """The machine that is at a job, by its FILE.running: locks do not cross every network file system, renewals do."""
    try:
        if time.time() - path.stat().st_mtime > SECONDS_OF_SILENCE:
            return None
        machine = str(json.loads(path.read_text())["machine"])
    except (OSError, ValueError):  # no such file; a chain that was killed while it wrote
        return None
    return machine if machine != platform.node() else None


def was_killed(marker: Path) -> bool:
    """Whether a chain was at this job, and left without a word: killed, or out of memory."""
    return marker.with_name(marker.name + ".running").is_file()


def watch(study: Path, jobs: dict[str, Job], is_over: Callable[[], bool], shares: dict[str, float]) -> None:
    """Show how a study comes on until it is over: a table that renews itself on a terminal, lines elsewhere.

    Args:
        shares: what share of the whole work each job is, as estimated.
    """
    before = state_of(study, jobs)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), refresh_per_second=2, transient=True) as live:
            while not is_over():
                live.update(as_table(study, jobs, state_of(study, jobs), shares))
                time.sleep(SECONDS_BETWEEN_LOOKS)
        return
    last_line, told = 0.0, {*before.done, *before.failed}
    while not is_over():
        state = state_of(study, jobs)
        for key in [*state.done, *state.failed]:
            if key not in told:
                told.add(key)
                log.info("%s: %s", key, "done" if key in state.done else how_it_ended(study, key))
                last_line = 0.0
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            log.info("%s", in_one_line(study, jobs, state, shares))
        time.sleep(SECONDS_BETWEEN_LOOKS)


def in_one_line(study: Path, jobs: dict[str, Job], state: State, shares: dict[str, float]) -> str:
    doing = "; ".join(f"{key}: {what}" for key, what in activities(study, jobs, state))
    return f"study: {summary(state, len(jobs), seconds_left(study, state, shares))}" + (f" | {doing}" if doing else "")


def summary(state: State, num_jobs: int, left: float | None) -> str:
    """12 of 42 jobs done, 2 running, 28 waiting, about 14 min 20 s left."""
    counts = [f"{len(state.done)} of {num_jobs} jobs done"]
    others = {"running": state.running, "failed or stopped": state.failed}
    counts += [f"{len(keys)} {word}" for word, keys in others.items() if keys]
    counts += [f"{len(state.waiting)} waiting"] if state.waiting else []
    return ", ".join(counts) + (f", about {in_words(left)} left" if left is not None else "")


def how_it_ended(study: Path, key: str) -> str:
    """stopped for a job that a signal has ended, which the same command goes on with; else FAILED."""
    marker = marker_of(study, key)
    noted = marker.with_name(marker.name + ".failed")
    signalled = noted.is_file() and read_json(noted)["code"] in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    return "stopped" if signalled else "FAILED"


def activities(study: Path, jobs: dict[str, Job], state: State) -> list[tuple[str, str]]:
    """What each running job said last."""
    said = []
    for key in state.running:
        lines = tail(log_of(study, jobs[key]), 1)
        said.append((key, lines[0].strip()[:100] if lines else "starting"))
    return said


def seconds_left(study: Path, state: State, shares: dict[str, float]) -> float | None:
    """From how long the jobs of a kind that are done took, against what was estimated; None until a job is done."""
    took = {key: seconds for key in state.done if (seconds := seconds_of(study, key)) is not None and key in shares}
    if not took:
        return None
    expected = dict(shares)
    for kind in {key.partition("/")[0] for key in took}:
        of_kind = [key for key in shares if key.startswith(f"{kind}/")]
        done = [key for key in of_kind if key in took]
        factor = sum(took[key] for key in done) / sum(shares[key] for key in done)
        expected |= {key: factor * shares[key] for key in of_kind}
    left = sum(expected[key] for key in state.waiting)
    for key in state.running:
        left += max(expected[key] - seconds_at_work(study, key), 0.1 * expected[key])
    return left / max(1, len(state.running))


def seconds_at_work(study: Path, key: str) -> float:
    """How long a running job has been at it."""
    marker = marker_of(study, key)
    try:
        started = json.loads(marker.with_name(marker.name + ".running").read_text())["started"]
        return max(0.0, time.time() - datetime.fromisoformat(started).timestamp())
    except (OSError, ValueError, KeyError):
        return 0.0


def as_table(study: Path, jobs: dict[str, Job], state: State, shares: dict[str, float]) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left = seconds_left(study, state, shares)
    table = Table.grid(padding=(0, 2))
    for key, what in activities(study, jobs, state):
        table.add_row(Text(key, style="bold"), Text(what, overflow="ellipsis", no_wrap=True))
    for key in state.failed:
        table.add_row(Text(key, style="bold red"), Text("failed", style="red"))
    bar = ProgressBar(total=len(jobs), completed=len(state.done), width=60)
    return Group(Text(summary(state, len(jobs), left)), bar, table)


def clear_failures(study: Path, jobs: dict[str, Job]) -> None:
    """Forget how earlier attempts ended, but for jobs that are still being worked at."""
    for key in jobs:
        marker = marker_of(study, key)
        running = marker.with_name(marker.name + ".running")
        marker.with_name(marker.name + ".failed").unlink(missing_ok=True)
        if not is_held(running) and other_machine(running) is None:
            running.unlink(missing_ok=True)


def wait_for_running(study: Path, jobs: dict[str, Job]) -> None:
    """Wait for jobs that a signal has reached and that are saving."""
    until = time.monotonic() + SECONDS_TO_SAVE
    while time.monotonic() < until and any(
        is_held(marker_of(study, key).with_name(f"{marker_of(study, key).name}.running")) for key in jobs
    ):
        time.sleep(0.2)


def failures(study: Path, jobs: dict[str, Job]) -> list[dict[str, Any]]:
    """failed.json, once nothing runs any more: each failed job, the verb it failed in and the last lines of its log."""
    found = []
    state = state_of(study, jobs)
    for key in [*state.failed, *state.running]:
        marker = marker_of(study, key)
        noted = marker.with_name(marker.name + ".failed")
        verb = read_json(noted)["verb"] if noted.is_file() else "killed, or out of memory"
        log_file = log_of(study, jobs[key])
        lines = tail(log_file, NUM_LAST_LINES)
        found.append({"job": key, "verb": verb, "log": str(log_file.relative_to(study)), "last_lines": lines})
    return found


def seconds_of(study: Path, key: str) -> float | None:
    """How long a finished job took."""
    try:
        return float(json.loads(marker_of(study, key).read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        return None
