"""Balls in feature space: torch-fidelity's precision and recall, the papers' coverage, sub-types, block sizes."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from torch_fidelity.metric_prc import calculate_precision_recall_full

from lesionforge.auditing import fidelity_neighbours
from lesionforge.auditing.fidelity_neighbours import balls_around, precision_recall, radii, subtype_coverage, wilson
from lesionforge.errors import BadInput

torch.set_num_threads(1)


def cloud(seed: int, num: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(num, 6)) + 40 + shift).astype(np.float32)


@pytest.fixture(params=["one block", "small blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        monkeypatch.setattr(fidelity_neighbours, "BLOCK", (13, 17))


@pytest.mark.usefixtures("_blocks")
def test_precision_and_recall_are_torch_fidelitys() -> None:
    real, synthetic = cloud(1, 120), cloud(2, 70, 0.7)
    precision, recall = calculate_precision_recall_full(
        torch.from_numpy(synthetic).double(), torch.from_numpy(real).double(), 3
    )
    found = precision_recall(real, synthetic)
    assert found.precision.estimate == pytest.approx(precision)
    assert found.recall.estimate == pytest.approx(recall)
    assert 0.2 < precision < 0.95
    assert 0.2 < recall < 0.95


@pytest.mark.usefixtures("_blocks")
def test_density_and_coverage_by_the_papers_formulas() -> None:
    real, synthetic = cloud(1, 120), cloud(2, 70, 0.7)
    own = np.sort(cdist(real, real), axis=1)[:, 3]  # column 0 is the image itself
    np.testing.assert_allclose(np.sqrt(radii(real, 3)), own, rtol=1e-6)
    inside = cdist(real, synthetic) <= own[:, None]
    found = precision_recall(real, synthetic)
    assert found.density == pytest.approx(inside.sum() / (3 * 70))
    assert found.coverage.estimate == pytest.approx(inside.any(axis=1).mean())
    num_balls, is_hit = balls_around(synthetic, real, radii(real, 3))
    np.testing.assert_array_equal(num_balls, inside.sum(axis=0))
    np.testing.assert_array_equal(is_hit, inside.any(axis=1))


def test_identical_images_are_inside_balls_of_no_width() -> None:
    """A set that holds each image five times has balls of radius 0 at k = 3."""
    real = np.repeat(cloud(1, 20), 5, axis=0)
    found = precision_recall(real, real[::-1].copy())
    assert found.precision.estimate == found.recall.estimate == found.coverage.estimate == 1
    apart = precision_recall(real, real + np.float32(0.01))
    assert apart.precision.estimate == 0


def test_the_interval_of_a_share_is_wilsons() -> None:
    found = wilson(0.3, 40)
    expected = stats.binomtest(12, 40).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert wilson(1.0, 20).low == pytest.approx(stats.binomtest(20, 20).proportion_ci(method="wilson").low)
    assert wilson(0.0, 0).estimate is None
    assert all((wilson(0.0, n).low, wilson(1.0, n).high) == (0.0, 1.0) for n in range(1, 300))


def test_shares_of_real_images_are_clustered_by_patient() -> None:
    real, synthetic = np.repeat(cloud(1, 15), 8, axis=0) + cloud(3, 120) * np.float32(0.001), cloud(2, 30, 0.5)
    patients = np.repeat(np.arange(15), 8)
    by_image, by_patient = precision_recall(real, synthetic), precision_recall(real, synthetic, patients)
    assert by_image.recall.estimate == by_patient.recall.estimate
    assert by_patient.recall.high - by_patient.recall.low > 1.5 * (by_image.recall.high - by_image.recall.low)
    unknown = precision_recall(real, synthetic, np.full(120, -1)).recall
    assert unknown.high - unknown.low == pytest.approx(by_image.recall.high - by_image.recall.low, rel=0.2)
    everywhere = precision_recall(real, real, patients).recall
    assert everywhere.low == pytest.approx(wilson(1.0, 15).low), "fifteen patients that agree still leave doubt"


def test_coverage_of_sub_types_shows_the_one_that_is_missing() -> None:
    melanoma, basal, rare = cloud(1, 60), cloud(2, 40, 30.0), cloud(3, 4, -30.0)
    real = np.concatenate([melanoma, basal, rare, cloud(4, 10)])
    subtypes = ["Melanoma"] * 60 + ["Basal cell carcinoma"] * 40 + ["Merkel"] * 4 + [None] * 10
    rows = subtype_coverage(real, cloud(5, 200), subtypes, fewest=10)
    assert [row.subtype for row in rows] == ["Melanoma", "Basal cell carcinoma"], "commonest first, the rare left out"
    assert [row.num_real for row in rows] == [60, 40]
    assert rows[0].num_covered >= 50
    assert rows[1].num_covered == 0
    assert rows[1].share.estimate == 0
    assert rows[1].share.high == pytest.approx(wilson(0.0, 40).high)
    clustered = subtype_coverage(real, cloud(5, 200), subtypes, 4, patients=np.arange(114) // 2)
    assert [row.subtype for row in clustered] == ["Melanoma", "Basal cell carcinoma", "Merkel"]
    assert clustered[0].num_covered == rows[0].num_covered


def test_too_few_images_are_named() -> None:
    with pytest.raises(BadInput, match="3 real images, expected at least 4; give more"):
        precision_recall(cloud(1, 3), cloud(2, 30))
    with pytest.raises(BadInput, match="0 synthetic images, expected at least 1"):
        subtype_coverage(cloud(1, 30), cloud(2, 0), ["Melanoma"] * 30, 10)
