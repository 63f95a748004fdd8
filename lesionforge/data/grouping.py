"""Which images must stay on one side, and how such groups are dealt to parts with both classes balanced.

Pure functions over a samples table and numpy arrays; nothing here reads or writes a file.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from lesionforge import tables

MOST_TRIES = 256  # our choice: noisy orders of dealing, of which the best is kept; 16 left five times as much excess
MOST_DEALT = 400_000  # our choice: groups dealt in all tries together; more groups get fewer tries, to take seconds
ORDER_NOISE = 0.3  # our choice: standard deviation of the log of a group's weight from one try to the next
MOST_MOVES = 200  # our choice: single groups that move after the dealing
MISSING_CLASS = 1e6  # cost of a part without malignant or without benign images: above any imbalance


def image_groups(samples: pl.DataFrame) -> np.ndarray:
    """Number the groups of images that may not be parted: one patient, one lesion, or the same bytes under two ids.

    An image without a patient is a group of its own, unless its lesion or its bytes tie it to others.

    Returns:
        group of each row, int64 in 0..G-1  # (N,)
    """
    samples = samples.with_row_index("row")
    own = pl.col("row").cast(pl.String)
    patient = (
        pl.when(pl.col(tables.PATIENT_ID).is_null()).then("row " + own).otherwise("id " + pl.col(tables.PATIENT_ID))
    )
    samples = samples.with_columns(patient.rank("dense").cast(pl.Int64).alias("group"))
    groups = samples["group"].to_numpy() - 1
    parent = np.arange(groups.max() + 1)
    for column in (tables.SHA256, tables.LESION_ID):
        if column in samples.columns:
            ties = samples.filter(pl.col(column).is_not_null()).select(
                (pl.col("group") - 1).alias("a"), (pl.col("group").min().over(column) - 1).alias("b")
            )
            for a, b in ties.filter(pl.col("a") != pl.col("b")).unique().sort("a", "b").iter_rows():
                a, b = root(parent, a), root(parent, b)
                parent[max(a, b)] = min(a, b)
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return np.unique(parent[groups], return_inverse=True)[1].astype(np.int64)  # (N,)


def root(parent: np.ndarray, group: int) -> int:
    while parent[group] != group:
        parent[group] = group = parent[parent[group]]
    return group


def majority(groups: np.ndarray, own: np.ndarray) -> np.ndarray:
    """For each image, the value of `own` that most images of its group have; the smaller one where two are as many."""
    pairs, sizes = np.unique(np.column_stack([groups, own]), axis=0, return_counts=True)
    largest_last = np.lexsort((-pairs[:, 1], sizes, pairs[:, 0]))
    value = np.zeros(groups.max() + 1, np.int64)
    value[pairs[largest_last, 0]] = pairs[largest_last, 1]
    return value[groups]  # (N,)


def balanced_parts(groups: np.ndarray, targets: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Deal whole groups to parts so that each gets its share of malignant and of benign images.

    Patients are heavy-tailed (one holds up to 14 malignancies and thousands of images), which library splitters answer
    with folds of [0, 0, 30, 0, 0]. So: the weightiest groups first, each to the part that needs it most, in several
    noisy orders; the best one is kept; groups of one image then fill what is missing; last, single groups move while
    that improves the balance.

    Args:
        groups: group of each image, 0..G-1  # (N,)
        targets: 0 or 1  # (N,)
        shares: of each part, positive, sum 1  # (P,)

    Returns:
        part of each image, int64 in 0..P-1  # (N,)
    """
    rng = np.random.default_rng([seed, 0])
    sizes = np.stack([np.bincount(groups, weights=targets == c) for c in (1, 0)], axis=1)  # (G, 2) malignant, benign
    totals = sizes.sum(axis=0)  # (2,)
    wanted = np.outer(shares, totals)  # (P, 2)
    single = sizes.sum(axis=1) == 1

    part_of_group = np.empty(len(sizes), np.int64)  # (G,)
    large = np.flatnonzero(~single)
    part_of_group[large] = dealt_by_weight(sizes[large], wanted, totals, rng)
    counts = counts_of(part_of_group[large], sizes[large], len(wanted))
    for c in (0, 1):
        some = rng.permutation(np.flatnonzero(single & (sizes[:, c] == 1)))
        part_of_group[some] = filling(counts[:, c], wanted[:, c], len(some))
    improve(part_of_group, sizes, wanted)
    return part_of_group[groups]


