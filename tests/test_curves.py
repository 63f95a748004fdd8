"""ROC points, means of curves, counts at the threshold: what the report computes itself."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from lesionforge import tables
from lesionforge.reporting import curves
from lesionforge.reporting.collected import Cell


def predictions(targets: np.ndarray, scores: np.ndarray) -> pl.DataFrame:
    ids = [f"a{i}" for i in range(len(targets))]
    return pl.DataFrame({tables.IMAGE_ID: ids, tables.TARGET: targets, tables.SCORE: scores})


def cell(table: pl.DataFrame | None, threshold: float | None = 0.5, metrics: list | None = None) -> Cell:
    scores = {tables.THRESHOLD: {"value": threshold}}
    return Cell("r", Path("r"), "m", "a", None, 0, "train", {}, {}, {}, metrics or [], scores, table, None, ())


@pytest.mark.parametrize("decimals", [8, 1])  # without and with ties
def test_the_area_below_the_points_is_the_auc(decimals: int) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(400) < 0.1).astype(int)
    scores = np.round(np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1), decimals)
    points = curves.roc_points(predictions(targets, scores))
    assert points is not None
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert (np.diff(points, axis=0) >= 0).all()
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)
    x, y, _ = roc_curve(targets, scores, drop_intermediate=False)
    assert {tuple(point) for point in points.round(9).tolist()} <= {
        (round(a, 9), round(b, 9)) for a, b in zip(x, y, strict=True)
    }


def test_a_class_alone_has_no_curve() -> None:
    assert curves.roc_points(predictions(np.zeros(3), np.array([0.1, 0.2, 0.3]))) is None


def test_the_mean_of_a_curve_with_itself_is_that_curve() -> None:
    curve = np.array([[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]])
    mean = curves.mean_curve([curve, curve])
    assert np.interp([0, 0.25, 0.75, 1], mean[:, 0], mean[:, 1]) == pytest.approx([0.5, 0.5, 1, 1])


def test_thinned_keeps_the_ends() -> None:
    points = np.stack([np.arange(1000.0), np.arange(1000.0)], axis=1)
    few = curves.thinned(points, 50)
    assert len(few) == 50
    assert few[0, 0] == 0
    assert few[-1, 0] == 999


def test_counts_at_the_threshold() -> None:
    targets, scores = np.array([1, 1, 0, 0, 0]), np.array([0.5, 0.4, 0.5, 0.2, 0.1])
    found = curves.confusion_of(cell(predictions(targets, scores)))
    assert found == curves.Confusion(1, 1, 1, 2)
    true_negatives, false_positives, false_negatives, true_positives = confusion_matrix(targets, scores >= 0.5).ravel()
    assert found == (true_positives, false_negatives, false_positives, true_negatives)
    assert (found.sensitivity, found.specificity) == (0.5, pytest.approx(2 / 3))
    assert curves.confusion_of(cell(None)) is None
    assert curves.confusion_of(cell(predictions(targets, scores), None)) is None


def test_a_series_leaves_out_what_is_no_number() -> None:
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2}, {"epoch": 3, "loss": None}, {"step": 4, "loss": 0.25}]
    assert curves.series(cell(None, metrics=rows), "loss").tolist() == [[1, 0.5], [4, 0.25]]
    assert curves.series(cell(None), "loss").shape == (0, 2)
