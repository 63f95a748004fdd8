"""Shares and ratios with intervals, against numbers worked out elsewhere."""

import math

import pytest

from lesionforge.auditing.rates import ratio, share


def test_wilson_as_in_the_textbook() -> None:
    """Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662; 0 of 20 is 0 to 0.1611."""
    found = share(81, 263)
    assert found["estimate"] == pytest.approx(81 / 263)
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.2553, 0.3662)
    none = share(0, 20)
    assert (none["low"], round(none["high"], 4)) == (0.0, 0.1611)
    assert all((share(0, n)["low"], share(n, n)["high"]) == (0.0, 1.0) for n in range(1, 300)), "exact, not 1e-17"


def test_a_share_of_nothing_is_undefined() -> None:
    assert share(0, 0) == {"count": 0, "total": 0, "estimate": None, "low": None, "high": None}
    assert ratio(0, 0, 1, 10)["estimate"] is None


def test_a_ratio_is_katz_with_half_an_image_more() -> None:
    found = ratio(20, 100, 10, 1000)
    estimate = (20.5 / 100.5) / (10.5 / 1000.5)
    deviation = math.sqrt(1 / 20.5 - 1 / 100.5 + 1 / 10.5 - 1 / 1000.5)
    assert found["estimate"] == pytest.approx(estimate)
    assert found["low"] == pytest.approx(estimate * math.exp(-1.959964 * deviation), rel=1e-6)
    assert found["high"] == pytest.approx(estimate * math.exp(1.959964 * deviation), rel=1e-6)
    for counts in ((0, 24, 0, 60), (0, 24, 3, 60), (3, 24, 0, 60)):
        assert ratio(*counts)["estimate"] is None, "a ratio of half images"
    assert ratio(0, 50, 0, 50)["low"] < 1 < ratio(0, 50, 0, 50)["high"]
