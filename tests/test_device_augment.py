"""A batch augmented at once is what `augment.apply` makes of each of its images, from the same parameters."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lesionforge.classifier.device_augment import augmented, upload
from lesionforge.config import AugmentConfig
from lesionforge.data import augment, draws, pixels
from lesionforge.data.draws import Parameters

STRONG = AugmentConfig(preset="strong").settings()
NOTHING = AugmentConfig(preset="none").settings()


def textured(num: int, smallest: int, largest: int, seed: int = 0) -> list[np.ndarray]:
    """Blots on skin with grain, of any shape; from plain to wild."""
    rng = np.random.default_rng(seed)
    made = []
    for height, width in rng.integers(smallest, largest + 1, (num, 2)):
        y, x = np.mgrid[0:height, 0:width] / max(height, width)
        blot = np.hypot(x - rng.uniform(0.3, 0.7), y - rng.uniform(0.3, 0.7)) < rng.uniform(0.1, 0.4)
        skin = np.array([200, 150, 130]) * (0.9 + 0.15 * x[..., None]) - blot[..., None] * [90, 80, 60]
        made.append(np.clip(skin + rng.normal(0, rng.uniform(0, 25), skin.shape), 0, 255).astype(np.uint8))
    return made


def drawn(num: int, settings: dict[str, float], seed: int = 0) -> Parameters:
    return draws.draw(seed, 0, np.arange(num), **settings)


def only(*names: str) -> dict[str, float]:
    """The strong preset's strengths for some effects, which then always happen; nothing else does."""
    probable = {name: 1.0 if name.endswith("_probability") else STRONG[name] for name in names}
    return {**NOTHING, **probable}


