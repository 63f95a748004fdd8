"""Pictures of an audit: the most similar pairs, kept and dropped candidates beside real lesions, curves. A door to
matplotlib."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lesionforge.files import write_whole

DISCLAIMER = "research software, not a medical device"
CELL = 1.15  # inches a picture
DOTS_PER_INCH = 130
PAIRS_A_ROW = 4
KEPT_COLOUR, DROPPED_COLOUR, REAL_COLOUR, INK = "#1b7837", "#b2182b", "#2166ac", "#333333"


class Pair(NamedTuple):
    candidate: np.ndarray  # (H, W, 3) uint8 RGB
    nearest: np.ndarray  # (H, W, 3) uint8 RGB, the real image it is most alike
    candidate_id: str
    nearest_id: str
    score: float
    reason: str | None  # why it was dropped; None where it is kept


class Shown(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8 RGB
    caption: str


def draw_pairs(path: Path, pairs: Sequence[Pair], threshold: float) -> None:
    """Write a PNG: candidates, each with the real image that it is most alike at its right, the most alike first."""
    num_rows = -(-len(pairs) // PAIRS_A_ROW)
    figure = new_figure(2 * PAIRS_A_ROW * (CELL + 0.1), num_rows * (CELL + 0.42) + 0.3)
    figure.suptitle(
        f"Candidate (left) and the real training image it is most alike (right); threshold {threshold:.3g}", fontsize=9
    )
    axes = figure.subplots(num_rows, 2 * PAIRS_A_ROW, squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for i, pair in enumerate(pairs):
        row, column = divmod(i, PAIRS_A_ROW)
        left, right = axes[row, 2 * column], axes[row, 2 * column + 1]
        colour = KEPT_COLOUR if pair.reason is None else DROPPED_COLOUR
        show(left, pair.candidate, caption_of(pair), colour)
        show(right, pair.nearest, short(pair.nearest_id), REAL_COLOUR)  # no verdict is of a real lesion
        left.title.set_color(colour)
    save(figure, path)


def caption_of(pair: Pair) -> str:
    """What is said of the candidate."""
    verdict = "kept" if pair.reason is None else f"dropped: {pair.reason}"
    return f"{short(pair.candidate_id)}\nscore {pair.score:.3g}\n{textwrap.shorten(verdict, 26)}"


def draw_grid(path: Path, groups: Sequence[tuple[str, str, Sequence[Shown]]], columns: int = 8) -> None:
    """Write a PNG: groups of images under headings. groups: (heading, colour, images); an empty one is left out."""
    groups = [group for group in groups if group[2]]
    heights = [-(-len(images) // columns) * (CELL + 0.24) + 0.25 for _, _, images in groups]
    figure = new_figure(columns * (CELL + 0.1), sum(heights))
    parts: Any = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)
    for part, (heading, colour, images) in zip(parts[:, 0], groups, strict=True):
        part.suptitle(heading, fontsize=9, color=colour)
        axes = part.subplots(-(-len(images) // columns), columns, squeeze=False)
        for axis in axes.ravel():
            axis.axis("off")
        for axis, shown in zip(axes.ravel(), images, strict=False):
            show(axis, shown.image, shown.caption, colour)
    save(figure, path)


def draw_histogram(path: Path, candidates: np.ndarray, held_out: np.ndarray, threshold: float, bins: int = 40) -> None:
    """Write a PNG: copy scores of candidates and of real held-out lesions, and the threshold."""
    figure = new_figure(4.6, 2.5)
    axis = figure.subplots()
    known = np.concatenate([candidates[np.isfinite(candidates)], held_out[np.isfinite(held_out)], [threshold]])
    edges = np.linspace(known.min(), known.max() + 1e-9, bins + 1)
    for scores, label, colour in (
        (held_out, f"{len(held_out):,} real held-out", REAL_COLOUR),
        (candidates, f"{len(candidates):,} candidates", DROPPED_COLOUR),
    ):
        share = np.histogram(scores, edges)[0] / max(len(scores), 1)
        axis.stairs(share, edges, fill=True, alpha=0.25, color=colour)
        axis.stairs(share, edges, color=colour, linewidth=1.2, label=label)
    axis.axvline(threshold, color=INK, linewidth=1, linestyle="--", label=f"threshold {threshold:.3g}")
    axis.set_xlabel("copy score to the most similar training image", fontsize=7)
    axis.set_ylabel("share of images", fontsize=7)
    finish(axis)
    save(figure, path)


def draw_spectra(path: Path, curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    """Write a PNG of log power over frequency. curves: (label, frequency in cycles per pixel, dB); real ones first."""
    figure = new_figure(4.6, 2.5)
    axis = figure.subplots()
    styles = {"real": (REAL_COLOUR, "-"), "kept": (KEPT_COLOUR, "-"), "all": (DROPPED_COLOUR, "--")}
    for label, frequency, power in curves:
        colour, line = next((style for name, style in styles.items() if label.startswith(name)), (INK, "-"))
        axis.plot(
            frequency, power, label=label, color=colour, linestyle=":" if "benign" in label else line, linewidth=1.3
        )
    axis.set_xlabel("frequency, cycles per pixel", fontsize=7)
    axis.set_ylabel("power, dB", fontsize=7)
    finish(axis)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, hspace=0.01, wspace=0.01)
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)


def show(axis: Any, image: np.ndarray, caption: str, colour: str) -> None:
    axis.axis("on")
    axis.imshow(image, extent=(0, 1, 1, 0), interpolation="bilinear", aspect="equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.0)
    axis.set_title(caption, fontsize=5.5, pad=2, color=INK)


def finish(axis: Any) -> None:
    axis.tick_params(labelsize=6)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize=6.5, frameon=False)


def short(image_id: str, most: int = 18) -> str:
    """An id that fits above a picture; its end tells images apart."""
    return image_id if len(image_id) <= most else f"…{image_id[-most + 1 :]}"


def save(figure: Figure, path: Path) -> None:
    with write_whole(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
