"""Finished models, opened again with their weights, checked against their hash: a training run, an exported folder."""

from pathlib import Path
from typing import Any

import yaml

from lesionforge import run
from lesionforge.engine import checkpoint, model
from lesionforge.errors import BadInput
from lesionforge.files import read_json


def load_run(folder: Path) -> model.Built:
    """The model of a run folder, in evaluation mode, on the CPU.

    Raises:
        BadInput: not a finished training run, a group of them, or its weights are damaged.
    """
    require_trained(folder)
    done = read_json(folder / run.DONE)
    built = model.rebuild(done["model"])
    weights = checkpoint.load_tensors(folder / run.WEIGHTS, done["weights_sha256"])
    model.load_weights(built.model, weights, folder / run.WEIGHTS)
    built.model.eval()
    return built


def require_trained(folder: Path) -> None:
    """Refuse what is not the finished run of one model."""
    run.require_done(folder, "train")
    if names := read_json(folder / run.DONE).get("members"):
        raise BadInput(
            f"{folder}: a group of {len(names)} models, expected one; name one of them, such as "
            f"{folder / run.MEMBERS / names[0]}"
        )
    if not (folder / run.WEIGHTS).is_file():
        raise BadInput(f"{folder}: not a training run (no {run.WEIGHTS}); make one with `lesionforge train`")


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config that a run was made with."""
    config: dict[str, Any] = yaml.safe_load((folder / run.CONFIG).read_text())
    return config


def runs_of(folder: Path) -> list[Path]:
    """The run folders of a group of folds or seeds; of a single training, itself."""
    run.require_done(folder, "train")
    names = read_json(folder / run.DONE).get("members")
    runs = [folder / run.MEMBERS / name for name in names] if names else [folder]
    for member in runs:
        require_trained(member)
    return runs


def load_exported(folder: Path) -> tuple[model.Built, str]:
    """The model of a folder that `lesionforge export` wrote, in evaluation mode, on the CPU; its weights' SHA-256.

    config.json and model.safetensors are enough, as they come back from the hub.

    Raises:
        BadInput: another folder, a config that contradicts itself, or damaged weights.
    """
    if not (folder / run.MODEL_CONFIG).is_file():
        raise BadInput(
            f"{folder}: not an exported model (no {run.MODEL_CONFIG}); make one with `lesionforge export`, or name a "
            "run with --run"
        )
    config = read_json(folder / run.MODEL_CONFIG)
    if not isinstance(config, dict) or "lesionforge" not in config:
        raise BadInput(
            f"{folder / run.MODEL_CONFIG}: not written by `lesionforge export` (it has no entry lesionforge); export a "
            "run of yours"
        )
    try:
        facts, sha256 = config["lesionforge"]["model"], config["lesionforge"]["weights_sha256"]
        size, expected = config["pretrained_cfg"]["input_size"], [3, facts["image_size"], facts["image_size"]]
        if size != expected:
            raise BadInput(
                f"{folder / run.MODEL_CONFIG}: input_size {size}, expected {expected} as the model was exported; put "
                "the file back, or export the run again"
            )
        built = model.rebuild(facts)
    except (KeyError, TypeError) as error:
        raise BadInput(f"{folder / run.MODEL_CONFIG}: damaged ({error!r}); export the run again") from error
    model.load_weights(built.model, checkpoint.load_tensors(folder / run.MODEL_WEIGHTS, sha256), folder)
    built.model.eval()
    return built, sha256
