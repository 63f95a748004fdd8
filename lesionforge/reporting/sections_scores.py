"""Sections of scores: the first screen, the results beside the published numbers, how the scores behave."""

from html import escape
from typing import TYPE_CHECKING, Any

from lesionforge import tables
from lesionforge.reporting import curves, figures_curves, figures_scores, parts
from lesionforge.reporting.collected import PRIMARY
from lesionforge.reporting.parts import Section, Table
from lesionforge.reporting.published import PUBLISHED, SAMPLING_ERROR, published_of
from lesionforge.reporting.results import NAMES, ONE_RUN, SEVERAL_RUNS
from lesionforge.reporting.words import answer, counted, decimals, listed

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Cell, Collected
    from lesionforge.reporting.results import Results

DISCLAIMER = "research software, not a medical device"
MEANING = (
    "The score is the challenge's partial AUC: the area under the ROC curve where at least 80 % of the malignant "
    "lesions are found. 0.02 is chance, 0.2 is perfect. An interval holds what resampling the patients gives in 95 of "
    "100 cases."
)
CONFUSION = ("true_positives", "false_negatives", "false_positives", "true_negatives")


def summary(collected: "Collected", results: "Results") -> Section:
    """The first screen: question, answer, data, one figure."""
    figure = figures_scores.overview(collected, results)
    question = f'<p class="question">{escape(collected.question)}</p>' if collected.question else ""
    sentences = "".join(f"<p>{escape(one)}</p>" for one in answer(collected, results))
    html = (
        f"{question}<div class=answer>{sentences}</div><p class=data>{escape(data_line(collected))}</p>"
        f"{gaps(collected)}" + parts.drawing(figure, f"{escape(MEANING)} {escape(interval_words(results))}")
    )
    return Section("summary", "Summary", html, [figure])


def data_line(collected: "Collected") -> str:
    """The data at hand in one line."""
    cell = next((cell for cell in collected.cells if cell.scores), None)
    runs = counted(len(collected.cells) - len(collected.incomplete), "run")
    axes = [counted(len(collected.models), "model"), counted(len(collected.arms), "training distribution")]
    for name, values in (("fold", {c.fold for c in collected.cells}), ("seed", {c.seed for c in collected.cells})):
        if len(values - {None}) > 1:
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
            "Open dots are means of several runs without an interval, since `lesionforge compare` has not been run on them."
        )
    if ONE_RUN in basis:
        words.append("Where there is one run, the interval is its own and says nothing of other seeds.")
    if any(len(one.values) > 1 for one in results.estimates):
        words.append("Small ticks are the single runs.")
    return " ".join(words)


def results_section(collected: "Collected", results: "Results") -> Section:
    """All comparisons, all scores, Figures 4b and 6, and what was published."""
    drawings = [
        one for one in (
            figures_scores.differences(collected, results), figures_scores.by_synthetic(collected, results),
            figures_scores.by_kind(collected, results),
        ) if one is not None
    ]  # fmt: skip
    main, scores = main_table(collected, results), scores_table(collected, results)
    html = []
    if not results.is_compared:
        html.append(parts.missing("No paired comparison was found: run `lesionforge compare`, then this report again."))
    html.append(
        parts.text(str(results.facts.get("text") or results.facts.get("how") or "")) if results.is_compared else ""
    )
    captions = {
        "differences": "Paired differences: both arms scored the same lesions, resampled by patient together. Grey: cannot "
        "be told apart from the reference after correction for the number of comparisons.",
        "figure-6": "Figure 6 of the study. Dots joined by a dotted line share their real images; controls without "
        "synthetic images stand beside the reference.",
        "figure-4b": "Figure 4b of the study: CNNs and transformers on the same lesions.",
    }
    html.append(parts.table(main, marks_of(main)))
    html += [parts.drawing(one, captions[one.name]) for one in drawings]
    for name, words in (("figure-6", "Figure 6 (score against the synthetic share): no arm of this study has synthetic "
                         "images and scores."),
                        ("figure-4b", "Figure 4b (CNNs and transformers): the study does not say which model is which.")):  # fmt: skip
        if name not in {one.name for one in drawings}:
            html.append(parts.missing(words))
    found = [main]
    if scores.rows:
        html.append(parts.details("All scores of every model and arm", parts.table(scores)))
        found.append(scores)
    if collected.published:
        public = published_table()
        html.append(
            parts.details("Published numbers, for orientation", parts.text(SAMPLING_ERROR) + parts.table(public))
        )
        found.append(public)
    return Section("results", "Results", "".join(html), drawings, found)


def marks_of(main: Table) -> dict[int, str]:
    return {i: "reference" for i, row in enumerate(main.rows) if row.get("is_reference")}


