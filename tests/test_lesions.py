"""What is drawn is what was asked: skin colour, lesion size, place, redness, hair, edges; the mask is where it is."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lesionforge.data.lesions import FIELD_OF_VIEW_MM, Lesion, Skin, draw_crop, one_thread

BARE = Skin(
    side=129, lightness=62, redness=13, yellowness=17, kind=0, furrows=0.05, mottle=0.04, flush=0.03, glints=0.0,
    gradient=0.0, vignette=0.0, blur=0.6, hairs=0, hair_opacity=0.5, pale_hairs=0.0, neighbours=0, edge=0,
)  # fmt: skip
MOLE = Lesion(
    asymmetry=0.3, border=0.3, variegation=0.2, diameter=5.0, haem=0.08, melanin=0.5, blue=0.0, scale=0.0,
    elongation=0.9, softness=0.6, centre=0.2, halo=0.0, x=0.0, y=0.0,
)  # fmt: skip


def draw(skin: Skin = BARE, lesion: Lesion = MOLE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return draw_crop(skin, lesion, np.random.default_rng(seed))


def lab(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def test_a_crop_is_square_rgb_with_one_piece_of_mask() -> None:
    for seed in range(20):
        image, mask = draw(lesion=replace(MOLE, border=0.9, asymmetry=0.9), seed=seed)
        assert image.shape == (129, 129, 3)
        assert image.dtype == np.uint8
        assert mask.dtype == bool
        pieces, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        assert pieces == 2  # the background and the lesion


def test_the_same_generator_draws_the_same_crop_at_any_number_of_threads() -> None:
    hairy = replace(BARE, hairs=20, neighbours=4, glints=0.5, edge=1)
    image, mask = draw(hairy, seed=7)
    with one_thread():
        again, mask_again = draw(hairy, seed=7)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert (draw(hairy, seed=8)[0] != image).any()


def test_skin_has_the_colour_that_was_asked() -> None:
    image, mask = draw(lesion=replace(MOLE, diameter=1.0))
    np.testing.assert_allclose(np.median(lab(image)[~mask], axis=0), (62, 13, 17), atol=3)


def test_the_mask_is_where_the_pigment_is() -> None:
    image, mask = draw(lesion=replace(MOLE, melanin=0.9, softness=0.1, x=-2.0, y=3.0))
    dark = lab(image)[..., 0] < 45
    overlap = (dark & mask).sum() / (dark | mask).sum()
    assert overlap > 0.85
    rows, columns = np.nonzero(mask)
    middle = np.array([columns.mean(), rows.mean()]) * FIELD_OF_VIEW_MM / 129 - FIELD_OF_VIEW_MM / 2
    np.testing.assert_allclose(middle, (-2, 3), atol=0.8)


def test_a_larger_diameter_is_a_larger_mask() -> None:
    areas = [np.mean([draw(lesion=replace(MOLE, diameter=d), seed=s)[1].sum() for s in range(8)]) for d in (2, 4, 8)]
    np.testing.assert_allclose(np.array(areas[1:]) / areas[:-1], 4, rtol=0.35)  # area grows with the square


def test_redness_and_hair_show() -> None:
    red, mask = draw(lesion=replace(MOLE, haem=0.5, melanin=0.1))
    brown, _ = draw(lesion=replace(MOLE, haem=0.02, melanin=0.6))
    assert lab(red)[mask][:, 1].mean() > lab(brown)[mask][:, 1].mean() + 5
    for pale, sign in ((0.0, -1), (1.0, 1)):
        hairy, _ = draw(replace(BARE, hairs=60, hair_opacity=0.8, pale_hairs=pale))
        bare, _ = draw()
        assert sign * (hairy.astype(int) - bare).mean() > 3


def test_neighbours_are_not_in_the_mask() -> None:
    alone, mask = draw(seed=1)
    crowd, crowd_mask = draw(replace(BARE, neighbours=8), seed=1)
    assert (alone.astype(int) - crowd).mean() > 0.5  # neighbours darken the skin
    assert 0.5 < crowd_mask.sum() / mask.sum() < 2


@pytest.mark.parametrize("edge", [1, 2, 3])
def test_what_an_edge_hides_is_not_in_the_mask(edge: int) -> None:
    hidden = 0
    for seed in range(30):
        whole = draw(lesion=replace(MOLE, diameter=14.0), seed=seed)[1]
        cut = draw(replace(BARE, edge=edge), replace(MOLE, diameter=14.0), seed=seed)[1]
        assert not (cut & ~whole).any()
        hidden += (whole & ~cut).sum()
    assert hidden > 0


def test_extreme_lesions_still_have_a_mask() -> None:
    for seed in range(30):
        for diameter, x in ((0.9, 5.0), (22.0, -5.0)):
            wild = replace(MOLE, diameter=diameter, x=x, y=x, asymmetry=1.0, border=1.0, elongation=0.38)
            assert draw(replace(BARE, side=51), wild, seed)[1].any()
