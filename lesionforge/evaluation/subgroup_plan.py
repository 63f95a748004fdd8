"""Which groups of lesions are scored, and which runs count as one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lesionforge import tables
from lesionforge.evaluation.attributes import Rows
from lesionforge.evaluation.subgroup_runs import Read


class Average(NamedTuple):
    """The runs of one model on one arm."""

    model: str
    arm: str
    members: list[int]


class Least(NamedTuple):
    """What a group must hold to be scored."""

    malignant: int
    patients: int  # with malignant lesions
    benign: int  # for pAUC and specificity


class Group(NamedTuple):
    attribute: str
    name: str
    rows: Rows
    counts: dict[str, int]
    reason: str | None  # why it is not scored
    no_benign: str | None  # why it has no pAUC and no specificity


def group_of(found: Read, attribute: str, name: str, rows: Rows, least: Least) -> Group:
    counts = counts_of(found, rows)
    num_malignant = counts[tables.NUM_MALIGNANT]
    num_benign = len(rows) - num_malignant
    benign_clusters = found.population.clusters[rows[~found.population.malignant[rows]]]
    reason = None
    num_patients = counts[tables.NUM_MALIGNANT_CLUSTERS]
    if num_malignant < least.malignant:
        reason = f"{num_malignant:,} malignant {lesions(num_malignant)}, fewer than {least.malignant:,}"
    elif num_patients < least.patients:
        patients = "one patient" if num_patients == 1 else f"{num_patients:,} patients"
        reason = f"all malignant lesions are of {patients}, fewer than {least.patients:,}"
    no_benign = None
    if num_benign < least.benign:
        no_benign = f"{num_benign:,} benign {lesions(num_benign)}, fewer than {least.benign:,}"
    elif len(np.unique(benign_clusters)) == 1:
        no_benign = "all benign lesions are of one patient"
    return Group(attribute, name, rows, counts, reason, no_benign)


def counts_of(found: Read, rows: Rows) -> dict[str, int]:
    malignant = rows[found.population.malignant[rows]]
    return {
        tables.NUM_IMAGES: len(rows),
        tables.NUM_MALIGNANT: len(malignant),
        tables.NUM_PATIENTS: found.lesions[tables.PATIENT_ID].gather(rows).drop_nulls().n_unique(),
        tables.NUM_MALIGNANT_CLUSTERS: len(np.unique(found.population.clusters[malignant])),
    }


def counts_for(found: Read, average: "Average", group: Group) -> dict[str, int]:
    """The counts of a group among the lesions that these runs scored: fewer where the runs of a fold are missing."""
    sets = sets_in(found, average)
    if len(sets) == len(found.population.sets):
        return group.counts
    scored = np.concatenate([found.population.sets[number] for number in sorted(sets)])
    return counts_of(found, np.intersect1d(group.rows, scored))


def lesions(number: int) -> str:
    return "lesion" if number == 1 else "lesions"


def averages_of(found: Read) -> list[Average]:
    """One for each model and arm, in the study's order."""
    members: dict[tuple[str, str], list[int]] = {}
    for at, cell in enumerate(found.cells):
        members.setdefault((cell.model, cell.arm), []).append(at)
    models = list(dict.fromkeys(cell.model for cell in found.cells))
    return [Average(*key, members[key]) for key in sorted(members, key=lambda key: models.index(key[0]))]


def pairs_of(
    found: Read, averages: Sequence[Average], reference: str | None, compared_with: Mapping[str, str]
) -> list[tuple[Average, Average]]:
    """Each arm with its reference, its own or else the study's, of the same model, on lesions that both have scored."""
    of_arm = {(average.model, average.arm): average for average in averages}
    pairs = []
    for average in averages:
        if reference is None or average.arm == reference:
            continue
        other = of_arm.get((average.model, compared_with.get(average.arm, reference)))
        if other is None or other is average:
            continue
        shared = sets_in(found, average) & sets_in(found, other)
        mine, theirs = (
            each._replace(members=[at for at in each.members if found.runs[at].lesions in shared])
            for each in (average, other)
        )
        if shared:
            pairs.append((mine, theirs))
    return pairs


def sets_in(found: Read, average: Average) -> set[int]:
    return {found.runs[at].lesions for at in average.members}


def seeds_and_folds(found: Read, average: Average) -> dict[str, int]:
    cells = [found.cells[at] for at in average.members]
    return {
        tables.NUM_SEEDS: len({cell.seed for cell in cells}),
        tables.NUM_FOLDS: len({cell.fold for cell in cells if cell.fold is not None}),
    }
