"""The scores of an evaluation as the rows of scores.csv and as the tables that the terminal shows."""

from typing import Any

import polars as pl

from lesionforge import metrics, tables
from lesionforge.evaluation import calibration

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


def as_words(result: dict[str, Any]) -> str:
    """All that the terminal shows of scores.json."""
    pieces = []
    if split := result["split"]:
        leaks = "\n  the split LEAKS: patients stand on both sides, and these scores are too good"
        pieces.append(f"split: {split}{leaks if '(leaky)' in split else ''}\n")
    pieces += [f"{as_text(part, found)}\n\n" for part, found in result["parts"].items()]
    if fitted := calibration_in_words(result[tables.CALIBRATION], result["parts"]):
        pieces.append(f"{fitted}\n\n")
    return "".join([*pieces, result["disclaimer"]])


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
