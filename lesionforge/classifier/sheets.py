"""Pictures of heat maps: lesions side by side, below them a row of overlays for each model or method. A door to
matplotlib."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lesionforge.classifier.explained_lesions import Lesion
from lesionforge.files import write_whole

DISCLAIMER = "research software, not a medical device"
CELL = 1.3  # inches a picture: eight columns fill the width of a page
DOTS_PER_INCH = 160
COLOURS, OUTLINE = "turbo", "white"
STRONGEST = 0.65  # opacity of a map's maximum, our choice: the lesion stays visible under it
CLASS_NAMES = {1: "malignant", 0: "benign"}


class Row(NamedTuple):
    """A model's or a method's overlays."""

    label: str
    maps: Sequence[np.ndarray]  # (S, S) floating each, one a lesion; below 0 is not shown
    captions: Sequence[str]  # under each
    from_minimum: bool = False  # colours begin at the map's own minimum: for maps that are above 0 everywhere


def draw_sheet(path: Path, title: str, lesions: Sequence[Lesion], rows: Sequence[Row], outline: str) -> None:
    """Write a PNG: the images, then a row of overlays for each of `rows`; `outline` says whose line is drawn."""
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, hspace=0.0, wspace=0.0)
    width = max(CELL * len(lesions) + 1.3, 6.5)
    figure = Figure(figsize=(width, (CELL + 0.3) * (len(rows) + 1) + 0.9), dpi=DOTS_PER_INCH, layout=layout)
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(rows) + 1, len(lesions), squeeze=False)
    for axis, lesion in zip(axes[0], lesions, strict=True):
        show_image(axis, lesion.image)
        class_name = CLASS_NAMES.get(lesion.target, "unlabelled") if lesion.target is not None else "unlabelled"
        axis.set_title(f"{lesion.image_id}\n{class_name}", fontsize=5.5, pad=2)
    axes[0, 0].set_ylabel("image", fontsize=6.5)
    for row_axes, row in zip(axes[1:], rows, strict=True):
        row_axes[0].set_ylabel(in_lines(row.label), fontsize=6.5)
        for axis, lesion, heat, caption in zip(row_axes, lesions, row.maps, row.captions, strict=True):
            show_overlay(axis, lesion, heat, row.from_minimum)
            axis.set_xlabel(caption, fontsize=5.5, labelpad=2)
    colours = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(colours, ax=axes, fraction=0.015, pad=0.01, aspect=30)  # of all, or the images' row is wider
    bar.set_label(scale_of(rows), fontsize=6)
    bar.ax.tick_params(labelsize=5.5)
    figure.supxlabel(f"White line: {outline}. {scaling_of(rows)}\n{DISCLAIMER}", fontsize=6)
    with write_whole(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def scale_of(rows: Sequence[Row]) -> str:
    return "from 0 or the minimum to the maximum" if any(row.from_minimum for row in rows) else "share of the maximum"


def scaling_of(rows: Sequence[Row]) -> str:
    """What the colours of these rows begin and end at."""
    if not any(row.from_minimum for row in rows):
        return "Each map is coloured from 0 to its own maximum."
    if all(row.from_minimum for row in rows):
        return "Each map is above 0 everywhere and coloured from its own minimum to its own maximum."
    named = " and ".join(row.label.split("\n")[0] for row in rows if row.from_minimum)
    return f"Each map is coloured from 0 to its own maximum; {named}, above 0 everywhere, from its own minimum."


def show_image(axis, image: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    axis.imshow(image, extent=(0, 1, 1, 0), interpolation="bilinear", aspect="equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.3)


def show_overlay(axis, lesion: Lesion, heat: np.ndarray, from_minimum: bool) -> None:  # type: ignore[no-untyped-def]
    """The image with a map on it, the more opaque the higher, and the outline of the mask."""
    show_image(axis, lesion.image)
    positive = np.maximum(heat.astype(np.float64) - (heat.min() if from_minimum else 0.0), 0.0)
    if positive.max() > 0:
        share = positive / positive.max()
        axis.imshow(
            share, extent=(0, 1, 1, 0), cmap=COLOURS, vmin=0, vmax=1, alpha=STRONGEST * np.sqrt(share),
            interpolation="bilinear", aspect="equal",
        )  # fmt: skip
    if lesion.mask.any() and not lesion.mask.all():
        height, width = lesion.mask.shape
        across, down = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        axis.contour(across, down, lesion.mask.astype(float), levels=[0.5], colors=OUTLINE, linewidths=0.7)
    axis.set_xlim(0, 1)
    axis.set_ylim(1, 0)


def in_lines(label: str) -> str:
    """A row's label, no wider than the row is high."""
    return "\n".join(line for part in label.split("\n") for line in textwrap.wrap(part, 22) or [""])
