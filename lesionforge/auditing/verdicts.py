"""Verdicts: what each filter says of each candidate, joined in order, and how many candidates each filter takes.

The first filter that objects gives the reason. `alone` counts what a filter would take by itself, so that its yield
can be told from its place in the order.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from lesionforge.tables import (
    COPY_SCORE,
    DUPLICATE_OF,
    IMAGE_ID,
    NEAREST_IMAGE,
    SCORE,
    TARGET,
    VERDICT,
    VERDICT_REASON,
    in_short,
)

KEPT, DROPPED = "kept", "dropped"
SCORE_REASON = "classifier score"


class Finding(NamedTuple):
    """What one filter says of all candidates."""

    name: str  # the reason that a verdict names
    objects: np.ndarray  # (N,) bool
    is_on: bool = True
    limit: str = ""  # in words, for the report


def passed(findings: Sequence[Finding], num_images: int) -> np.ndarray:
    """(N,) bool: what no filter that is on objects to."""
    left = np.ones(num_images, bool)
    for finding in findings:
        if finding.is_on:
            left &= ~finding.objects
    return left


def reasons(findings: Sequence[Finding], num_images: int) -> list[str | None]:
    """The first filter that objects, for each image; None for what is kept."""
    found: list[str | None] = [None] * num_images
    for finding in reversed([finding for finding in findings if finding.is_on]):
        for row in np.flatnonzero(finding.objects):
            found[row] = finding.name
    return found


def funnel(findings: Sequence[Finding], num_images: int) -> pl.DataFrame:
    """filter, is_on, num_dropped (in this order), num_left, num_alone, limit; the last row's num_left is what is kept.

    What the filters drop and what is left add up to the candidates.
    """
    rows, left = [], np.ones(num_images, bool)
    for finding in findings:
        after = left & ~finding.objects if finding.is_on else left
        rows.append(
            {
                "filter": finding.name,
                "is_on": finding.is_on,
                "num_dropped": int(left.sum() - after.sum()),
                "num_left": int(after.sum()),
                "num_alone": int(finding.objects.sum()),
                "limit": finding.limit,
            }
        )
        left = after
    return pl.DataFrame(rows)


def verdict_table(
    samples: pl.DataFrame,
    findings: Sequence[Finding],
    copy_score: np.ndarray | None,
    nearest_image: Sequence[str | None] | None,
    duplicate_of: Sequence[str | None] | None,
    measures: Mapping[str, np.ndarray],
    score: np.ndarray | None,
) -> pl.DataFrame:
    """A row per candidate in the store's order: image_id, target, verdict, reason, and what it rests on (null where
    that was not looked at).

    Args:
        samples: image_id and target of the candidates, (N,).
        copy_score, score: (N,) float64.
        nearest_image: id of the real image that each is most alike, None where it could not be compared.
        duplicate_of: id of the kept candidate that it repeats, or None.
        measures: (N,) each, one column each.
    """
    num_images = len(samples)
    found = reasons(findings, num_images)
    return samples.select(IMAGE_ID, TARGET).with_columns(
        pl.Series(VERDICT, [KEPT if reason is None else DROPPED for reason in found], dtype=pl.String),
        pl.Series(VERDICT_REASON, found, dtype=pl.String),
        column(COPY_SCORE, copy_score, pl.Float64, num_images),
        column(NEAREST_IMAGE, nearest_image, pl.String, num_images),
        column(DUPLICATE_OF, duplicate_of, pl.String, num_images),
        *(column(name, values, pl.Float64, num_images) for name, values in measures.items()),
        column(SCORE, score, pl.Float64, num_images),
    )


def column(name: str, values: object, dtype: type[pl.DataType], num_images: int) -> pl.Series:
    return pl.Series(name, [None] * num_images if values is None else values, dtype=dtype)  # type: ignore[arg-type]


def count_by_reason(table: pl.DataFrame) -> str:
    """`12 near-copy, 3 blank`: how many were dropped for what, most first."""
    counts = table.filter(pl.col(VERDICT) == DROPPED)[VERDICT_REASON].value_counts(sort=True)
    return in_short([f"{number:,} {reason}" for reason, number in counts.iter_rows()], most=20)


def score_finding(score: np.ndarray | None, target: np.ndarray, low: float, high: float, num_images: int) -> Finding:
    """Candidates whose own class gets a score outside [low, high]. score: (N,) float64 of malignant; target: (N,)."""
    if score is None:
        return Finding(SCORE_REASON, np.zeros(num_images, bool), False, "no predictions were given")
    of_own_class = np.where(target == 1, score, 1 - score)
    return Finding(
        SCORE_REASON, (of_own_class < low) | (of_own_class > high), True, f"own class in [{low:g}, {high:g}]"
    )


def without_repeats(pairs: Sequence[tuple[int, int]], kept: np.ndarray) -> list[tuple[int, int]]:
    """(first, repeat) of what is dropped as a repeat, in order.

    A pair only counts while its first is still there: what resembles a dropped image may not resemble what is kept.

    Args:
        pairs: rows that are near-copies of each other.
        kept: (N,) bool, changed in place: repeats are taken out.
    """
    dropped = []
    for first, repeat in sorted((min(pair), max(pair)) for pair in pairs):
        if first != repeat and kept[first] and kept[repeat]:
            kept[repeat] = False
            dropped.append((first, repeat))
    return dropped
