"""Augmentation: what is drawn, how often, from what; and that each part does to the pixels what its name says."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from pydantic import ValidationError

from lesionforge.config import AUGMENT_PRESETS, AugmentConfig
from lesionforge.data import augment, draws
from lesionforge.data.draws import Parameters

STRONG = AugmentConfig(preset="strong").settings()
NOTHING = AugmentConfig(preset="none").settings()
SIZE = 96


def lesion(width: int = 61, height: int = 61, seed: int = 0) -> np.ndarray:
    """A dark blot on skin, lit from one side, with some noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    blot = 1 / (1 + np.exp(40 * (np.hypot(x - 0.45, 0.8 * y - 0.4) - 0.2)))
    skin = np.array([200, 150, 130]) * (0.9 + 0.15 * x[..., None]) - blot[..., None] * [90, 80, 60]
    return np.clip(skin + generator.normal(0, 4, skin.shape), 0, 255).astype(np.uint8)


def applied(image: np.ndarray, parameters: Parameters, i: int = 0, size: int = SIZE) -> np.ndarray:
    out = np.full((size, size, 3), 77, np.uint8)
    augment.apply(image, parameters, i, out)
    return out


def resized(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    out = np.full((size, size, 3), 77, np.uint8)
    augment.resize(image, out)
    return out


def identity(num: int = 1) -> Parameters:
    return draws.draw(0, 0, np.arange(num), **NOTHING)


def with_geometry(matrix: list[list[float]]) -> Parameters:
    return replace(identity(), geometry=np.array([matrix], np.float32))


# --- settings


def test_a_preset_is_the_default_and_a_field_goes_over_it() -> None:
    settings = AugmentConfig(preset="strong", rotate=30).settings()
    assert settings == {**STRONG, "rotate": 30}
    assert set(settings) == set(AugmentConfig.model_fields) - {"preset"}
    flip = AugmentConfig(preset="flip").settings()
    assert {name for name, value in flip.items() if value != NOTHING[name]} == {"horizontal_flip"}
    assert augment.build_augmentation(AugmentConfig(preset="none")) is None
    assert augment.build_augmentation(AugmentConfig(preset="none", rotate=30, affine_probability=0.5)) is not None
    assert all(set(preset) <= set(settings) for preset in AUGMENT_PRESETS.values())


def test_the_help_of_every_field_tells_the_number_of_its_preset() -> None:
    for name, value in AUGMENT_PRESETS["strong"].items():
        text = AugmentConfig.model_fields[name].description or ""
        told = re.search(r"strong: ([\d.]+)$", text)
        assert told, name
        assert float(told[1]) == value, name


@pytest.mark.parametrize(
    "wrong", [{"rotate": -1}, {"transpose": 1.5}, {"blur_size": 4}, {"preset": "wild"}, {"rotation": 15}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AugmentConfig(**wrong)


# --- what is drawn


def test_a_draw_depends_on_seed_epoch_and_place_alone() -> None:
    whole = draws.draw(5, 2, np.arange(64), **STRONG)
    some = np.array([63, 7, 7, 20])
    part = draws.draw(5, 2, some, **STRONG)
    for name in vars(whole):
        assert np.array_equal(getattr(whole, name)[some], getattr(part, name)), name
    image = lesion()
    for row, place in enumerate(some):
        assert np.array_equal(applied(image, whole, place), applied(image, part, row))
    for seed, epoch in ((5, 3), (6, 2), (2, 5)):
        other = draws.draw(seed, epoch, np.arange(64), **STRONG)
        same = sum(np.array_equal(applied(image, whole, i), applied(image, other, i)) for i in range(64))
        assert same <= 1


def test_numbers_are_uniform_and_independent() -> None:
    numbers = draws.uniforms(1, 2, np.arange(20_000), 8)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T])
    chi2 = ((counts - 1000) ** 2 / 1000).sum(axis=1)  # 19 degrees of freedom: mean 19, 45 at p = 0.0007
    assert chi2.max() < 45
    correlation = np.corrcoef(np.concatenate([numbers.T, numbers[1:].T[:, np.r_[0:19_999, 0]]])) - np.eye(16)
    assert np.abs(correlation).max() < 0.035  # 5 standard errors


def test_things_happen_as_often_as_asked_and_stay_in_their_ranges() -> None:
    num = 4000
    p = draws.draw(3, 0, np.arange(num), **STRONG)

    def near(happened: np.ndarray, probability: float) -> bool:
        return abs(happened.mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / num)

    transposed = np.abs(p.geometry[:, 0, 0]) < np.abs(p.geometry[:, 0, 1])
    assert near(transposed, 0.5)
    assert near(np.linalg.det(p.geometry[:, :, :2]) < 0, 0.5)
    assert near(p.geometry[:, 0, 2] != 0, 0.85)
    assert near(p.distorted, 0.7)
    assert near(p.clahe > 0, 0.7)
    assert near(p.cutout[:, 2] > p.cutout[:, 0], 0.7)
    assert near(p.mean_weight != 0, 0.75)
    for one_of_four in (p.median > 0, p.noise > 0):
        assert near(one_of_four, 0.7 / 4)
    assert near(p.blurred, 0.7 / 2)
    assert not (p.blurred & (p.noise > 0)).any()
    assert near(p.recoloured, 1 - 0.25 * 0.25 * 0.5)

    size = np.sqrt(np.abs(np.linalg.det(p.geometry[:, :, :2].astype(float))))
    assert 0.9 - 1e-6 <= size.min() < 0.91
    assert 1.09 < size.max() <= 1.1 + 1e-6
    along = np.where(transposed, p.geometry[:, 0, 1], p.geometry[:, 0, 0]) / size
    degrees = np.degrees(np.arccos(np.clip(np.abs(along), 0, 1)))
    assert 14.5 < degrees.max() < 15.01
    assert 0.19 < np.abs(p.geometry[:, :, 2]).max() <= 0.2 * 1.0001  # 0.1 of a side that is 2 long
    boxes = p.cutout[p.cutout[:, 2] > p.cutout[:, 0]]
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert np.allclose(boxes[:, 2:] - boxes[:, :2], 0.375)
    assert np.allclose(p.kernel[p.blurred].sum(axis=(1, 2)), 1, atol=1e-6)
    assert not p.displacement[~p.distorted].any()
    assert 0.1 < np.abs(p.displacement).max() < 0.45


def test_distortions_do_not_fold_the_image() -> None:
    displacement = draws.draw(0, 0, np.arange(2000), **STRONG).displacement
    step = 2 / draws.GRID
    assert (np.diff(displacement[..., 0], axis=2) > -step).all()  # x still grows to the right
    assert (np.diff(displacement[..., 1], axis=1) > -step).all()


# --- geometry


@pytest.mark.parametrize("shape", [(61, 61), (96, 96), (131, 131), (51, 80), (400, 300)])
def test_identity_is_the_resize_of_the_evaluation(shape: tuple[int, int]) -> None:
    image = lesion(shape[1], shape[0])
    assert np.array_equal(applied(image, identity()), resized(image))


@pytest.mark.parametrize("shape", [(61, 61), (140, 140), (51, 80)])
def test_flips_and_transposition_move_pixels_and_change_none(shape: tuple[int, int]) -> None:
    image = lesion(shape[1], shape[0])
    straight = resized(image)
    cases = {
        "flip": ([[-1, 0, 0], [0, 1, 0]], straight[:, ::-1]),
        "upside down": ([[1, 0, 0], [0, -1, 0]], straight[::-1]),
        "turned": ([[-1, 0, 0], [0, -1, 0]], straight[::-1, ::-1]),
        "transposed": ([[0, 1, 0], [1, 0, 0]], straight.transpose(1, 0, 2)),
        "quarter": ([[0, -1, 0], [1, 0, 0]], straight[:, ::-1].transpose(1, 0, 2)),
        "other quarter": ([[0, 1, 0], [-1, 0, 0]], straight[::-1].transpose(1, 0, 2)),
        "both": ([[0, -1, 0], [-1, 0, 0]], straight[::-1, ::-1].transpose(1, 0, 2)),
    }
    for name, (matrix, expected) in cases.items():
        assert np.array_equal(applied(image, with_geometry(matrix)), expected), name


def test_the_warp_agrees_with_the_plain_resize_within_rounding() -> None:
    image = lesion(61, 75)
    nearly = applied(image, with_geometry([[1, 0, 1e-6], [0, 1, 0]])).astype(int)
    assert np.abs(nearly - resized(image)).max() <= 1
    still = replace(with_geometry([[1, 0, 0], [0, 1, 0]]), distorted=np.array([True]))  # by the other of the two calls
    assert np.abs(applied(image, still).astype(int) - resized(image)).max() <= 1


@pytest.mark.parametrize("shape", [(61, 61), (70, 52)])
def test_the_same_parameters_give_torchs_grid_sample_the_same_image(shape: tuple[int, int]) -> None:
    image = lesion(shape[1], shape[0])
    only_geometry = {name: 0.0 for name in STRONG if name.endswith("_probability")}
    settings = {**STRONG, **only_geometry, "affine_probability": 0.9, "distortion_probability": 0.7}
    p = draws.draw(0, 0, np.arange(24), **settings)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for i in range(24):
        centres = (2 * torch.arange(SIZE) + 1) / SIZE - 1
        places = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)[None]  # (1, S, S, 2)
        field = torch.from_numpy(p.displacement[i]).permute(2, 0, 1)[None]
        moved = torch.nn.functional.interpolate(field, (SIZE, SIZE), mode="bilinear", align_corners=False)
        places = places + moved.permute(0, 2, 3, 1)
        theta = torch.from_numpy(p.geometry[i])
        places = places @ theta[:, :2].T + theta[:, 2]
        there = torch.nn.functional.grid_sample(pixels, places, "bilinear", "reflection", align_corners=False)
        difference = np.abs(there[0].permute(1, 2, 0).numpy() - applied(image, p, i))
        assert difference.mean() < 0.6, i
        assert np.quantile(difference, 0.99) < 2, i


