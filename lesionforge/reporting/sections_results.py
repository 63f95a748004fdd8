"""Section of the results: paired differences, Figures 4b and 6, every score, and what was published."""

from typing import TYPE_CHECKING, Any

from lesionforge import tables
from lesionforge.reporting import blocks, figures_scores
from lesionforge.reporting.blocks import Section, Table
from lesionforge.reporting.collected import PRIMARY
from lesionforge.reporting.figures_learning import learning_curve
from lesionforge.reporting.published import PUBLISHED, SAMPLING_ERROR, published_of
from lesionforge.reporting.results import ARMS, MODELS, NAMES
from lesionforge.reporting.words import decimals, sentence

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected
    from lesionforge.reporting.results import Results

COMPARED_COLUMNS = (tables.DIFFERENCE, tables.P_HOLM, tables.VERDICT)
WITHOUT = {
    "figure-6": "Figure 6 (score against the synthetic share): no arm of this study has synthetic images and scores.",
    "figure-4b": "Figure 4b (CNNs and transformers): the study does not say which model is which.",
}


def results_section(collected: "Collected", results: "Results") -> Section:
    """All comparisons, all scores, Figures 4b and 6, and what was published."""
    drawings = [
        one for one in (
            figures_scores.differences(collected, results), figures_scores.by_synthetic(collected, results),
            learning_curve(collected, results), figures_scores.by_kind(collected, results),
        ) if one is not None
    ]  # fmt: skip
    main, scores = main_table(collected, results), scores_table(collected, results)
    html = []
    if not results.is_compared:
        html.append(
            blocks.missing(
                "No paired comparison was found: run `lesionforge compare`, then `lesionforge report --renew`."
            )
        )
    html += [blocks.text(sentence(str(note))) for note in results.facts.get("notes") or () if results.is_compared]
    captions = {
        "differences": "Paired differences: both arms scored the same lesions, resampled by patient together. Grey: "
        "cannot be told apart from the reference after correction for the number of comparisons, or, as an open dot "
        "without an interval, not measured.",
        "figure-6": "Figure 6 of the study. Dots joined by a dotted line share their real images; controls without "
        "synthetic images stand beside the reference.",
        "learning-curve": "What real lesions bring, without and with synthetic ones beside them; dots stand a little "
        "aside of their number, so that intervals are seen. Lines join arms by the number of real malignant lesions.",
        "figure-4b": "Figure 4b of the study: CNNs and transformers on the same lesions.",
    }
    html.append(blocks.table(main, marks_of(main)))
    html += [blocks.drawing(one, captions[one.name]) for one in drawings]
    for name, words in WITHOUT.items():
        if name not in {one.name for one in drawings}:
            html.append(blocks.missing(words))
    found = [main]
    if results.differences:
        every = comparisons_table(results)
        html.append(
            blocks.details("Every comparison, with both tests and both sources of error", blocks.table(every), False)
        )
        found.append(every)
    html.append(method(results))
    if scores.rows:
        html.append(blocks.details("All scores of every model and arm", blocks.table(scores)))
        found.append(scores)
    if collected.published:
        public = published_table()
        html.append(
            blocks.details("Published numbers, for orientation", blocks.text(SAMPLING_ERROR) + blocks.table(public))
        )
        found.append(public)
    return Section("results", "Results", "".join(html), drawings, found)


