"""The reliability diagram is drawn, one column a part; cross-fitted scores stand for fits that saw the lesions."""

import cv2
import numpy as np
import polars as pl
from test_evaluate import predictions

from lesionforge.evaluation import reliability, scoring

DISCLAIMER = "research software, not a medical device"


def measured(*parts, versions=("raw",)):
    """The same predictions under several names, and what evaluate finds of them."""
    tables = {part: dict.fromkeys(versions, predictions(i, part)) for i, part in enumerate(parts)}
    found = {
        part: {
            **scoring.score_part(tables[part]["raw"], None, 100, 0),
            "calibration": scoring.score_calibration(tables[part], False, 15, 100, 0),
        }
        for part in parts
    }
    return tables, found


def drawn(folder, *parts, versions=("raw",)):
    """The picture, (H, W, 3)."""
    reliability.draw(folder / "reliability.png", "x", *measured(*parts, versions=versions), DISCLAIMER)
    return cv2.imread(str(folder / "reliability.png"))


def test_a_part_is_a_column_on_a_light_ground(tmp_path):
    one, two = drawn(tmp_path, "val"), drawn(tmp_path, "val", "test")
    assert two.shape[1] == 2 * one.shape[1]
    assert np.median(one) == 255
    assert np.mean(one < 100) > 0.005  # raw is black


def test_each_version_has_a_colour_of_its_own(tmp_path):
    def has(image, colour):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return bool((np.abs(image.astype(int) - [blue, green, red]).max(axis=-1) < 12).any())

    image = drawn(tmp_path, "val", versions=("raw", "prior", "isotonic", "isotonic, cross-fitted"))
    assert has(image, reliability.COLOURS["prior"])
    assert has(image, reliability.COLOURS["isotonic"])
    assert not has(image, reliability.COLOURS["temperature"])


def test_the_fit_that_saw_the_lesions_is_not_drawn_beside_the_cross_fitted_one():
    versions = ("raw", "temperature", "temperature, cross-fitted")
    figure = reliability.figure_of("x", *measured("val", versions=versions), DISCLAIMER)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [label.rpartition(":")[0] for label in labels] == ["raw", "temperature (cross-fitted)"]
    assert "not a medical device" in figure.get_supxlabel()


def test_scores_of_exactly_0_and_parts_without_malignant_bins_are_drawn(tmp_path):
    table = predictions(0).with_columns(score=pl.when(pl.col("score") < 0.2).then(0.0).otherwise("score"))
    found = {
        "test": {
            **scoring.score_part(table, None, 100, 0),
            "calibration": scoring.score_calibration({"raw": table}, False, 15, 100, 0),
        }
    }
    reliability.draw(tmp_path / "r.png", "x", {"test": {"raw": table}}, found, "research software")
    assert cv2.imread(str(tmp_path / "r.png")) is not None
