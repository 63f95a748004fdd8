"""What a training tells the world: metrics.jsonl and TensorBoard always, Weights & Biases where asked."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from lesionforge import run
from lesionforge.errors import BadInput
from lesionforge.files import disk_errors, write_whole


class Tracker:
    """Writes rows of numbers; a resumed run first forgets what came after its checkpoint."""

    def __init__(
        self,
        folder: Path,
        first_step: int,
        wandb: Literal["off", "offline", "online"],
        project: str,
        recipe: dict[str, Any],
    ) -> None:
        self.path = folder / run.METRICS
        kept = [row for row in read_metrics(self.path) if row["step"] <= first_step]
        with write_whole(self.path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
        with disk_errors(self.path):
            self.file = open(self.path, "a")  # noqa: SIM115 (open for the life of the tracker)
        self.tensorboard = Events(folder / run.TENSORBOARD, first_step + 1)
        self.wandb = start_wandb(wandb, project, folder, recipe) if wandb != "off" else None

    def write(self, step: int, **numbers: float | int | None) -> None:
        """One row. Nothing that differs between two runs of one recipe (times, speeds) belongs here."""
        with disk_errors(self.path):
            self.file.write(json.dumps({"step": step, **numbers}) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())  # before a checkpoint that believes it written
        known = {name: value for name, value in numbers.items() if value is not None}
        self.tensorboard.write(step, known)
        if self.wandb is not None:
            self.wandb.log(known, step=step)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with disk_errors(self.path):
                self.file.close()
        finally:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish(exit_code=0 if error is None else 1)


class Events:
    """A TensorBoard log of numbers. Torch's own writes in a thread, whose traceback a full disk puts on the screen."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        self.path = folder / f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"
        with disk_errors(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "ab")  # noqa: SIM115 (open for the life of the tracker)
        self.add(event_pb2.Event(file_version="brain.Event:2"))
        # drops the events of steps that will be done again
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self.add(event_pb2.Event(step=purge_step, session_log=restart))

    def write(self, step: int, numbers: dict[str, float | int]) -> None:
        values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self.add(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=values)))

    def add(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        with disk_errors(self.path):
            RecordWriter(self.file).write(event.SerializeToString())
            self.file.flush()

    def close(self) -> None:
        with disk_errors(self.path):
            self.file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def start_wandb(mode: Literal["offline", "online"], project: str, folder: Path, recipe: dict[str, Any]) -> Any:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise BadInput(
            "track.wandb: wandb is not installed; pip install 'lesionforge[wandb]', or leave it off"
        ) from error
    return wandb.init(mode=mode, project=project, dir=folder, name=folder.name, config=recipe)
