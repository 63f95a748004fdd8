"""Sections of scores: the first screen, and how the scores behave."""

from html import escape
from typing import TYPE_CHECKING, Any

from lesionforge import tables
from lesionforge.reporting import blocks, curves, figures_curves, figures_scores
from lesionforge.reporting.blocks import Section, Table
from lesionforge.reporting.collected import PRIMARY
from lesionforge.reporting.results import ONE_RUN, SEVERAL_RUNS
from lesionforge.reporting.words import answer, counted, in_interval, listed

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Cell, Collected
    from lesionforge.reporting.results import Results

DISCLAIMER = "research software, not a medical device"
MEANING = (
    "The score is the challenge's partial AUC: the area under the ROC curve where at least 80 % of the malignant "
    "lesions are found. 0.02 is chance, 0.2 is perfect. Lines are 95 % intervals."
)
ROC_CAPTION = (
    "Thin lines are single runs, thick ones the mean of an arm. Shaded: the region in which the pAUC counts the area. "
    "Point at a curve to see which run it is."
)
CALIBRATION_CAPTION = (
    "On the diagonal a score is a probability. Above it lesions are malignant more often than their score says, below "
    "it less often, as training on a balanced mix must give. Ranks, and so the pAUC, do not depend on this."
)
CONFUSION = ("true_positives", "false_negatives", "false_positives", "true_negatives")


def summary(collected: "Collected", results: "Results") -> Section:
    """The first screen: question, answer, data, one figure."""
    figure = figures_scores.overview(collected, results)
    question = f'<p class="question">{escape(collected.question)}</p>' if collected.question else ""
    sentences = "".join(f"<p>{blocks.in_html(one)}</p>" for one in answer(collected, results))
    html = (
        f"{question}<div class=answer>{sentences}</div><p class=data>{escape(data_line(collected))}</p>"
        f"{gaps(collected)}"
        + blocks.drawing(figure, f"{MEANING} {interval_words(results)}")
        + numbers_for_narrow(collected, results)
        + arms_in_words(collected)
    )
    return Section("summary", "Summary", html, [figure])


def numbers_for_narrow(collected: "Collected", results: "Results") -> str:
    """The figure's numbers again, for telephones, where the figure's right end is out of sight."""
    rows = [
        (f"{model} · {arm}", in_interval(one.estimate, one.low, one.high))
        for model in collected.models for arm in collected.arms if (one := results.estimate(model, arm, PRIMARY))
    ]  # fmt: skip
    return f"<div class=narrow>{blocks.facts(rows)}</div>" if rows else ""


def arms_in_words(collected: "Collected") -> str:
    """What the names of the training distributions stand for."""
    rows = [(arm, str(facts.get("about") or "")) for arm, facts in collected.arms.items()]
    return blocks.facts(rows) if any(words for _, words in rows) else ""


def data_line(collected: "Collected") -> str:
    """The data at hand in one line."""
    cell = next((cell for cell in collected.cells if cell.scores), None)
    runs = counted(len(collected.cells) - len(collected.incomplete), "run")
    axes = [counted(len(collected.models), "model"), counted(len(collected.arms), "training distribution")]
    for name, values in (("fold", {c.fold for c in collected.cells}), ("seed", {c.seed for c in collected.cells})):
        if len(values - {None}) > (name == "fold"):  # a single seed is named: it says how little is known
            axes.append(counted(len(values - {None}), name))
    if cell is None:
        return f"No run has scores of part {collected.part} yet; planned: {' × '.join(axes)}."
    num, malignant = cell.scores.get(tables.NUM_IMAGES) or 0, cell.scores.get(tables.NUM_MALIGNANT) or 0
    patients, unknown = (
        cell.scores.get(tables.NUM_PATIENTS) or 0,
        cell.scores.get("num_images_of_unknown_patients") or 0,
    )
    known = f"{counted(patients, 'patient')}" + (f" and {unknown:,} lesions of unknown patients" if unknown else "")
    each = "each fold's val, here the first: " if collected.part == tables.VAL and cell.fold is not None else ""
    return (
        f"Part {collected.part}, {each}{counted(num, 'lesion')}, {malignant:,} malignant, {known} · "
        f"{runs}: {' × '.join(axes)}."
    )


