"""Heat map pictures: what is in them, at the place it belongs to."""

from pathlib import Path

import cv2
import numpy as np

from lesionforge.classifier.explained_lesions import Lesion
from lesionforge.classifier.sheets import Row, draw_sheet, in_lines


def lesion(number: int, target: int | None) -> Lesion:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    return Lesion(f"ISIC_{number}", target, np.full((40, 40, 3), 150, np.uint8), mask)


def test_a_sheet_repeats_byte_for_byte_and_an_empty_map_leaves_the_image(tmp_path: Path) -> None:
    lesions = [lesion(0, 1), lesion(1, 0), lesion(2, None)]
    corner = np.zeros((16, 16), np.float32)
    corner[:8, :8] = 1
    rows = [Row("a model with a long name (CNN)", [corner, corner, -corner], ["score 0.9", "score 0.1", "none"])]
    for name in ("one.png", "two.png"):
        draw_sheet(tmp_path / name, "title", lesions, rows, "the lesion's true mask")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    picture = cv2.imread(str(tmp_path / "one.png"))[..., ::-1].astype(int)
    height, width = picture.shape[:2]
    colourful = (picture.max(axis=2) - picture.min(axis=2)) > 60
    columns = np.flatnonzero(colourful[: int(0.9 * height)].any(axis=0))
    assert columns.min() < 0.25 * width
    third = colourful[:, int(0.62 * width) : int(0.8 * width)]
    assert not third.any()  # the map that is below 0 everywhere is not drawn


def test_long_labels_are_broken_into_lines() -> None:
    lines = in_lines("efficientnet_lite0-balanced-0\n(CNN)").split("\n")
    assert lines[-1] == "(CNN)"
    assert max(map(len, lines)) <= 22
