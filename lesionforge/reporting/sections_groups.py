"""Section of the subgroups: sensitivity by group, gaps, what each arm changes in each group."""

from html import escape
from typing import TYPE_CHECKING, Any

from lesionforge import run, tables
from lesionforge.reporting import blocks
from lesionforge.reporting.blocks import Section, Table
from lesionforge.reporting.drawing import Drawing
from lesionforge.reporting.figures_scores import colours_of
from lesionforge.reporting.forest import Group, Point, Row, forest
from lesionforge.reporting.results import NAMES
from lesionforge.reporting.words import in_interval, listed, sentence

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected

SENSITIVITY = "recall"
MOST_MODELS = 3  # with a figure in the page
MOST_ARMS = 5  # in a figure: more dots a row cannot be read


def subgroups(collected: "Collected") -> Section:
    """What `lesionforge subgroups` wrote."""
    folder = collected.subgroups
    found = collected.sources.object(folder / run.SUBGROUPS) if folder is not None else {}
    if not found:
        words = "Subgroups (skin tone, sex, age, site, institution, diameter, diagnosis): nothing was found; run "
        return Section(
            "subgroups",
            "Subgroups",
            blocks.missing(f"{words}`lesionforge subgroups`, then `lesionforge report --renew`."),
        )
    scores = [row for row in found.get("scores") or () if isinstance(row, dict)]
    drawings = [one for model in list(collected.models)[:MOST_MODELS] if (one := sensitivity(collected, model, scores))]
    html = []
    caveats = [str(one) for one in found.get("caveats") or ()]
    html += [blocks.warning(sentence(caveats[0]))] if caveats else []
    caption = (
        "Sensitivity at each run's threshold, by group; only groups with enough malignant lesions are drawn. In "
        "brackets: malignant lesions of the group."
    )
    caption += left_out(collected)
    html += [blocks.drawing(one, caption) for one in drawings[:1]]
    html += [blocks.details(one.title, blocks.drawing(one, caption)) for one in drawings[1:]]
    if not drawings:
        html.append(blocks.missing("No group has enough malignant lesions to be scored."))
    html.append(not_scored(found.get("groups") or ()))
    written = [gaps_table(found), scores_table(scores), effects_table(found)]
    written = [one for one in written if one.rows]
    titles = {"subgroup-gaps": "Largest gap of sensitivity between groups", "subgroups": "All scores of every group",
              "subgroup-effects": "What each training distribution changes in each group"}  # fmt: skip
    html += [blocks.details(titles[one.name], blocks.table(one), one.name == "subgroup-gaps") for one in written]
    if len(caveats) > 1:
        items = "".join(f"<li>{escape(sentence(one))}</li>" for one in caveats[1:])
        html.append(blocks.details("What to know beside these numbers", f"<ul>{items}</ul>"))
    return Section("subgroups", "Subgroups", "".join(html), drawings, written)


def left_out(collected: "Collected") -> str:
    """Which arms and models the figures leave out, as a sentence; empty where none."""
    names = [f"training distribution {arm}" for arm in list(collected.arms)[MOST_ARMS:]]
    names += [f"model {model}" for model in list(collected.models)[MOST_MODELS:]]
    return f" Not drawn, for want of room: {listed(names)}; the tables hold them." if names else ""


def sensitivity(collected: "Collected", model: str, scores: list[dict[str, Any]]) -> Drawing | None:
    """Sensitivity of a model in every scored group, a dot an arm; None where there is none."""
    colours = colours_of(collected)
    arms = list(collected.arms)[:MOST_ARMS]
    by_attribute: dict[str, dict[str, list[Point]]] = {}
    counts: dict[tuple[str, str], int] = {}
    for row in scores:
        if row.get(tables.MODEL) != model or row.get(tables.SCORE) != SENSITIVITY or row.get(tables.ESTIMATE) is None:
            continue
        arm, place = row.get(tables.ARM), (str(row.get(tables.ATTRIBUTE)), str(row.get(tables.GROUP)))
        if arm not in arms:
            continue
        low, high = row.get(tables.LOW), row.get(tables.HIGH)
        tip = f"{place[1]}, {arm}: sensitivity {in_interval(row[tables.ESTIMATE], low, high)}"
        counts[place] = row.get(tables.NUM_MALIGNANT) or 0
        points = by_attribute.setdefault(place[0], {}).setdefault(place[1], [])
        points.append(Point(row[tables.ESTIMATE], low, high, (), colours[str(arm)][0], tip))
    if not by_attribute:
        return None
    groups = []
    for attribute, found in by_attribute.items():
        rows = [Row(f"{name} ({counts[attribute, name]})", points) for name, points in found.items()]
        groups.append(Group("" if attribute == "all" else in_words(attribute), rows))
    entries = [(arm, *colours[arm]) for arm in arms] if len(arms) > 1 else []
    title = f"Sensitivity by group, {model}"
    return forest(
        f"subgroups-{file_name(model)}", title, f"{title}, with 95 % intervals", groups,
        f"sensitivity at the threshold, {model}", entries=entries, includes=(0.0, 1.0),
    )  # fmt: skip


