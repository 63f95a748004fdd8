"""What is measured of sets of images: where memory is short, the cure is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from candidate_stores import spotted, write_candidates, write_real

from lesionforge.auditing import audit_sets
from lesionforge.auditing.audit_inputs import read_inputs
from lesionforge.auditing.features import Extractor
from lesionforge.errors import BadInput


def tight(images: np.ndarray) -> np.ndarray:
    """A device with room for two images at once."""
    if len(images) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    return images.reshape(len(images), -1)[:, :3].astype(np.float32)


def test_out_of_memory_names_the_batch_size(tmp_path: Path) -> None:
    real = write_real(tmp_path / "real", 20)
    write_candidates(tmp_path / "c", [spotted(np.random.default_rng(i)) for i in range(4)], *real)
    inputs = read_inputs(tmp_path / "c", *real, None, 0)
    of_class = audit_sets.images_of(inputs, np.ones(4, bool), 1, 10, 0)
    extractor = Extractor("tight", "ab" * 32, True, 16, 3, tight)
    with pytest.raises(BadInput, match=r"out of memory, 8 images of 16 px .*; try --features.batch-size 2"):
        audit_sets.features_of(inputs, of_class, extractor, None, 8, 1)
    found = audit_sets.features_of(inputs, of_class, extractor, None, 2, 1)
    assert {name: len(rows) for name, rows in found.items()} == {"reference": 4, "held out": 2, "kept": 4}
