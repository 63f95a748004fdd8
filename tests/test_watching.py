"""What a running study is doing, from its files: states, the line, the table, the time that is left, the failures."""

import fcntl
import io
import json
import logging
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from study_words import config_of, plan_of

from lesionforge import run
from lesionforge.files import write_json
from lesionforge.study import watching
from lesionforge.study.jobs import LOGS, Job
from lesionforge.study.outdated import marker_of
from lesionforge.study.watching import State

FIRST, SECOND, THIRD, FOURTH = "train/next-0x-0", "train/next-1x-0", "train/net-0x-0", "train/net-1x-0"


@pytest.fixture
def jobs(tmp_path: Path) -> dict[str, Job]:
    """Four trainings of the study in tmp_path/study, none of them begun."""
    plan = plan_of(config_of(tmp_path))
    for key in (FIRST, SECOND, THIRD, FOURTH):
        marker_of(tmp_path / "study", key).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "study" / LOGS).mkdir()
    return {key: plan.jobs[key] for key in (FIRST, SECOND, THIRD, FOURTH)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"


def done(study: Path, key: str, seconds: float = 10.0) -> None:
    write_json(marker_of(study, key), {"finished": run.now(), "seconds": seconds})


def beside(study: Path, key: str, ending: str) -> Path:
    marker = marker_of(study, key)
    return marker.with_name(marker.name + ending)


def running(study: Path, key: str, seconds_ago: float = 0.0, machine: str = platform.node()) -> Path:
    path = beside(study, key, ".running")
    path.write_text(json.dumps({"machine": machine, "pid": 1}))
    os.utime(path, (time.time() - seconds_ago, time.time() - seconds_ago))
    return path


def failed(study: Path, key: str, verb: str = "train", code: int = 2) -> None:
    write_json(beside(study, key, ".failed"), {"code": code, "verb": verb})


def log_says(study: Path, key: str, text: str) -> None:
    (study / LOGS / f"{key.replace('/', '-')}.log").write_text(text)


def test_states_are_what_the_files_say(study: Path, jobs: dict[str, Job]) -> None:
    assert watching.state_of(study, jobs) == State([], [], [], list(jobs))
    done(study, FIRST)
    running(study, SECOND)
    failed(study, THIRD)
    assert watching.state_of(study, jobs) == State([FIRST], [SECOND], [THIRD], [FOURTH])
    done(study, THIRD)
    assert THIRD in watching.state_of(study, jobs).done, "a later attempt"


def test_a_silent_job_runs_while_it_is_held(study: Path, jobs: dict[str, Job]) -> None:
    path = running(study, SECOND, seconds_ago=300)
    assert watching.state_of(study, jobs).failed == [SECOND], "killed: neither held nor renewed, and no word of it"
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert watching.state_of(study, jobs).running == [SECOND]
    running(study, SECOND, seconds_ago=30, machine="node7")
    assert watching.state_of(study, jobs).running == [SECOND], "another machine's lock is not seen here, its beat is"


def test_what_is_said_in_one_line(study: Path, jobs: dict[str, Job]) -> None:
    done(study, FIRST)
    running(study, SECOND)
    running(study, THIRD)
    failed(study, FOURTH)
    log_says(study, SECOND, "epoch 1\nepoch 2 of 30, about 3 min left  \n\n")
    line = watching.in_one_line(study, jobs, watching.state_of(study, jobs), dict.fromkeys(jobs, 20.0))
    assert line == (
        "study: 1 of 4 jobs done, 2 running, 1 failed or stopped, about 10 s left | "
        f"{SECOND}: epoch 2 of 30, about 3 min left; {THIRD}: starting"
    )
    assert watching.summary(State([FIRST], [], [], [SECOND]), 2, 3725) == (
        "1 of 2 jobs done, 1 waiting, about 1 h 02 min left"
    )


def at_work_for(study: Path, key: str, seconds: float) -> None:
    started = datetime.fromtimestamp(time.time() - seconds, UTC).isoformat()
    running(study, key).write_text(json.dumps({"machine": platform.node(), "pid": 1, "started": started}))


def test_the_time_that_is_left(study: Path, jobs: dict[str, Job]) -> None:
    """Jobs take as much longer than was estimated as those of their kind that are done; jobs at once share the time."""
    shares = {FIRST: 10.0, SECOND: 20.0, THIRD: 30.0, FOURTH: 50.0, "audit/scratch": 7.0}

    def left(*states: list[str]) -> float | None:
        return watching.seconds_left(study, State(*states), shares)

    assert left([], [FIRST], [], [SECOND, THIRD, FOURTH]) is None, "nothing is known yet"
    done(study, FIRST, 40.0)
    assert left([FIRST], [], [], [SECOND, THIRD, FOURTH]) == pytest.approx(4 * 100)
    done(study, SECOND, 20.0)
    assert left([FIRST, SECOND], [], [], [THIRD, FOURTH]) == pytest.approx((40 + 20) / (10 + 20) * 80)
    assert left([FIRST, SECOND], [], [], [THIRD, "audit/scratch"]) == pytest.approx(2 * 30 + 7), "of another kind"
    assert left([FIRST, SECOND], [], [THIRD], [FOURTH]) == pytest.approx(2 * 50), "a failed job is over"
    assert left([FIRST, SECOND, THIRD, FOURTH], [], [], []) == 0
    at_work_for(study, THIRD, 45.0)
    at_work_for(study, FOURTH, 500.0)
    assert left([FIRST, SECOND], [THIRD], [], [FOURTH]) == pytest.approx(60 - 45 + 100, abs=2)
    assert left([FIRST, SECOND], [THIRD, FOURTH], [], []) == pytest.approx((60 - 45 + 0.1 * 100) / 2, abs=2)


def test_the_table_on_a_terminal(study: Path, jobs: dict[str, Job]) -> None:
    from rich.console import Console

    done(study, FIRST)
    running(study, SECOND)
    failed(study, THIRD)
    log_says(study, SECOND, "epoch 2 of 30 [in brackets]\n")
    console = Console(file=io.StringIO(), width=80)
    console.print(watching.as_table(study, jobs, watching.state_of(study, jobs), dict.fromkeys(jobs, 15.0)))
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "1 of 4 jobs done, 1 running, 1 failed or stopped, 1 waiting, about 20 s left" in said
    assert f"{SECOND}  epoch 2 of 30 [in brackets]" in said
    assert f"{THIRD}" in said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_watching_tells_what_ended_once(
    study: Path, jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    done(study, FIRST)
    looks = iter(
        [
            lambda: None,
            lambda: done(study, SECOND),
            lambda: failed(study, THIRD),
            lambda: failed(study, FOURTH, code=143),
            lambda: None,
        ]
    )

    def is_over() -> bool:
        look = next(looks, None)
        if look is not None:
            look()
        return look is None

    with caplog.at_level(logging.INFO, "lesionforge"):
        watching.watch(study, jobs, is_over, dict.fromkeys(jobs, 1.0))
    ended = [record.getMessage() for record in caplog.records if not record.getMessage().startswith("study: ")]
    assert ended == [f"{SECOND}: done", f"{THIRD}: FAILED", f"{FOURTH}: stopped"]
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("study: ")]
    assert lines[0].startswith("study: 1 of 4 jobs done, 3 waiting")
    assert len(lines) == 4, "one at first, one for each that ended; not one for each look"


def test_failures_say_where_and_what(study: Path, jobs: dict[str, Job]) -> None:
    done(study, FIRST)
    failed(study, SECOND, verb="predict")
    log_says(study, SECOND, "\n".join(f"line {k}" for k in range(9)))
    running(study, THIRD, seconds_ago=5)  # nothing runs any more: it was killed just now
    assert watching.failures(study, jobs) == [
        {
            "job": SECOND, "verb": "predict", "log": "logs/train-next-1x-0.log",
            "last_lines": ["line 4", "line 5", "line 6", "line 7", "line 8"],
        },
        {
            "job": THIRD, "verb": "killed, or out of memory", "log": "logs/train-net-0x-0.log", "last_lines": [],
        },
    ]  # fmt: skip


def test_an_earlier_attempt_is_forgotten(study: Path, jobs: dict[str, Job]) -> None:
    failed(study, FIRST)
    running(study, SECOND)
    elsewhere = running(study, THIRD, machine="node7")
    path = running(study, FOURTH)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        watching.clear_failures(study, jobs)
        assert path.is_file(), "worked at now"
    assert not beside(study, FIRST, ".failed").exists()
    assert elsewhere.is_file(), "and so is this, on another machine"
    assert watching.state_of(study, jobs) == State([], [THIRD, FOURTH], [], [FIRST, SECOND])


def test_saving_is_waited_for(study: Path, jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    path = running(study, FOURTH)
    file = open(path, "a")  # noqa: SIM115  let go of while it waits
    fcntl.flock(file, fcntl.LOCK_EX)
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        file.close()

    monkeypatch.setattr(time, "sleep", sleep)
    watching.wait_for_running(study, jobs)
    assert len(slept) == 1


def test_how_long_a_job_took(study: Path, jobs: dict[str, Job]) -> None:
    assert watching.seconds_of(study, FIRST) is None
    done(study, FIRST, 12.5)
    assert watching.seconds_of(study, FIRST) == 12.5
    marker_of(study, FIRST).write_text("{")
    assert watching.seconds_of(study, FIRST) is None
