"""Set-level scores equal the libraries' and the plain formulas, and their intervals hold what they promise."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.kid import poly_mmd
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from lesionforge.auditing import fidelity
from lesionforge.auditing.fidelity import feature_scores, fid, kid, mifid, vendi
from lesionforge.errors import BadInput

torch.set_num_threads(1)


def cloud(seed: int, num: int, shift: float = 0.0, num_features: int = 24) -> np.ndarray:
    """Features that are correlated and not negative, as a network's are; (N, D) float32."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(num_features, num_features)) / 3
    return np.maximum(rng.normal(size=(num, num_features)) @ mixing + 0.5 + shift, 0).astype(np.float32)


def test_kid_is_torchmetrics_on_sets_of_one_size() -> None:
    x, y = cloud(1, 60), cloud(2, 60, 0.2)
    expected = poly_mmd(torch.from_numpy(x).double(), torch.from_numpy(y).double()).item()
    found = kid(x, y, num_replicates=50)
    assert found.estimate == pytest.approx(expected, rel=1e-9)
    assert kid(y, x, num_replicates=50).estimate == pytest.approx(expected, rel=1e-9)
    assert found == kid(x, y, num_replicates=50), "same seed, same interval"


def test_kid_takes_sets_of_unlike_sizes_by_the_plain_formula() -> None:
    x, y = cloud(1, 7).astype(float), cloud(2, 5, 0.2).astype(float)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y, num_replicates=10).estimate == pytest.approx(xx + yy - 2 * xy)


def test_kids_interval_holds_zero_for_one_distribution_and_not_for_two() -> None:
    held = [kid(cloud(2 * i, 80), cloud(2 * i + 1, 50), num_replicates=200) for i in range(60)]
    inside = sum(e.low <= 0 <= e.high for e in held if e.low is not None and e.high is not None)
    assert inside >= 54
    assert abs(np.mean([e.estimate for e in held])) < 0.02, "unbiased"
    apart = kid(cloud(1, 80), cloud(2, 50, 0.8))
    assert apart.low is not None
    assert apart.low > 0


def test_kids_interval_grows_where_images_come_in_patients() -> None:
    """Ten images of a patient that are nearly one image are one draw, not ten."""
    x = np.repeat(cloud(1, 12), 10, axis=0) + cloud(3, 120) * 0.01
    y = cloud(2, 100)
    by_image, by_patient = kid(x, y), kid(x, y, np.repeat(np.arange(12), 10))
    assert by_image.estimate == by_patient.estimate
    assert width(by_patient) > 1.5 * width(by_image)


def width(found: Any) -> float:
    return float(found.high - found.low)


def test_kid_looks_at_a_draw_of_very_large_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "MOST", 40)
    x, y = cloud(1, 400), cloud(2, 30)
    drawn = fidelity.drawn(x, 40, 0)
    assert len(drawn) == 40
    assert kid(x, y, num_replicates=5).estimate == pytest.approx(kid(drawn, y, num_replicates=5).estimate)


def test_fid_is_the_textbooks() -> None:
    x, y = cloud(1, 300).astype(float), cloud(2, 200, 0.1).astype(float)
    a, b = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(a @ b).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * root)
    assert fid(x, y) == pytest.approx(expected, rel=1e-6)
    assert fid(x, x) == pytest.approx(0, abs=1e-6)
    assert fid(x, x) >= 0


def test_fid_falls_with_the_number_of_images_kid_does_not() -> None:
    """Why the baseline is of the same size."""
    few = np.mean([fid(cloud(i, 40), cloud(i + 50, 40)) for i in range(10)])
    many = np.mean([fid(cloud(i, 400), cloud(i + 50, 400)) for i in range(10)])
    assert few > 3 * many


def test_mifid_is_the_papers_and_copies_raise_it() -> None:
    seen, new = cloud(1, 100), cloud(2, 80)
    copies = seen[:80] + np.float32(0.01)
    unit = [features / np.linalg.norm(features, axis=1, keepdims=True) for features in (copies, seen)]
    distance = (1 - np.abs(unit[0] @ unit[1].T)).min(axis=1).mean()  # of each synthetic image to what was seen
    assert distance < 0.1
    assert mifid(seen, copies) == pytest.approx(fid(seen, copies) / distance, rel=1e-2)
    assert mifid(seen, copies) / fid(seen, copies) > 3 * mifid(seen, new) / fid(seen, new)


