"""The scores of the study, from targets and scores in float64; numpy only.

All of them follow from a `Curve`: at each cut (the distinct scores of the malignant lesions, and the thresholds asked
for), how many malignant lesions lie on it and how many benign ones lie below it and on it. Nothing else can move a
score, ties are exact, and the leading axes of a curve are free: one sample, or thousands of resamples at once
(`bootstrap.py`). A lesion is called malignant where `score >= threshold`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lesionforge.errors import BadInput

Floats = NDArray[np.float64]

MIN_TPR = 0.8  # the challenge's: pAUC is the area under the ROC curve where the true positive rate is at least this
TRIAGE_SENSITIVITY_PERCENT = 80
RETRIEVED_PER_PATIENT = 15  # the challenge's secondary prize: the 15 highest-scored lesions of each patient

PAUC, ROC_AUC, AVERAGE_PRECISION = "pauc", "roc_auc", "average_precision"
SENSITIVITY_AT_90, SENSITIVITY_AT_95 = "sensitivity_at_90_specificity", "sensitivity_at_95_specificity"
TOP_15, TRIAGE = "top_15_retrieval", "triage_per_malignancy"
ACCURACY, RECALL, SPECIFICITY, PRECISION, F1 = "accuracy", "recall", "specificity", "precision", "f1"
AT_THRESHOLD = (ACCURACY, RECALL, SPECIFICITY, PRECISION, F1)
SCORES = (PAUC, ROC_AUC, AVERAGE_PRECISION, SENSITIVITY_AT_90, SENSITIVITY_AT_95, TOP_15, TRIAGE, *AT_THRESHOLD)

YOUDEN, BEST_F1, SENSITIVITY_80 = "youden", "f1", "sensitivity_80"  # rules that choose a threshold


class Curve(NamedTuple):
    """What the scores need to know of a sample, G cuts in ascending order; `...` are resamples, or nothing."""

    malignant: Floats  # (..., G) malignant lesions scored at the cut; each lies on one
    benign_below: Floats  # (..., G) benign lesions scored below the cut
    benign_equal: Floats  # (..., G) benign lesions scored at the cut
    num_malignant: Floats  # (...)
    num_benign: Floats  # (...)

    @property
    def true_positives(self) -> Floats:  # (..., G) malignant lesions scored at the cut or above
        return self.num_malignant[..., None] - np.cumsum(self.malignant, axis=-1) + self.malignant

    @property
    def false_positives(self) -> Floats:  # (..., G) benign lesions scored at the cut or above
        return self.num_benign[..., None] - self.benign_below


def pauc(targets: ArrayLike, scores: ArrayLike) -> float | None:
    """The challenge's partial area under the ROC curve, where TPR >= 0.8; in [0, 0.2], random 0.02, None for one class.

    Equal to the official formula (N. Kurtansky, MSKCC, 2024): labels and scores flipped, `roc_curve`, linear
    interpolation at `max_fpr` 0.2, `auc`. Scores may be logits: `1 - score` is never formed.

    Raises:
        BadInput: a score that is not finite, a target other than 0 and 1, unequal lengths.
    """
    return number(pauc_of(curve_of(targets, scores)))


def roc_auc(targets: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve, in [0, 1], random 0.5; None where a class is missing. Raises as `pauc`."""
    return number(roc_auc_of(curve_of(targets, scores)))


def average_precision(targets: ArrayLike, scores: ArrayLike) -> float | None:
    """Sum of precision over the steps of recall, as sklearn's; None where a class is missing. Raises as `pauc`."""
    return number(average_precision_of(curve_of(targets, scores)))


