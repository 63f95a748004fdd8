"""Holm's correction: p-values of a family of tests, so that no false alarm in it stays as rare as in one test."""

from collections.abc import Sequence


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down p-values (S. Holm 1979), in the order given; None, a test not made, stays None.

    The smallest of m is multiplied by m, the next by m - 1, ...; none falls below one before it, none exceeds 1. m
    counts all that were planned, those not made too, as if their p were 1: a lost run makes no other verdict stronger.
    """
    made = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(made):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        found[i] = largest
    return found