def test_torchmetrics_mifid_runs_the_other_way() -> None:
    """Should it ever be mended, our order of arguments must turn with it."""
    many, one = cloud(1, 100), np.repeat(cloud(1, 1), 50, axis=0) + cloud(5, 50) * np.float32(0.001)
    metric = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
    metric.update(torch.from_numpy(many), real=True)
    metric.update(torch.from_numpy(one), real=False)
    assert float(metric.compute()) == pytest.approx(fid(many, one), rel=1e-3), "no penalty: the reals are far from it"
    assert mifid(many, one) > 10 * fid(many, one), "each synthetic image is a copy of the first real one"


def test_vendi_counts_unlike_images() -> None:
    assert vendi(np.eye(7, 20), 7, 0).estimate == pytest.approx(7)
    assert vendi(np.eye(20, 7)[:7] * 5, 7, 0).estimate == pytest.approx(7), "length does not matter"
    assert vendi(np.ones((30, 4)), 30, 0).estimate == pytest.approx(1)
    two_groups = np.repeat(np.eye(2, 5), 10, axis=0)
    assert vendi(two_groups, 20, 0).estimate == pytest.approx(2)
    x = cloud(1, 50)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = linalg.eigvalsh(unit.astype(float) @ unit.T.astype(float) / 50)
    values = values[values > 1e-12]
    assert vendi(x, 50, 0).estimate == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-5)
    drawn = vendi(x, 25, 0)
    assert drawn.low is not None
    assert drawn.low < drawn.estimate < drawn.high
    assert vendi(x, 50, 0).low is None


def test_all_scores_beside_their_baseline() -> None:
    reference, held_out = cloud(1, 150), cloud(2, 60)
    good, collapsed = cloud(3, 100), np.repeat(cloud(4, 5, 0.3), 20, axis=0) + cloud(5, 100) * np.float32(0.01)
    patients = np.arange(150) // 3
    of_good = feature_scores(reference, good, held_out, patients, np.arange(60) // 2)
    of_collapsed = feature_scores(reference, collapsed, held_out, patients)
    assert set(of_good) == {"kid", "fid", "mifid", "vendi", "precision", "recall", "coverage", "density"}
    for name in ("kid", "fid", "mifid"):
        assert of_collapsed[name].synthetic.estimate > 3 * of_good[name].synthetic.estimate
        assert of_collapsed[name].synthetic.estimate > 3 * of_collapsed[name].baseline.estimate
    for name in ("vendi", "recall", "coverage"):
        assert of_collapsed[name].synthetic.estimate < 0.5 * of_good[name].synthetic.estimate
    for name in ("kid", "vendi", "precision", "recall", "coverage"):
        assert of_good[name].synthetic.low < of_good[name].synthetic.high
        assert of_good[name].interval
    assert of_good["kid"].synthetic.low <= 0 <= of_good["kid"].synthetic.high
    assert of_good["fid"].synthetic.estimate == pytest.approx(of_good["fid"].baseline.estimate, rel=0.5)


def test_few_or_no_held_out_images_leave_no_baseline() -> None:
    rows = feature_scores(cloud(1, 50), cloud(2, 40), np.zeros((0, 24), np.float32))
    assert all(row.baseline is None for row in rows.values())
    assert rows["fid"].synthetic.estimate == pytest.approx(fid(cloud(1, 50), cloud(2, 40)))
    few = feature_scores(cloud(1, 50), cloud(2, 3), cloud(3, 20))
    assert "recall" not in few
    assert "kid" in few


def test_too_few_images_and_a_missing_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="1 and 9 images to compare, expected two or more of each"):
        kid(cloud(1, 1), cloud(1, 9))
    with pytest.raises(ValueError, match="features of unlike networks"):
        kid(cloud(1, 5), cloud(1, 5, num_features=23))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs the package torchmetrics, .*pip install 'lesionforge\[diffusion\]'"):
        fid(cloud(1, 5), cloud(1, 5))
