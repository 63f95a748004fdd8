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
            "calibration": scoring.score_calibration(tables[part], False, False, 15, 100, 0),
        }
        for part in parts
    }
    return tables, found


def drawn(folder, *parts, versions=("raw",)):
    """The picture, (H, W, 3)."""
    reliability.draw(folder / "reliability.png", "x", *measured(*parts, versions=versions), None, DISCLAIMER)
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


def labels_of(figure):
    """{label: calibration in the large} of the legend, which stands below the axes of the first part."""
    texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    return dict(text.rsplit(": ", 1) for text in texts)


def test_the_fit_that_saw_the_lesions_is_not_drawn_beside_the_cross_fitted_one():
    versions = ("raw", "temperature", "temperature, cross-fitted")
    figure = reliability.figure_of("x", *measured("val", versions=versions), None, DISCLAIMER)
    assert list(labels_of(figure)) == ["raw", "temperature (cross-fitted)"]
    assert "not a medical device" in figure.get_supxlabel()


def test_scores_of_exactly_0_and_parts_without_malignant_bins_are_drawn(tmp_path):
    table = predictions(0).with_columns(score=pl.when(pl.col("score") < 0.2).then(0.0).otherwise("score"))
    found = {
        "test": {
            **scoring.score_part(table, None, 100, 0),
            "calibration": scoring.score_calibration({"raw": table}, False, False, 15, 100, 0),
        }
    }
    reliability.draw(tmp_path / "r.png", "x", {"test": {"raw": table}}, found, None, "research software")
    assert cv2.imread(str(tmp_path / "r.png")) is not None


def test_the_legend_hides_nothing():
    versions = ("raw", "prior", "temperature", "prior_temperature", "isotonic")
    figure = reliability.figure_of("x", *measured("val", "test", versions=versions), 0.001, DISCLAIMER)
    figure.draw_without_rendering()
    for i in range(2):
        top, bottom = figure.axes[i], figure.axes[2 + i]
        assert top.get_legend() is None
        box = bottom.get_legend().get_window_extent()
        assert not box.overlaps(top.bbox)
        assert not box.overlaps(bottom.bbox)
        assert box.y1 < bottom.xaxis.label.get_window_extent().y0
        assert box.y0 > figure.texts[-1].get_window_extent().y1  # the footer


def test_the_prevalence_that_scores_are_made_for_is_named_where_it_is_not_the_parts():
    tables, found = measured("val", versions=("raw", "prior", "prior_temperature"))
    named = ["raw", "prior (for 0.1 %)", "prior + temperature (for 0.1 %)"]
    assert list(labels_of(reliability.figure_of("x", tables, found, 0.001, DISCLAIMER))) == named
    own = found["val"]["num_malignant"] / found["val"]["num_images"]
    assert list(labels_of(reliability.figure_of("x", tables, found, own, DISCLAIMER)))[1] == "prior"


def test_scores_of_only_0_and_1_have_axes(tmp_path):
    """Perfect predictions; no warning reaches the terminal (here: every warning is an error)."""
    table = predictions(0).with_columns(score=pl.col("target").cast(pl.Float64), logit=pl.lit(None, pl.Float64))
    for targets in (table["target"], pl.Series("target", [1] * 479 + [0], dtype=pl.Int8)):
        perfect = table.with_columns(targets, targets.cast(pl.Float64).alias("score"))
        calibrated = scoring.score_calibration({"raw": perfect}, False, False, 15, 100, 0)
        found = {"test": {**scoring.score_part(perfect, None, 100, 0), "calibration": calibrated}}
        figure = reliability.figure_of("x", {"test": {"raw": perfect}}, found, None, DISCLAIMER)
        low, high = figure.axes[0].get_xlim()
        assert low < 0.01
        assert high > 1
        reliability.draw(tmp_path / "r.png", "x", {"test": {"raw": perfect}}, found, None, DISCLAIMER)
    assert cv2.imread(str(tmp_path / "r.png")).mean() > 200
