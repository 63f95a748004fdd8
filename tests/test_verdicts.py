"""Verdicts: the first filter that objects gives the reason, and the counts add up."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from lesionforge import tables
from lesionforge.auditing import verdicts
from lesionforge.auditing.verdicts import Finding

SAMPLES = pl.DataFrame({tables.IMAGE_ID: ["a", "b", "c", "d"], tables.TARGET: [1, 1, 0, 0]})


def finding(name: str, *rows: int, is_on: bool = True) -> Finding:
    objects = np.zeros(4, bool)
    objects[list(rows)] = True
    return Finding(name, objects, is_on)


def test_the_first_filter_that_objects_gives_the_reason() -> None:
    findings = [finding("blank", 0), finding("copy", 0, 1), finding("text", 2, is_on=False)]
    table = verdicts.verdict_table(SAMPLES, findings, np.array([0.9, 0.8, 0.1, 0.2]), list("wxyz"), None, {}, None)
    assert table[tables.VERDICT].to_list() == ["dropped", "dropped", "kept", "kept"]
    assert table[tables.VERDICT_REASON].to_list() == ["blank", "copy", None, None]
    assert table[tables.NEAREST_IMAGE].to_list() == list("wxyz")
    assert table[tables.SCORE].null_count() == 4
    assert verdicts.count_by_reason(table) in ("1 blank, 1 copy", "1 copy, 1 blank")
    found = verdicts.funnel(findings, 4)
    assert found["num_dropped"].to_list() == [1, 1, 0]
    assert found["num_left"].to_list() == [3, 2, 2]
    assert found["num_alone"].to_list() == [1, 2, 1]


@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=7, max_size=7), st.booleans()), min_size=1, max_size=6))
def test_a_funnel_adds_up_whatever_the_filters_say(said: list[tuple[list[bool], bool]]) -> None:
    findings = [Finding(f"f{i}", np.array(rows), is_on) for i, (rows, is_on) in enumerate(said)]
    found = verdicts.funnel(findings, 7)
    kept = verdicts.passed(findings, 7)
    reasons = verdicts.reasons(findings, 7)
    assert found["num_dropped"].sum() + found["num_left"][-1] == 7
    assert found["num_left"][-1] == kept.sum() == reasons.count(None)
    for row in found.to_dicts():
        assert row["num_dropped"] == reasons.count(row["filter"])


def test_a_score_is_that_of_the_own_class() -> None:
    score, target = np.array([0.9, 0.2, 0.9, 0.2]), np.array([1, 1, 0, 0])
    assert verdicts.score_finding(score, target, 0.5, 1.0, 4).objects.tolist() == [False, True, True, False]
    assert verdicts.score_finding(score, target, 0.0, 0.85, 4).objects.tolist() == [True, False, False, False]
    assert not verdicts.score_finding(None, target, 0.0, 1.0, 4).is_on


def test_a_repeat_goes_and_the_first_stays() -> None:
    kept = np.ones(5, bool)
    assert verdicts.without_repeats([(3, 1), (1, 3), (4, 1)], kept) == [(1, 3), (1, 4)]
    assert kept.tolist() == [True, True, True, False, False]


def test_a_pair_whose_first_is_gone_waits_for_another_look() -> None:
    """2 is like 1 and 1 like 0, but 2 need not be like 0."""
    kept = np.ones(3, bool)
    assert verdicts.without_repeats([(0, 1), (1, 2)], kept) == [(0, 1)]
    assert kept.tolist() == [True, False, True]
