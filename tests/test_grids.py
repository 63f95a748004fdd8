"""Sample grids are pictures of their images, pixel for pixel; the figure stacks the epochs in their order."""

from pathlib import Path

import numpy as np
from PIL import Image

from lesionforge.diffusion import grids


def test_a_strip_is_its_images_beside_each_other(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3)).astype(np.uint8)
    grids.write_strip(tmp_path / "epoch-0000.png", images)
    strip = np.asarray(Image.open(tmp_path / "epoch-0000.png").convert("RGB"))
    assert strip.shape == (24, 5 * 26 - 2, 3)
    for number, image in enumerate(images):
        assert np.array_equal(strip[:, number * 26 : number * 26 + 24], image)
    assert (strip[:, 24:26] == 255).all()
    grids.write_strip(tmp_path / "one.png", images[:1])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png").convert("RGB")), images[0])


def test_figure_4a_has_a_row_an_epoch(tmp_path: Path) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    strips = []
    for epoch, colour in zip((0, 10, 50), colours, strict=True):
        strips.append(tmp_path / f"epoch-{epoch:04d}.png")
        grids.write_strip(strips[-1], np.full((8, 32, 32, 3), colour, np.uint8))
    grids.write_figure4a(tmp_path / "figure4a.png", strips)
    figure = np.asarray(Image.open(tmp_path / "figure4a.png").convert("RGB")).astype(int)
    middle = figure[:, int(0.55 * figure.shape[1])]  # a column of pixels
    places = [np.flatnonzero((np.abs(middle - colour) <= 2).all(axis=1)) for colour in colours]
    assert all(len(place) > 20 for place in places)
    assert places[0].max() < places[1].min() < places[1].max() < places[2].min()
    left = figure[:, : int(0.08 * figure.shape[1])]
    assert (left.min(axis=(1, 2)) < 100).any()  # the epochs' numbers
    assert len(list(tmp_path.iterdir())) == 4


def test_a_figure_of_one_epoch(tmp_path: Path) -> None:
    grids.write_strip(tmp_path / "epoch-0003.png", np.zeros((1, 16, 16, 3), np.uint8))
    grids.write_figure4a(tmp_path / "figure4a.png", [tmp_path / "epoch-0003.png"])
    with Image.open(tmp_path / "figure4a.png") as figure:
        assert figure.size[0] > 500
