"""Measures of shapes whose answers are known: discs, rectangles, two colours."""

import cv2
import numpy as np
import polars as pl
import pytest

from lesionforge.data.lesion_measures import MEASURED, VENDOR_A, VENDOR_B, measure

MM = 15.0
SIDE = 150  # 0.1 mm a pixel


def disc(radius: float, side: int = SIDE) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return np.hypot(x, y) <= radius


def two_colours(mask: np.ndarray, inside: tuple[int, int, int], outside: tuple[int, int, int]) -> np.ndarray:
    return np.where(mask[..., None], np.array(inside, np.uint8), np.array(outside, np.uint8))


def test_a_disc_has_the_sizes_of_a_disc() -> None:
    mask = disc(20)  # 2 mm radius
    found = measure(two_colours(mask, (120, 80, 60), (220, 180, 160)), mask, MM)
    assert tuple(found) == MEASURED
    assert found["tbp_lv_areaMM2"] == pytest.approx(np.pi * 4, rel=0.02)
    assert found["clin_size_long_diam_mm"] == pytest.approx(4.0, abs=0.1)
    assert found["tbp_lv_minorAxisMM"] == pytest.approx(4.0, abs=0.2)
    assert found["tbp_lv_perimeterMM"] == pytest.approx(4 * np.pi, rel=0.08)
    assert found["tbp_lv_eccentricity"] < 0.1
    assert found["tbp_lv_symm_2axis"] < 0.05
    assert found["tbp_lv_area_perim_ratio"] == found["tbp_lv_perimeterMM"] ** 2 / found["tbp_lv_areaMM2"]


def test_a_rectangle_has_its_eccentricity_angle_and_asymmetry() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[60:90, 45:105] = True  # 6 x 3 mm
    found = measure(two_colours(mask, (100, 60, 50), (220, 180, 160)), mask, MM)
    assert found["tbp_lv_eccentricity"] == pytest.approx(np.sqrt(1 - 1 / 4), abs=0.01)
    assert found["tbp_lv_minorAxisMM"] == pytest.approx(3.0, abs=0.15)
    assert found["clin_size_long_diam_mm"] == pytest.approx(np.hypot(6, 3), abs=0.1)
    assert found["tbp_lv_symm_2axis"] < 0.1
    assert found["tbp_lv_symm_2axis_angle"] in (0.0, 175.0)
    upright = np.ascontiguousarray(mask.T)
    assert measure(two_colours(upright, (100, 60, 50), (220, 180, 160)), upright, MM)["tbp_lv_symm_2axis_angle"] == 90
    mask[60:75, 75:105] = False  # an L has no partner on either fold
    assert measure(two_colours(mask, (100, 60, 50), (220, 180, 160)), mask, MM)["tbp_lv_symm_2axis"] > 0.3


def test_colours_are_means_in_lab_and_deltas_are_inside_minus_outside() -> None:
    mask = disc(30)
    inside, outside = (120, 80, 60), (220, 180, 160)
    found = measure(two_colours(mask, inside, outside), mask, MM)
    for suffix, colour in (("", inside), ("ext", outside)):
        lab = cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
        assert found[f"tbp_lv_L{suffix}"] == pytest.approx(lab[0], abs=0.5)
        assert found[f"tbp_lv_A{suffix}"] == pytest.approx(lab[1] + VENDOR_A, abs=1)
        assert found[f"tbp_lv_B{suffix}"] == pytest.approx(lab[2] + VENDOR_B, abs=1)
        a, b = found[f"tbp_lv_A{suffix}"], found[f"tbp_lv_B{suffix}"]
        assert found[f"tbp_lv_C{suffix}"] == pytest.approx(np.hypot(a, b))
        assert found[f"tbp_lv_H{suffix}"] == pytest.approx(np.degrees(np.arctan2(b, a)))
    for letter in "LAB":
        outside_value = found[f"tbp_lv_{letter}ext"]
        assert found[f"tbp_lv_delta{letter}"] == pytest.approx(found[f"tbp_lv_{letter}"] - outside_value)
    assert found["tbp_lv_deltaLB"] == pytest.approx(np.hypot(found["tbp_lv_deltaL"], found["tbp_lv_deltaB"]), rel=1e-3)
    for spread in ("tbp_lv_stdL", "tbp_lv_stdLExt", "tbp_lv_color_std_mean", "tbp_lv_radial_color_std_max"):
        assert found[spread] == pytest.approx(0, abs=1e-5)


def test_small_lesions_have_no_colour_score_and_mixed_ones_have() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    assert measure(image, disc(5), MM)["tbp_lv_norm_color"] == 0  # 0.8 mm2
    assert measure(image, disc(25), MM)["tbp_lv_norm_color"] == 10  # the most


@pytest.mark.parametrize("case", ["one pixel", "all", "corner", "line"])
def test_odd_masks_give_finite_numbers(case: str) -> None:
    mask = np.zeros((51, 51), bool)
    mask[
        {"one pixel": np.s_[25:26, 25:26], "all": np.s_[:, :], "corner": np.s_[:9, :9], "line": np.s_[20:21, :]}[case]
    ] = 1
    image = np.random.default_rng(1).integers(0, 255, (51, 51, 3), dtype=np.uint8)
    assert all(np.isfinite(value) for value in measure(image, mask, MM).values())


@pytest.mark.real
def test_relations_between_columns_hold_in_the_real_file(real_lesions) -> None:
    """The formulas that this module takes from the real rows still describe them."""
    real = pl.read_csv(real_lesions / "metadata-rows.csv", infer_schema_length=None)
    column = {name: real[name].to_numpy() for name in MEASURED}
    ratio = column["tbp_lv_perimeterMM"] ** 2 / column["tbp_lv_areaMM2"]
    np.testing.assert_allclose(ratio, column["tbp_lv_area_perim_ratio"], rtol=1e-5)
    score = np.clip(-2.18 + 0.169 * ratio + 7.72 * column["tbp_lv_symm_2axis"], 0, 10)
    assert np.abs(score - column["tbp_lv_norm_border"]).mean() < 0.15
    score = 1.36 * column["tbp_lv_color_std_mean"] + 1.56 * column["tbp_lv_radial_color_std_max"]
    assert np.abs(np.minimum(score, 10) - column["tbp_lv_norm_color"]).mean() < 0.15
    norm = column["tbp_lv_deltaLB"] / (0.4007 + 0.01691 * column["tbp_lv_Lext"])
    assert np.abs(norm - column["tbp_lv_deltaLBnorm"]).mean() < 0.25
