"""Masks come back bit for bit, and a wrong file is named."""

from pathlib import Path

import numpy as np
import pytest

from lesionforge.data.masks import open_masks, pack, write_masks
from lesionforge.errors import BadInput


def some_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    masks = [rng.random((side, side)) < 0.3 for side in (51, 64, 129, 239)]
    masks += [np.zeros((60, 60), bool), np.ones((70, 70), bool)]
    masks.append(np.zeros((55, 55), bool))
    masks[-1][54, 3] = True
    return masks


def test_masks_come_back_as_they_were(tmp_path: Path) -> None:
    masks = some_masks()
    names = [f"ISIC_{i:07d}" for i in range(len(masks))]
    write_masks(tmp_path / "masks.npz", names, [pack(masks[:3]), pack(masks[3:])])
    found = open_masks(tmp_path / "masks.npz")
    assert len(found) == len(masks)
    for name, mask in zip(names, masks, strict=True):
        np.testing.assert_array_equal(found.read(name), mask)
    write_masks(tmp_path / "again.npz", names, [pack(masks)])
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "masks.npz").read_bytes()


def test_an_unknown_id_a_missing_and_a_wrong_file_are_named(tmp_path: Path) -> None:
    write_masks(tmp_path / "masks.npz", ["ISIC_0000001"], [pack(some_masks()[:1])])
    with pytest.raises(BadInput, match="no mask of ISIC_7; it has ISIC_0000001"):
        open_masks(tmp_path / "masks.npz").read("ISIC_7")
    with pytest.raises(BadInput, match="no such file; `lesionforge phantom` writes it"):
        open_masks(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("isic_id,target\n")
    with pytest.raises(BadInput, match="not a file of masks"):
        open_masks(tmp_path / "text.npz")
    (tmp_path / "one.jpg").write_bytes(b"\xff\xd8\xff\xe0 no array")
    with pytest.raises(BadInput) as refused:  # numpy's own words would advise to load it unsafely
        open_masks(tmp_path / "one.jpg")
    path = tmp_path / "one.jpg"
    assert str(refused.value) == f"{path}: not a file of masks; `lesionforge phantom` writes one, true-masks.npz"
    np.savez(tmp_path / "other.npz", side=np.zeros(3))
    with pytest.raises(BadInput, match="not a file of masks"):
        open_masks(tmp_path / "other.npz")
