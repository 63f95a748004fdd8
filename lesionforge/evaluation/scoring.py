"""The scores of one part with their intervals, as data for JSON and CSV and as a table for the eye."""

from typing import Any

import numpy as np
import polars as pl

from lesionforge import bootstrap, metrics, tables
from lesionforge.evaluation.predictions import patient_numbers

FEW = 10  # our choice: below this many malignant clusters a percentile interval is known to be too narrow

LABELS = {
    metrics.PAUC: "pAUC (TPR >= 0.8; 0 to 0.2, random 0.02)",
    metrics.ROC_AUC: "AUC",
    metrics.AVERAGE_PRECISION: "average precision",
    metrics.SENSITIVITY_AT_90: "sensitivity at 90 % specificity",
    metrics.SENSITIVITY_AT_95: "sensitivity at 95 % specificity",
    metrics.TOP_15: "top-15 retrieval per patient",
    metrics.TRIAGE: "lesions to triage per malignancy found (80 %)",
    metrics.ACCURACY: "accuracy at the threshold",
    metrics.RECALL: "recall (sensitivity) at the threshold",
    metrics.SPECIFICITY: "specificity at the threshold",
    metrics.PRECISION: "precision at the threshold",
    metrics.F1: "F1 at the threshold",
}


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
        "scores": {
            name: {
                tables.ESTIMATE: value.estimate,
                tables.LOW: value.low,
                tables.HIGH: value.high,
                tables.REPLICATES_LEFT_OUT: value.num_left_out,
                "reason": reasons.get(name),
            }
            for name, value in found.items()
        },
        "notes": [*notes_on_clusters(counts, found), *notes_on_retrieval(targets, patients, found)],
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


def as_rows(run_name: str, parts: dict[str, Any]) -> pl.DataFrame:
    """scores.csv: one row for each part and score, with what it rests on, so that files of many runs stack."""
    rows = [
        {
            tables.RUN: run_name,
            tables.PART: part,
            tables.SCORE: name,
            **{key: value[key] for key in (tables.ESTIMATE, tables.LOW, tables.HIGH, tables.REPLICATES_LEFT_OUT)},
            **{key: found[key] for key in (tables.NUM_IMAGES, tables.NUM_MALIGNANT, tables.NUM_PATIENTS)},
            tables.CLUSTERED_BY: found[tables.CLUSTERED_BY],
            tables.THRESHOLD: found[tables.THRESHOLD]["value"],
        }
        for part, found in parts.items()
        for name, value in found["scores"].items()
    ]
    floats = dict.fromkeys((tables.ESTIMATE, tables.LOW, tables.HIGH, tables.THRESHOLD), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=floats)


def as_text(part: str, found: dict[str, Any]) -> str:
    """The table of one part for the terminal, with its counts above and its notes below."""
    width = max(len(label) for label in LABELS.values())
    lines = [f"{part}: {in_words(found)}", f"  {'':{width}}  estimate   95 % interval"]
    for name, label in LABELS.items():
        value = found["scores"][name]
        shown = [digits(name, value[key]) for key in (tables.ESTIMATE, tables.LOW, tables.HIGH)]
        interval = f"{shown[1]} to {shown[2]}" if value[tables.LOW] is not None else "-"
        lines.append(f"  {label:{width}}  {shown[0]:>8}   {interval}")
    reasons = {value["reason"] for value in found["scores"].values() if value["reason"]}
    undefined = {
        reason: [LABELS[name] for name, value in found["scores"].items() if value["reason"] == reason]
        for reason in sorted(reasons)
    }
    lines += [f"  - threshold: {found[tables.THRESHOLD]['how']}"]
    lines += [f"  - {note}" for note in found["notes"]]
    lines += [f"  - undefined ({'; '.join(names)}): {reason}" for reason, names in undefined.items()]
    return "\n".join(lines)


def in_words(found: dict[str, Any]) -> str:
    """`28 malignant lesions from 20 patients and 3 of unknown patients, in 1,581 images of ...`."""
    patients, unknown = found["num_patients_with_malignancy"], found["num_malignant_of_unknown_patients"]
    origin = [f"{patients:,} {'patient' if patients == 1 else 'patients'}"] if patients else []
    if unknown:
        origin.append(f"{unknown:,} of unknown patients" if patients else "unknown patients")
    malignant = found[tables.NUM_MALIGNANT]
    lesions = f"{malignant:,} malignant {'lesion' if malignant == 1 else 'lesions'}"
    whole = f"{found[tables.NUM_IMAGES]:,} images"
    if found[tables.NUM_PATIENTS]:
        whole += f", {found[tables.NUM_PATIENTS]:,} known patients"
    return f"{lesions} from {' and '.join(origin)} ({whole})"


def digits(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if name == metrics.TRIAGE else f"{value:.4f}"