def gaps(collected: "Collected") -> str:
    """A word on what is not there, with the way to the list."""
    num = len(collected.incomplete)
    if not num:
        return ""
    names = listed([cell.name for cell in collected.incomplete[:4]] + ([f"{num - 4} more"] if num > 4 else []))
    verb = "is" if num == 1 else "are"
    return (
        f'<p class="missing">{num} of {counted(len(collected.cells), "run")} {verb} incomplete: {escape(names)}. '
        'Everything below is made of what is there. <a href="#record">What is missing</a></p>'
    )


def interval_words(results: "Results") -> str:
    basis = {one.basis for one in results.estimates if one.score == PRIMARY}
    words = []
    if SEVERAL_RUNS in basis:
        words.append(
            "Open dots are means of several runs without an interval, as `lesionforge compare` has not seen them."
        )
    if ONE_RUN in basis:
        words.append("Where there is one run, the interval is its own and says nothing of other seeds.")
    if len({one.arm for one in results.estimates}) > 1:
        words.append("The dotted line is the reference, beside the training distributions that are compared with it.")
    if any(len(one.values) > 1 for one in results.estimates):
        words.append("Small ticks are the single runs.")
    return " ".join(words)


def behaviour(collected: "Collected") -> Section:
    """ROC, confusion at the threshold, calibration."""
    html, drawings = [], []
    roc = figures_curves.roc(collected)
    if roc is not None:
        drawings.append(roc)
        html.append(blocks.drawing(roc, ROC_CAPTION))
    else:
        html.append(blocks.missing(f"ROC curves: no run has predictions of part {collected.part} with known targets."))
    confusion = confusion_table(collected)
    if confusion.rows:
        html.append(blocks.table(confusion))
    else:
        html.append(
            blocks.missing("Confusion at the threshold: no run has a threshold; run `lesionforge evaluate` on them.")
        )
    calibration = figures_curves.calibration(collected)
    if calibration is not None:
        drawings.append(calibration)
        html.append(blocks.drawing(calibration, CALIBRATION_CAPTION))
    else:
        html.append(blocks.missing("Calibration: no run's scores.json holds a reliability table."))
    found = [confusion] if confusion.rows else []
    return Section("behaviour", "How the scores behave", "".join(html), drawings, found, short="ROC and threshold")


def confusion_table(collected: "Collected") -> Table:
    """Counts at each run's own threshold, the mean over an arm's runs."""
    rows: list[dict[str, Any]] = []
    flattered = False
    for model in collected.models:
        for arm in collected.arms:
            found = [(cell, one) for cell in collected.of(model, arm) if (one := curves.confusion_of(cell))]
            if not found:
                continue
            flattered |= any(is_in_sample(cell) for cell, _ in found)
            row: dict[str, Any] = {tables.MODEL: model, tables.ARM: arm, "runs": len(found)}
            for name in (*CONFUSION, "sensitivity", "specificity"):
                values = [value for _, one in found if (value := getattr(one, name)) is not None]
                row[name] = sum(values) / len(values) if values else None
            rows.append(row)
    titles = {tables.MODEL: "model", tables.ARM: "arm", "runs": "runs",
              "sensitivity": "sensitivity", "specificity": "specificity",
              "true_positives": "malignant, found", "false_negatives": "malignant, missed",
              "false_positives": "benign, called malignant", "true_negatives": "benign, left alone"}  # fmt: skip
    notes = ["Means over the runs of an arm, each at its own threshold, chosen on val by the rule of `evaluate`."]
    if flattered:
        notes.append("The thresholds were chosen on these very lesions, so these counts flatter.")
    return Table("confusion", f"Confusion at the threshold, part {collected.part}", rows, titles,
                 digits=dict.fromkeys(CONFUSION, 1), notes=notes)  # fmt: skip


def is_in_sample(cell: "Cell") -> bool:
    chosen = cell.scores.get(tables.THRESHOLD)
    return bool(isinstance(chosen, dict) and chosen.get("in_sample"))
