"""Checkpoints: one safetensors file of everything that a run needs to go on, with a JSON record holding its SHA-256.

A checkpoint counts only with its record, which is written last and holds its own SHA-256 too; a damaged one is passed
over for the one before it.
Final weights are written by the same door, so that `weights.safetensors` always has a hash beside it in done.json.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lesionforge.errors import BadInput
from lesionforge.files import clear_stale, read_json, sha256_of_bytes, write_json, write_whole

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
    with write_whole(path, size=len(data)) as file:
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
    except OSError as error:  # a disk that fails
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    if sha256 is not None and sha256_of_bytes(data) != sha256:
        raise BadInput(f"{path}: damaged, its SHA-256 is not the recorded one; restore it or train again")
    try:
        return load(data)
    except SafetensorError as error:
        raise BadInput(f"{path}: not a safetensors file ({error})") from error


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write the checkpoint of `step`, then delete all but it and the one before it.

    A later one is deleted too: the run has gone back behind it, because it was damaged.
    """
    path = folder / f"step-{step:08d}.safetensors"
    record = {"step": step, **facts, "sha256": save_tensors(path, tensors)}
    write_json(path.with_suffix(".json"), {**record, "record_sha256": sha256_of_record(record)})
    clear(folder, kept=[record for record in records(folder) if record.stem <= path.stem][:KEPT])


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint, None where there is none. What a killed run left half done is deleted.

    Raises:
        BadInput: there are checkpoints and every one is damaged.
    """
    found = records(folder)
    clear_stale(folder)
    clear(folder, kept=found)
    for record in found:
        try:
            facts = read_json(record)
            if not isinstance(facts, dict) or facts.pop("record_sha256", None) != sha256_of_record(facts):
                raise BadInput(f"{record}: damaged, its SHA-256 is not the recorded one")
            return Checkpoint(load_tensors(record.with_suffix(".safetensors"), facts.pop("sha256")), facts)
        except BadInput as error:
            log.warning("%s; going back to the checkpoint before it", error)
    if found:
        raise BadInput(f"{folder}: all {len(found)} checkpoints are damaged; delete the run folder and train again")
    return None


def records(folder: Path) -> list[Path]:
    """Records of the checkpoints, the last first."""
    return sorted(folder.glob("step-*.json"), reverse=True)


def sha256_of_record(record: Mapping[str, Any]) -> str:
    """Of what JSON makes of it (tuples are lists, keys are text), so that a record that was read gives the same."""
    plain = json.loads(json.dumps(record))
    return sha256_of_bytes(json.dumps(plain, sort_keys=True).encode())


def clear(folder: Path, kept: Sequence[Path]) -> None:
    """Delete all checkpoints but those of the records `kept`, and tensors without a record."""
    stems = {record.stem for record in kept}
    for pattern in ("step-*.json", "step-*.safetensors"):  # the records first: tensors without one are no checkpoint
        for path in folder.glob(pattern):
            if path.stem not in stems:
                path.unlink(missing_ok=True)  # every process of torchrun clears
