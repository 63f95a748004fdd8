"""The files that Snakemake reads, its command, and what becomes of its processes."""

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from study_words import config_of, plan_of

from lesionforge import engine
from lesionforge.errors import BadInput
from lesionforge.files import read_json
from lesionforge.recipe import read_recipe
from lesionforge.study import jobs, workflow
from lesionforge.study.workflow import Machine, machine_of


def test_the_recipe_of_each_call_is_written_and_kept(tmp_path: Path) -> None:
    plan, study = plan_of(config_of(tmp_path)), tmp_path / "study"
    workflow.write_workflow(study, plan.jobs, Machine(2, 1, 0))
    written = study / jobs.RECIPES / "train-net-1x-0.train.yaml"
    assert written.read_text().startswith("# lesionforge train --recipe recipes/train-net-1x-0.train.yaml\n")
    assert read_recipe(written).settings["data"]["synthetic"] == [str(study / "synthetic" / "scratch")]
    assert len(list((study / jobs.RECIPES).iterdir())) == sum(len(job.steps) for job in plan.jobs.values())
    os.utime(written, (1, 1))
    changed = plan_of(config_of(tmp_path, {"models.next.optim.lr": 0.5}))
    workflow.write_workflow(study, changed.jobs, Machine(2, 1, 0))
    assert written.stat().st_mtime == 1, "not written again, as it has not changed"
    assert read_recipe(study / jobs.RECIPES / "train-next-1x-0.train.yaml").settings["optim"]["lr"] == 0.5


def test_what_the_snakefile_reads(tmp_path: Path) -> None:
    plan, study = plan_of(config_of(tmp_path)), tmp_path / "study"
    workflow.write_workflow(study, plan.jobs, Machine(4, 2, 1))
    written = read_json(study / jobs.WORKFLOW)
    assert written["kinds"] == ["finetune", "generate", "audit", "train", "preview"]
    assert written["threads"] == 2
    assert written["gpus_a_job"]["train"] == 1
    assert written["gpus_a_job"]["preview"] == 0
    priorities = [written["priorities"][kind] for kind in jobs.KINDS]
    assert priorities == sorted(priorities, reverse=True), "what others wait for comes first"
    assert written["jobs"].keys() == plan.jobs.keys()
    job = written["jobs"]["train/net-1x-0"]
    assert (job["needs"], job["makes"]) == (["audit/scratch"], "runs/net-1x-0")
    for num_gpus, kind, expected in ((None, "train", 0), (0, "train", 0), (2, "train", 1), (2, "preview", 0)):
        workflow.write_workflow(study, plan.jobs, Machine(4, 2, num_gpus))
        assert read_json(study / jobs.WORKFLOW)["gpus_a_job"][kind] == (1 if num_gpus is None else expected)


def test_a_jobs_command_can_be_typed_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    plan, study = plan_of(config_of(folder)), folder / "study"
    command = workflow.command_of(study, plan.jobs["train/net-0x-0"], 2)
    words = shlex.split(command)
    recipes = [str(step.recipe) for step in plan.jobs["train/net-0x-0"].steps]
    assert words == [
        "exec", "env", "-C", str(folder), sys.executable, "-m", "lesionforge.chain",
        "--marker", str(study / "jobs/train/net-0x-0.json"), "--gpus", str(study / "gpus"), "2",
        "train", "--recipe", recipes[0], "::", "predict", "--recipe", recipes[1], "::",
        "evaluate", "--recipe", recipes[2],
    ]  # fmt: skip
    words = shlex.split(workflow.command_of(study, plan.jobs["preview/preview"], 2))
    assert words[words.index("--gpus") + 2] == "0", "a job without GPU sees none"
    assert "--gpus" not in workflow.command_of(study, plan.jobs["train/net-0x-0"], None), "a cluster shares them out"


def test_snakemakes_own_command(tmp_path: Path) -> None:
    words = workflow.snakemake_words(tmp_path, Machine(3, 1, 2), None, ["jobs/train/a.json"])
    assert words[words.index("--cores") + 1] == "3"
    assert words[words.index("--resources") + 1] == "gpu=2"
    assert words[-2:] == ["--", "jobs/train/a.json"]
    assert "--keep-going" in words
    words = workflow.snakemake_words(tmp_path, Machine(3, 1, 0), None, [])
    assert "--resources" not in words
    words = workflow.snakemake_words(tmp_path, Machine(3, 4, None), tmp_path / "slurm", [])
    assert words[words.index("--profile") + 1] == str(tmp_path / "slurm")
    assert not {"--cores", "--executor"} & set(words), "the profile says so"


