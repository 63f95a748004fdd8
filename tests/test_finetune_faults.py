"""What a fine-tuning survives: signals, kills, full disks, too little memory. Real commands in processes of their own,
forked from one that has imported everything (test_faults); tests/test_finetune.py stops runs at every kind of moment.
"""

import json
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from finetune_words import METHODS, words_of
from test_faults import ENDS, Command, Forks, num_begun, one_line, partials, until
from test_faults import serve as answer_for_ever
from test_finetune import files_of

from lesionforge import run
from lesionforge.engine.checkpoint import load_checkpoint

QUICK_SECONDS = 5.0  # what is broken off ends at once; on a busy machine
EPOCHS = 10
EVERY_STEP = ["--hardware.checkpoint-minutes", "0"]  # cannot change a result: it is a runtime key

pytestmark = pytest.mark.slow


def serve() -> None:
    from diffusers.pipelines import onnx_utils  # noqa: F401  (from_pretrained imports it)

    from lesionforge.diffusion import building, pipeline, recording  # noqa: F401
    from lesionforge.engine import tracking  # noqa: F401

    pipeline.quiet()
    answer_for_ever()


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    made = Forks(tmp_path_factory.mktemp("forks"), disk_mib=48, module="test_finetune_faults")
    yield made
    assert made.process.stdin
    assert made.process.stdout
    made.process.stdin.close()
    made.process.wait(60)
    made.process.stdout.close()


@pytest.fixture(scope="module")
def words(blobs: Path, blob_split: Path, tiny_sd: Path) -> list[str]:
    """Adapters in thirty steps, about two seconds, without --out."""
    words = words_of(blobs, blob_split, tiny_sd, *METHODS["lora"], "--samples.epochs", "5")
    words[words.index("--optim.epochs") + 1] = str(EPOCHS)
    return words


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    ended = forks.run([*words, "--out", str(out)])
    assert ended.code == 0, ended.said
    return files_of(out)


def checkpoints(out: Path) -> Path:
    return out / run.CHECKPOINTS / "generator"


def saved_steps(out: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in checkpoints(out).glob("step-*.json"))


def until_begun(out: Path, life: int, command: Command) -> None:
    until(lambda: num_begun(out) > life, command)


# --------------------------------------------------------------------------------------------------------- signals


