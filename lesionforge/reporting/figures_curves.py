"""Figures of curves, one panel a model: ROC with the scored region, training, calibration."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lesionforge.metrics import MIN_TPR
from lesionforge.reporting import curves, frames
from lesionforge.reporting.drawing import ACCENT, MUTED, Dot, Drawing, Label, Mark, Path, legend
from lesionforge.reporting.figures_scores import colours_of
from lesionforge.reporting.words import decimals, in_interval

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Cell, Collected

WIDTH = 760.0
LEFT, RIGHT = 58.0, 12.0
SHORT = {"train_loss": "training loss", "val_pauc": "pAUC on val", "val_auc": "AUC on val"}


class Panels:
    """Room for one panel a model, two or three beside each other, below a legend of the arms."""

    def __init__(self, collected: "Collected", models: Sequence[str], height: float, square: bool = False) -> None:
        self.models = list(models)
        self.columns = min(len(self.models), 2 if len(self.models) <= 4 else 3)
        gap = 60.0
        self.width = (WIDTH - LEFT - RIGHT - gap * (self.columns - 1)) / self.columns
        self.width = min(self.width, 340.0)
        self.height = self.width if square else height
        self.colours = colours_of(collected)
        used = [arm for arm in collected.arms if any(collected.of(model, arm) for model in self.models)]
        self.marks, top = legend([(arm, *self.colours[arm]) for arm in used], LEFT, 12, WIDTH - LEFT)
        self.top, self.gap = top, gap
        self.bottom = top

    def place(self, i: int) -> tuple[float, float]:
        left = LEFT + (self.width + self.gap) * (i % self.columns)
        top = self.top + 34 + (self.height + 84) * (i // self.columns)
        self.bottom = top + self.height + 44
        return left, top

    def drawing(self, name: str, title: str, alt: str) -> Drawing:
        width = LEFT + self.width * self.columns + self.gap * (self.columns - 1) + RIGHT
        return Drawing(name, title, alt, max(width, 420), self.bottom, self.marks)


def roc(collected: "Collected") -> Drawing | None:
    """ROC curves of all runs, thin, and the mean of each arm; the region that the score counts is shaded."""
    found = [(cell, points) for cell in collected.cells if (points := roc_of(cell)) is not None]
    models = [model for model in collected.models if any(cell.model == model for cell, _ in found)]
    if not models:
        return None
    room = Panels(collected, models, 0, square=True)
    for i, model in enumerate(models):
        left, top = room.place(i)
        frame = frames.panel(left, top, room.width, room.height, (0, 1), (0, 1))
        band = [frame.at(0, MIN_TPR), frame.at(1, MIN_TPR), frame.at(1, 1), frame.at(0, 1)]
        room.marks.append(Path(band, None, fill=ACCENT, opacity=0.10))
        steps = [0, 0.2, 0.4, 0.6, 0.8, 1]
        room.marks += frames.grid(frame, steps, steps)
        room.marks += frames.names(
            frame, model, "false positive rate", "true positive rate" if i % room.columns == 0 else ""
        )
        room.marks.append(Path([frame.at(0, 0), frame.at(1, 1)], MUTED, 1, "3 3"))
        room.marks.append(
            Label(frame.left + frame.width - 6, frame.y.place(MIN_TPR) + 14, "scored region", 11, ACCENT, "end")
        )
        for arm in collected.arms:
            of_arm = [(cell, points) for cell, points in found if (cell.model, cell.arm) == (model, arm)]
            colour, dash = room.colours[arm]
            for cell, points in of_arm:
                places = [frame.at(x, y) for x, y in curves.thinned(points)]
                is_one = len(of_arm) == 1
                room.marks.append(
                    Path(places, colour, 2.2 if is_one else 1.1, dash, opacity=1 if is_one else 0.42, tip=tip_of(cell))
                )
            if len(of_arm) > 1:
                mean = curves.mean_curve([points for _, points in of_arm])
                places = [frame.at(x, y) for x, y in mean]
                tip = f"{model} · {arm}: mean of {len(of_arm)} runs"
                room.marks.append(Path(places, colour, 2.4, dash, tip=tip))
    alt = f"ROC curves on part {collected.part} of {len(found)} runs; the region above TPR 0.8 is what the pAUC counts"
    return room.drawing("roc", "ROC curves, the scored region shaded", alt)


def roc_of(cell: "Cell") -> "np.ndarray | None":
    return None if cell.predictions is None else curves.roc_points(cell.predictions)


def tip_of(cell: "Cell") -> str:
    score = (cell.scores.get("scores") or {}).get("pauc") or {}
    if score.get("estimate") is None:
        return cell.label
    return f"{cell.label}: pAUC {in_interval(score['estimate'], score.get('low'), score.get('high'))}"


def training(collected: "Collected", key: str) -> Drawing | None:
    """A metric of the training over the epochs, a line a run; None where no run has it."""
    cells = [cell for cell in collected.cells if len(curves.series(cell, key)) > 1]
    models = [model for model in collected.models if any(cell.model == model for cell in cells)]
    if not models:
        return None
    points = {cell.name: curves.series(cell, key) for cell in cells}
    everything = np.concatenate(list(points.values()))
    y_range = frames.rounded(float(everything[:, 1].min()), float(everything[:, 1].max()))
    room = Panels(collected, models, 190)
    for i, model in enumerate(models):
        left, top = room.place(i)
        own = [cell for cell in cells if cell.model == model]
        last = max(float(points[cell.name][-1, 0]) for cell in own)
        frame = frames.panel(left, top, room.width, room.height, (0, last), y_range)
        room.marks += frames.grid(frame, frames.ticks(0, last), frames.ticks(*y_range))
        room.marks += frames.names(frame, model, "epoch", SHORT.get(key, key) if i % room.columns == 0 else "")
        for cell in own:
            colour, dash = room.colours[cell.arm]
            line = [frame.at(x, y) for x, y in points[cell.name]]
            tip = f"{cell.label}: {SHORT.get(key, key)} {decimals(float(points[cell.name][-1, 1]))} at the end"
            room.marks.append(Path(line, colour, 1.6, dash, opacity=0.8, tip=tip))
    alt = f"{SHORT.get(key, key)} of {len(cells)} runs over the epochs"
    return room.drawing(key.replace("_", "-"), f"{SHORT.get(key, key).capitalize()} over the epochs", alt)


def calibration(collected: "Collected") -> Drawing | None:
    """Observed share of malignant lesions against the mean score of a bin, log-log; None where no run has bins."""
    bins = {cell.name: rows for cell in collected.cells if (rows := bins_of(cell))}
    cells = [cell for cell in collected.cells if cell.name in bins]
    models = [model for model in collected.models if any(cell.model == model for cell in cells)]
    if not models:
        return None
    shown = [
        value for rows in bins.values() for row in rows for value in (row["mean_score"], row["share"]) if value > 0
    ]
    low = 10.0 ** np.floor(np.log10(min([0.01, *shown])))
    low = max(low, 1e-6)
    room = Panels(collected, models, 0, square=True)
    for i, model in enumerate(models):
        left, top = room.place(i)
        frame = frames.panel(left, top, room.width, room.height, (low, 1), (low, 1), is_log=True)
        room.marks += frames.grid(frame, frames.powers(low, 1), frames.powers(low, 1), log_text, log_text)
        room.marks += frames.names(
            frame, model, "mean score of the bin", "share malignant" if i % room.columns == 0 else ""
        )
        room.marks.append(Path([frame.at(low, low), frame.at(1, 1)], MUTED, 1, "3 3"))
        for arm in collected.arms:
            of_arm = [cell for cell in cells if (cell.model, cell.arm) == (model, arm)]
            room.marks += calibration_marks(frame, of_arm, [bins[cell.name] for cell in of_arm], room.colours[arm], low)
    alt = "Share of malignant lesions against the score, in bins; the diagonal is a score that is a probability"
    return room.drawing("calibration", "Are the scores probabilities?", alt)


def calibration_marks(
    frame: frames.Panel,
    cells: "Sequence[Cell]",
    bins: Sequence[list[dict[str, float]]],
    look: tuple[str, str],
    low: float,
) -> list[Mark]:
    """Lines of an arm's runs; where all have as many bins, their mean stands before them."""
    marks: list[Mark] = []
    is_many = len(cells) > 1 and len({len(rows) for rows in bins}) == 1
    for cell, rows in zip(cells, bins, strict=True):
        line = [frame.at(max(row["mean_score"], low), row["share"]) for row in rows if row["share"] > 0]
        marks.append(Path(line, look[0], 1, look[1], opacity=0.28 if is_many else 0.85, tip=calibration_tip(cell)))
        marks += [] if is_many else [Dot(x, y, 2.6, look[0], look[0], calibration_tip(cell)) for x, y in line]
    if is_many:
        means = [
            tuple(np.mean([row[key] for row in bin_]) for key in ("mean_score", "share"))
            for bin_ in zip(*bins, strict=True)
        ]
        line = [frame.at(max(float(x), low), float(y)) for x, y in means if y > 0]
        tip = f"{cells[0].model} · {cells[0].arm}: mean of {len(cells)} runs, bin by bin"
        marks.append(Path(line, look[0], 2.2, look[1], tip=tip))
        marks += [Dot(x, y, 3, look[0], look[0], tip) for x, y in line]
    return [mark for mark in marks if not isinstance(mark, Path) or len(mark.points) > 1]


def bins_of(cell: "Cell") -> list[dict[str, float]]:
    return ((raw_calibration(cell) or {}).get("reliability")) or []


def raw_calibration(cell: "Cell") -> dict:
    return ((cell.scores.get("calibration") or {}).get("versions") or {}).get("raw") or {}


def calibration_tip(cell: "Cell") -> str:
    error = ((raw_calibration(cell).get("scores") or {}).get("ece") or {}).get("estimate")
    return f"{cell.label}: expected calibration error {decimals(error)}"


def log_text(value: float) -> str:
    return f"{value:g}" if value >= 1e-4 else f"{value:.0e}".replace("e-0", "e−")
