"""Holm's correction by hand, and against the closed test that it is a shortcut of."""

from itertools import combinations

import numpy as np
import pytest

from lesionforge.evaluation import holm


def closed_test(p_values):
    """Of each hypothesis, the largest Bonferroni p of all families that hold it (Marcus, Peritz and Gabriel 1976)."""
    every = range(len(p_values))
    families = [set(family) for size in every for family in combinations(every, size + 1)]
    of_family = [min(1.0, len(family) * min(p_values[i] for i in family)) for family in families]
    return [max(p for family, p in zip(families, of_family, strict=True) if i in family) for i in every]


def test_by_hand():
    assert holm.adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm.adjusted([0.04]) == [0.04]
    assert holm.adjusted([]) == []


def test_a_test_that_was_not_made_still_counts():
    """The family is what was planned: were it what was made, a failed run would make the other verdicts stronger."""
    assert holm.adjusted([0.01, None, 0.04]) == pytest.approx([0.03, None, 0.08])
    assert holm.adjusted([None]) == [None]
    as_if = [1.0 if p is None else p for p in (None, 0.01, None, 0.04)]
    assert holm.adjusted([None, 0.01, None, 0.04])[1::2] == holm.adjusted(as_if)[1::2]


def test_it_is_the_closed_bonferroni_test():
    for seed in range(20):
        p_values = (np.random.default_rng(seed).random(6) ** 3).tolist()
        assert holm.adjusted(p_values) == pytest.approx(closed_test(p_values))
