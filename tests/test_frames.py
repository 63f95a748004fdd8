"""Axes: round ticks, scales."""

import pytest

from lesionforge.reporting import frames


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.163), (0, 30), (-0.08, 0.03), (0.0004, 0.0011), (1, 100_000)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    found = frames.ticks(low, high, 6)
    assert 2 <= len(found) <= 6
    assert low - 1e-9 <= min(found) <= max(found) <= high + 1e-9


def test_ticks_of_a_point() -> None:
    assert frames.ticks(0.3, 0.3) == [0.3]


def test_scales() -> None:
    linear = frames.Scale(0, 10, 100, 200)
    assert [linear.place(value) for value in (0, 5, 10, 99)] == [100, 150, 200, 200]
    log = frames.Scale(0.01, 1, 0, 100, is_log=True)
    assert log.place(0.1) == pytest.approx(50)
    assert frames.powers(0.001, 1) == pytest.approx([0.001, 0.01, 0.1, 1])


def test_words_of_ticks() -> None:
    assert [frames.tick_text(value) for value in (0, 0.05, -0.1, 2500, 0.00001)] == [
        "0",
        "0.05",
        "−0.1",
        "2,500",
        "1e−5",
    ]