def in_words(attribute: str) -> str:
    words = attribute.replace("_", " ")
    return words[:1].upper() + words[1:]


def file_name(name: str) -> str:
    """A name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name) or "-"


def not_scored(groups: Any) -> str:
    """Groups with too few malignant lesions, named with their counts."""
    by_attribute: dict[str, list[str]] = {}
    for row in groups:
        if isinstance(row, dict) and row.get(tables.VERDICT_REASON):
            counts = f"{row.get(tables.NUM_MALIGNANT) or 0:,} of {row.get(tables.NUM_IMAGES) or 0:,}"
            by_attribute.setdefault(in_words(str(row.get(tables.ATTRIBUTE))), []).append(
                f"{row.get(tables.GROUP)} ({counts})"
            )
    if not by_attribute:
        return ""
    rows = blocks.facts([(name, "; ".join(found)) for name, found in by_attribute.items()])
    return blocks.details("Groups that are not scored: too few malignant lesions or patients (malignant of all)", rows)


def scores_table(scores: list[dict[str, Any]]) -> Table:
    titles = {tables.MODEL: "model", tables.ARM: "arm", tables.ATTRIBUTE: "attribute", tables.GROUP: "group",
              tables.SCORE: "score", tables.ESTIMATE: "estimate (95 % interval)", tables.NUM_MALIGNANT: "malignant",
              tables.NUM_IMAGES: "lesions", tables.VERDICT_REASON: "why not"}  # fmt: skip
    keys = (*titles, tables.LOW, tables.HIGH)
    rows = [named_score(row, keys)
            for row in scores if row.get(tables.ESTIMATE) is not None]  # fmt: skip
    del titles[tables.VERDICT_REASON]
    return Table("subgroups", "Scores by subgroup", rows, titles)


def named_score(row: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The columns of a row, its score in words."""
    score = str(row.get(tables.SCORE))
    named = {tables.SCORE: NAMES.get(score, score), tables.ATTRIBUTE: in_words(str(row.get(tables.ATTRIBUTE)))}
    return {key: row.get(key) for key in keys} | named


def gaps_table(found: dict[str, Any]) -> Table:
    titles = {tables.MODEL: "model", tables.ARM: "arm", tables.ATTRIBUTE: "attribute",
              tables.GAP: "gap (95 % interval)",
              tables.GAP_BY_CHANCE: "gap by chance", tables.PERMUTATION_P: "p", tables.SMALLEST_GROUP: "lowest in",
              tables.LARGEST_GROUP: "highest in"}  # fmt: skip
    keys = (*titles, tables.LOW, tables.HIGH)
    rows = [{key: row.get(key) for key in keys} for row in found.get("gaps") or () if row.get(tables.GAP) is not None]
    note = "A gap is never negative, so it is above zero by chance alone: compare it with the gap by chance."
    return Table("subgroup-gaps", "Equal-opportunity gap: largest minus smallest sensitivity", rows, titles,
                 intervals={tables.GAP: (tables.LOW, tables.HIGH)}, notes=[note])  # fmt: skip


def effects_table(found: dict[str, Any]) -> Table:
    titles = {tables.MODEL: "model", tables.ARM: "arm", tables.ATTRIBUTE: "attribute", tables.GROUP: "group",
              tables.SCORE: "score", tables.DIFFERENCE: "difference to reference",
              tables.NUM_MALIGNANT: "malignant"}  # fmt: skip
    keys = (*titles, tables.LOW, tables.HIGH, tables.REFERENCE)
    rows = [named_score(row, keys)
            for row in found.get("effects") or () if row.get(tables.DIFFERENCE) is not None]  # fmt: skip
    caption = "Difference to the reference by subgroup, not corrected for many looks"
    return Table("subgroup-effects", caption, rows, titles,
                 intervals={tables.DIFFERENCE: (tables.LOW, tables.HIGH)})  # fmt: skip
