"""The rows of subgroups.csv, gaps.csv and effects.csv: what is scored, what is only named and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lesionforge import bootstrap, metrics, tables
from lesionforge.evaluation import gaps, subgroup_scores
from lesionforge.evaluation.attributes import OF_MALIGNANT, UNKNOWN, Grouping
from lesionforge.evaluation.subgroup_intervals import difference_of, estimate_of, spread_of
from lesionforge.evaluation.subgroup_plan import (
    Average,
    Group,
    Least,
    averages_of,
    counts_for,
    group_of,
    pairs_of,
    seeds_and_folds,
)
from lesionforge.evaluation.subgroup_runs import Read
from lesionforge.evaluation.subgroup_scores import Measured
from lesionforge.evaluation.variance import Spread

COUNTS = (tables.NUM_IMAGES, tables.NUM_MALIGNANT, tables.NUM_PATIENTS, tables.NUM_MALIGNANT_CLUSTERS)
INTERVAL = (tables.LOW, tables.HIGH)
REASON = tables.VERDICT_REASON
SAME_BENIGN = "the benign lesions are the same for every diagnosis"
NO_THRESHOLD = "no threshold: no val predictions to choose it on"

COLUMNS = {
    "scores": (
        tables.MODEL, tables.ARM, tables.ATTRIBUTE, tables.GROUP, tables.SCORE, tables.ESTIMATE, *INTERVAL,
        tables.SE_PATIENT, tables.SE_SEED, tables.REPLICATES_LEFT_OUT, *COUNTS, tables.NUM_SEEDS, tables.NUM_FOLDS,
        REASON,
    ),
    "gaps": (
        tables.MODEL, tables.ARM, tables.ATTRIBUTE, tables.GAP, *INTERVAL, tables.GAP_BY_CHANCE, tables.PERMUTATION_P,
        tables.SMALLEST_GROUP, tables.LARGEST_GROUP, tables.NUM_GROUPS, tables.NUM_MALIGNANT, REASON,
    ),
    "effects": (
        tables.MODEL, tables.ARM, tables.REFERENCE, tables.ATTRIBUTE, tables.GROUP, tables.SCORE, tables.ESTIMATE,
        tables.ESTIMATE_REFERENCE, tables.DIFFERENCE, *INTERVAL, tables.SE_PATIENT, tables.SE_SEED,
        tables.REPLICATES_LEFT_OUT, *COUNTS, tables.NUM_SEEDS, tables.NUM_FOLDS,
    ),
}  # fmt: skip
NUMBERS = (
    tables.ESTIMATE, *INTERVAL, tables.GAP, tables.GAP_BY_CHANCE, tables.PERMUTATION_P, tables.ESTIMATE_REFERENCE,
    tables.DIFFERENCE, tables.SE_PATIENT, tables.SE_SEED,
)  # fmt: skip
WORDS = (
    tables.MODEL, tables.ARM, tables.REFERENCE, tables.ATTRIBUTE, tables.GROUP, tables.SCORE, tables.SMALLEST_GROUP,
    tables.LARGEST_GROUP, REASON,
)  # fmt: skip


def measured(
    found: Read,
    groupings: Sequence[Grouping],
    reference: str | None,
    compared_with: Mapping[str, str],
    least: Least,
    num_replicates: int,
    seed: int,
) -> dict[str, Any]:
    """The groups with their counts, and the rows of all three tables."""
    groups = [
        group_of(found, grouping.attribute, name, rows, least)
        for grouping in groupings
        for name, rows in zip(grouping.groups, grouping.rows, strict=True)
    ]
    averages = averages_of(found)
    pairs = pairs_of(found, averages, reference, compared_with)
    asked = [*averages, *(each for pair in pairs for each in pair)]
    singles = [[at] for at in range(len(found.runs))]  # the first columns: run number `at` by itself
    distinct = list({tuple(members): members for members in (*singles, *(each.members for each in asked))}.values())
    column = {tuple(members): at for at, members in enumerate(distinct)}
    scored = [at for at, group in enumerate(groups) if group.reason is None]
    held = subgroup_scores.measure(
        found.population,
        found.runs,
        distinct,
        [groups[at].rows for at in scored],
        [groups[at].no_benign is None for at in scored],
        num_replicates,
        seed,
    )
    place = {at: number for number, at in enumerate(scored)}
    columns = [column[tuple(each.members)] for each in averages]
    paired_columns = [(column[tuple(mine.members)], column[tuple(theirs.members)]) for mine, theirs in pairs]
    return {
        "groups": [
            {tables.ATTRIBUTE: each.attribute, tables.GROUP: each.name, **each.counts, REASON: each.reason}
            for each in groups
        ],
        "scores": [
            score_row(found, average, group, name, held, at, place.get(number))
            for average, at in zip(averages, columns, strict=True)
            for number, group in enumerate(groups)
            for name in subgroup_scores.SCORES
        ],
        "gaps": gap_rows(found, averages, groupings, groups, held, columns, place, num_replicates, seed),
        "effects": [
            row
            for pair, at in zip(pairs, paired_columns, strict=True)
            for number in scored
            for name in subgroup_scores.SCORES
            if (row := effect_row(found, pair, groups[number], name, held, at, place[number])) is not None
        ],
    }


def as_table(key: str, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The rows of "scores", "gaps" or "effects" as a table."""
    schema = {
        name: pl.Float64 if name in NUMBERS else pl.String if name in WORDS else pl.Int64 for name in COLUMNS[key]
    }
    return pl.DataFrame(rows, schema=schema)


# ---------------------------------------------------------------------------------------------------------------- rows