def choose_threshold(targets: ArrayLike, scores: ArrayLike, rule: str) -> float:
    """The threshold of `rule` on these lesions; the highest where several do equally well (fewest lesions flagged).

    youden          largest sensitivity + specificity - 1; does not move with the class prior, which our mixes change
    f1              largest F1
    sensitivity_80  the highest with sensitivity of at least 80 %

    Raises:
        BadInput: one class only, and as `pauc`.
    """
    targets, scores = checked(targets, scores)
    cuts, curve = cuts_of(targets, scores), curve_of(targets, scores)
    if not curve.num_malignant or not curve.num_benign:
        raise BadInput("a threshold cannot be chosen on lesions of one class only")
    true, false = curve.true_positives, curve.false_positives  # (G,), whole numbers: ties are exact
    if rule == YOUDEN:
        quality = true * curve.num_benign - false * curve.num_malignant
    elif rule == BEST_F1:
        quality = 2 * true / (true + false + curve.num_malignant)
    elif rule == SENSITIVITY_80:
        quality = (100 * true >= TRIAGE_SENSITIVITY_PERCENT * curve.num_malignant).astype(np.float64)
    else:
        raise ValueError(f"rule {rule!r} is not one of {YOUDEN}, {BEST_F1}, {SENSITIVITY_80}")
    return float(cuts[np.flatnonzero(quality == quality.max())[-1]])


