"""Checkpoints: one safetensors file of everything that a run needs to go on, with a JSON record holding its SHA-256.

A checkpoint counts only with its record, which is written last; a damaged one is passed over for the one before it.
Final weights are written by the same door, so that `weights.safetensors` always has a hash beside it in done.json.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lesionforge.errors import BadInput
from lesionforge.files import PARTIAL, read_json, sha256_of_bytes, write_json, write_whole

log = logging.getLogger("lesionforge")

KEPT = 2  # checkpoints; the one before the last is for the day the last is damaged


class Checkpoint(NamedTuple):
    tensors: dict[str, torch.Tensor]  # "model.*", "optimizer.*", "ema.*"
    facts: dict[str, Any]  # step, epoch, ...

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors under `name.`, without it."""
        return {
            key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")
        }


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a safetensors file whole; returns its SHA-256."""
    data = save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    with write_whole(path) as file:
        file.write(data)
    return sha256_of_bytes(data)


def load_tensors(path: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read a safetensors file, checked against its hash: safetensors itself has no checksum.

    Raises:
        BadInput: no such file, unreadable, or not what was written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    if sha256 is not None and sha256_of_bytes(data) != sha256:
        raise BadInput(f"{path}: damaged, its SHA-256 is not the recorded one; restore it or train again")
    try:
        return load(data)
    except SafetensorError as error:
        raise BadInput(f"{path}: not a safetensors file ({error})") from error


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write the checkpoint of `step`, then delete all but the last `KEPT`."""
    path = folder / f"step-{step:08d}.safetensors"
    sha256 = save_tensors(path, tensors)
    write_json(path.with_suffix(".json"), {"step": step, **facts, "sha256": sha256})
    for record in sorted(folder.glob("step-*.json"))[:-KEPT]:
        record.unlink()  # the record first: tensors without a record are no checkpoint
        record.with_suffix(".safetensors").unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint, None where there is none. Stale temporary files of a killed run are removed.

    Raises:
        BadInput: there are checkpoints and every one is damaged.
    """
    for stale in folder.glob(f".*{PARTIAL}"):
        stale.unlink()
    records = sorted(folder.glob("step-*.json"), reverse=True)
    for record in records:
        try:
            facts = read_json(record)
            return Checkpoint(load_tensors(record.with_suffix(".safetensors"), facts.pop("sha256")), facts)
        except (BadInput, KeyError) as error:
            log.warning("%s; going back to the checkpoint before it", error)
    if records:
        raise BadInput(f"{folder}: all {len(records)} checkpoints are damaged; delete the run folder and train again")
    return None