def test_a_rotation_turns_by_its_angle_and_mirrors_the_border() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    cv2.line(image, (50, 50), (90, 50), (255, 255, 255), 3)
    settings = {**NOTHING, "affine_probability": 1.0, "rotate": 60.0}
    p = draws.draw(0, 0, np.arange(20), **settings)
    for i in range(20):
        white = np.argwhere(applied(image, p, i, 101)[..., 0] > 128) - 50
        assert len(white) > 60
        seen = np.degrees(np.arctan2(*white[np.hypot(*white.T) > 20].mean(axis=0)))
        drawn = np.degrees(np.arctan2(p.geometry[i, 1, 0], p.geometry[i, 0, 0]))
        assert abs(seen + drawn) < 1.5  # the geometry leads from the output back to the image
    plain = np.full((40, 40, 3), 200, np.uint8)
    for i in range(20):
        assert np.array_equal(
            applied(plain, draws.draw(1, 0, np.arange(20), **settings), i, 40), plain
        )  # no black corner


def test_a_large_image_is_averaged_before_it_is_warped() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resized(stripes, 64).astype(int) - 128).max() <= 1
    turned = applied(stripes, with_geometry([[0.97, 0.2, 0.01], [-0.2, 0.97, 0]]), size=64)
    assert np.abs(turned.astype(int) - 128).max() <= 1


