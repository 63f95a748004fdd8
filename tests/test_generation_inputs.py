"""Weights and real images that a generation is made from are the generator's own."""

from pathlib import Path

import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.diffusion import generation_inputs
from lesionforge.errors import BadInput

MANIFEST = {"targets": [1], "adapter_sha256": "a", "prior_sha256": "p", "epochs": {"epoch-0010": "e"}}


def test_each_checkpoint_has_its_hash() -> None:
    assert generation_inputs.weights_of("last", 1, MANIFEST) == ("last", "a")
    assert generation_inputs.weights_of("epoch-0010", 1, MANIFEST) == ("epoch-0010", "e")
    assert generation_inputs.weights_of("last", 0, MANIFEST) == (run.PRIOR, "p")


@pytest.mark.parametrize(
    ("checkpoint", "target", "has"), [("epoch-0011", 1, "last, epoch-0010"), ("epoch-0010", 0, "last")]
)
def test_a_checkpoint_that_was_not_kept(checkpoint: str, target: int, has: str) -> None:
    with pytest.raises(BadInput, match=f"no {checkpoint} of that class; it has {has}; see its --keep-epochs"):
        generation_inputs.weights_of(checkpoint, target, MANIFEST)


def test_a_run_goes_on_with_what_it_was_started_on(tmp_path: Path) -> None:
    generation_inputs.require_same(tmp_path, {"generator": "one", "store": None}, is_writer=False)
    assert not (tmp_path / run.INPUTS).exists()
    generation_inputs.require_same(tmp_path, {"generator": "one", "store": None}, is_writer=True)
    generation_inputs.require_same(tmp_path, {"generator": "one", "store": None}, is_writer=True)
    with pytest.raises(BadInput, match="started with another generator or other real images; name another --out"):
        generation_inputs.require_same(tmp_path, {"generator": "two", "store": None}, is_writer=True)


def test_sources_are_listed_once_with_patient_and_hash() -> None:
    train = pl.DataFrame(
        {tables.IMAGE_ID: ["a", "b"], tables.PATIENT_ID: ["p", None], tables.SHA256: ["1", "2"], tables.TARGET: [1, 0]}
    )
    real = generation_inputs.Real(None, train, train)  # type: ignore[arg-type]
    samples = pl.DataFrame({tables.SOURCE_IMAGE: ["b", None, "b"]})
    assert generation_inputs.used_sources(real, samples).rows() == [("b", None, "2")]
