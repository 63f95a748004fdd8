"""The scores of one part with their intervals, as data for JSON and CSV and as a table for the eye."""

from typing import Any

import numpy as np
import polars as pl

from lesionforge import bootstrap, metrics, tables
from lesionforge.evaluation import calibration
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


def as_rows(run_name: str, parts: dict[str, Any]) -> pl.DataFrame:
    """scores.csv: one row for each part and score, with what it rests on, so that files of many runs stack."""
    rows = [
        {
            tables.RUN: run_name,
            tables.PART: part,
            tables.CALIBRATION: version,
            tables.SCORE: name,
            **{key: value[key] for key in (tables.ESTIMATE, tables.LOW, tables.HIGH, tables.REPLICATES_LEFT_OUT)},
            **{key: found[key] for key in (tables.NUM_IMAGES, tables.NUM_MALIGNANT, tables.NUM_PATIENTS)},
            tables.CLUSTERED_BY: found[tables.CLUSTERED_BY],
            tables.THRESHOLD: found[tables.THRESHOLD]["value"],
        }
        for part, found in parts.items()
        for version, scores in [
            (calibration.RAW, found["scores"]),
            *((version, held["scores"]) for version, held in found[tables.CALIBRATION]["versions"].items()),
        ]
        for name, value in scores.items()
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
    lines += [*calibration_table(found[tables.CALIBRATION]), ""]
    lines += [f"  - threshold: {found[tables.THRESHOLD]['how']}"]
    lines += [f"  - {note}" for note in [*found["notes"], *found[tables.CALIBRATION]["notes"]]]
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


# --------------------------------------------------------------------------------------------------------- calibration


def score_calibration(
    versions: dict[str, pl.DataFrame], in_sample: bool, num_bins: int, num_replicates: int, seed: int
) -> dict[str, Any]:
    """Calibration of a part's scores, raw and calibrated, with intervals and the bins of the reliability diagram.

    `in_sample`: these are the lesions that the methods were fitted on.
    """
    raw = versions[calibration.RAW]
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


def calibration_table(found: dict[str, Any]) -> list[str]:
    """Brier score, ECE and calibration in the large, raw and calibrated, for the terminal."""
    if not found["versions"]:
        return []
    ece = f"ECE, {found['num_bins']} equal-mass bins"
    lines = ["", f"  {'calibration':19}{'Brier score':31}{ece:31}{'by chance':11}mean score / prevalence"]
    for version, held in found["versions"].items():
        label = "  cross-fitted" if version.endswith(calibration.CROSS_FITTED) else version
        brier, ece, in_the_large = (
            in_cell(held["scores"][name]) for name in (calibration.BRIER, calibration.ECE, calibration.IN_THE_LARGE)
        )
        lines.append(f"  {label:19}{brier:31}{ece:31}{significant(held['ece_by_chance']):11}{in_the_large}")
    return lines


def in_cell(value: dict[str, Any]) -> str:
    estimate, low, high = (significant(value[key]) for key in (tables.ESTIMATE, tables.LOW, tables.HIGH))
    return estimate if value[tables.LOW] is None else f"{estimate}  {low} to {high}"


def significant(value: float | None) -> str:
    """Three digits; what is left of rounding counts as 0."""
    return "-" if value is None else f"{value if value > 1e-12 else 0.0:.3g}"


def calibration_in_words(facts: dict[str, Any], parts: dict[str, Any]) -> str:
    """What the calibrated scores were made with, one line a method; empty where none was asked for."""
    lines = []
    for method, numbers in facts["methods"].items():
        how = []
        if method.startswith("prior"):
            shift = numbers["shift"] + numbers["last_shift"]
            how.append(
                f"from {facts['training_prior']:.4g} in training to {facts['prevalence']:.4g}, logit {shift:+.4f}"
            )
        if "num_steps" in numbers:
            how.append(f"{numbers['num_steps']:,} steps, fitted on {facts['fitted_on']}")
        elif method != "prior":
            how.append(f"temperature {numbers['temperature']:.4f}, fitted on {facts['fitted_on']}")
        lines.append(f"  {method:19}{'; '.join(how)}")
    for part, found in parts.items():
        share = found[tables.NUM_MALIGNANT] / found[tables.NUM_IMAGES]
        if "prevalence" in facts and not 0.5 < facts["prevalence"] / share < 2:
            lines.append(
                f"  - prior: made for {facts['prevalence']:.2%} malignant, measured on {part} with {share:.2%}: a mean "
                "score far from that is meant"
            )
    lines += [f"  - {note}" for note in facts["notes"]]
    if facts["fitted_on"]:
        lines.append("  - intervals take a fit as given: how it would vary with other val lesions is not in them")
    return "\n".join(["calibrated scores:", *lines]) if facts["methods"] else ""
