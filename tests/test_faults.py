"""What a training survives: signals, kills, full disks, damage. Every command here is the real one in its own process.

Importing torch costs ten times what a tiny training does. So one process (`serve`) imports everything once, starts no
thread, and forks for each command: the child runs `cli.main` as `python -m lesionforge` does. The two tests of what
happens during the imports themselves start a fresh interpreter.
"""

import gc
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from conftest import blob

from lesionforge import run, signals, tables
from lesionforge.data.store import write_store
from lesionforge.engine.checkpoint import load_checkpoint, save_checkpoint
from lesionforge.files import PARTIAL, sha256_of_file

STOP_SECONDS = 10  # the issue's: 10 s + one step; a step here takes milliseconds
START_SECONDS = 120  # a fresh interpreter on a busy machine
EPOCHS = 6
STEPS = 9 * EPOCHS  # 72 training blobs in batches of 8

pytestmark = pytest.mark.slow


# ----------------------------------------------------------------------------------- commands in processes of their own


class Ended(NamedTuple):
    code: int  # negative: ended by that signal
    said: str  # stdout and stderr


class Forks:
    """Starts commands by forking a process that has imported everything; `disk` is a small one, where there is."""

    def __init__(self, folder: Path, disk_mib: int, module: str = "test_faults") -> None:
        """module: whose `serve` has imported what the commands need."""
        self.folder, self.count = folder, 0
        disk = folder / "disk"
        disk.mkdir()
        here = f"from {module} import serve; serve()"
        start = [sys.executable, "-c", here]
        if shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0:
            mount = f"mount -t tmpfs -o size={disk_mib}m tmpfs {shlex.quote(str(disk))} && exec {shlex.join(start)}"
            start = ["unshare", "-rm", "bash", "-c", mount]
        self.process = subprocess.Popen(
            start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
        )
        assert self.ask(ready=True)
        self.disk = disk if start[0] == "unshare" else None
        self.disk_from_here = Path(f"/proc/{self.process.pid}/root{disk}")  # its name space is not ours

    def ask(self, **question: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, words: list[str], **options: Any) -> "Command":
        self.count += 1
        said = Path(options.pop("said", self.folder / f"{self.count}.txt"))
        return Command(self, self.ask(words=words, said=str(said), **options), said)

    def run(self, words: list[str], **options: Any) -> Ended:
        return self.start(words, **options).wait()


class Command(NamedTuple):
    forks: Forks
    pid: int  # also its process group
    said: Path

    def wait(self, seconds: float = 120) -> Ended:
        code = self.forks.ask(wait=self.pid, seconds=seconds)
        said = self.said.read_text() if self.said.is_file() else ""
        assert code is not None, f"still at work after {seconds} s: {said}"
        return Ended(code, said)

    def stop(self, number: signal.Signals, group: bool = False) -> Ended:
        """Send a signal, wait for the end in the time that the issue grants."""
        (os.killpg if group else os.kill)(self.pid, number)
        return self.wait(STOP_SECONDS)


