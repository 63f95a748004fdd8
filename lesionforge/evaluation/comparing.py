"""The rows of comparisons.csv and estimates.csv: each arm against its reference, and each by itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lesionforge import metrics, tables
from lesionforge.evaluation import holm, paired, variance
from lesionforge.evaluation.compared_runs import Asked, Cell, Fold, Found, facts_of
from lesionforge.evaluation.variance import Runs
from lesionforge.metrics import Floats

ALPHA = 0.05
HIGHER, LOWER, SAME, NOT_MEASURED = "higher", "lower", "cannot be told apart", "not measured"
# Patients with a malignancy below which intervals are too narrow in our simulations (docs/compare-simulation.md).
FEW_CLUSTERS = 20  # for a difference
FEW_FOR_ONE_ARM = 40  # for an arm by itself
LARGEST = {metrics.PAUC: 1 - metrics.MIN_TPR}  # of a score; others reach 1

SEED_NOTES = {
    variance.OWN: None,
    variance.BORROWED: "one side has a single seed: its seed variance is taken to be that of the other side",
    variance.FOLDS: "one seed a fold: the seed variance is what the folds differ by more than their patients explain",
    variance.UNKNOWN: "one seed: seed variance is unknown, so this is about these trained models, not about training "
    "again",
}


class Measured(NamedTuple):
    """All that one fold's runs give, by score; their order is that of the fold's cells."""

    points: dict[str, Floats]  # (C,)
    replicates: dict[str, Floats]  # (R, C)
    left_out: dict[str, Floats]  # (M, C)


class Side(NamedTuple):
    """The runs of one arm of one model in one fold."""

    fold: Fold
    measured: Measured
    columns: list[int]  # of the fold's cells, by seed

    def runs(self, name: str) -> Runs:
        found = self.measured
        return Runs(*(held[name][..., self.columns] for held in (found.points, found.replicates, found.left_out)))


Arms = dict[tuple[str | None, str], dict[int, Side]]  # (model, arm) -> number of the fold -> its runs


def measure(found: Found, names: Sequence[str], num_replicates: int, seed: int) -> list[Measured]:
    """Every score of every run, on the lesions, on resamples of the patients, and without each malignant cluster."""
    held = []
    for number, fold in enumerate(found.folds):
        points = paired.points(fold.lesions, fold.scores, names)
        replicates = paired.replicates(fold.lesions, fold.scores, names, num_replicates, seed + number)
        held.append(Measured(points, replicates, paired.left_out(fold.lesions, fold.scores, names)))
    return held


def arms_of(asked: Asked, found: Found, measured: Sequence[Measured]) -> Arms:
    """Every (model, arm) that was asked for, in that order, with what there is of it."""
    arms: Arms = {(cell.model, cell.arm): {} for cell in asked.cells}
    for number, (fold, held) in enumerate(zip(found.folds, measured, strict=True)):
        for key in arms:
            mine = [column for column, cell in enumerate(fold.cells) if (cell.model, cell.arm) == key]
            if mine:
                order = sorted(mine, key=lambda column: seed_of(fold.cells[column]))
                arms[key][number] = Side(fold, held, order)
    return arms


def seed_of(cell: Cell) -> tuple[int, int]:
    return (-1 if cell.seed is None else cell.seed), (-1 if cell.fold is None else cell.fold)


def estimates(arms: Arms, names: Sequence[str]) -> list[dict[str, Any]]:
    """Each arm by itself: the mean over seeds and folds, and each run's value as text."""
    rows = []
    for (model, arm), sides in arms.items():
        for name in names:
            row: dict[str, Any] = {tables.MODEL: model, tables.ARM: arm, tables.SCORE: name}
            row |= dict.fromkeys((tables.ESTIMATE, tables.LOW, tables.HIGH, tables.EACH_SEED))
            row |= {tables.NUM_SEEDS: num_seeds(sides), tables.NUM_FOLDS: len(sides), tables.NOTE: ""}
            if sides:
                folds = [[(1, side.runs(name))] for side in sides.values()]
                row[tables.ESTIMATE] = metrics.number(variance.estimate(folds))
                row[tables.EACH_SEED] = " ".join(f"{value:.4f}" for fold in folds for value in fold[0][1].points)
                row[tables.NOTE], spread = reasons(folds, [*sides.values()], FEW_FOR_ONE_ARM)
                if spread is not None and row[tables.ESTIMATE] is not None:
                    largest = LARGEST.get(name, 1.0)
                    row[tables.LOW], row[tables.HIGH] = variance.interval_within(row[tables.ESTIMATE], spread, largest)
            else:
                row[tables.NOTE] = "no run with usable predictions"
            rows.append(row)
    return rows