# --- colours, blur, cutout


def recoloured(image: np.ndarray, **factors: float) -> np.ndarray:
    """The image after one colour change, at its own size."""
    given = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, **factors}
    colour, weight = draws.colour_matrix(**{name: np.array([value]) for name, value in given.items()})
    p = replace(
        identity(), recoloured=np.array([True]), colour=colour.astype(np.float32), mean_weight=weight.astype(np.float32)
    )
    return applied(image, p, size=len(image)).astype(int)


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.2])
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_colour_changes_are_those_of_pil(name: str, oracle: type, factor: float) -> None:
    image = lesion()
    expected = np.asarray(oracle(Image.fromarray(image)).enhance(factor)).astype(int)
    assert np.abs(recoloured(image, **{name: factor}) - expected).max() <= 2  # PIL cuts off, and rounds the grey first


def test_hue_turns_colours_and_keeps_the_luma() -> None:
    image = lesion()
    for degrees in (-20, 7, 20):
        turned = recoloured(image, hue=np.radians(degrees))
        assert np.abs(turned @ draws.LUMA - image @ draws.LUMA).max() <= 1.5
        before, after = (
            cv2.cvtColor(x.astype(np.uint8), cv2.COLOR_RGB2HSV)[..., 0].astype(int) for x in (image, turned)
        )
        shift = np.median((after - before + 90) % 180 - 90) * 2  # OpenCV's hue counts 2 degrees
        assert abs(shift) == pytest.approx(abs(degrees), abs=8)
    grey = np.full((20, 20, 3), 120, np.uint8)
    assert np.abs(recoloured(grey, hue=1.0, saturation=1.2) - grey).max() <= 1