def main_table(collected: "Collected", results: "Results") -> Table:
    """A row a model and arm: the primary score, its difference to the reference, what was published."""
    rows: list[dict[str, Any]] = []
    for model, facts in collected.models.items():
        for arm in collected.arms:
            cells = collected.of(model, arm)
            if not cells:
                continue
            one, other = results.estimate(model, arm, PRIMARY), results.difference(model, arm, PRIMARY)
            recipe = str(collected.arms[arm].get("recipe") or arm)
            published = published_of(str(facts.get("timm_name") or model), recipe) if collected.published else None
            is_reference = arm == collected.reference
            raw = other.row if other else {}
            rows.append({
                tables.MODEL: model, tables.ARM: arm, "runs": f"{sum(bool(c.scores) for c in cells)} of {len(cells)}",
                tables.ESTIMATE: one.estimate if one else None, tables.LOW: one.low if one else None,
                tables.HIGH: one.high if one else None, tables.DIFFERENCE: other.difference if other else None,
                "difference_low": other.low if other else None, "difference_high": other.high if other else None,
                tables.P_VALUE: raw.get(tables.P_VALUE), tables.P_HOLM: raw.get(tables.P_HOLM),
                tables.PERMUTATION_P: raw.get(tables.PERMUTATION_P),
                tables.VERDICT: "reference" if is_reference else str(raw.get(tables.VERDICT) or "not compared"),
                "published": f"{published.private:.3f} / {decimals(published.public)}" if published else None,
                "is_reference": is_reference,
            })  # fmt: skip
    titles = {
        tables.MODEL: "model",
        tables.ARM: "training distribution",
        "runs": "runs",
        tables.ESTIMATE: "pAUC (95 % interval)",
        tables.DIFFERENCE: "difference to reference",
        tables.P_VALUE: "p",
        tables.PERMUTATION_P: "p, permutation",
        tables.P_HOLM: "p, Holm",
        tables.VERDICT: "in words",
    }
    notes = [f"Reference: {collected.reference}. Holm's correction is over all comparisons of this score in the table."]
    if any(row["published"] for row in rows):
        titles["published"] = "published, private / public"
        notes.append("Published: the study's numbers on the challenge's hidden test set, quoted; other data, not ours.")
    for name in (tables.P_VALUE, tables.PERMUTATION_P, tables.P_HOLM):
        if all(row[name] is None for row in rows):
            del titles[name]
    return Table(
        "results", f"{NAMES[PRIMARY]} on part {collected.part}", rows, titles,
        intervals={tables.ESTIMATE: (tables.LOW, tables.HIGH), tables.DIFFERENCE: ("difference_low", "difference_high")},
        notes=notes,
    )  # fmt: skip


def scores_table(collected: "Collected", results: "Results") -> Table:
    """Every score of every model and arm, a column a score."""
    names = results.scores()
    rows: list[dict[str, Any]] = []
    intervals = {}
    for model in collected.models:
        for arm in collected.arms:
            row: dict[str, Any] = {tables.MODEL: model, tables.ARM: arm}
            for name in names:
                one = results.estimate(model, arm, name)
                row |= {name: one.estimate if one else None, f"{name}_low": one.low if one else None,
                        f"{name}_high": one.high if one else None}  # fmt: skip
                intervals[name] = (f"{name}_low", f"{name}_high")
            if any(row[name] is not None for name in names):
                rows.append(row)
    names = [name for name in names if any(row[name] is not None for row in rows)]
    titles = {tables.MODEL: "model", tables.ARM: "arm"} | {name: NAMES.get(name, name) for name in names}
    return Table(
        "scores", f"All scores on part {collected.part}", rows, titles, intervals=intervals,
        notes=["Sensitivity, specificity, precision, F1 and accuracy are at the threshold that was chosen on val."],
    )  # fmt: skip


def published_table() -> Table:
    rows = [{"published_model": p.model, "mix": p.mix, "private": p.private, "public": p.public} for p in PUBLISHED]
    titles = {
        "published_model": "model",
        "mix": "mix",
        "private": "private leaderboard",
        "public": "public leaderboard",
    }
    return Table("published", "Published, not measured here", rows, titles,
                 notes=["Quoted as published, on the challenge's hidden test set."])  # fmt: skip


def behaviour(collected: "Collected") -> Section:
    """ROC, confusion at the threshold, calibration."""
    html, drawings = [], []
    roc = figures_curves.roc(collected)
    if roc is not None:
        drawings.append(roc)
        html.append(parts.drawing(roc, "Thin lines are single runs, thick ones the mean of an arm. Shaded: the region in "
                                       "which the pAUC counts the area. Point at a curve to see which run it is."))  # fmt: skip
    else:
        html.append(parts.missing(f"ROC curves: no run has predictions of part {collected.part} with known targets."))
    confusion = confusion_table(collected)
    if confusion.rows:
        html.append(parts.table(confusion))
    else:
        html.append(
            parts.missing("Confusion at the threshold: no run has a threshold; run `lesionforge evaluate` on them.")
        )
    calibration = figures_curves.calibration(collected)
    if calibration is not None:
        drawings.append(calibration)
        html.append(parts.drawing(calibration, "On the diagonal a score is a probability. Above it lesions are malignant "
                                               "more often than their score says, below it less often, as training on a "
                                               "balanced mix must give. Ranks, and so the pAUC, do not depend on this."))  # fmt: skip
    else:
        html.append(parts.missing("Calibration: no run's scores.json holds a reliability table."))
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
    titles = {tables.MODEL: "model", tables.ARM: "arm", "runs": "runs", "true_positives": "malignant, found",
              "false_negatives": "malignant, missed", "false_positives": "benign, called malignant",
              "true_negatives": "benign, left alone", "sensitivity": "sensitivity", "specificity": "specificity"}  # fmt: skip
    notes = ["Means over the runs of an arm, each at its own threshold, chosen on val by the rule of `evaluate`."]
    if flattered:
        notes.append("The thresholds were chosen on these very lesions, so these counts flatter.")
    return Table("confusion", f"Confusion at the threshold, part {collected.part}", rows, titles,
                 digits=dict.fromkeys(CONFUSION, 1), notes=notes)  # fmt: skip


def is_in_sample(cell: "Cell") -> bool:
    chosen = cell.scores.get(tables.THRESHOLD)
    return bool(isinstance(chosen, dict) and chosen.get("in_sample"))