def test_stopped_by_each_signal_and_gone_on_with(
    forks: Forks, words: list[str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """SIGTERM and Ctrl-C, to the process and to its group, at random moments between two regular checkpoints."""
    out, chance = tmp_path / "r", random.Random(0)
    for life, (number, group) in enumerate((n, g) for n in ENDS for g in (False, True)):
        command = forks.start([*words, "--out", str(out)])
        until_begun(out, life, command)
        time.sleep(chance.uniform(0, 0.2))
        ended = command.stop(number, group)
        assert ended.code == 128 + number, ended.said
        assert "the same command goes on" in ended.said
        assert "Traceback" not in ended.said
        assert load_checkpoint(checkpoints(out)) is not None
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed
    assert not partials(out)


def test_stopped_while_a_checkpoint_is_written(
    forks: Forks, words: list[str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "r"
    for number, step in ((signal.SIGTERM, 2), (signal.SIGINT, 8)):
        command = forks.start([*words, "--out", str(out), *EVERY_STEP])
        until(lambda step=step: partials(checkpoints(out)) and max(saved_steps(out), default=0) >= step, command)
        assert command.stop(number, group=True).code == 128 + number
        assert not partials(out)
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed


def test_a_grid_or_an_encoding_of_many_seconds_is_broken_off(forks: Forks, words: list[str], tmp_path: Path) -> None:
    slow_grid = [*words, "--out", str(tmp_path / "grid"), "--samples.epochs", "0"]
    slow_grid[slow_grid.index("--samples.num-inference-steps") + 1] = "900"
    del slow_grid[slow_grid.index("--samples.epochs") : slow_grid.index("--samples.epochs") + 2]  # the fixture's
    slow_encoding = [*words, "--out", str(tmp_path / "encoding")]
    slow_encoding[slow_encoding.index("--data.image-size") + 1] = "320"
    log = tmp_path / "encoding" / run.LOG
    for words_now, number, begun in (
        (slow_grid, signal.SIGTERM, lambda: num_begun(tmp_path / "grid")),
        (slow_encoding, signal.SIGINT, lambda: "safety checker is off" in log.read_text() if log.exists() else False),
    ):
        command = forks.start(words_now)
        until(begun, command)
        time.sleep(0.3)
        sent = time.monotonic()
        ended = command.stop(number, group=True)
        assert time.monotonic() - sent < QUICK_SECONDS
        assert ended.code in ENDS[number], ended.said
        assert "Traceback" not in ended.said
    assert not (tmp_path / "grid" / run.SAMPLES_FOLDER).exists()
    found = load_checkpoint(checkpoints(tmp_path / "grid"))
    assert found is not None
    assert found.facts["step"] == 0


# ----------------------------------------------------------------------------------------------------------- kills


def test_a_dozen_kills(forks: Forks, words: list[str], undisturbed: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL at random moments of a run that saves after every step: of its start, steps, grids, savings."""
    out, chance = tmp_path / "r", random.Random(1)
    for life in range(12):
        begun = num_begun(out)
        command = forks.start([*words, "--out", str(out), *EVERY_STEP])
        if life % 3:
            until_begun(out, begun, command)
        time.sleep(chance.uniform(0, 0.3))
        before = saved_steps(out)
        ended = command.stop(signal.SIGKILL, group=life % 2 == 1)
        assert ended.code in (-9, 0), ended.said
        if ended.code == 0:
            break
        assert max(saved_steps(out), default=0) >= max(before, default=0)
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed
    assert not partials(out)


def test_kills_while_the_result_is_written(forks: Forks, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """Base scratch has three results: its VAE, its prior and the pipeline; each is there whole or not at all."""
    words, out, chance = words_of(blobs, blob_split, None), tmp_path / "r", random.Random(2)
    ended = forks.run([*words, "--out", str(tmp_path / "whole")])
    assert ended.code == 0, ended.said
    for name in (".vae", f".{run.PRIOR}", f".{run.PIPELINE}"):
        command = forks.start([*words, "--out", str(out)])
        until(lambda name=name: (out / f"{name}.partial").exists() or (out / name[1:]).exists(), command)
        time.sleep(chance.uniform(0, 0.02))
        assert command.stop(signal.SIGKILL).code == -9
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == files_of(tmp_path / "whole")


# ------------------------------------------------------------------------------------------- full disks, full memory


def test_a_full_disk_keeps_the_checkpoints(forks: Forks, blobs: Path, blob_split: Path, tiny_sd: Path) -> None:
    """Another program fills a small disk while everything learns; then that program goes away."""
    if forks.disk is None:
        pytest.skip("no `unshare -rm` here, so no small disk; the file size limit below stands in for it")
    words = words_of(blobs, blob_split, tiny_sd, *METHODS["full"])
    out, out_from_here = forks.disk / "r", forks.disk_from_here / "r"
    command = forks.start([*words, "--out", str(out), *EVERY_STEP])
    until(lambda: len(saved_steps(out_from_here)) == 2, command)
    with open(forks.disk_from_here / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            pass
    line = one_line(command.wait())
    assert str(out) in line
    assert "the disk is full" in line
    assert saved_steps(out_from_here)
    (forks.disk_from_here / "filler").unlink()
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert "going on at step" in (out_from_here / run.LOG).read_text()
    assert not partials(out_from_here)


def test_a_limit_on_file_sizes_is_one_line_wherever_it_strikes(
    forks: Forks, words: list[str], undisturbed: dict[str, str], blobs: Path, blob_split: Path, tiny_sd: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """config.yaml, a checkpoint or the adapter, then a whole pipeline, which diffusers writes and not we."""
    out = tmp_path / "r"
    for limit, name in ((1000, run.CONFIG), (120_000, "adapter")):
        line = one_line(forks.run([*words, "--out", str(out)], limit=limit))
        assert f"{name}: cannot be written" in line
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed
    full = [*words_of(blobs, blob_split, tiny_sd, *METHODS["full"]), "--out", str(tmp_path / "full")]
    line = one_line(forks.run(full, limit=2**20))
    assert f"{run.PIPELINE}: cannot be written" in line
    assert "MiB free" in line
    assert not (tmp_path / "full" / run.PIPELINE).exists()
    assert forks.run(full).code == 0


def test_too_little_memory_is_one_line_with_the_cure(forks: Forks, words: list[str], tmp_path: Path) -> None:
    """A limit on the address space, a little above what the process has when it starts: 16 images of 1,024 px."""
    large = [*words, "--out", str(tmp_path / "r")]
    large[large.index("--data.image-size") + 1] = "1024"
    command = forks.start(large)
    pages = int(Path(f"/proc/{command.pid}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 3 * 2**28
    resource.prlimit(command.pid, resource.RLIMIT_AS, (most, most))
    line = one_line(command.wait())
    assert "out of memory" in line
    assert "a smaller --data.image-size" in line


def test_a_run_that_another_process_works_on_is_refused(forks: Forks, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "r"
    first = forks.start([*words, "--out", str(out)])
    until_begun(out, 0, first)
    assert f"{out}: another lesionforge is at work on it" in one_line(forks.run([*words, "--out", str(out)]))
    first.stop(signal.SIGKILL)


def test_numbers_that_run_away_stop_the_run(forks: Forks, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "r"
    line = one_line(forks.run([*words, "--out", str(out), "--optim.lr", "1e30"]))
    assert "5 steps in a row had a loss or gradient that is not finite" in line
    assert not (out / run.DONE).exists()
    assert json.loads((out / run.INPUTS).read_text())
    shutil.rmtree(out)
