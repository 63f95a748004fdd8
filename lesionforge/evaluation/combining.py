"""Predictions of several members on the same lesions: checked against each other, weighted on val, averaged."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from lesionforge import bootstrap, metrics, tables
from lesionforge.errors import BadInput
from lesionforge.evaluation import predictions
from lesionforge.metrics import Floats

LOGITS, RANKS = "logits", "ranks"
ROUNDS = 50  # of the greedy selection, our choice: weights are multiples of one over up to this


class Aligned(NamedTuple):
    names: list[str]
    tables: list[pl.DataFrame]  # of each member, rows in the first one's order
    known: pl.DataFrame  # image_id, patient_id, part, target: what any of the members knows


def aligned(part: str, members: Mapping[str, pl.DataFrame]) -> Aligned:
    """The members' rows in the first one's order.

    Raises:
        BadInput: other images, targets or patients than the first member's; all such members at once.
    """
    names = list(members)
    first = members[names[0]]
    ids = first[tables.IMAGE_ID]
    problems = []
    for name in names[1:]:
        others = members[name][tables.IMAGE_ID]
        for here, there, whose, whom in ((ids, others, names[0], name), (others, ids, name, names[0])):
            alone = here.filter(~here.is_in(there.implode())).sort().to_list()
            if alone:
                problems.append(f"{len(alone):,} images of {whose} are not in {whom}: {tables.in_short(alone)}")
    if problems:
        raise BadInput(
            f"part {part}: the members do not hold the same images{tables.in_lines(problems)}\n"
            "  an ensemble needs a score of every member for every image; predict the same images with each"
        )
    sorted_tables = [
        pl.DataFrame({tables.IMAGE_ID: ids}).join(table, on=tables.IMAGE_ID, how="left", maintain_order="left")
        for table in members.values()
    ]
    known = first.select(tables.IMAGE_ID, pl.lit(part).alias(tables.PART))
    for column in (tables.PATIENT_ID, tables.TARGET):
        found = pl.DataFrame([table[column].alias(str(i)) for i, table in enumerate(sorted_tables)])
        value = found.select(pl.coalesce(pl.all())).to_series().alias(column)
        for name, table in zip(names, sorted_tables, strict=True):
            problems += [
                f"{name}, of {len(ids):,} images {line}"
                for line in predictions.problem(
                    ids,
                    (table[column] != value).fill_null(False),
                    f"have another {column} than {names[0]}",
                    table[column],
                )
            ]
        known = known.with_columns(value)
    if problems:
        raise BadInput(f"part {part}: the members contradict each other{tables.in_lines(problems)}")
    known = known.select(tables.IMAGE_ID, tables.PATIENT_ID, tables.PART, tables.TARGET)
    return Aligned(names, sorted_tables, known)


def values_of(part: str, found: Aligned, combine: str) -> Floats:
    """What is averaged, (M, N): scores, log-odds, or ranks in (0, 1).

    Raises:
        BadInput: a score outside [0, 1], or for logits one of exactly 0 or 1 without a logit.
    """
    rows = []
    for name, table in zip(found.names, found.tables, strict=True):
        source = f"{name}, part {part}"
        scores = table[tables.SCORE]
        if combine == RANKS:
            rows.append((scores.rank("average") / (len(scores) + 1)).to_numpy())
        elif combine == LOGITS:
            rows.append(predictions.logits_of(table, source))
        else:
            outside = (scores < 0) | (scores > 1)
            what = "have a score outside [0, 1], which is no probability; combine ranks instead"
            predictions.refuse(predictions.problem(table[tables.IMAGE_ID], outside, what, scores), source, len(table))
            rows.append(scores.to_numpy())
    return np.stack(rows)


def combined(known: pl.DataFrame, values: Floats, weights: Floats, combine: str, part: str) -> pl.DataFrame:
    """The ensemble's predictions: the weighted mean, its score in [0, 1] and its log-odds."""
    mean = np.average(values, axis=0, weights=weights)
    if combine == LOGITS:
        return predictions.with_scores(known, predictions.sigmoid(mean), mean)
    mean = np.clip(mean, values.min(axis=0), values.max(axis=0))  # rounding must not carry it past 1
    with np.errstate(divide="ignore"):
        return predictions.with_scores(known, mean, np.log(mean) - np.log1p(-mean))


def normalised(weights: Sequence[float]) -> Floats:
    found = np.asarray(weights, dtype=np.float64)
    return found / found.sum()


def has_both_classes(table: pl.DataFrame) -> bool:
    targets = table[tables.TARGET]
    return targets.null_count() == 0 and targets.n_unique() == 2


def chosen_on_val(val: pl.DataFrame, values: Floats) -> tuple[Floats, str]:
    """Weights by greedy forward selection with replacement (Caruana et al. 2004), the goal being val's pAUC.

    Round by round the member is added, again or anew, that leaves the mean of all that were added with the highest
    pAUC; of ties the one added least often, then the first. The weights are the counts after the best round, the
    earliest of ties. So few coarse weights, and a member that does not help gets none: it overfits val less than a
    search over the simplex would, and needs no gradient of a score that has none.

    Args:
        values: what is averaged  # (M, N)

    Returns:
        weights (M,), not negative, of sum 1; how they were chosen.

    Raises:
        BadInput: val has no targets, or one class only.
    """
    predictions.require_targets(val, "weights val: the members' val predictions")
    targets = val[tables.TARGET].to_numpy()
    counts = np.zeros(len(values), np.int64)
    best, best_counts, total = -1.0, counts, np.zeros(values.shape[1])
    for _ in range(ROUNDS):
        paucs = [metrics.pauc(targets, total + value) or 0.0 for value in values]
        added = min(range(len(values)), key=lambda i: (-paucs[i], counts[i], i))
        counts = counts + (np.arange(len(values)) == added)
        total = total + values[added]
        if paucs[added] > best:
            best, best_counts = paucs[added], counts
    how = f"by greedy selection on val, {best_counts.sum()} of {ROUNDS} rounds (Caruana et al. 2004, goal pAUC)"
    return best_counts / best_counts.sum(), how


def paucs(
    known: pl.DataFrame, scores: Mapping[str, pl.Series], num_replicates: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """pAUC of each score with its patient-clustered interval."""
    targets, patients = known[tables.TARGET].to_numpy(), predictions.patient_numbers(known).to_numpy()
    found = {}
    for name, values in scores.items():
        value = bootstrap.estimates(targets, values.to_numpy(), patients, None, num_replicates, seed)[metrics.PAUC]
        found[name] = {tables.ESTIMATE: value.estimate, tables.LOW: value.low, tables.HIGH: value.high}
    return found
