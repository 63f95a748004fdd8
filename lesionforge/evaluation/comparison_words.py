"""A comparison as the tables and sentences that the terminal shows."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from lesionforge import metrics, tables

LABELS = {
    metrics.PAUC: "pAUC (0 to 0.2, random 0.02)",
    metrics.ROC_AUC: "AUC",
    metrics.AVERAGE_PRECISION: "average precision",
    metrics.SENSITIVITY_AT_90: "sensitivity at 90 % specificity",
    metrics.SENSITIVITY_AT_95: "sensitivity at 95 % specificity",
}
FLOATS = (
    tables.ESTIMATE, tables.ESTIMATE_REFERENCE, tables.DIFFERENCE, tables.LOW, tables.HIGH, tables.P_VALUE,
    tables.PERMUTATION_P, tables.P_HOLM, tables.SE_PATIENT, tables.SE_SEED,
)  # fmt: skip
TEXTS = (tables.MODEL, tables.EACH_SEED, tables.NOTE)
LONGEST_NAME = 18  # what leaves room for the rest in 100 columns

METHOD = {
    "estimand": "the expected score of one run: the mean over seeds, then over folds; not the score of the seeds' mean "
    "prediction, which is an ensemble's",
    "interval": "95 %, difference +- t sqrt(V_patient + V_seed): V_patient from the bootstrap of patients, the same "
    "resamples for all runs; V_seed from each side's seeds, not paired; t by Satterthwaite's degrees of freedom",
    "p_value": "two-sided, from the same t: chance of patients and of seeds",
    "permutation_p": "each patient's ranks swapped between the two sides by a fair coin: chance of patients alone, for "
    "these trained models",
    "p_holm": "Holm's correction over all comparisons of a score that were planned, also those that lack runs; each "
    "score is a family of its own",
    "verdict": "higher or lower where p_holm is below 0.05, else cannot be told apart, which is not: equal",
}


def as_words(result: dict[str, Any]) -> str:
    """All that the terminal shows of compare.json."""
    pieces = [head(result)]
    for name in dict.fromkeys(row[tables.SCORE] for row in result["estimates"]):
        rows = [row for row in result["comparisons"] if row[tables.SCORE] == name]
        alone = [row for row in result["estimates"] if row[tables.SCORE] == name]
        of_arms = [row for row in rows if row[tables.AGAINST] == tables.AGAINST_ARM]
        of_models = [row for row in rows if row[tables.AGAINST] == tables.AGAINST_MODEL]
        if of_arms or not of_models:
            pieces.append(table(LABELS[name], of_arms, alone))
        if of_models:
            pieces.append(
                table(f"{LABELS[name]}, each model against {of_models[0][tables.REFERENCE]}", of_models, alone)
            )
    notes = dict.fromkeys(note for row in result["comparisons"] for note in row[tables.NOTE].split("; ") if note)
    lines = list(result["notes"])
    for note in notes:
        said_of = [row for row in result["comparisons"] if note in row[tables.NOTE]]
        whom = "" if len(said_of) == len(result["comparisons"]) else f"{whose(said_of)}: "
        lines.append(f"{whom}{note}")
    lines += [
        "means are over seeds and folds; a difference's interval holds the chance of patients and of seeds",
        "'cannot be told apart' is not 'equal': the interval says how far apart they may be",
    ]
    text = "\n".join(f"  - {line}" for line in lines)
    return "\n\n".join([*pieces, f"{text}{left_out(result)}", result["disclaimer"]])


def as_table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows as CSV has them; a column without any value keeps its type."""
    types = dict.fromkeys(FLOATS, pl.Float64) | dict.fromkeys(TEXTS, pl.String)
    held = rows[0].keys() if rows else []
    return pl.DataFrame(rows, schema_overrides={name: type_ for name, type_ in types.items() if name in held})


def head(result: dict[str, Any]) -> str:
    facts = result["facts"]
    counts = f"{facts[tables.NUM_MALIGNANT]:,} malignant lesions in {facts[tables.NUM_IMAGES]:,} images"
    folds = f", {facts[tables.NUM_FOLDS]} folds" if facts[tables.NUM_FOLDS] > 1 else ""
    return (
        f"{result['name']}, part {result['part']}: {facts['num_runs']} runs on {counts}{folds}; "
        f"reference {result['reference']}"
    )


def table(title: str, rows: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]]) -> str:
    """One score: each arm's mean with its interval, its difference to its reference, and the verdict."""
    has_model = any(row[tables.MODEL] is not None for row in alone)
    has_several = len({row[tables.REFERENCE] for row in rows}) > 1
    lines = [["model"] * has_model + ["arm", "mean", "95 % interval", "difference", "95 % interval", "p, Holm", ""]]
    of_row = {(row[tables.MODEL], row[tables.ARM]): row for row in rows}
    for row in alone:
        cells = [short(str(row[tables.MODEL]))] * has_model
        cells += [short(row[tables.ARM]), digits(row[tables.ESTIMATE]), interval(row)]
        found = of_row.get((row[tables.MODEL], row[tables.ARM]))
        if found is None:
            cells += ["", "", "", "reference"]
        else:
            cells += [digits(found[tables.DIFFERENCE], "+"), interval(found, "+"), chance(found[tables.P_HOLM])]
            cells += [found[tables.VERDICT] + (f", against {found[tables.REFERENCE]}" if has_several else "")]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([title, *(f"  {line}" for line in shown)])


def whose(rows: Sequence[dict[str, Any]]) -> str:
    """Of which rows a note is said: model, arm and score, as few words as tell them."""
    named = dict.fromkeys(
        " ".join(filter(None, [row[tables.MODEL], row[tables.ARM], LABELS[row[tables.SCORE]].split(" (")[0]]))
        for row in rows
    )
    return tables.in_short(list(named), 3)


def left_out(result: dict[str, Any]) -> str:
    if not result["left_out"]:
        return ""
    lines = [f"{one[tables.RUN]}: {one['why']}" for one in result["left_out"]]
    return f"\nleft out, {len(lines)} of {len(lines) + result['facts']['num_runs']} runs:{tables.in_lines(lines)}"


def short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 6]}..{name[-4:]}"


def digits(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def interval(row: dict[str, Any], sign: str = "") -> str:
    low, high = row[tables.LOW], row[tables.HIGH]
    return "-" if low is None else f"{low:{sign}.3f} to {high:{sign}.3f}"


def chance(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