def checked(targets: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Targets as booleans, scores in float64, both (N,)."""
    given, scores = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.shape != scores.shape:
        raise BadInput(f"found {given.shape} targets and {scores.shape} scores, expected one of each per lesion")
    malignant = given == 1
    if num_other := len(given) - np.count_nonzero(malignant) - np.count_nonzero(given == 0):
        raise BadInput(f"{num_other:,} of {len(given):,} targets are neither 0 (benign) nor 1 (malignant)")
    if num_bad := len(scores) - np.count_nonzero(np.isfinite(scores)):
        raise BadInput(f"{num_bad:,} of {len(scores):,} scores are not finite numbers")
    return malignant, scores


def cuts_of(malignant: NDArray[np.bool_], scores: Floats, thresholds: Sequence[float] = ()) -> Floats:
    """The distinct scores of the malignant lesions and the thresholds, ascending, (G,)."""
    return np.unique(np.concatenate([scores[malignant], np.asarray(thresholds, dtype=np.float64)]))


def curve_of(targets: ArrayLike, scores: ArrayLike) -> Curve:
    """The curve of one sample. Raises as `pauc`."""
    malignant, scores = checked(targets, scores)
    cuts, num_at_cut = np.unique(scores[malignant], return_counts=True)
    benign = np.sort(scores[~malignant])  # vectorised in numpy 2: 5x faster than placing each score among the cuts
    below = np.searchsorted(benign, cuts, side="left").astype(np.float64)
    equal = np.searchsorted(benign, cuts, side="right") - below
    totals = np.array(np.count_nonzero(malignant), np.float64), np.array(len(benign), np.float64)
    return Curve(num_at_cut.astype(np.float64), below, equal, *totals)


def pauc_of(curve: Curve) -> Floats:
    """pAUC of each resample, (...); NaN where a class is missing.

    In the flipped curve a cut moves x by its share of the malignant lesions, while y climbs in a straight line over
    the benign lesions tied with it; the last piece is cut off at x = 0.2.
    """
    allowed = (1 - MIN_TPR) * curve.num_malignant[..., None]
    before = np.cumsum(curve.malignant, axis=-1) - curve.malignant
    inside = np.clip(allowed - before, 0, curve.malignant)  # (..., G) malignant lesions of the cut with x <= 0.2
    with np.errstate(divide="ignore", invalid="ignore"):
        climb = np.where(inside > 0, inside / curve.malignant, 0) * curve.benign_equal
        area = np.sum(inside * (curve.benign_below + climb / 2), axis=-1)
        return area / (curve.num_malignant * curve.num_benign)


def roc_auc_of(curve: Curve) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        area = np.sum(curve.malignant * (curve.benign_below + curve.benign_equal / 2), axis=-1)
        return area / (curve.num_malignant * curve.num_benign)


def average_precision_of(curve: Curve) -> Floats:
    true, false = curve.true_positives, curve.false_positives
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(curve.malignant > 0, true / (true + false), 0)
        value = np.sum(curve.malignant * precision, axis=-1) / curve.num_malignant
    return np.where(curve.num_benign > 0, value, np.nan)


def sensitivity_at_specificity_of(curve: Curve, percent: int) -> Floats:
    """The largest sensitivity of a threshold whose specificity is at least `percent`; no interpolation."""
    allowed = 100 * curve.benign_below >= percent * curve.num_benign[..., None]  # whole numbers: exact
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.max(np.where(allowed, curve.true_positives, 0), axis=-1, initial=0) / curve.num_malignant
    return np.where(curve.num_benign > 0, value, np.nan)


def triage_of(curve: Curve) -> Floats:
    """Lesions scored at or above the highest threshold that finds 80 % of the malignant ones, per malignant one found.

    1 is perfect; a random score gives one over the prevalence.
    """
    true, false = curve.true_positives, curve.false_positives
    enough = 100 * true >= TRIAGE_SENSITIVITY_PERCENT * curve.num_malignant[..., None]
    cut = np.maximum(np.count_nonzero(enough, axis=-1) - 1, 0)[..., None]  # true falls from cut to cut
    if not true.shape[-1]:
        return np.full(curve.num_malignant.shape, np.nan)
    true, false = (np.take_along_axis(counts, cut, axis=-1)[..., 0] for counts in (true, false))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (true + false) / true
    return np.where((curve.num_malignant > 0) & (curve.num_benign > 0), value, np.nan)


def threshold_scores_of(curve: Curve, cut: int) -> dict[str, Floats]:
    """Accuracy, recall, specificity, precision (NaN where nothing is called malignant) and F1 at cut number `cut`."""
    true, false = curve.true_positives[..., cut], curve.false_positives[..., cut]
    malignant, benign = curve.num_malignant, curve.num_benign
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            ACCURACY: (true + benign - false) / (malignant + benign),
            RECALL: true / malignant,
            SPECIFICITY: (benign - false) / benign,
            PRECISION: true / (true + false),
            F1: 2 * true / (true + false + malignant),
        }
    both = (malignant > 0) & (benign > 0)
    return {name: np.where(both, value, np.nan) for name, value in values.items()}


def all_scores_of(curve: Curve, threshold_cut: int | None, num_retrieved: Floats | None) -> dict[str, Floats]:
    """Every name of `SCORES` with its value for each resample, (...); NaN where it is undefined.

    `num_retrieved` is the sum of `retrieved` over the malignant lesions, None where patients are unknown.
    """
    undefined = np.full(curve.num_malignant.shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        top_15 = undefined if num_retrieved is None else num_retrieved / curve.num_malignant
    values = {
        PAUC: pauc_of(curve),
        ROC_AUC: roc_auc_of(curve),
        AVERAGE_PRECISION: average_precision_of(curve),
        SENSITIVITY_AT_90: sensitivity_at_specificity_of(curve, 90),
        SENSITIVITY_AT_95: sensitivity_at_specificity_of(curve, 95),
        TOP_15: np.where(curve.num_benign > 0, top_15, np.nan),
        TRIAGE: triage_of(curve),
    }
    if threshold_cut is None:
        return values | dict.fromkeys(AT_THRESHOLD, undefined)
    return values | threshold_scores_of(curve, threshold_cut)


def retrieved(
    malignant: NDArray[np.bool_], scores: Floats, patients: NDArray[np.int64], num_best: int = RETRIEVED_PER_PATIENT
) -> Floats:
    """For each malignant lesion, in order, whether it is among its patient's `num_best` highest scores; (M,).

    A lesion tied over the border counts by its chance of being inside when ties are broken at random.
    """
    found = np.empty(np.count_nonzero(malignant))
    with_malignancy = np.zeros(patients.max(initial=-1) + 1, dtype=bool)
    with_malignancy[patients[malignant]] = True
    kept = np.flatnonzero(with_malignancy[patients])
    kept = kept[np.argsort(patients[kept], kind="stable")]
    starts = np.append(np.flatnonzero(np.diff(patients[kept], prepend=-1)), len(kept))
    place = np.cumsum(malignant) - 1  # of a malignant lesion among the malignant ones
    for start, stop in pairwise(starts):
        rows = kept[start:stop]
        ascending = np.sort(scores[rows])
        rows = rows[malignant[rows]]
        below = np.searchsorted(ascending, scores[rows], side="left")
        below_or_equal = np.searchsorted(ascending, scores[rows], side="right")
        room = num_best - (len(ascending) - below_or_equal)  # places left after the higher ones
        found[place[rows]] = np.clip(room / (below_or_equal - below), 0, 1)
    return found


def number(value: Any) -> float | None:
    """A float for JSON: None instead of NaN."""
    return None if np.isnan(value) else float(value)
