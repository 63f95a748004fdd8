"""Subgroups in words: what the terminal shows, and what a reader must know beside every number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from lesionforge import metrics, tables
from lesionforge.evaluation import attributes
from lesionforge.evaluation.attributes import OVERALL, TITLES, UNKNOWN, Grouping
from lesionforge.evaluation.scoring import FEW
from lesionforge.evaluation.subgroup_plan import Least
from lesionforge.evaluation.subgroup_rows import REASON
from lesionforge.evaluation.subgroup_runs import Read

DISCLAIMER = "research software, not a medical device"
LABELS = {metrics.PAUC: "pAUC", metrics.RECALL: "sensitivity", metrics.SPECIFICITY: "specificity"}
MOST_ARMS, MOST_MODELS, MOST_NAMED = 4, 4, 6  # that fit the terminal; the files hold all
NAME, CELL, WORDS = 26, 22, 45  # widths; a group's name in a sentence

SKIN_TONE_CAVEAT = (
    "skin tone: individual typology angle, arctan((L* - 50) / b*), of the skin around the lesion (tbp_lv_Lext, "
    "tbp_lv_Bext), in the bands of Chardon and Del Bino. Measured in crops under the light of 3D total-body "
    "photography, not by a colorimeter; tanned and shaded skin read darker (of 290 real SLICE-3D lesions 42 % read "
    "brown or dark): an order of tones, not Fitzpatrick's skin types"
)
DIAGNOSIS_CAVEAT = (
    "diagnosis: hardly any but malignant lesions carry a fine one, so each is set against all benign lesions; a gap "
    "between diagnoses says which cancers are harder to see, not that patients are treated unequally"
)
DIAMETER_CAVEAT = "diameter: a gap says that small lesions are harder, not that patients are treated unequally"


def caveats(
    least: Least,
    part: str,
    found: Read,
    lesions: pl.DataFrame,
    groupings: Sequence[Grouping],
    lacking: Sequence[str],
    measured: dict[str, Any],
) -> list[str]:
    """What must be known beside the numbers, in full sentences without their full stop."""
    names = [grouping.attribute for grouping in groupings]
    lines = [
        "exploratory: nothing is corrected for the number of groups, arms and scores; look at a finding again on other "
        "lesions before believing it",
        f"scored are groups with {least.malignant:,} malignant lesions or more, of {least.patients:,} patients at "
        f"least; pAUC and specificity need {least.benign:,} benign lesions besides; the others are named",
        *notes_on_thresholds(found, part),
        notes_on_intervals(measured["scores"]),
        *notes_on_clusters(found, measured["groups"]),
    ]
    if attributes.SKIN_TONE in names:
        lines.append(SKIN_TONE_CAVEAT)
    lines += notes_on_missing(lesions, groupings)
    if set(attributes.OF_MALIGNANT) & set(names):
        lines.append(DIAGNOSIS_CAVEAT)
    if attributes.DIAMETER in names:
        lines.append(DIAMETER_CAVEAT)
    if any(row[tables.GAP] is not None for row in measured["gaps"]):
        lines.append(
            "gap: largest minus smallest sensitivity of the scored groups, lesions of unknown group left out. It is "
            "never negative, so it is above zero by chance alone: compare it with the gap by chance, the mean when the "
            "same outcomes are dealt to the groups at random, patient by patient. Its interval is from those of all "
            "pairs of groups at once (Bonferroni), so it is wide; where it begins at 0, the "
            "groups may be alike"
        )
    if any(row[tables.LOW] is not None and row[tables.LOW] == row[tables.HIGH] for row in measured["scores"]):
        lines.append("an interval of no width says that no replicate differed, not that the score is certain")
    lines += notes_on_effects(measured["effects"])
    if lacking:
        lines.append(f"left out, the store has no columns for them: {', '.join(TITLES[name] for name in lacking)}")
    if found.left_out:
        lines.append(f"left out, no predictions: {tables.in_short(found.left_out, 3)}")
    return lines


def notes_on_thresholds(found: Read, part: str) -> list[str]:
    rules = sorted({str(chosen["rule"]) for chosen in found.thresholds if chosen["value"] is not None})
    lines = [f"threshold: each run's own, chosen on its val predictions, rule {', '.join(rules)}"] if rules else []
    if lines and any(chosen["in_sample"] for chosen in found.thresholds):
        lines[0] += f"; part {part} are those very lesions, so sensitivity and specificity flatter"
    num_runs, ours = len(found.thresholds), sum(chosen["from"] == "subgroups" for chosen in found.thresholds)
    if lines and ours:
        lines[0] += f"; for {ours:,} of {num_runs:,} runs it is chosen here, since these predictions were not evaluated"
    if without := sum(chosen["value"] is None for chosen in found.thresholds):
        lines.append(f"threshold: {without:,} of {num_runs:,} runs have none, since they have no val predictions")
    return lines


def notes_on_intervals(scores: Sequence[dict[str, Any]]) -> str:
    """What varies in the intervals. The shares are of the real runs (8 arms, 3 seeds, 1,581 lesions, 28 malignant)."""
    known = [row for row in scores if row[tables.ESTIMATE] is not None]
    if known and all(row[tables.SE_SEED] is not None for row in known):
        return (
            "intervals of scores and effects: how they would vary with other patients and other seeds (t, as in "
            "compare); those of gaps: with other patients only"
        )
    return (
        "intervals: how scores would vary with other patients; where an arm has one seed, not with another training. "
        "Of 24 real pairs of runs that differed in seed only, intervals like these left out 0 for 17 % of the "
        "sensitivities and 96 % of the specificities, since each run's threshold lies elsewhere"
    )


def notes_on_clusters(found: Read, groups: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    unknown = found.lesions[tables.PATIENT_ID].null_count()
    if unknown:
        lines.append(
            f"the patient of {unknown:,} of {len(found.lesions):,} lesions is unknown: each counts as a patient of its "
            "own, so intervals are too narrow if they share patients"
        )
    few = [
        f"{named(row)} ({row[tables.NUM_MALIGNANT_CLUSTERS]})"
        for row in groups
        if row[REASON] is None and row[tables.NUM_MALIGNANT_CLUSTERS] < FEW
    ]
    if few:
        lines.append(
            f"intervals are too narrow where the malignant lesions are of fewer than {FEW} patients: {', '.join(few)}"
        )
    return lines


def named(row: dict[str, Any]) -> str:
    attribute = row[tables.ATTRIBUTE]
    return row[tables.GROUP] if attribute == OVERALL else f"{TITLES[attribute]} {short(row[tables.GROUP], WORDS)}"


def notes_on_missing(lesions: pl.DataFrame, groupings: Sequence[Grouping]) -> list[str]:
    """Where metadata are missing for one class more than for the other, groups are no sample of patients."""
    malignant = lesions[tables.TARGET].to_numpy() == 1
    found: dict[tuple[str, str], list[str]] = {}
    for grouping in groupings:
        if grouping.attribute in (OVERALL, *attributes.OF_MALIGNANT) or UNKNOWN not in grouping.groups:
            continue
        missing = np.zeros(len(lesions), bool)
        missing[grouping.rows[grouping.groups.index(UNKNOWN)]] = True
        shares = [missing[each].mean() if each.any() else 0.0 for each in (~malignant, malignant)]
        if abs(shares[0] - shares[1]) >= 0.2:  # our choice
            benign, of_malignant = (f"{share:.1%}" for share in shares)
            found.setdefault((benign, of_malignant), []).append(TITLES[grouping.attribute])
    return [
        f"{', '.join(names)}: unknown for {benign} of the benign and {of_malignant} of the malignant lesions, so "
        "whether it is known tells the class; groups hold few lesions of one class and are no sample of patients"
        for (benign, of_malignant), names in found.items()
    ]


def notes_on_effects(effects: Sequence[dict[str, Any]]) -> list[str]:
    if not effects:
        return []
    away = sum(is_away(row) for row in effects)
    return [
        f"effects: {len(effects):,} comparisons of an arm with its reference, {away:,} with an interval that leaves "
        f"out 0; about {0.05 * len(effects):.0f} would by chance alone, and they are not independent. A sensitivity "
        "that falls while the specificity rises may be another threshold and no worse model: read both, and the pAUC"
    ]


def is_away(row: dict[str, Any]) -> bool:
    return row[tables.LOW] is not None and (row[tables.LOW] > 0 or row[tables.HIGH] < 0)


# ------------------------------------------------------------------------------------------------------------ terminal


def as_words(result: dict[str, Any]) -> str:
    """All that the terminal shows of subgroups.json: sensitivity by group, gaps, what stands out, what to know."""
    models = list(dict.fromkeys(row[tables.MODEL] for row in result["scores"]))
    lines = [f"part {result[tables.PART]}, {len(result['cells']):,} runs"]
    for model in models[:MOST_MODELS]:
        rows = [row for row in result["scores"] if row[tables.MODEL] == model]
        arms = list(dict.fromkeys(row[tables.ARM] for row in rows))
        for first in range(0, len(arms), MOST_ARMS):
            lines += ["", *table_of(model, arms[first : first + MOST_ARMS], rows, result["gaps"])]
    if len(models) > MOST_MODELS:
        lines += ["", f"{len(models) - MOST_MODELS:,} further models: in subgroups.csv"]
    lines += ["", *not_scored(result["groups"]), *stand_out(result["effects"])]
    lines += ["", *(f"  - {caveat}" for caveat in result["caveats"]), "", result["disclaimer"]]
    return "\n".join(lines)


def table_of(
    model: str, arms: Sequence[str], rows: Sequence[dict[str, Any]], gaps: Sequence[dict[str, Any]]
) -> list[str]:
    """Sensitivity at the threshold of one model: a line a group, a column an arm."""
    seeds = max(row[tables.NUM_SEEDS] for row in rows)
    mean = f", mean of {seeds} seeds" if seeds > 1 else ""
    lines = [
        f"{model}: sensitivity at the threshold (95 % interval){mean}",
        f"  {'':{NAME}} malignant/all  " + "".join(f"{short_end(arm, CELL - 2):{CELL}}" for arm in arms),
    ]
    cells = {(row[tables.ATTRIBUTE], row[tables.GROUP], row[tables.ARM]): row for row in rows if is_recall(row)}
    groups = dict.fromkeys((row[tables.ATTRIBUTE], row[tables.GROUP]) for row in rows if row[REASON] is None)
    before = OVERALL
    for attribute, group in groups:
        if attribute != before:
            lines += [*gap_line(model, before, arms, gaps), f"  {TITLES[attribute]}"]
            before = attribute
        here = [cells[attribute, group, arm] for arm in arms]
        name = short(group if attribute == OVERALL else f"  {group}", NAME)
        counts = f"{here[0][tables.NUM_MALIGNANT]:,}/{here[0][tables.NUM_IMAGES]:,}"
        lines.append(f"  {name:{NAME}} {counts:>13}  " + "".join(f"{in_cell(row):{CELL}}" for row in here))
        if attribute == OVERALL:
            lines += [line_of_all(name, arms, rows) for name in (metrics.SPECIFICITY, metrics.PAUC)]
    return [line.rstrip() for line in (*lines, *gap_line(model, before, arms, gaps))]


def is_recall(row: dict[str, Any]) -> bool:
    return row[tables.SCORE] == metrics.RECALL


def line_of_all(score: str, arms: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Another score of all lesions, to read the sensitivity beside."""
    found = {row[tables.ARM]: row for row in rows if (row[tables.ATTRIBUTE], row[tables.SCORE]) == (OVERALL, score)}
    title = f"  {LABELS[score]} of all"
    return f"  {title:{NAME}} {'':13}  " + "".join(f"{in_cell(found[arm]):{CELL}}" for arm in arms)