def test_all_colour_changes_at_once_are_one_after_the_other() -> None:
    image = lesion()
    at_once = recoloured(image, brightness=1.1, contrast=0.85, saturation=1.2)
    one_by_one = Image.fromarray(image)
    for oracle, factor in ((ImageEnhance.Contrast, 0.85), (ImageEnhance.Color, 1.2), (ImageEnhance.Brightness, 1.1)):
        one_by_one = oracle(one_by_one).enhance(factor)
    assert np.abs(at_once - np.asarray(one_by_one).astype(int)).max() <= 4


def test_blur_kernels_are_gaussian_and_lines() -> None:
    gaussian = draws.gaussian_kernel(np.array([1, 2]), np.zeros(2), 5)
    for kernel, size in zip(gaussian, (3, 5), strict=True):
        line = cv2.getGaussianKernel(size, 0.3 * (size // 2 - 1) + 0.8)
        inner = kernel[2 - size // 2 : 3 + size // 2, 2 - size // 2 : 3 + size // 2]
        assert np.allclose(inner, line @ line.T)
    flat, steep, slanted = draws.motion_kernel(np.array([2, 1, 2]), np.array([0, np.pi / 2, np.pi / 4]), 5)
    assert np.allclose(flat[[0, 1, 3, 4]], 0)
    assert (flat[2] > 0).all()
    assert np.allclose(steep[:, [0, 1, 3, 4]], 0)
    assert np.allclose(steep[[0, 4]], 0)
    assert np.allclose(slanted, slanted.T)


def test_noise_has_the_drawn_strength_and_other_seeds_other_noise() -> None:
    grey = np.full((120, 120, 3), 128, np.uint8)
    two = replace(identity(2), noise=np.array([5.0, 5.0], np.float32), noise_seed=np.array([1, 2**31 + 99], np.uint32))
    first, second = (applied(grey, two, i, 120).astype(float) - 128 for i in range(2))
    assert first.std() == pytest.approx(5, rel=0.05)
    assert abs(first.mean()) < 0.1
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03


def test_clahe_raises_local_contrast_and_keeps_the_hue() -> None:
    image = lesion(120, 120)
    equalised = applied(image, replace(identity(), clahe=np.array([4.0], np.float32)), size=120).astype(int)
    assert (equalised @ draws.LUMA).std() > 1.2 * (image @ draws.LUMA).std()
    inside = ((equalised > 0) & (equalised < 255)).all(axis=2)
    chroma = equalised[..., 0] - equalised[..., 2] - (image[..., 0].astype(int) - image[..., 2])
    assert not chroma[inside].any()


def test_the_cutout_is_a_black_square_of_its_size() -> None:
    p = replace(identity(), cutout=np.array([[0.25, 0.5, 0.625, 0.875]], np.float32))
    out, straight = applied(lesion(), p), resized(lesion())
    assert not out[48:84, 24:60].any()
    out[48:84, 24:60] = straight[48:84, 24:60]
    assert np.array_equal(out, straight)


def test_the_input_image_is_never_changed() -> None:
    image = lesion()
    before = image.copy()
    p = draws.draw(0, 0, np.arange(200), **STRONG)
    for i in range(200):
        applied(image, p, i)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (9, 9), (51, 51), (239, 239), (700, 600)])
def test_any_size_of_image_goes_through(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    p = draws.draw(0, 0, np.arange(60), **STRONG)
    for i in range(60):
        applied(image, p, i, 64)