def method(results: "Results") -> str:
    """How the comparison was made, in its own words, and what it left out."""
    method = results.facts.get("method")
    rows = (
        [(str(name).replace("_", " "), str(words)) for name, words in method.items()]
        if isinstance(method, dict)
        else []
    )
    left_out = "; ".join(
        f"{one.get(tables.RUN)}: {one.get('why')}"
        for one in results.facts.get("left_out") or ()
        if isinstance(one, dict)
    )
    words = f"Left out of the comparison: {left_out}." if left_out else ""
    how = blocks.details("How it was compared", blocks.facts(rows)) if rows else ""
    return (blocks.missing(words) if words else "") + how


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
            one = results.estimate(model, arm, PRIMARY)
            other = results.difference(model, arm, PRIMARY) or results.difference(model, arm, PRIMARY, MODELS)
            recipe = str(collected.arms[arm].get("recipe") or arm)
            published = published_of(str(facts.get("timm_name") or model), recipe) if collected.published else None
            is_reference = other is None and results.is_compared and is_compared_with(results, model, arm)
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
                "compared_with": other.reference if other else None, "is_reference": is_reference,
                "is_whole": all(cell.scores for cell in cells),
            })  # fmt: skip
    titles = {
        tables.MODEL: "model", tables.ARM: "training distribution", "runs": "runs",
        tables.ESTIMATE: "pAUC (95 % interval)", tables.DIFFERENCE: "difference to reference",
        tables.P_HOLM: "p, Holm", tables.VERDICT: "in words",
    }  # fmt: skip
    notes = ["Holm's correction is over all comparisons of this score."]
    if not results.is_compared:
        titles = {key: title for key, title in titles.items() if key not in COMPARED_COLUMNS}
        notes = []
    elif all(row[tables.P_HOLM] is None for row in rows):
        del titles[tables.P_HOLM]
    if len({row["compared_with"] for row in rows} - {None}) > 1:
        titles = insert(titles, tables.DIFFERENCE, "compared_with", "compared with")
        titles[tables.DIFFERENCE] = "difference"
    if all(row["is_whole"] for row in rows):
        del titles["runs"]
    if any(row["published"] for row in rows):
        titles["published"] = "published, private / public"
        notes.append("Published: the study's numbers on the challenge's hidden test set, quoted; other data, not ours.")
    return Table(
        "results", f"{NAMES[PRIMARY]} on part {collected.part}", rows, titles,
        intervals={tables.ESTIMATE: (tables.LOW, tables.HIGH),
                   tables.DIFFERENCE: ("difference_low", "difference_high")},
        notes=notes,
    )  # fmt: skip


def is_compared_with(results: "Results", model: str, arm: str) -> bool:
    """Whether another row is held against this one."""
    return any(
        (d.model, d.reference) == (model, arm) if d.against == ARMS else (d.reference, d.arm) == (model, arm)
        for d in results.differences
    )


def insert(titles: dict[str, str], before: str, name: str, title: str) -> dict[str, str]:
    """The columns with one more before another."""
    found: dict[str, str] = {}
    for key, words in titles.items():
        if key == before:
            found[name] = title
        found[key] = words
    return found


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


def comparisons_table(results: "Results") -> Table:
    """Every comparison of every score, as compare wrote it."""
    keys = (tables.MODEL, tables.ARM, tables.REFERENCE, tables.SCORE, tables.ESTIMATE, tables.ESTIMATE_REFERENCE,
            tables.DIFFERENCE, tables.LOW, tables.HIGH, tables.P_VALUE, tables.PERMUTATION_P, tables.P_HOLM,
            tables.SE_PATIENT, tables.SE_SEED, tables.NUM_SEEDS, tables.NUM_FOLDS, tables.VERDICT,
            tables.NOTE)  # fmt: skip
    order = {name: i for i, name in enumerate(results.scores())}
    compared = sorted(results.differences, key=lambda one: order.get(one.score, len(order)))
    rows = [{key: one.row.get(key) for key in keys} for one in compared]
    rows = [row | {tables.SCORE: NAMES.get(str(row[tables.SCORE]), row[tables.SCORE])} for row in rows]
    titles = {
        tables.SCORE: "score", tables.MODEL: "model", tables.ARM: "arm", tables.ESTIMATE: "estimate",
        tables.ESTIMATE_REFERENCE: "reference", tables.DIFFERENCE: "difference (95 % interval)", tables.P_VALUE: "p",
        tables.PERMUTATION_P: "p, permutation", tables.P_HOLM: "p, Holm", tables.SE_PATIENT: "standard error, patients",
        tables.SE_SEED: "standard error, seeds", tables.VERDICT: "in words", tables.NOTE: "note",
    }  # fmt: skip
    titles = {key: title for key, title in titles.items() if any(row[key] not in (None, "") for row in rows)}
    return Table(
        "comparisons", "Every comparison with the reference", rows, titles,
        intervals={tables.DIFFERENCE: (tables.LOW, tables.HIGH)},
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
