"""The shortcut test within an audit: which images it is made of, and what it says where it cannot be made."""

from pathlib import Path

import numpy as np
import pytest
from candidate_stores import spotted, write_candidates, write_real

from lesionforge.auditing import audit_shortcut, shortcut
from lesionforge.auditing.audit_inputs import read_inputs
from lesionforge.data.store import open_store


def test_the_format_is_seen_before_and_less_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before formatting all generated images are 48 px PNGs, after it 72 px JPEGs like the real ones."""
    monkeypatch.setattr(shortcut, "NUM_STEPS", 20)  # the spectrum tells a format, with or without the network
    real = write_real(tmp_path / "real", 120)
    rng = np.random.default_rng(99)
    write_candidates(tmp_path / "c", [spotted(rng) for _ in range(20)], *real, raw_size=48)
    inputs = read_inputs(tmp_path / "c", *real, None, 0)
    kept = np.arange(20) < 15
    rows = {row["format"]: row for row in audit_shortcut.shortcut_table(inputs, kept, 0, "cpu").to_dicts()}
    before, after = rows[audit_shortcut.BEFORE], rows[audit_shortcut.AFTER]
    assert before["estimate"] > 0.95
    assert after["estimate"] < before["estimate"]
    assert before["num_real"] == before["num_synthetic"] == after["num_synthetic"] == 20
    assert rows[audit_shortcut.KEPT]["num_synthetic"] == 15
    assert {row["class"] for row in rows.values()} == {"malignant"}


def test_the_bytes_of_a_file_are_a_cue(tmp_path: Path) -> None:
    store_path, _ = write_real(tmp_path / "real", 4)
    store = open_store(store_path)
    found = audit_shortcut.facts_of(store.samples())[audit_shortcut.BYTES]
    assert found.tolist() == [len(store.read(row)) / 72**2 for row in range(4)]


def test_too_few_images_are_named_with_the_reason(tmp_path: Path) -> None:
    real = write_real(tmp_path / "real", 40)
    rng = np.random.default_rng(99)
    write_candidates(tmp_path / "c", [spotted(rng) for _ in range(3)], *real)
    found = audit_shortcut.shortcut_table(read_inputs(tmp_path / "c", *real, None, 0), np.ones(3, bool), 0, "cpu")
    assert found["estimate"].null_count() == len(found) == 2
    assert "no images as the generator made them" in found["reason"][0]
    assert "expected 10 or more" in found["reason"][1]