def serve() -> None:
    """Answer the questions of a `Forks`, one JSON a line, until there are no more."""
    import cyclopts.core  # noqa: F401
    import numpy.ctypeslib
    import numpy.ma  # noqa: F401

    from lesionforge import cli, metrics, resolve  # noqa: F401
    from lesionforge.classifier import learner, members, start, train, training_data  # noqa: F401
    from lesionforge.engine import tracking  # noqa: F401

    gc.collect()
    gc.freeze()  # else the children's collector copies every page it looks at
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            pid, deadline = question["wait"], time.monotonic() + question["seconds"]
            while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.005)
            answer = None if ended[0] == 0 else os.waitstatus_to_exitcode(ended[1])
            if answer is None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        elif "words" in question:
            if (answer := os.fork()) == 0:
                os.setsid()
                for descriptor in (1, 2):
                    os.dup2(os.open(question["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
                if "limit" in question:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (question["limit"], question["limit"]))
                if question["words"][0] == "save":
                    save_for_ever(Path(question["words"][1]))
                sys.argv = ["lesionforge", *question["words"]]
                try:
                    code = cli.main()
                except SystemExit as end:
                    code = int(end.code or 0)
                sys.stderr.flush()
                os._exit(code)  # a library's last rites would wait for threads that only the parent of the fork has
        else:
            answer = True
        print(json.dumps(answer), flush=True)


def save_for_ever(folder: Path) -> None:
    """Checkpoint after checkpoint, as a training would; the steps that are safe are told on stdout."""
    found = load_checkpoint(folder)
    step = found.facts["step"] if found else 0
    while True:
        step += 1
        save_checkpoint(folder, step, {"model.w": torch.full((400_000,), float(step))}, {"loss": step / 7})
        os.write(1, f"{step}\n".encode())


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    made = Forks(tmp_path_factory.mktemp("forks"), disk_mib=16)  # 3 checkpoints of 4.6 MiB
    yield made
    assert made.process.stdin
    assert made.process.stdout
    made.process.stdin.close()
    made.process.wait(60)
    made.process.stdout.close()


# ------------------------------------------------------------------------------------------------- what they train


@pytest.fixture(scope="module")
def words(blobs: Path, blob_split: Path) -> list[str]:
    """A training of a few seconds, without --out."""
    text = f"""train --data.store {blobs} --data.split {blob_split} --data.image-size 32 --data.batch-size 8
        --model.name test_resnet --model.weights random --optim.lr 2e-3 --optim.epochs {EPOCHS}
        --hardware.device cpu --hardware.torch-threads 1 --hardware.loader-threads 1"""
    return text.split()


EVERY_STEP = ["--hardware.checkpoint-minutes", "0"]  # cannot change a result: it is a runtime key


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    ended = forks.run([*words, "--out", str(out)])
    assert ended.code == 0, ended.said
    return files_of(out)


def files_of(out: Path) -> tuple[str, str]:
    """What must be equal to the bit: weights and metrics."""
    return sha256_of_file(out / run.WEIGHTS), (out / run.METRICS).read_text()


def until(happened: Callable[[], Any], command: Command) -> None:
    """Wait for something that a command does."""
    deadline = time.monotonic() + START_SECONDS
    while not happened():
        assert time.monotonic() < deadline, command.said.read_text()
        time.sleep(0.002)


def saved_steps(out: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in (out / run.CHECKPOINTS).glob("step-*.json"))


def num_rows(out: Path) -> int:
    """Epochs that metrics.jsonl knows."""
    path = out / run.METRICS
    return len(path.read_text().splitlines()) if path.exists() else 0


def num_begun(out: Path) -> int:
    """Commands that came to their first step on this run: each opens one TensorBoard log just before it."""
    return len(list((out / run.TENSORBOARD).glob("*tfevents*")))


def partials(folder: Path) -> list[Path]:
    return list(folder.rglob(f".*{PARTIAL}"))


def one_line(ended: Ended) -> str:
    """The refusal of a command that ended with code 2: one line, no traceback."""
    assert ended.code == 2, ended
    assert "Traceback" not in ended.said
    assert "Logging error" not in ended.said
    refusals = [line for line in ended.said.splitlines() if line.startswith("lesionforge ")]
    assert len(refusals) == 1, ended.said
    return refusals[0]


ENDS = {signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}  # a shell calls both 143, both 130


# --------------------------------------------------------------------------------------------------------- signals


def test_stopped_by_each_signal_and_gone_on_with(
    forks: Forks, words: list[str], undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    """SIGTERM and Ctrl-C, to the process and to its group, between two of the regular checkpoints (10 minutes)."""
    out, chance = tmp_path / "r", random.Random(0)
    for life, (number, group) in enumerate((n, g) for n in ENDS for g in (False, True)):
        command = forks.start([*words, "--out", str(out)])
        epoch = num_rows(out) + (life > 0)
        until(lambda life=life, epoch=epoch: num_begun(out) > life and num_rows(out) >= epoch, command)
        time.sleep(chance.uniform(0, 0.1))
        ended = command.stop(number, group)
        assert ended.code == 128 + number, ended.said
        assert "the same command goes on" in ended.said
        assert "Traceback" not in ended.said
        found = load_checkpoint(out / run.CHECKPOINTS)
        assert found is not None
        assert found.facts["step"] >= 1
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed
    assert not partials(out)


def test_stopped_while_a_checkpoint_is_written(
    forks: Forks, words: list[str], undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    """After each step one is written and fsynced, which takes most of the time: the signal is sent at its sight."""
    out = tmp_path / "r"
    for number, step in ((signal.SIGTERM, 3), (signal.SIGINT, 20)):
        command = forks.start([*words, "--out", str(out), *EVERY_STEP])
        until(lambda step=step: partials(out / run.CHECKPOINTS) and max(saved_steps(out), default=0) >= step, command)
        assert command.stop(number, group=True).code == 128 + number
        assert not partials(out)
        assert load_checkpoint(out / run.CHECKPOINTS) is not None
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed


def test_stopped_before_the_first_step(
    forks: Forks, words: list[str], undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    """At random moments of the start, config.yaml written or not; the same command then starts as if nothing was."""
    out, chance = tmp_path / "r", random.Random(1)
    for number in (*ENDS, *ENDS):
        command = forks.start([*words, "--out", str(out)])
        time.sleep(chance.uniform(0, 0.35))
        ended = command.stop(number, group=chance.random() < 0.5)
        assert ended.code in ENDS[number], ended.said
    command = forks.start([*words, "--out", str(out)])  # and a kill in the very first second
    until(out.exists, command)
    assert command.stop(signal.SIGKILL).code == -9
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed
    assert not partials(out)


def test_stopped_while_python_imports(words: list[str], tmp_path: Path) -> None:
    """The real interpreter, twice at the same time; nothing is left that the same command would stumble over."""
    chance = random.Random(2)
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "lesionforge", *words, "--out", str(tmp_path / number.name)],
            stderr=subprocess.DEVNULL, start_new_session=True,
        )
        for number in ENDS
    ]  # fmt: skip
    time.sleep(chance.uniform(0.5, 2))
    for command, number in zip(commands, ENDS, strict=True):
        os.killpg(command.pid, number)
        assert command.wait(STOP_SECONDS) in ENDS[number]
    assert not list(tmp_path.rglob(run.CHECKPOINTS))


def test_a_second_signal_stops_at_once(forks: Forks, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """In the middle of a step of many seconds: 72 images of 512 px, one at a time; signals wait for a call."""
    out = tmp_path / "r"
    text = f"""train --out {out} --data.store {blobs} --data.split {blob_split} --data.image-size 512
        --data.batch-size 72 --model.name test_resnet --model.weights random --val-every 0 --optim.epochs 50
        --optim.micro-batch-size 1 --hardware.device cpu --hardware.torch-threads 1 --hardware.loader-threads 1"""
    command = forks.start(text.split())
    until(lambda: num_begun(out), command)
    os.kill(command.pid, signal.SIGTERM)
    until(lambda: "saving, then stopping" in command.said.read_text(), command)
    time.sleep(signals.SAME_SIGNAL_SECONDS + 0.2)
    sent = time.monotonic()
    assert command.stop(signal.SIGTERM).code == -signal.SIGTERM
    assert time.monotonic() - sent < 2
    assert not saved_steps(out)


def test_ctrl_c_with_a_reader_that_died_first(
    forks: Forks, words: list[str], undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    """`lesionforge train ... 2>&1 | tee log`: Ctrl-C ends tee too, and every line from then on is a broken pipe."""
    out, pipe = tmp_path / "r", tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    command = forks.start([*words, "--out", str(out)], said=pipe)
    deadline = time.monotonic() + START_SECONDS
    while not num_begun(out) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.close(reader)
    assert command.stop(signal.SIGINT, group=True).code == 130
    assert load_checkpoint(out / run.CHECKPOINTS) is not None
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store and a split of 72 blobs in train and 5,000 in val: scoring val takes far longer than an epoch."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    drawn = [blob(rng, target) for target in (True, False, False, False) for _ in range(5)]
    num = 5072
    ids = [f"ISIC_{i:07d}" for i in range(num)]
    kinds = np.arange(num) % 20
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: [f"IP_{i:07d}" for i in range(num)],
            tables.TARGET: pl.Series((kinds < 5).astype(np.int8)),
            tables.SOURCE: [tables.REAL] * num,
        }
    )
    (folder / "store").mkdir()
    write_store(folder / "store", [(name, drawn[kind]) for name, kind in zip(ids, kinds, strict=True)], samples)
    run.mark_done(folder / "store")
    parts = pl.DataFrame({tables.IMAGE_ID: ids, tables.PART: ["train"] * 72 + ["val"] * (num - 72)})
    tables.write_table(folder / "split.csv", parts)
    return folder / "store", folder / "split.csv"


@pytest.fixture(scope="module")
def scored_much(
    forks: Forks, many: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """(words, run) of two epochs on that store."""
    text = f"""train --data.store {many[0]} --data.split {many[1]} --data.image-size 32 --data.batch-size 8
        --model.name test_resnet --model.weights random --optim.lr 2e-3 --optim.epochs 2
        --hardware.device cpu --hardware.torch-threads 1"""
    out = tmp_path_factory.mktemp("scored") / "r"
    ended = forks.run([*text.split(), "--out", str(out)])
    assert ended.code == 0, ended.said
    return text.split(), out


def test_stopped_while_val_is_scored(forks: Forks, scored_much: tuple[list[str], Path], tmp_path: Path) -> None:
    """The scoring is broken off, not waited for: on a real store it takes minutes. Its row is written later."""
    words, whole = scored_much
    out = tmp_path / "r"
    for life, number in enumerate(ENDS):
        command = forks.start([*words, "--out", str(out), *EVERY_STEP])
        until(lambda life=life: max(saved_steps(out), default=0) >= 9 * life + 8, command)
        time.sleep(0.5)  # the epoch's last step takes a tenth of that, the scoring several times as long
        ended = command.stop(number, group=True)
        assert ended.code == 128 + number, ended.said
        assert num_rows(out) == life, "val was scored to its end"
        found = load_checkpoint(out / run.CHECKPOINTS)
        assert found is not None
        assert found.facts["step"] == 9 * (life + 1)
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == files_of(whole)


def test_a_prediction_that_was_stopped_gives_the_same_table(
    forks: Forks, scored_much: tuple[list[str], Path], tmp_path: Path
) -> None:
    """Shards of 2,048 images are kept."""
    whole = scored_much[1]
    predict = ["predict", "--parts", "val", "--hardware.device", "cpu", "--hardware.torch-threads", "1", "--run"]
    outs = [tmp_path / name for name in ("undisturbed", "stopped")]
    for out in outs:
        shutil.copytree(whole, out)
    assert forks.run([*predict, str(outs[0])]).code == 0
    for number in ENDS:
        command = forks.start([*predict, str(outs[1])])
        shards = outs[1] / run.PREDICTIONS / ".val"
        seen = len(list(shards.glob("0*.parquet"))) + (number == signal.SIGINT)
        until(
            lambda seen=seen, shards=shards: len(list(shards.glob("0*.parquet"))) >= seen and shards.exists(), command
        )
        assert command.stop(number, group=True).code == 128 + number
    assert not (outs[1] / run.PREDICTIONS / "val.parquet").exists()
    assert forks.run([*predict, str(outs[1])]).code == 0
    first, second = (pl.read_parquet(out / run.PREDICTIONS / "val.parquet") for out in outs)
    assert first.equals(second)
    assert not partials(outs[1])


# ----------------------------------------------------------------------------------------------------------- kills


def test_twenty_five_kills_of_a_process_that_only_saves(forks: Forks, tmp_path: Path) -> None:
    """SIGKILL at random moments while `save_checkpoint` is called over and over: what was told as saved is there."""
    folder, chance, cut = tmp_path / "checkpoints", random.Random(3), 0
    for _ in range(25):
        command = forks.start(["save", str(folder)])
        until(lambda command=command: command.said.exists() and command.said.read_text(), command)
        time.sleep(chance.uniform(0, 0.05))
        ended = command.stop(signal.SIGKILL)
        assert ended.code == -9
        cut += bool(partials(folder))
        told = int(ended.said.split()[-1])
        found = load_checkpoint(folder)
        assert found is not None
        step = found.facts["step"]
        assert step >= told  # a kill loses nothing that was said to be safe; a power cut may cost one
        assert torch.equal(found.part("model")["w"], torch.full((400_000,), float(step)))
        assert found.facts["loss"] == step / 7
        assert not partials(folder)
        assert (
            len(list(folder.iterdir())) <= 6
        )  # two checkpoints, a third where the kill came before the oldest was deleted
    assert cut >= 3  # else the kills came between the savings, and this test shows nothing


def test_five_kills_of_a_training(forks: Forks, words: list[str], undisturbed: tuple[str, str], tmp_path: Path) -> None:
    """SIGKILL at random moments of a training that saves after every step, to the process or the group."""
    out, chance = tmp_path / "r", random.Random(4)
    for life in range(5):
        before = max(saved_steps(out), default=0)
        command = forks.start([*words, "--out", str(out), *EVERY_STEP])
        until(lambda before=before: max(saved_steps(out), default=0) > before, command)
        time.sleep(chance.uniform(0, 0.3))
        recorded = max(saved_steps(out))
        assert command.stop(signal.SIGKILL, group=life % 2 == 1).code == -9
        copy = tmp_path / f"copy-{life}"  # loading cleans, which is the next command's work here
        shutil.copytree(out / run.CHECKPOINTS, copy)
        found = load_checkpoint(copy)
        assert found is not None
        assert found.facts["step"] >= recorded
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed
    assert not partials(out)


# ------------------------------------------------------------------------------------------------------- full disks


def test_a_full_disk_keeps_the_checkpoints(forks: Forks, words: list[str], undisturbed: tuple[str, str]) -> None:
    """A disk of 16 MiB that another program fills up while the training is at work; then that program goes away."""
    if forks.disk is None:
        pytest.skip("no `unshare -rm` here, so no small disk; the file size limit below stands in for it")
    out, out_from_here = forks.disk / "r", forks.disk_from_here / "r"
    command = forks.start([*words, "--out", str(out), *EVERY_STEP])
    until(lambda: len(saved_steps(out_from_here)) == 2, command)
    with open(forks.disk_from_here / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            pass
    ended = command.wait()
    line = one_line(ended)
    assert str(out) in line
    assert "the disk is full" in line
    assert "MiB free" in line
    assert "the same command again" in line
    if ".safetensors" in line:
        assert "MiB needed, " in line
    assert len(saved_steps(out_from_here)) >= 1
    # still full: refused again in one line, and nothing is lost by trying
    steps = saved_steps(out_from_here)
    one_line(forks.run([*words, "--out", str(out), *EVERY_STEP]))
    assert saved_steps(out_from_here) == steps
    (forks.disk_from_here / "filler").unlink()
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert "going on at step" in (out_from_here / run.LOG).read_text()
    assert files_of(out_from_here) == undisturbed
    assert not partials(out_from_here)


def test_a_limit_on_file_sizes_is_one_line_wherever_it_strikes(
    forks: Forks, words: list[str], undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    """RLIMIT_FSIZE stops config.yaml, then one of the small tables, then a checkpoint."""
    out = tmp_path / "r"
    # the message goes to a file too, so the least limit leaves room for it
    for limit, name in ((1000, run.CONFIG), (5000, ""), (2**20, "step-00000001.safetensors")):
        line = one_line(forks.run([*words, "--out", str(out), *EVERY_STEP], limit=limit))
        assert f"{name}: cannot be written" in line
        assert str(out) in line
        assert "MiB free" in line
    assert "MiB needed, " in line
    assert not load_checkpoint(out / run.CHECKPOINTS)
    # with a checkpoint there, it stays; and a log that cannot grow any more says so once
    before = num_begun(out)
    command = forks.start([*words, "--out", str(out)])
    until(lambda: num_begun(out) > before, command)
    command.stop(signal.SIGTERM)
    steps = saved_steps(out)
    with open(out / run.LOG, "a") as file:
        file.write("x" * 2**20)
    ended = forks.run([*words, "--out", str(out), *EVERY_STEP], limit=2**20)
    assert ".safetensors: cannot be written" in one_line(ended)
    assert ended.said.count(f"{run.LOG} cannot be written") == 1
    assert saved_steps(out) == steps
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed


def test_metrics_that_cannot_be_written_are_one_line(forks: Forks, words: list[str], tmp_path: Path) -> None:
    """A row is appended to a file that is as long as files may be."""
    out = tmp_path / "r"
    command = forks.start([*words, "--out", str(out), *EVERY_STEP])
    until(lambda: saved_steps(out), command)
    command.stop(signal.SIGTERM)
    filler = json.dumps({"step": 0, "filler": "x" * 10_000_000})
    (out / run.METRICS).write_text(filler + "\n")
    line = one_line(forks.run([*words, "--out", str(out)], limit=len(filler) + 10))
    assert f"{run.METRICS}: cannot be written" in line


# ----------------------------------------------------------------------------------------------------------- damage


def test_damage_costs_one_checkpoint_and_a_warning(
    forks: Forks, words: list[str], undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    """Tensors, then the record, of the last checkpoint; tests/test_checkpoint.py flips a byte in many more places."""
    out = tmp_path / "r"
    for number, suffix in ((signal.SIGTERM, ".safetensors"), (signal.SIGINT, ".json")):
        command = forks.start([*words, "--out", str(out), *EVERY_STEP])
        steps = saved_steps(out)
        until(lambda steps=steps: len(set(saved_steps(out)) - set(steps)) == 2, command)
        command.stop(number)
        last = out / run.CHECKPOINTS / f"step-{saved_steps(out)[-1]:08d}{suffix}"
        data = bytearray(last.read_bytes())
        place = data.index(b'"step": ') + 8 if suffix == ".json" else len(data) // 2
        data[place] ^= 1  # another digit: still JSON, and a step that could be
        last.write_bytes(data)
        ended = forks.run([*words, "--out", str(out), *EVERY_STEP], limit=2**20)  # which stops it soon
        assert f"warning: {last}: damaged" in ended.said
        assert "going back to the checkpoint before it" in ended.said
        assert f"going on at step {saved_steps(out)[0]} of {STEPS}" in ended.said
    assert forks.run([*words, "--out", str(out)]).code == 0
    assert files_of(out) == undisturbed


def test_junk_for_an_optimizer_is_refused(forks: Forks, words: list[str], tmp_path: Path) -> None:
    """With sound hashes, as a wrong tool would write it: a missing moment, one too short, one of no parameter."""
    out = tmp_path / "r"
    command = forks.start([*words, "--out", str(out)])
    until(lambda: num_begun(out), command)
    command.stop(signal.SIGTERM)
    found = load_checkpoint(out / run.CHECKPOINTS)
    assert found is not None
    name = next(name for name in found.tensors if name.endswith("exp_avg"))
    junk = {
        "short": {**found.tensors, name: torch.zeros(3)},
        "foreign": {**found.tensors, "optimizer.9999.exp_avg": torch.zeros(3)},
        "missing": {key: value for key, value in found.tensors.items() if key != name},
        "not a number": {**found.tensors, name: torch.full_like(found.tensors[name], float("nan"))},
    }
    for kind, tensors in junk.items():
        step = found.facts["step"]
        save_checkpoint(out / run.CHECKPOINTS, step, tensors, {k: v for k, v in found.facts.items() if k != "step"})
        ended = forks.run([*words, "--out", str(out)])
        assert ended.code == 2, (kind, ended.said)
        assert "Traceback" not in ended.said, kind


def test_numbers_that_run_away_stop_the_run_with_the_ids(forks: Forks, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "r"
    wild = [*words, "--out", str(out), *EVERY_STEP]
    wild[wild.index("--optim.lr") + 1] = "1e30"
    line = one_line(forks.run(wild))
    assert "5 steps in a row had a loss or gradient that is not finite" in line
    assert line.count("ISIC_") == 8  # the last batch
    found = load_checkpoint(out / run.CHECKPOINTS)
    assert found is not None
    assert all(bool(tensor.isfinite().all()) for tensor in found.tensors.values() if tensor.is_floating_point())


def test_a_run_that_another_process_works_on_is_refused(forks: Forks, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "r"
    first = forks.start([*words, "--out", str(out)])
    until(lambda: num_begun(out), first)
    line = one_line(forks.run([*words, "--out", str(out)]))
    assert f"{out}: another lesionforge is at work on it" in line
    first.stop(signal.SIGKILL)