def comparisons(
    arms: Arms, asked: Asked, names: Sequence[str], num_permutations: int, seed: int
) -> list[dict[str, Any]]:
    """Each arm minus its reference, with Holm's correction over all rows of a score, measured or not."""
    rows = []
    for pair in asked.pairs:
        sides, others = arms[pair.model, pair.arm], arms.get(pair.other, {})
        shared = [number for number in sides if number in others]
        pairs = [(sides[number], others[number]) for number in shared]
        permuted = permutations(pairs, names, num_permutations, seed)
        for name in names:
            row = {tables.MODEL: pair.model, tables.ARM: pair.arm, tables.REFERENCE: pair.reference}
            row |= {tables.AGAINST: pair.against, tables.PART: asked.part}
            rows.append(row | {tables.SCORE: name} | compared(pairs, name, permuted))
            if not pairs:
                lacking = [which for which, held in ((pair.arm, sides), (pair.reference, others)) if not held]
                rows[-1][tables.NOTE] = f"no usable predictions of {' and '.join(lacking) or 'one fold on both sides'}"
            elif len(shared) < max(len(sides), len(others)):
                said = f"only the {len(shared)} folds that both sides have"
                rows[-1][tables.NOTE] = "; ".join(filter(None, [said, rows[-1][tables.NOTE]]))
    for name in names:
        correct([row for row in rows if row[tables.SCORE] == name])
    return rows


