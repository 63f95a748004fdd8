"""Heat map pictures: what is in them, at the place it belongs to."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from lesionforge.classifier.explained_lesions import Lesion
from lesionforge.classifier.sheets import Row, draw_sheet, in_lines, scaling_of


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


@pytest.mark.parametrize("num_lesions", [1, 2, 8])
def test_the_images_stand_above_their_overlays(tmp_path: Path, num_lesions: int) -> None:
    """Of dark images without maps the left edge of each row is where the first dark column is."""
    dark = [lesion(i, 1)._replace(image=np.full((40, 40, 3), (90, 0, 90), np.uint8)) for i in range(num_lesions)]
    rows = [Row("a model", [np.zeros((16, 16))] * num_lesions, [""] * num_lesions)]
    draw_sheet(tmp_path / "sheet.png", "title", dark, rows, "mask")
    picture = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1].astype(int)
    purple = np.abs(picture - (90, 0, 90)).sum(axis=2) < 12
    left = purple.argmax(axis=1)[purple.sum(axis=1) > 50]
    assert len(left) > 200  # both rows are seen
    assert np.ptp(left) <= 1


def test_maps_from_their_minimum_are_drawn_as_such_and_said_to_be(tmp_path: Path) -> None:
    """A map from 0.9 to 1 is one red square from 0, and a ramp from its minimum."""
    ramp = np.tile(np.linspace(0.9, 1.0, 40), (40, 1))
    pictures = []
    for from_minimum in (False, True):
        row = Row("rollout", [ramp], [""], from_minimum)
        draw_sheet(tmp_path / "sheet.png", "title", [lesion(0, 1)], [row], "mask")
        picture = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1].astype(int)
        pictures.append(picture[int(0.6 * len(picture)), : int(0.8 * picture.shape[1])])
    red = [((line[:, 0] - line[:, 2]) > 60).sum() for line in pictures]
    assert red[1] < 0.6 * red[0]
    one, other = Row("grad_cam", [ramp], [""]), Row("rollout\n(whatever the score)", [ramp], [""], True)
    assert scaling_of([one]) == "Each map is coloured from 0 to its own maximum."
    assert "rollout, above 0 everywhere, from its own minimum" in scaling_of([one, other])
    assert "from its own minimum to its own maximum" in scaling_of([other])


def test_long_labels_are_broken_into_lines() -> None:
    lines = in_lines("efficientnet_lite0-balanced-0\n(CNN)").split("\n")
    assert lines[-1] == "(CNN)"
    assert max(map(len, lines)) <= 22
