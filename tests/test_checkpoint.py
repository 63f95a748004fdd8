"""A checkpoint is whole or it does not count; a damaged one is passed over for the one before it."""

import logging
from pathlib import Path

import pytest
import torch

from lesionforge.engine.checkpoint import KEPT, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from lesionforge.errors import BadInput
from lesionforge.files import write_whole


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


def test_a_flipped_byte_in_the_record_is_found_wherever_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may still be JSON: another step, another loss, another name of a counter, another hash."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    record = tmp_path / "step-00000002.json"
    sound = record.read_bytes()
    harmless = 0
    for place in range(len(sound)):
        data = bytearray(sound)
        data[place] ^= 1
        record.write_bytes(data)
        caplog.clear()
        found = load_checkpoint(tmp_path)
        assert found is not None
        if found.facts["step"] == 2:  # a blank between two fields became another blank
            assert found.facts == {"step": 2, "loss": 0.5}
            harmless += 1
        else:
            assert record.name in caplog.text
    assert harmless < 10


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 1])
def test_a_cut_file_is_found(tmp_path: Path, suffix: str, share: float, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    path = tmp_path / f"step-00000002{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[: min(int(len(data) * share), len(data) - 3)])  # a record ends in a brace and a line end
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1
    assert path.name in caplog.text


def test_a_record_that_is_json_but_no_record_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for text in ("[]", "3", "{}", '{"step": 9, "sha256": ""}'):
        (tmp_path / "step-00000009.json").write_text(text)
        found = load_checkpoint(tmp_path)
        assert found is not None
        assert found.facts["step"] == 1


def test_a_damaged_later_checkpoint_does_not_push_out_the_good_ones(tmp_path: Path) -> None:
    """The run went back to step 1 and saves step 2: kept are these two, not the damaged one of step 8."""
    save(tmp_path, 1)
    save(tmp_path, 8)
    (tmp_path / "step-00000008.safetensors").write_bytes(b"")
    save(tmp_path, 2)
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["step-00000001", "step-00000002"]


def test_facts_come_back_as_json_has_them(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"w": torch.ones(1)}, {"pair": (1, 2.5), "by_epoch": {10: 0.1, 9: None}})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.facts == {"step": 3, "pair": [1, 2.5], "by_epoch": {"10": 0.1, "9": None}}


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Memory of an exabyte is not needed to ask for it: the size is told to `write_whole` beforehand."""
    with pytest.raises(BadInput, match=r"w\.bin: .*disk is full.*MiB needed, .*MiB free"):  # noqa: SIM117
        with write_whole(tmp_path / "w.bin", size=2**60):
            raise AssertionError("opened all the same")
    assert not list(tmp_path.iterdir())


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.json", "step-00000001.safetensors"]


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
