"""What no file holds and a report shows: points of ROC curves, counts at the threshold, thinned training curves."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesionforge import tables

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.reporting.collected import Cell

Floats = NDArray[np.float64]

MOST_POINTS = 120  # of a drawn curve, our choice: no screen shows more
TRAIN_LOSS, EPOCH, STEP = "train_loss", "epoch", "step"


class Confusion(NamedTuple):
    """Lesions of a part, by what they are and what the threshold calls them."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    @property
    def sensitivity(self) -> float | None:
        total = self.true_positives + self.false_negatives
        return self.true_positives / total if total else None

    @property
    def specificity(self) -> float | None:
        total = self.false_positives + self.true_negatives
        return self.true_negatives / total if total else None


def split_scores(predictions: "pl.DataFrame") -> tuple[Floats, Floats]:
    """Scores of the malignant and of the benign lesions, float64."""
    malignant = predictions[tables.TARGET].to_numpy() == 1
    scores = predictions[tables.SCORE].to_numpy().astype(np.float64)
    return scores[malignant], scores[~malignant]


def roc_points(predictions: "pl.DataFrame") -> Floats | None:
    """(N, 2): false and true positive rate, rising from (0, 0) to (1, 1), at the scores of the malignant lesions.

    Between two of them no point of the curve can change the area above TPR 0.8 but by ties, which a line joins as the
    area counts them. None where a class is missing.
    """
    malignant, benign = split_scores(predictions)
    if not len(malignant) or not len(benign):
        return None
    cuts = np.unique(malignant)[::-1]
    benign, malignant = np.sort(benign), np.sort(malignant)
    above = len(benign) - np.searchsorted(benign, cuts, side="right")
    at = len(benign) - np.searchsorted(benign, cuts, side="left")
    found_above = len(malignant) - np.searchsorted(malignant, cuts, side="right")
    found_at = len(malignant) - np.searchsorted(malignant, cuts, side="left")
    x = np.stack([above, at], axis=1).ravel() / len(benign)
    y = np.stack([found_above, found_at], axis=1).ravel() / len(malignant)
    points = np.stack([np.append(x, 1.0), np.append(y, 1.0)], axis=1)
    points = np.concatenate([np.zeros((1, 2)), points])
    return points[np.append(True, np.any(np.diff(points, axis=0) != 0, axis=1))]


def thinned(points: Floats, most: int = MOST_POINTS) -> Floats:
    """At most `most` rows, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return points
    return points[np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]


def mean_curve(curves: list[Floats], num_points: int = 201) -> Floats:
    """The mean true positive rate of several ROC curves at the same false positive rates, (num_points, 2)."""
    x = np.linspace(0, 1, num_points)
    return np.stack([x, np.mean([rate_at(curve, x) for curve in curves], axis=0)], axis=1)


def rate_at(curve: Floats, x: Floats) -> Floats:
    """The true positive rate of a curve at false positive rates; where it climbs straight up, the top of the climb."""
    before = np.searchsorted(curve[:, 0], x, side="right") - 1  # the last point that is not to the right
    after = np.minimum(before + 1, len(curve) - 1)
    width = curve[after, 0] - curve[before, 0]
    share = np.divide(x - curve[before, 0], width, out=np.zeros_like(x), where=width > 0)
    return curve[before, 1] + share * (curve[after, 1] - curve[before, 1])


def confusion_of(cell: "Cell") -> Confusion | None:
    """Counts at the threshold that scores.json names; a lesion is called malignant where score >= threshold."""
    threshold = threshold_of(cell)
    if cell.predictions is None or threshold is None:
        return None
    malignant, benign = split_scores(cell.predictions)
    found, wrong = int(np.count_nonzero(malignant >= threshold)), int(np.count_nonzero(benign >= threshold))
    return Confusion(found, len(malignant) - found, wrong, len(benign) - wrong)


def threshold_of(cell: "Cell") -> float | None:
    chosen = cell.scores.get(tables.THRESHOLD)
    return chosen.get("value") if isinstance(chosen, dict) else None


def series(cell: "Cell", key: str) -> Floats:
    """(N, 2): epoch (or step) and the value of a metric, thinned; empty where the run has none."""
    rows = [(row.get(EPOCH, row.get(STEP)), row[key]) for row in cell.metrics if is_number(row.get(key))]
    points = np.array([row for row in rows if is_number(row[0])], dtype=np.float64).reshape(-1, 2)
    return thinned(points, 60)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