def test_targets_bring_what_they_need(tmp_path: Path) -> None:
    plan = plan_of(config_of(tmp_path, {"ensemble": True}))
    assert workflow.with_needed(plan.jobs, ["train/net-0x-0"]) == ["train/net-0x-0"]
    wanted = workflow.with_needed(plan.jobs, ["ensemble/1x-0"])
    assert wanted == [key for key in plan.jobs if key in wanted], "in the plan's order"
    assert set(wanted) == {
        "finetune/scratch", "generate/scratch", "audit/scratch", "train/net-1x-0", "train/next-1x-0", "ensemble/1x-0",
    }  # fmt: skip


def test_what_is_asked_for_and_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "timing", SimpleNamespace(num_gpus=lambda: 2), raising=False)  # without loading torch
    monkeypatch.setattr(Path, "exists", lambda path: True)  # the driver's traces
    assert machine_of(8, None, None, None) == Machine(8, 4, 2), "all GPUs, each with its share of the cores"
    assert machine_of(8, 3, 1, None) == Machine(8, 3, 1)
    assert machine_of(8, None, 0, None) == Machine(8, 1, 0)
    with pytest.raises(BadInput, match=r"slurm: found no config.yaml in it, expected a Snakemake profile's folder"):
        machine_of(8, None, None, tmp_path / "slurm")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/config.yaml").write_text("executor: slurm\n")
    assert machine_of(8, None, None, tmp_path / "slurm") == Machine(8, workflow.CLUSTER_THREADS, None)
    with pytest.raises(
        BadInput, match=r"--gpus: 3 asked for, torch finds 2 on this machine; give --gpus 2, or --profi"
    ):
        machine_of(8, None, 3, None)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert machine_of(2, None, None, None) == Machine(2, 1, 0), "torch is not loaded to find that there is none"


def test_the_last_lines_that_say_something(tmp_path: Path) -> None:
    assert workflow.tail(tmp_path / "none.log", 3) == []
    (tmp_path / "a.log").write_bytes(b"x" * 2**17 + b"\nfirst\n\n  \nsecond \xff\nthird\n")
    assert workflow.tail(tmp_path / "a.log", 2) == ["second �", "third"]


CHILD = (
    "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(7)); open('{}', 'w').close(); time.sleep(60)"
)
STUDY = """
    import sys, time
    from pathlib import Path
    from lesionforge.study import workflow
    with workflow.running(sys.argv[2:], Path(sys.argv[1]), False) as (process, pass_on):
        print(process.pid, flush=True)
        time.sleep(60)
"""


def ends(pid: int, seconds: float = 20.0) -> bool:
    """Whether no process with this number is left soon (a zombie that waits for its parent counts as none)."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def wait_for(path: Path, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_study(tmp_path: Path, number: int) -> None:
    ready = tmp_path / "ready"
    child = [sys.executable, "-c", CHILD.format(ready)]
    words = [sys.executable, "-c", textwrap.dedent(STUDY), str(tmp_path), *child]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None
        pid = int(study.stdout.readline())
        wait_for(ready)
        study.send_signal(number)
        study.wait(20)
    assert ends(pid)


def test_a_signal_reaches_all_of_them(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    shell = ["sh", "-c", f"{shlex.join([sys.executable, '-c', CHILD.format(ready)])} & wait $!; exit $?"]
    with workflow.running(shell, tmp_path, False) as (process, pass_on):
        wait_for(ready)
        pass_on(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM, "the shell was hit too"
    with workflow.running([sys.executable, "-c", CHILD.format(tmp_path / "two")], tmp_path, False) as (
        process,
        pass_on,
    ):
        wait_for(tmp_path / "two")
        pass_on(signal.SIGTERM)
        process.wait()
        pass_on(signal.SIGTERM)  # over: nothing to pass on to
    assert process.returncode == 7


def test_an_error_in_the_block_ends_them(tmp_path: Path) -> None:
    made: list[Any] = []

    def broken() -> None:
        with workflow.running([sys.executable, "-c", CHILD.format(tmp_path / "r")], tmp_path, False) as (process, _):
            made.append(process)
            wait_for(tmp_path / "r")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert made[0].returncode == 7


def test_its_words_are_added_to_its_log(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with workflow.running(["echo", word], tmp_path, False) as (process, _):
            process.wait()
    assert (tmp_path / workflow.SNAKEMAKE_LOG).read_text() == "one\ntwo\n"


def test_without_snakemake_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs Snakemake; install the extra: pip install 'lesionforge\[study\]'"):
        workflow.require_snakemake()
