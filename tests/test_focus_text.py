"""Sentences on differences: their digits, and the captions of figures."""

import pytest

from lesionforge.bootstrap import Estimate
from lesionforge.classifier.focus_text import of_a_map, sentence


@pytest.mark.parametrize(
    ("estimate", "low", "high", "expected"),
    [
        (0.031, 0.01, 0.052, "focus is higher than X by 3.1 points [+1.0, +5.2]"),
        (-0.031, -0.052, -0.01, "focus is lower than X by 3.1 points [-5.2, -1.0]"),
        (0.0003, 0.0001, 0.0004, "focus is higher than X by 0.03 points [+0.01, +0.04]"),
        (-0.02, -0.04, -0.0003, "focus is lower than X by 2.00 points [-4.00, -0.03]"),
        (1e-7, 1e-8, 2e-7, "focus is higher than X by less than 0.001 points"),
        (0.0001, -0.0002, 0.0003, "focus cannot be told apart from X (+0.01 points [-0.02, +0.03])"),
        (-0.0001, -0.03, 0.02, "focus cannot be told apart from X (+0.0 points [-3.0, +2.0])"),
        (0.0, 0.0, 0.0, "focus cannot be told apart from X (less than 0.001 points)"),
        (0.03, None, None, "focus differs from X by +3.0 points (too few patients to tell)"),
        (None, None, None, "focus cannot be compared with that of X"),
    ],
)
def test_a_difference_is_never_printed_as_nothing(
    estimate: float | None, low: float | None, high: float | None, expected: str
) -> None:
    assert sentence(Estimate(estimate, low, high, 0), "X") == expected


def test_what_stands_below_a_map() -> None:
    assert of_a_map(0.354, 0.1) == "35 % in the lesion"
    assert of_a_map(float("nan"), 0.1) == "no positive map"
    assert of_a_map(float("nan"), 0.0) == "no mask"
