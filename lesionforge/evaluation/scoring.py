"""The scores of one part with their intervals, its calibration, and what a reader must know beside them."""

from typing import Any

import numpy as np
import polars as pl

from lesionforge import bootstrap, metrics, tables
from lesionforge.evaluation import calibration
from lesionforge.evaluation.predictions import patient_numbers

FEW = 10  # our choice: below this many malignant clusters a percentile interval is known to be too narrow


def score_part(table: pl.DataFrame, threshold: float | None, num_replicates: int, seed: int) -> dict[str, Any]:
    """Every score of a part's predictions with interval, counts, and what a reader must know beside them."""
    targets, scores = table[tables.TARGET].to_numpy(), table[tables.SCORE].to_numpy()
    patients = patient_numbers(table).to_numpy()
    found = bootstrap.estimates(targets, scores, patients, threshold, num_replicates, seed)
    counts = count_lesions(targets, patients)
    reasons = {name: why_undefined(name, counts, threshold) for name in found if found[name].estimate is None}
    return {
        **counts,
        tables.CLUSTERED_BY: clustered_by(counts),
        "level": bootstrap.LEVEL,
        "num_replicates": num_replicates,
        "seed": seed,
        "scores": {name: as_json(value, reasons.get(name)) for name, value in found.items()},
        "notes": [*notes_on_clusters(counts, found), *notes_on_retrieval(targets, patients, found)],
    }


def as_json(value: bootstrap.Estimate, reason: str | None) -> dict[str, Any]:
    """A score with its interval; `reason` says why, where it is undefined."""
    return {
        tables.ESTIMATE: value.estimate,
        tables.LOW: value.low,
        tables.HIGH: value.high,
        tables.REPLICATES_LEFT_OUT: value.num_left_out,
        "reason": reason if value.estimate is None else None,
    }