def why_no_score(group: Group, name: str, value: float) -> str | None:
    if group.reason is not None:
        return group.reason
    if name == metrics.SPECIFICITY and group.attribute in OF_MALIGNANT:
        return SAME_BENIGN
    if name != metrics.RECALL and group.no_benign is not None:
        return group.no_benign
    return (NO_THRESHOLD if name != metrics.PAUC else "undefined") if np.isnan(value) else None


def score_row(
    found: Read, average: Average, group: Group, name: str, held: Measured, column: int, place: int | None
) -> dict[str, Any]:
    value = np.nan if place is None else held.point[name][column, place]
    reason = why_no_score(group, name, value)
    estimate = bootstrap.Estimate(None, None, None, 0)
    spread = None
    if reason is None:
        assert place is not None  # a group with a score
        spread = spread_of(found, held, [(1, average.members)], name, place, group.rows)
        estimate = estimate_of(float(value), held.replicates[name][:, column, place], spread, name)
    return {
        tables.MODEL: average.model,
        tables.ARM: average.arm,
        tables.ATTRIBUTE: group.attribute,
        tables.GROUP: group.name,
        tables.SCORE: name,
        **interval_of(tables.ESTIMATE, estimate),
        **standard_errors(spread),
        tables.REPLICATES_LEFT_OUT: estimate.num_left_out,
        **counts_for(found, average, group),
        **seeds_and_folds(found, average),
        REASON: reason,
    }


def interval_of(name: str, estimate: bootstrap.Estimate) -> dict[str, Any]:
    return {name: estimate.estimate, tables.LOW: estimate.low, tables.HIGH: estimate.high}


def standard_errors(spread: Spread | None) -> dict[str, Any]:
    """Of the patients and of the seeds; without the latter, the interval is about these very runs."""
    if spread is None:
        return {tables.SE_PATIENT: None, tables.SE_SEED: None}
    return {tables.SE_PATIENT: spread.se_patient, tables.SE_SEED: spread.se_seed}


def effect_row(
    found: Read,
    pair: tuple[Average, Average],
    group: Group,
    name: str,
    held: Measured,
    columns: tuple[int, int],
    place: int,
) -> dict[str, Any] | None:
    """An arm minus the reference arm, in the same resamples; None where either is undefined."""
    mine, theirs = (held.point[name][column, place] for column in columns)
    if any(why_no_score(group, name, value) for value in (mine, theirs)):
        return None
    replicates = held.replicates[name][:, columns[0], place] - held.replicates[name][:, columns[1], place]
    sides = [(1, pair[0].members), (-1, pair[1].members)]
    spread = spread_of(found, held, sides, name, place, group.rows)
    difference = difference_of(float(mine - theirs), replicates, spread, name)
    return {
        tables.MODEL: pair[0].model,
        tables.ARM: pair[0].arm,
        tables.REFERENCE: pair[1].arm,
        tables.ATTRIBUTE: group.attribute,
        tables.GROUP: group.name,
        tables.SCORE: name,
        tables.ESTIMATE: float(mine),
        tables.ESTIMATE_REFERENCE: float(theirs),
        **interval_of(tables.DIFFERENCE, difference),
        **standard_errors(spread),
        tables.REPLICATES_LEFT_OUT: difference.num_left_out,
        **counts_for(found, pair[0], group),
        **seeds_and_folds(found, pair[0]),
    }


def gap_rows(
    found: Read,
    averages: Sequence[Average],
    groupings: Sequence[Grouping],
    groups: Sequence[Group],
    held: Measured,
    columns: Sequence[int],
    place: dict[int, int],
    num_replicates: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One row for each average and attribute; the group `unknown` is in no gap."""
    rows = []
    outcomes = np.stack(
        [subgroup_scores.called_shares(found.population, found.runs, average.members)[0] for average in averages]
    )
    for grouping in groupings[1:]:  # the first is of all lesions
        numbers = [at for at in place if groups[at].attribute == grouping.attribute and groups[at].name != UNKNOWN]
        malignant = [group.rows[found.population.malignant[group.rows]] for group in (groups[at] for at in numbers)]
        num_patients = np.array([groups[at].counts[tables.NUM_MALIGNANT_CLUSTERS] for at in numbers])
        chance = None
        if len(numbers) > 1:
            chance = gaps.gaps_by_chance(malignant, found.population.clusters, outcomes, num_replicates, seed)
        for order, (average, column) in enumerate(zip(averages, columns, strict=True)):
            point = held.point[metrics.RECALL][column, [place[at] for at in numbers]]
            row: dict[str, Any] = dict.fromkeys(COLUMNS["gaps"])
            row |= {
                tables.MODEL: average.model,
                tables.ARM: average.arm,
                tables.ATTRIBUTE: grouping.attribute,
                tables.NUM_GROUPS: len(numbers),
                tables.NUM_MALIGNANT: sum(len(each) for each in malignant),
            }
            if chance is None or np.isnan(point).any():
                few = f"{len(numbers)} scored {'group' if len(numbers) == 1 else 'groups'}, two are needed"
                rows.append(row | {REASON: few if chance is None else NO_THRESHOLD})
                continue
            replicates = held.replicates[metrics.RECALL][:, column][:, [place[at] for at in numbers]]
            gap = gaps.gap_of(point, replicates, num_patients, chance[:, order])
            row |= interval_of(tables.GAP, gap.estimate)
            row |= {tables.GAP_BY_CHANCE: gap.by_chance, tables.PERMUTATION_P: gap.p_value}
            row |= {tables.SMALLEST_GROUP: groups[numbers[gap.smallest]].name}
            rows.append(row | {tables.LARGEST_GROUP: groups[numbers[gap.largest]].name})
    return rows