def dealt_by_weight(sizes: np.ndarray, wanted: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Part of each group, by the best of many greedy dealings that run side by side."""
    weight = (sizes / totals).sum(axis=1)  # (G,)
    num_tries = int(np.clip(MOST_DEALT // max(len(sizes), 1), 4, MOST_TRIES))
    noise = np.exp(ORDER_NOISE * rng.standard_normal((num_tries, len(sizes))))
    orders = np.argsort(-weight * noise, axis=1, kind="stable")  # (T, G)
    tries = np.arange(num_tries)
    counts = np.zeros((num_tries, *wanted.shape))  # (T, P, 2)
    parts = np.zeros((num_tries, len(sizes)), np.int64)
    for step in orders.T:
        group = sizes[step][:, None, :]  # (T, 1, 2)
        more = (group / wanted) * ((2 * counts + group) / wanted - 2)  # growth of (counts / wanted - 1) ** 2
        chosen = more.sum(axis=2).argmin(axis=1)  # (T,)
        counts[tries, chosen] += group[:, 0]
        parts[tries, step] = chosen
    return parts[cost(counts, wanted).argmin()]


def filling(counts: np.ndarray, wanted: np.ndarray, num: int) -> np.ndarray:
    """Parts for `num` single images of one class, so that each part comes as near to what it wants as they allow."""
    missing = np.maximum(wanted - counts, 0)
    ideal = missing * num / max(missing.sum(), 1e-9)
    given = np.floor(ideal + 1e-9).astype(np.int64)
    given[np.argsort(given - ideal, kind="stable")[: num - given.sum()]] += 1  # largest remainders first
    return np.repeat(np.arange(len(wanted)), given)


def improve(part_of_group: np.ndarray, sizes: np.ndarray, wanted: np.ndarray) -> None:
    """Move one group at a time to another part, in place, as long as that lowers the cost."""
    num_parts = len(wanted)
    counts = counts_of(part_of_group, sizes, num_parts)  # (P, 2)
    kinds, first = np.unique(np.column_stack([part_of_group, sizes]), axis=0, return_index=True)
    for _ in range(MOST_MOVES):
        sources, moved = kinds[:, 0].astype(np.int64), kinds[:, 1:]  # (K,), (K, 2)
        after = np.broadcast_to(counts, (len(kinds), num_parts, num_parts, 2)).copy()  # kind, goal, part, class
        after[np.arange(len(kinds)), :, sources] -= moved[:, None]
        for part in range(num_parts):
            after[:, part, part] += moved
        costs = cost(after, wanted)  # (K, P)
        kind, goal = np.unravel_index(costs.argmin(), costs.shape)
        if costs[kind, goal] >= cost(counts, wanted) - 1e-12:
            return
        part_of_group[first[kind]] = goal
        counts = after[kind, goal]
        kinds, first = np.unique(np.column_stack([part_of_group, sizes]), axis=0, return_index=True)


def counts_of(parts: np.ndarray, sizes: np.ndarray, num_parts: int) -> np.ndarray:
    return np.stack([np.bincount(parts, weights=sizes[:, c], minlength=num_parts) for c in (0, 1)], axis=1)  # (P, 2)


def cost(counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far (..., P, 2) counts are from what is wanted: squared relative distances, and much for a missing class."""
    off = ((counts / wanted - 1) ** 2).sum(axis=(-1, -2))
    return off + MISSING_CLASS * (counts < 0.5).sum(axis=(-1, -2))