def count_lesions(targets: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    malignant, known = targets == 1, patients >= 0
    return {
        tables.NUM_IMAGES: len(targets),
        tables.NUM_MALIGNANT: int(malignant.sum()),
        tables.NUM_PATIENTS: len(np.unique(patients[known])),
        "num_patients_with_malignancy": len(np.unique(patients[known & malignant])),
        "num_images_of_unknown_patients": int((~known).sum()),
        "num_malignant_of_unknown_patients": int((~known & malignant).sum()),
    }


def clustered_by(counts: dict[str, int]) -> str:
    if not counts["num_images_of_unknown_patients"]:
        return "patient"
    return "patient where known, else image" if counts[tables.NUM_PATIENTS] else "image"


def why_undefined(name: str, counts: dict[str, int], threshold: float | None) -> str:
    if name == metrics.TOP_15:
        unknown, images = counts["num_images_of_unknown_patients"], counts[tables.NUM_IMAGES]
        return f"the patient of {unknown:,} of {images:,} lesions is unknown, so no patient's list is known to be whole"
    if name in metrics.AT_THRESHOLD and threshold is None:
        return "no threshold: no val predictions to choose it on; give --threshold-from FILE or --threshold-rule NUMBER"
    if name == metrics.PRECISION:
        return "no lesion is scored at or above the threshold"
    return "one class only"


def notes_on_clusters(counts: dict[str, int], found: dict[str, bootstrap.Estimate]) -> list[str]:
    unknown, patients = counts["num_images_of_unknown_patients"], counts[tables.NUM_PATIENTS]
    notes = []
    if unknown and patients:
        notes.append(
            f"intervals: resampled by patient where known ({patients:,}); the {unknown:,} lesions of unknown patients "
            "count as independent, so the intervals are too narrow if they share patients"
        )
    elif unknown:
        notes.append(
            "intervals: resampled by IMAGE, no patient is known; lesions of one patient count as independent, so the "
            "intervals are too narrow"
        )
    else:
        notes.append(f"intervals: resampled by patient ({patients:,})")
    num_clusters = counts["num_patients_with_malignancy"] + counts["num_malignant_of_unknown_patients"]
    if all(value.low is None for value in found.values()):
        notes.append("no intervals: the malignant or the benign lesions all come from one patient")
    elif num_clusters < FEW:
        notes.append(f"malignant lesions from fewer than {FEW} patients: intervals this small are too narrow")
    if left_out := max(value.num_left_out for value in found.values()):
        notes.append(f"up to {left_out:,} replicates are left out of an interval, the score being undefined in them")
    if any(value.low is not None and value.low == value.high for value in found.values()):
        notes.append("an interval of no width says that no replicate differed, not that the score is certain")
    return notes


def notes_on_retrieval(targets: np.ndarray, patients: np.ndarray, found: dict[str, bootstrap.Estimate]) -> list[str]:
    """How much of top-15 retrieval any score would reach."""
    if found[metrics.TOP_15].estimate is None:
        return []
    lesions = np.bincount(patients)
    malignant = targets == 1
    certain = np.count_nonzero(lesions[patients[malignant]] <= metrics.RETRIEVED_PER_PATIENT)
    if not certain:
        return []
    return [
        f"top-15 retrieval: {certain:,} of {np.count_nonzero(malignant):,} malignant lesions are of patients with at "
        "most 15 lesions, which any score retrieves"
    ]


# --------------------------------------------------------------------------------------------------------- calibration


def score_calibration(
    versions: dict[str, pl.DataFrame], in_sample: bool, are_ranks: bool, num_bins: int, num_replicates: int, seed: int
) -> dict[str, Any]:
    """Calibration of a part's scores, raw and calibrated, with intervals and the bins of the reliability diagram.

    `in_sample`: these are the lesions that the methods were fitted on. `are_ranks`: the scores are an ensemble's means
    of ranks, which lie in [0, 1] and yet are no probabilities.
    """
    raw = versions[calibration.RAW]
    if are_ranks:
        return {"versions": {}, "notes": ["calibration: undefined, ranks are no probabilities"]}
    if raw[tables.SCORE].min() < 0 or raw[tables.SCORE].max() > 1:  # type: ignore[operator]
        return {"versions": {}, "notes": ["calibration: undefined, scores outside [0, 1] are no probabilities"]}
    found = {}
    for version, table in versions.items():
        table = table.sort(tables.IMAGE_ID)  # sums in floating point must not hang on the order of rows
        targets, scores = table[tables.TARGET].to_numpy(), table[tables.SCORE].to_numpy()
        patients = patient_numbers(table).to_numpy()
        measured = calibration.measure(targets, scores, patients, num_bins, num_replicates, seed)
        found[version] = {
            "scores": {name: as_json(value, why_no_measure(name)) for name, value in measured.scores.items()},
            metrics.PAUC: metrics.pauc(targets, scores),
            "ece_by_chance": measured.ece_by_chance,
            "reliability": calibration.reliability(targets, scores, patients, num_replicates, seed),
        }
    return {"num_bins": num_bins, "in_sample": in_sample, "versions": found, "notes": notes_on_calibration(raw, found)}


def why_no_measure(name: str) -> str:
    if name == calibration.LOG_LOSS:
        return "infinite: a lesion has a score of exactly 0 or 1 and is of the other class"
    return "one class only"


def notes_on_calibration(raw: pl.DataFrame, found: dict[str, Any]) -> list[str]:
    share = float(raw[tables.TARGET].mean())  # type: ignore[arg-type]
    notes = [
        f"calibration: {share:.2%} are malignant, so that number as every lesion's score has a Brier score of "
        f"{share * (1 - share):.2g}, an ECE of 0",
        "calibration: ECE by chance is what a perfectly calibrated score would show on as many lesions",
    ]
    fitted = [version for version in found if version + calibration.CROSS_FITTED in found]
    if fitted:
        notes.append(f"{', '.join(fitted)}: fitted on these very lesions, which flatters; cross-fitted does not")
    if (isotonic := found.get("isotonic")) and (
        change := isotonic[metrics.PAUC] - found[calibration.RAW][metrics.PAUC]
    ):
        notes.append(f"isotonic: ties the scores of a step, which moves the pAUC by {change:+.4f}")
    return notes