def at_once(images: list[np.ndarray], parameters: Parameters | None, size: int) -> np.ndarray:
    """The images together, the room around each of them full of noise."""
    images = [augment.shrunk(image, size) for image in images]
    height, width = np.array([image.shape[:2] for image in images]).T
    together = np.random.default_rng(1).integers(0, 256, (len(images), height.max(), width.max(), 3), dtype=np.uint8)
    for row, image in zip(together, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    out = augmented(torch.from_numpy(together), height, width, parameters, size)
    assert out.dtype == torch.uint8
    assert out.shape == (len(images), size, size, 3)
    return out.numpy()


def one_by_one(images: list[np.ndarray], parameters: Parameters | None, size: int) -> np.ndarray:
    out = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        if parameters is None:
            augment.resize(image, out[i])
        else:
            augment.apply(image, parameters, i, out[i])
    return out


def off(images: list[np.ndarray], parameters: Parameters | None, size: int) -> np.ndarray:
    return np.abs(at_once(images, parameters, size).astype(int) - one_by_one(images, parameters, size))


# --- the whole


@pytest.mark.parametrize(
    ("size", "smallest", "largest"), [(16, 8, 60), (32, 1, 9), (64, 20, 200), (96, 40, 150), (128, 90, 255)]
)
def test_strong_augmentation_is_that_of_the_cpu(size: int, smallest: int, largest: int) -> None:
    images = textured(128, smallest, largest)
    difference = off(images, drawn(128, STRONG, seed=size), size)
    assert difference.mean() < 0.05
    assert (difference > 1).mean() < 1e-3
    assert difference.max() <= 4


@pytest.mark.real
@pytest.mark.parametrize("size", [64, 128, 224])
def test_strong_augmentation_of_real_lesions(real_lesions: Path, size: int) -> None:
    with h5py.File(real_lesions / "train-image.hdf5") as file:
        images = [pixels.decode(bytes(file[key][()])) for key in sorted(file)[::140][:64]]
    for epoch in range(2):
        difference = off(images, draws.draw(0, epoch, np.arange(64), **STRONG), size)
        assert difference.mean() < 0.05
        assert (difference > 1).mean() < 1e-3
        assert difference.max() <= 4


def test_without_parameters_or_with_idle_ones_images_are_resized() -> None:
    images = textured(48, 1, 200)
    assert off(images, None, 64).max() <= 1
    assert np.array_equal(at_once(images, drawn(48, NOTHING), 64), at_once(images, None, 64))
    square = [image for image in images if max(image.shape[:2]) > 1.5 * 64]
    assert len(square) > 10
    assert not off(square, None, 64).any()  # averaged down to the very size, on the host


def test_an_image_is_the_same_whatever_stands_beside_it() -> None:
    images, p = textured(64, 20, 90), drawn(64, STRONG)
    whole = at_once(images, p, 64)
    some = np.array([5, 63, 17, 40])
    rows = Parameters(**{name: getattr(p, name)[some] for name in vars(p)})
    assert np.array_equal(at_once([images[i] for i in some], rows, 64), whole[some])
    for i in range(8):
        row = Parameters(**{name: getattr(p, name)[i : i + 1] for name in vars(p)})
        assert np.array_equal(at_once([images[i]], row, 64)[0], whole[i])


def test_a_second_run_gives_the_same_bytes() -> None:
    images, p = textured(32, 20, 90), drawn(32, STRONG)
    assert np.array_equal(at_once(images, p, 64), at_once(images, p, 64))


# --- one effect at a time


@pytest.mark.parametrize(
    "names",
    [
        ("affine_probability", "shift", "scale", "rotate"),
        ("distortion_probability", "optical", "grid", "elastic"),
        ("blur_probability", "blur_size", "noise", "affine_probability", "rotate"),
        ("clahe_probability", "clahe", "affine_probability", "rotate"),
    ],
)
def test_an_effect_alone_is_closer_yet(names: tuple[str, ...]) -> None:
    difference = off(textured(64, 30, 90), drawn(64, only(*names)), 64)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 5e-3


def test_turns_wider_than_the_image_mirror_it_again_and_again() -> None:
    p = drawn(32, {**NOTHING, "affine_probability": 1.0, "rotate": 180.0, "shift": 0.5, "scale": 0.9})
    assert (off(textured(32, 3, 50), p, 64) > 1).mean() < 1e-3


def test_flips_and_transposition_are_exact_where_nothing_is_resized() -> None:
    images = [image[:64, :64] for image in textured(64, 64, 80)]
    p = drawn(64, {**NOTHING, "transpose": 0.5, "horizontal_flip": 0.5, "vertical_flip": 0.5})
    assert not off(images, p, 64).any()
    assert off(textured(64, 20, 200), p, 64).max() <= 1


def at_native_size(**changed: np.ndarray) -> tuple[list[np.ndarray], Parameters]:
    images = [image[:61, :61] for image in textured(32, 61, 70)]
    return images, replace(drawn(32, NOTHING), **changed)


def test_noise_comes_from_the_same_window() -> None:
    seeds = np.random.default_rng(0).integers(0, 2**32, 32, dtype=np.uint32)
    images, p = at_native_size(noise=np.linspace(0.5, 60, 32, dtype=np.float32), noise_seed=seeds)
    difference = off(images, p, 61)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4  # OpenCV multiplies and adds with one rounding: a tie in 100,000 falls apart


def test_noise_on_images_larger_than_the_bank() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((600, 530, 3), (513, 20, 3), (512, 512, 3))]
    seeds = rng.integers(0, 2**32, 3, dtype=np.uint32)
    p = replace(drawn(3, NOTHING), noise=np.full(3, 20, np.float32), noise_seed=seeds)
    assert off(images, p, 640).max() <= 1  # by the resize


def test_median_passes_are_exact() -> None:
    images, p = at_native_size(median=np.arange(32) % 5)
    assert not off(images, p, 61).any()


def test_the_cutout_is_exact_at_every_edge() -> None:
    edges = np.sort(np.random.default_rng(0).random((32, 2, 2)), axis=1).reshape(32, 4).astype(np.float32)
    edges[::4] = [0.25, 0.1, 0.25, 0.8]  # no width
    edges[1::4] = [0, 0, 1, 1]
    images, p = at_native_size(cutout=edges)
    assert not off(images, p, 61).any()


# --- what steers it


def test_arrays_arrive_with_their_types_and_shapes() -> None:
    arrays = [
        np.arange(7, dtype=np.int64), np.zeros((0, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array([1, 2, 3], np.int32), np.arange(3, dtype=np.uint8), np.zeros(0, np.int64),
    ]  # fmt: skip
    for array, there in zip(arrays, upload(arrays, torch.device("cpu")), strict=True):
        assert there.numpy().dtype == array.dtype
        assert np.array_equal(there.numpy(), array)
