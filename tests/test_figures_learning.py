"""The learning curve: a line without and one with synthetic lesions, only where arms differ in their real ones."""

import pytest
from report_studies import write_study

from lesionforge.reporting.collected import Collected, read_study
from lesionforge.reporting.drawing import Dot, Label
from lesionforge.reporting.drawing import Path as Line
from lesionforge.reporting.figures_learning import learning_curve
from lesionforge.reporting.results import read_results


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return read_study(write_study(tmp_path_factory.mktemp("study") / "s", num_lesions=80))


def planned(collected: Collected, counts: dict[str, tuple[int, int]]) -> Collected:
    """The study with other (real, synthetic) malignant lesions in its arms."""
    arms = {arm: {"asked": {"malignant": a, "benign": 80, "synthetic_malignant": b}} for arm, (a, b) in counts.items()}
    return collected._replace(arms=arms, cells=tuple(cell._replace(mix=None) for cell in collected.cells))


def test_with_the_same_real_lesions_there_is_none(matched: Collected) -> None:
    assert learning_curve(matched, read_results(matched)) is None


def test_two_lines(matched: Collected) -> None:
    curve = planned(matched, {"0x": (43, 0), "1x": (189, 0), "3x": (189, 909)})
    drawing = learning_curve(curve, read_results(curve))
    assert drawing is not None
    assert drawing.name == "learning-curve"
    assert {"real lesions alone", "with synthetic lesions", "43", "189"} <= {
        mark.text for mark in drawing.marks if isinstance(mark, Label)
    }
    assert sum(isinstance(mark, Dot) for mark in drawing.marks) == 6
    joined = [mark for mark in drawing.marks if isinstance(mark, Line) and mark.width == 1.4]
    assert [len(line.points) for line in joined] == [2, 2], "one line a model: a single arm has none to be joined with"
    assert "189 real and 909 synthetic" in drawing.alt
