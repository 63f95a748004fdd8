"""Sample grids as pictures: one strip an epoch, and all of them under each other (the study's Figure 4a)."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from lesionforge.files import write_whole

GAP = 2  # white pixels between two images


def write_strip(path: Path, images: np.ndarray) -> None:
    """Images beside each other, pixel for pixel, as PNG. (N, S, S, 3) uint8"""
    side = images.shape[1]
    strip = np.full((side, len(images) * (side + GAP) - GAP, 3), 255, np.uint8)
    for number, image in enumerate(images):
        strip[:, number * (side + GAP) : number * (side + GAP) + side] = image
    with write_whole(path) as file:
        matplotlib.image.imsave(cast(BinaryIO, file), strip, format="png")


def write_figure4a(path: Path, strips: Sequence[Path]) -> None:
    """The strips of all epochs, each with its number: the same seeds in each column."""
    rows = [matplotlib.image.imread(strip)[..., :3] for strip in strips]
    height, width = rows[0].shape[:2]
    wide = 9.0  # inches
    tall = len(rows) * (wide * height / width + 0.12) + 0.1
    figure = Figure((wide + 0.9, tall), dpi=110)
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, row, strip in zip(axes, rows, strips, strict=True):
        axis.imshow(row, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(f"epoch {int(strip.stem.split('-')[1])}", rotation=0, ha="right", va="center", fontsize=9)
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.9 / (wide + 0.9), right=0.995, top=0.99, bottom=0.01, hspace=0.05)
    with write_whole(path) as file:
        figure.savefig(file, format="png")