def gap_line(model: str, attribute: str, arms: Sequence[str], gaps: Sequence[dict[str, Any]]) -> list[str]:
    found = {row[tables.ARM]: row for row in gaps if (row[tables.MODEL], row[tables.ATTRIBUTE]) == (model, attribute)}
    here = [found.get(arm) for arm in arms]
    if not any(row is not None and row[tables.GAP] is not None for row in here):
        return []
    words = [
        f"{row[tables.GAP]:.2f}, by chance {row[tables.GAP_BY_CHANCE]:.2f}"
        if row is not None and row[tables.GAP] is not None
        else "-"
        for row in here
    ]
    return [f"  {'  gap':{NAME}} {'':13}  " + "".join(f"{word:{CELL}}" for word in words)]


def in_cell(row: dict[str, Any]) -> str:
    if row[tables.ESTIMATE] is None:
        return "-"
    if row[tables.LOW] is None:
        return f"{row[tables.ESTIMATE]:.2f}"
    return f"{row[tables.ESTIMATE]:.2f} ({row[tables.LOW]:.2f} to {row[tables.HIGH]:.2f})"


def short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def short_end(text: str, most: int) -> str:
    """The end of a name, in which runs and arms mostly differ."""
    return text if len(text) <= most else f"...{text[3 - most :]}"


