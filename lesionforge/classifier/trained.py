"""A finished training run, opened again: its model with its weights, checked against their hash."""

from pathlib import Path

from lesionforge import run
from lesionforge.classifier import checkpoint, model
from lesionforge.errors import BadInput
from lesionforge.files import read_json


def load_run(folder: Path) -> model.Built:
    """The model of a run folder, in evaluation mode, on the CPU.

    Raises:
        BadInput: not a finished training run, or its weights are damaged.
    """
    require_trained(folder)
    done = read_json(folder / run.DONE)
    built = model.rebuild(done["model"])
    weights = checkpoint.load_tensors(folder / run.WEIGHTS, done["weights_sha256"])
    model.load_weights(built.model, weights, folder / run.WEIGHTS)
    built.model.eval()
    return built


def require_trained(folder: Path) -> None:
    run.require_done(folder, "train")
    if not (folder / run.WEIGHTS).is_file():
        raise BadInput(f"{folder}: not a training run (no {run.WEIGHTS}); make one with `lesionforge train`")
