"""What a training tells the world: metrics.jsonl and TensorBoard always, Weights & Biases where asked."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from torch.utils.tensorboard import SummaryWriter

from lesionforge import run
from lesionforge.errors import BadInput
from lesionforge.files import write_whole


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
        self.file = open(self.path, "a")  # noqa: SIM115 (open for the life of the tracker)
        # purge_step drops the events of steps that will be done again
        self.tensorboard = SummaryWriter(str(folder / run.TENSORBOARD), purge_step=first_step + 1)
        self.wandb = start_wandb(wandb, project, folder, recipe) if wandb != "off" else None

    def write(self, step: int, **numbers: float | int | None) -> None:
        """One row. Nothing that differs between two runs of one recipe (times, speeds) belongs here."""
        self.file.write(json.dumps({"step": step, **numbers}) + "\n")
        self.file.flush()
        known = {name: value for name, value in numbers.items() if value is not None}
        for name, value in known.items():
            self.tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(known, step=step)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish(exit_code=0 if error is None else 1)


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