def not_scored(groups: Sequence[dict[str, Any]]) -> list[str]:
    by_attribute: dict[str, list[str]] = {}
    for row in groups:
        if row[REASON] is not None:
            counts = f"{row[tables.NUM_MALIGNANT]:,}/{row[tables.NUM_IMAGES]:,}"
            by_attribute.setdefault(row[tables.ATTRIBUTE], []).append(f"{short(row[tables.GROUP], WORDS)} {counts}")
    lines = [f"  {TITLES.get(name, name)}: {'; '.join(found)}" for name, found in by_attribute.items()]
    return ["not scored, too few malignant lesions or patients (malignant/all):", *lines] if lines else []


def stand_out(effects: Sequence[dict[str, Any]]) -> list[str]:
    """The differences from an arm's reference whose interval leaves out 0, the largest first."""
    away = [row for row in effects if is_away(row)]
    if not effects:
        return []
    if not away:
        return ["", "no arm can be told apart from its reference in any group (all intervals hold 0)"]
    away.sort(key=lambda row: -abs(row[tables.DIFFERENCE]))
    lines = [
        f"  {row[tables.MODEL]}, {row[tables.ARM]} minus {row[tables.REFERENCE]}, {named(row)}, "
        f"{LABELS[row[tables.SCORE]]}: "
        f"{row[tables.DIFFERENCE]:+.3f} ({row[tables.LOW]:+.3f} to {row[tables.HIGH]:+.3f})"
        for row in away[:MOST_NAMED]
    ]
    more = [f"  ... {len(away):,} in all, in effects.csv"] if len(away) > MOST_NAMED else []
    return ["", "intervals that leave out 0, uncorrected:", *lines, *more]
