"""Several verbs in one process: the first failure ends it, files say how it goes, one GPU each."""

import fcntl
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lesionforge import chain
from lesionforge.chain import VISIBLE, at_work, one_gpu, run_chain, split_at
from lesionforge.errors import BadInput
from lesionforge.files import read_json
from lesionforge.study import watching


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "jobs" / "train" / "net.json"


@pytest.fixture(autouse=True)
def no_gpus_left_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)


def beside(marker: Path, ending: str) -> Path:
    return marker.with_name(marker.name + ending)


def test_commands_run_one_after_the_other(marker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_chain(["--marker", str(marker), "recipes", "default", "::", "models"]) == 0
    said, errors = capfd.readouterr()
    assert said.index("data:") < said.index("short name"), "the recipe, then the families"
    assert errors.splitlines() == ["$ lesionforge recipes default", "$ lesionforge models"]
    assert read_json(marker).keys() == {"finished", "seconds"}
    assert [path.name for path in marker.parent.iterdir()] == [marker.name]


def test_the_first_failure_ends_it(marker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = run_chain(["--marker", str(marker), "models", "::", "recipes", "defalt", "::", "recipes", "default"])
    assert code == 2
    said, errors = capfd.readouterr()
    assert "data:" not in said
    assert "unknown recipe 'defalt'" in errors.splitlines()[-1]
    assert not marker.exists()
    assert read_json(beside(marker, chain.FAILED)) == {"code": 2, "verb": "recipes"}
    assert not beside(marker, chain.RUNNING).exists()
    assert run_chain(["--marker", str(marker), "models"]) == 0, "mended"
    assert marker.is_file()
    assert not beside(marker, chain.FAILED).exists(), "how it ended before is forgotten"


def test_a_fault_of_ours_and_a_signal_have_their_codes(marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(words: list[str]) -> int:
        raise (SystemExit(143) if words == ["stopped"] else ZeroDivisionError("ours"))

    monkeypatch.setattr(chain, "main", fault)
    assert run_chain(["--marker", str(marker), "broken"]) == 1
    assert read_json(beside(marker, chain.FAILED)) == {"code": 1, "verb": "broken"}
    assert run_chain(["--marker", str(marker), "stopped"]) == 143


def test_words_between_separators() -> None:
    assert split_at(["a", "b", "::", "c"], "::") == [["a", "b"], ["c"]]
    for words in ([], ["a", "::"], ["::", "a"], ["a", "::", "::", "b"]):
        with pytest.raises(BadInput, match="a chain is commands with :: between them; found an empty one"):
            split_at(words, "::")


def test_a_job_is_worked_at_once_only(
    marker: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second waits for the first, which a killed study may have left behind on a cluster, and works after it."""
    monkeypatch.setattr(chain, "QUIET_ATTEMPTS", 0)
    monkeypatch.setattr(chain, "SECONDS_BETWEEN_ATTEMPTS", 0.02)
    running, worked = beside(marker, chain.RUNNING), threading.Event()

    def second() -> None:
        with at_work(marker):
            worked.set()

    with at_work(marker):
        assert read_json(running)["pid"] == os.getpid()
        assert watching.is_running(running)
        thread = threading.Thread(target=second)
        thread.start()
        assert not worked.wait(0.3)
    assert worked.wait(10)
    thread.join()
    assert "another process is at this job; waiting for its end" in capfd.readouterr().err
    assert not running.exists()


def test_a_lock_for_a_moment_is_waited_for(marker: Path) -> None:
    """The study looks whether a job is held, and holds it itself for that moment."""
    running = beside(marker, chain.RUNNING)
    running.parent.mkdir(parents=True)
    file = open(running, "a+")  # noqa: SIM115  let go of by another thread
    fcntl.flock(file, fcntl.LOCK_EX)
    threading.Timer(0.15, file.close).start()
    with at_work(marker):
        assert "pid" in read_json(running)


@pytest.mark.parametrize("held", ["", '{"machine": "no', json.dumps({"machine": platform.node(), "pid": 1})])
def test_what_a_killed_chain_left_is_taken_over(marker: Path, held: str) -> None:
    beside(marker, chain.RUNNING).parent.mkdir(parents=True)
    beside(marker, chain.RUNNING).write_text(held)
    assert run_chain(["--marker", str(marker), "models"]) == 0


def test_another_machines_job_is_respected_while_it_shows_life(
    marker: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chain, "QUIET_ATTEMPTS", 0)
    monkeypatch.setattr(chain, "SECONDS_BETWEEN_ATTEMPTS", 0.05)
    running = beside(marker, chain.RUNNING)
    running.parent.mkdir(parents=True)
    running.write_text(json.dumps({"machine": "node7", "pid": 1}))
    threading.Timer(0.4, os.utime, (running, (time.time() - 61, time.time() - 61))).start()  # it shows no life any more
    assert run_chain(["--marker", str(marker), "models"]) == 0
    assert "another process is at this job, on node7; waiting for its end" in capfd.readouterr().err


def test_the_file_is_renewed_while_the_process_lives(marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "SECONDS_BETWEEN_BEATS", 0.02)
    running = beside(marker, chain.RUNNING)
    with at_work(marker):
        os.utime(running, (1, 1))
        until = time.monotonic() + 10
        while running.stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.02)
        assert running.stat().st_mtime > 2


def test_each_takes_a_gpu_that_no_other_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gpus"
    with one_gpu(folder, 2):
        assert os.environ[VISIBLE] == "0"
        monkeypatch.delenv(VISIBLE)
        with one_gpu(folder, 2):
            assert os.environ[VISIBLE] == "1"
            monkeypatch.delenv(VISIBLE)
            with (
                pytest.raises(BadInput, match="all of 2 GPUs are taken by other jobs of this study"),
                one_gpu(folder, 2),
            ):
                pass
        monkeypatch.delenv(VISIBLE, raising=False)
        with one_gpu(folder, 2):
            assert os.environ[VISIBLE] == "1", "free again"


def test_only_gpus_that_the_user_left_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "5,GPU-8d2")
    with one_gpu(tmp_path / "gpus", 2):
        assert os.environ[VISIBLE] == "5"
        monkeypatch.setenv(VISIBLE, "5,GPU-8d2")
        with one_gpu(tmp_path / "gpus", 2):
            assert os.environ[VISIBLE] == "GPU-8d2"


def test_no_gpu_for_who_gets_none(marker: Path, tmp_path: Path) -> None:
    assert run_chain(["--marker", str(marker), "--gpus", str(tmp_path / "gpus"), "0", "models"]) == 0
    assert os.environ[VISIBLE] == ""
    assert not (tmp_path / "gpus").exists()


def test_taken_gpus_are_a_failure_with_a_name(marker: Path, tmp_path: Path) -> None:
    with one_gpu(tmp_path / "gpus", 1), pytest.raises(BadInput, match="all of 1 GPUs are taken"):
        run_chain(["--marker", str(marker), "--gpus", str(tmp_path / "gpus"), "1", "models"])
    assert read_json(beside(marker, chain.FAILED)) == {"code": 2, "verb": "gpus"}


def test_from_the_shell_a_mistake_is_one_line() -> None:
    ended = subprocess.run([sys.executable, "-m", "lesionforge.chain"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == "lesionforge: a chain is commands with :: between them; found an empty one\n"
