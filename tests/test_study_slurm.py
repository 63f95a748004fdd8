"""A study on a real SLURM, by the shipped profile: GPUs shared out, stopped and gone on with, failures listed."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Command, processes_of, start_or_skip

from lesionforge import run

PROFILE = Path(__file__).parents[1] / "examples" / "slurm" / "config.yaml"
STUDY = """\
name: tiny
models:
  small: {model: {name: test_resnet}, optim: {lr: 2e-3}}
recipes:
  few: {recipe: super_downsampled, settings: {data.mix: {malignant: 10, benign: 30}}}
  wrong:
    recipe: super_downsampled
    settings: {data.mix: {malignant: 15, benign: 45}, model.weights: nowhere.safetensors}
reference: few
train:
  model.weights: random
  data: {image_size: 32, batch_size: 8, samples_per_epoch: 80}
  optim.epochs: 40
  hardware: {device: cpu, torch_threads: 1, loader_threads: 1}
"""
EPOCHS = 40
START_SECONDS = 500  # each job imports Snakemake twice and torch once; a busy machine has taken minutes for that

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = start_or_skip()
    yield made
    made.stop()


@pytest.fixture
def command(blobs: Path, blob_split: Path, tmp_path: Path) -> list[str]:
    """`lesionforge study` with the shipped profile, changed as its own comments say for a SLURM without accounting."""
    profile = tmp_path / "profile"
    profile.mkdir()
    text = PROFILE.read_text()
    for line, changed in (
        ("# slurm-status-command: squeue", "slurm-status-command: squeue"),
        ("slurm-init-seconds-before-status-checks: 20", "slurm-init-seconds-before-status-checks: 2"),
        ("retries: 2", "retries: 0"),
        ("mem_mb: 32000", "mem_mb: 2000"),
    ):
        assert line in text
        text = text.replace(line, changed)
    (profile / "config.yaml").write_text(text)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    words = [sys.executable, "-m", "lesionforge", "study", "--recipe", str(tmp_path / "tiny.yaml"), "--out"]
    words += [str(tmp_path / "study"), "--data.store", str(blobs), "--data.split", str(blob_split)]
    return [*words, "--threads", "1", "--only.recipes", "few", "wrong", "--profile", str(profile)]


def until(
    happened: Callable[[], bool], said: Path, seconds: float = START_SECONDS, command: Command | None = None
) -> None:
    """Wait for something, in vain if the command that should do it ends."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert command is None or command.process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)


def epochs_of(folder: Path) -> int:
    """How many a run has finished."""
    metrics = folder / run.METRICS
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


def gpus_of_chains(cluster: Cluster) -> dict[int, str]:
    """Process id of each chain at work -> the GPU that SLURM gave it."""
    found = {}
    for pid, words in processes_of(cluster.process.pid).items():
        if "lesionforge.chain" in words and words[0].endswith("python"):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found[pid] = next(v.decode().split("=")[1] for v in variables if v.startswith(b"CUDA_VISIBLE_DEVICES="))
    return found


def test_a_study_is_stopped_and_gone_on_with(cluster: Cluster, command: list[str], tmp_path: Path) -> None:
    """A training that is stopped in the middle, and beside it one that fails."""
    study, said = tmp_path / "study", tmp_path / "said.txt"
    folder, log = study / "runs" / "small-few-0", study / "logs" / "train-small-few-0.log"
    first = cluster.start(*command, said=said)
    try:
        until(lambda: len(gpus_of_chains(cluster)) == 2, said, command=first)
        assert sorted(gpus_of_chains(cluster).values()) == ["0", "1"]  # one job on each of the two
        until(lambda: epochs_of(folder) >= 1, said, command=first)
        first.send(signal.SIGTERM)
        assert first.wait(60) == 128 + signal.SIGTERM, said.read_text()
    finally:
        first.end()
    until(lambda: not cluster.jobs(), said, 60)
    assert "SIGTERM: saving, then stopping" in log.read_text()
    stopped_at = epochs_of(folder)
    assert stopped_at < EPOCHS

    again = cluster.start(*command, said=said)
    try:
        assert again.wait(START_SECONDS) == 2, said.read_text()  # one job failed, the other was not stopped by that
    finally:
        again.end()
    assert "going on at step" in log.read_text()
    assert stopped_at < epochs_of(folder) == EPOCHS
    assert (folder / "evaluation" / run.SCORES).is_file()
    (failure,) = json.loads((study / run.FAILED).read_text())
    assert failure["job"] == "train/small-wrong-0"
    assert "no such file nowhere.safetensors" in failure["last_lines"][-1]
    assert not cluster.jobs()


def test_a_job_pushed_aside_goes_on_when_slurm_starts_it_again(
    cluster: Cluster, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """What preemption does: SIGTERM, back into the queue, started again with the same command."""
    out, said = tmp_path / "run", tmp_path / "said.txt"
    words = f"""{sys.executable} -m lesionforge train --out {out} --data.store {blobs} --data.split {blob_split}
        --data.image-size 32 --data.batch-size 8 --model.name test_resnet --model.weights random --optim.lr 2e-3
        --optim.epochs {EPOCHS} --hardware.device cpu --hardware.torch-threads 1 --hardware.loader-threads 1"""
    batch = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={said}", "--gpus=1", "--mem=2000"]
    submitted = cluster.run(*batch, "--wrap", " ".join(["exec", *words.split()]))
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    until(lambda: epochs_of(out) >= 1, said)
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    until(lambda: [line.split()[:2] for line in cluster.jobs()] == [[job, "PENDING"]], said, 60)
    assert "SIGTERM: saving, then stopping" in said.read_text()
    stopped_at = epochs_of(out)
    assert stopped_at < EPOCHS
    until(lambda: started_now(cluster, job), said, 60)  # SLURM itself would wait two minutes
    until(lambda: (out / run.DONE).is_file(), said)
    assert "going on" in said.read_text()
    assert stopped_at < epochs_of(out) == EPOCHS


def started_now(cluster: Cluster, job: str) -> bool:
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    return [line.split()[:2] for line in cluster.jobs()] == [[job, "RUNNING"]]