def compared(pairs: Sequence[tuple[Side, Side]], name: str, permuted: dict[str, float]) -> dict[str, Any]:
    """What is found of one arm and one score; None stays where it cannot be measured."""
    numbers = (
        tables.ESTIMATE, tables.ESTIMATE_REFERENCE, tables.DIFFERENCE, tables.LOW, tables.HIGH, tables.P_VALUE,
        tables.PERMUTATION_P, tables.P_HOLM,
    )  # fmt: skip
    row: dict[str, Any] = dict.fromkeys(numbers) | {tables.VERDICT: NOT_MEASURED}
    mine, theirs = ({i: pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    row |= {tables.NUM_SEEDS: num_seeds(mine), tables.NUM_SEEDS_REFERENCE: num_seeds(theirs)}
    row |= {tables.NUM_FOLDS: len(pairs), tables.SE_PATIENT: None, tables.SE_SEED: None}
    row |= facts_of([pair[0].fold for pair in pairs]) | {tables.NOTE: ""}
    if not pairs:
        return row
    folds = [[(1, arm.runs(name)), (-1, reference.runs(name))] for arm, reference in pairs]
    difference = variance.estimate(folds)
    row[tables.ESTIMATE] = metrics.number(variance.estimate([fold[:1] for fold in folds]))
    row[tables.ESTIMATE_REFERENCE] = metrics.number(-variance.estimate([fold[1:] for fold in folds]))
    row[tables.DIFFERENCE] = metrics.number(difference)
    row[tables.NOTE], spread = reasons(folds, [arm for arm, _ in pairs], FEW_CLUSTERS)
    if spread is not None and not np.isnan(difference):
        row[tables.LOW], row[tables.HIGH] = variance.interval(difference, spread)
        row[tables.P_VALUE], row[tables.PERMUTATION_P] = variance.p_value(difference, spread), permuted[name]
        row[tables.SE_PATIENT], row[tables.SE_SEED] = spread.se_patient, spread.se_seed
    return row


def reasons(
    folds: Sequence[variance.Fold], sides: Sequence[Side], few_clusters: int
) -> tuple[str, variance.Spread | None]:
    """What a reader must know of a row, and its spread; None where too few clusters could show one."""
    malignant, benign = (min(counts) for counts in zip(*(clusters(side.fold) for side in sides), strict=True))
    if min(malignant, benign) < variance.LEAST_CLUSTERS:
        few = f"{malignant} malignant" if malignant <= benign else f"{benign} benign"
        return (
            f"too few to give an interval: lesions of {few} patients or fewer in a fold, "
            f"{variance.LEAST_CLUSTERS} are the least"
        ), None
    spread = variance.spread(folds)
    notes = [SEED_NOTES[spread.seeds]]
    if len(folds) > 1:
        notes.append("folds share training images, which no interval counts")
    if malignant < few_clusters:
        notes.append(f"malignant lesions of {malignant} patients only: the interval may be too narrow")
    return "; ".join(filter(None, notes)), spread


def clusters(fold: Fold) -> tuple[int, int]:
    return paired.clusters_by_class(fold.lesions)


def num_seeds(sides: dict[int, Side]) -> int:
    """The most seeds of a fold."""
    return max((len(side.columns) for side in sides.values()), default=0)


def permutations(
    pairs: Sequence[tuple[Side, Side]], names: Sequence[str], num_permutations: int, seed: int
) -> dict[str, float]:
    """The permutation test's p of each score; of seeds that both sides have, or else of as many in their order."""
    sums = {name: np.zeros(num_permutations) for name in names}
    found = dict.fromkeys(names, 0.0)
    for number, (arm, reference) in enumerate(pairs):
        mine, theirs = matched(arm, reference)
        of_arm, of_reference = (arm.fold.scores[columns] for columns in (mine, theirs))
        drawn = paired.swapped(arm.fold.lesions, of_arm, of_reference, names, num_permutations, seed + number)
        for name in names:
            points = arm.measured.points[name]
            sums[name] += drawn[name] / len(pairs)
            found[name] += float(points[mine].mean() - points[theirs].mean()) / len(pairs)
    return {name: paired.permutation_p(sums[name], found[name]) for name in names} if pairs else {}


def matched(arm: Side, reference: Side) -> tuple[list[int], list[int]]:
    """Columns of the two sides, paired by seed where seeds are shared, else by their order; equally many."""
    of_seed = {seed_of(reference.fold.cells[column]): column for column in reference.columns}
    mine = [column for column in arm.columns if seed_of(arm.fold.cells[column]) in of_seed]
    if mine:
        return mine, [of_seed[seed_of(arm.fold.cells[column])] for column in mine]
    least = min(len(arm.columns), len(reference.columns))
    return arm.columns[:least], reference.columns[:least]


def correct(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in p_holm and the verdict of the rows of one family: all that were planned, whether made or not."""
    num_made = sum(row[tables.P_VALUE] is not None for row in rows)
    family = f"among {len(rows)} comparisons" if num_made == len(rows) else f"of {len(rows)} planned, {num_made} made"
    for row, p in zip(rows, holm.adjusted([row[tables.P_VALUE] for row in rows]), strict=True):
        row[tables.P_HOLM] = p
        if p is None:
            continue
        row[tables.VERDICT] = SAME if p >= ALPHA else HIGHER if row[tables.DIFFERENCE] > 0 else LOWER
        if row[tables.P_VALUE] < ALPHA <= p:
            said = f"p = {row[tables.P_VALUE]:.3f} by itself, {p:.3f} {family} (Holm)"
            row[tables.NOTE] = "; ".join(filter(None, [said, row[tables.NOTE]]))
