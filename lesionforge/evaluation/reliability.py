"""The reliability diagram: how many lesions of a score are malignant, against the score, with a histogram below."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionforge import files, tables
from lesionforge.evaluation import calibration

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DOTS_PER_INCH = 5.6, 7.0, 130  # inches a part
COLOURS = {  # Okabe and Ito's, which colour-blind readers tell apart
    "raw": "#000000", "prior": "#0072B2", "temperature": "#D55E00", "prior_temperature": "#009E73",
    "isotonic": "#CC79A7",
}  # fmt: skip
MARKERS = {"raw": "o", "prior": "s", "temperature": "^", "prior_temperature": "D", "isotonic": "P"}
LOWEST = 1e-6  # scores below are drawn there
HIGHEST_FLOOR = 0.01  # the axes go down to there at least, so that scores of only 0 and 1 have axes
LEGEND_ROW = 0.17  # inches


def draw(
    path: Path,
    name: str,
    versions: "dict[str, dict[str, pl.DataFrame]]",
    found: dict[str, Any],
    made_for: float | None,
    disclaimer: str,
) -> None:
    """Write the diagram of `figure_of`; none where no part's scores can be probabilities."""
    figure = figure_of(name, versions, found, made_for, disclaimer)
    if figure is None:
        return
    with files.write_whole(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def figure_of(
    name: str,
    versions: "dict[str, dict[str, pl.DataFrame]]",
    found: dict[str, Any],
    made_for: float | None,
    disclaimer: str,
) -> "Figure | None":
    """One column a part: on top observed shares against scores, log-log, below how many lesions have which score.

    Cross-fitted scores are drawn instead of those of the fit that saw the lesions, and named so.

    Args:
        made_for: the prevalence that prior-corrected scores are made for; named where it is not the part's own.
    """
    from matplotlib.figure import Figure

    parts = [part for part in found if found[part][tables.CALIBRATION]["versions"]]
    if not parts:
        return None
    num_rows = max(len(shown_of(found[part][tables.CALIBRATION]["versions"])) for part in parts)
    size = WIDTH * len(parts), HEIGHT + LEGEND_ROW * num_rows
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(parts), squeeze=False, sharex="col", height_ratios=[3, 1])
    figure.suptitle(f"{name}: are scores probabilities?", fontsize=11)
    for (top, bottom), part in zip(axes.T, parts, strict=True):
        measured = found[part][tables.CALIBRATION]["versions"]
        shown = shown_of(measured)
        prevalence = found[part][tables.NUM_MALIGNANT] / found[part][tables.NUM_IMAGES]
        lowest = lowest_shown(prevalence, [measured[version]["reliability"] for version in shown])
        for version in shown:
            draw_version(top, version, label_of(version, measured[version], made_for, prevalence), measured, lowest)
            draw_histogram(bottom, version, versions[part][version][tables.SCORE].to_numpy(), lowest)
        top.plot([lowest, 1], [lowest, 1], color="0.6", linewidth=1, zorder=0)
        top.axhline(prevalence, color="0.6", linewidth=1, linestyle=":", zorder=0)
        top.annotate(
            f"prevalence {prevalence:.2%}", (0.01, prevalence), xycoords=("axes fraction", "data"), fontsize=7.5,
            color="0.35", va="bottom",
        )  # fmt: skip
        top.set(xscale="log", yscale="log", xlim=(lowest * 0.8, 1.2), ylim=(lowest * 0.8, 1.5))
        counts = f"{found[part][tables.NUM_MALIGNANT]:,} malignant of {found[part][tables.NUM_IMAGES]:,}"
        top.set_title(f"{part} ({counts})", fontsize=10)
        top.set_ylabel("share of malignant lesions in the bin")
        top.grid(color="0.92", linewidth=0.7)
        top.set_axisbelow(True)
        bottom.set(yscale="log", xlabel="score (log)", ylabel="lesions")
        bottom.set_ylim(bottom=0.7)
        bottom.grid(color="0.92", linewidth=0.7)
        bottom.set_axisbelow(True)
        bottom.legend(
            *top.get_legend_handles_labels(), fontsize=7.5, title="mean score / prevalence", title_fontsize=7.5,
            loc="upper center", bbox_to_anchor=(0.5, -0.33), frameon=False,
        )  # fmt: skip
    figure.supxlabel(
        "Each bin holds half of the lesions above the one before; bars: 95 % intervals, patients resampled.\n"
        "Open markers: no malignant lesion in the bin, drawn at the upper limit of its interval.\n"
        "Scores below the axis, as those of 0, are drawn at its lower end.\n"
        f"{disclaimer[0].upper()}{disclaimer[1:]}.",
        fontsize=7.5, color="0.35",
    )  # fmt: skip
    return figure


def shown_of(measured: dict[str, Any]) -> list[str]:
    return [version for version in measured if version + calibration.CROSS_FITTED not in measured]


def lowest_shown(prevalence: float, bins: list[list[dict[str, Any]]]) -> float:
    """A power of ten below the prevalence and every bin's mean score and share above 0, or its open marker."""
    drawn = [value for rows in bins for row in rows for value in (row["mean_score"], row["share"] or row["high"])]
    values = [value for value in drawn if value > 0]
    return max(10.0 ** np.floor(np.log10(min([HIGHEST_FLOOR, prevalence, *values]))), LOWEST)


def label_of(version: str, measured: dict[str, Any], made_for: float | None, prevalence: float) -> str:
    """`prior (for 0.1 %): 0.83`: the method, what sets it apart, its calibration in the large."""
    method, _, crossed = version.partition(calibration.CROSS_FITTED[0])
    ratio = measured["scores"][calibration.IN_THE_LARGE][tables.ESTIMATE]
    label = method.replace("_", " + ")
    if method.startswith("prior") and made_for is not None and f"{made_for:.2g}" != f"{prevalence:.2g}":
        label += f" (for {100 * made_for:.3g} %)"
    return f"{label}{' (cross-fitted)' if crossed else ''}: {ratio:.3g}"


def draw_version(axis: Any, version: str, label: str, measured: dict[str, Any], lowest: float) -> None:
    method = version.partition(calibration.CROSS_FITTED[0])[0]
    colour, marker = COLOURS[method], MARKERS[method]
    rows = measured[version]["reliability"]
    x = np.maximum([row["mean_score"] for row in rows], lowest)
    share, low, high = (np.array([row[key] for row in rows]) for key in ("share", "low", "high"))
    some = share > 0
    axis.plot(x[some], share[some], color=colour, marker=marker, markersize=5, linewidth=1, label=label)
    axis.vlines(x[some], np.maximum(low[some], lowest), high[some], color=colour, linewidth=1, alpha=0.6)
    axis.plot(x[~some], high[~some], color=colour, marker=marker, markersize=5, linestyle="none", fillstyle="none")


def draw_histogram(axis: Any, version: str, scores: np.ndarray, lowest: float) -> None:
    edges = np.linspace(np.log10(lowest), 0, 41)
    num, _ = np.histogram(np.log10(np.maximum(scores, lowest)), edges)
    axis.stairs(num, 10**edges, color=COLOURS[version.partition(calibration.CROSS_FITTED[0])[0]], linewidth=1.2)
