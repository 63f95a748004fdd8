"""A drawing as PNG, painted by matplotlib."""

from pathlib import Path as File
from typing import Any

from lesionforge import files
from lesionforge.data import pixels
from lesionforge.reporting.drawing import LIGHT, PAPER, Dot, Drawing, Label, Path

PIXELS_PER_INCH = 100.0  # of a drawing's own pixels
SCALE = 2.0  # pixels of the file for each of them
FONTS = ["Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"]
POINTS_PER_PIXEL = 72 / PIXELS_PER_INCH


def paint(path: File, drawing: Drawing) -> None:
    """Write the drawing as PNG on white paper; the same drawing gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    size = drawing.width / PIXELS_PER_INCH, drawing.height / PIXELS_PER_INCH
    with matplotlib.rc_context({"font.family": installed_font(), "path.simplify": False}):
        figure = Figure(figsize=size, dpi=PIXELS_PER_INCH * SCALE, facecolor=LIGHT[PAPER])
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, drawing.width)
        axes.set_ylim(drawing.height, 0)
        axes.axis("off")
        for order, mark in enumerate(drawing.marks):
            put(axes, mark, order + 1)
        with files.write_whole(path) as file:
            figure.savefig(file, format="png", metadata={"Software": None})


def installed_font() -> str:
    """The first of our fonts that this machine has; matplotlib brings the last one."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in FONTS if name in known), FONTS[-1])


def put(axes: Any, mark: Any, order: int) -> None:
    """One mark, above those before it."""
    if isinstance(mark, Label):
        align = {"start": "left", "middle": "center", "end": "right"}[mark.anchor]
        axes.text(
            mark.x, mark.y, mark.text, color=LIGHT[mark.colour], fontsize=mark.size * POINTS_PER_PIXEL, ha=align,
            va="baseline", rotation=90 if mark.upward else 0, rotation_mode="anchor", parse_math=False,
            fontweight="bold" if mark.bold else "normal", zorder=order,
        )  # fmt: skip
    elif isinstance(mark, Dot):
        from matplotlib.patches import Circle

        fill = LIGHT[mark.fill or PAPER]
        width = 1.5 * POINTS_PER_PIXEL
        axes.add_patch(
            Circle((mark.x, mark.y), mark.radius, fc=fill, ec=LIGHT[mark.stroke], linewidth=width, zorder=order)
        )
    elif isinstance(mark, Path):
        put_path(axes, mark, order)
    else:
        image = pixels.decode(mark.data)
        axes.imshow(
            image, extent=(mark.x, mark.x + mark.width, mark.y + mark.height, mark.y), zorder=order, aspect="auto"
        )
        axes.set_xlim(axes.get_xlim())


def put_path(axes: Any, mark: Path, order: int) -> None:
    x, y = [point[0] for point in mark.points], [point[1] for point in mark.points]
    if mark.fill:
        axes.fill(x, y, facecolor=LIGHT[mark.fill], alpha=mark.opacity, edgecolor="none", zorder=order)
    if mark.stroke:
        width = mark.width * POINTS_PER_PIXEL
        style: Any = "solid"
        if mark.dash:
            style = (0, tuple(float(part) / mark.width for part in mark.dash.split()))
        axes.plot(
            x, y, color=LIGHT[mark.stroke], linewidth=width, linestyle=style, zorder=order,
            alpha=1.0 if mark.fill else mark.opacity, solid_capstyle="round", solid_joinstyle="round",
        )  # fmt: skip
