"""A checkpoint is whole or it does not count; a damaged one is passed over for the one before it."""

import logging
from pathlib import Path

import pytest
import torch

from lesionforge.classifier.checkpoint import KEPT, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from lesionforge.errors import BadInput


def save(folder: Path, step: int) -> None:
    save_checkpoint(folder, step, {"model.w": torch.full((100,), float(step)), "ema.w": torch.ones(2)}, {"loss": 0.5})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.facts == {"step": 7, "loss": 0.5}
    assert torch.equal(found.part("model")["w"], torch.full((100,), 7.0))
    assert list(found.part("ema")) == ["w"]


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "checkpoints") is None


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, step)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.glob("*.json"))) == KEPT


@pytest.mark.parametrize("place", range(0, 480, 24))
def test_a_flipped_byte_is_found(tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture) -> None:
    """safetensors has no checksum: without ours, a flipped byte in a weight would load without a word."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    file = tmp_path / "step-00000002.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING, "lesionforge"):
        found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1
    assert "damaged" in caplog.text


def test_a_cut_file_or_record_is_found(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "step-00000002.json").write_text('{"step": 2, "sha')
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1


def test_when_all_are_damaged_the_run_stops(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-00000001.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="all 1 checkpoints are damaged"):
        load_checkpoint(tmp_path)


def test_tensors_without_a_record_do_not_count(tmp_path: Path) -> None:
    """A kill between the two files: the record is written last."""
    save(tmp_path, 1)
    (tmp_path / "step-00000002.safetensors").write_bytes(b"half of it")
    (tmp_path / ".step-00000003.safetensors.123.partial").write_bytes(b"stale")
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1
    assert not list(tmp_path.glob(".*"))


def test_weights_are_checked_against_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    sha256 = save_tensors(path, {"w": torch.zeros(3)})
    assert torch.equal(load_tensors(path, sha256)["w"], torch.zeros(3))
    with pytest.raises(BadInput, match="damaged"):
        load_tensors(path, "0" * 64)
    path.write_bytes(b"not safetensors")
    with pytest.raises(BadInput, match="not a safetensors file"):
        load_tensors(path)
    with pytest.raises(BadInput, match="no such file"):
        load_tensors(tmp_path / "none.safetensors")
