"""Sections of single lesions: where the models look, and the malignant ones that they score worst."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesionforge import run, tables
from lesionforge.reporting import blocks, pictures
from lesionforge.reporting.blocks import Image, Section, Table
from lesionforge.reporting.failures import ABOUT, Missed, about, worst_scored
from lesionforge.reporting.figures_of_verbs import picture
from lesionforge.reporting.sections_synthetic import rights
from lesionforge.reporting.words import counted, percent

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected

WIDTH_5, WIDTH_SHEET = 1500, 1300  # pixels
CAPTION_5 = (
    "Figure 5 of the study: what the malignant score rests on. White line: the outline of the lesion; below each map "
    "the share of it that lies inside."
)
MOST_SHEETS = 6  # in the page; the others lie in the folder
NUM_WORST = 12


def maps(collected: "Collected") -> Section:
    """Figure 5, the share of each map inside the lesion, and a sheet for each run."""
    html: list[str] = []
    found: list[Table] = []
    if not collected.maps:
        html.append(
            blocks.missing(
                "Figure 5 (activation maps): the study names no heat maps; `lesionforge explain` makes them."
            )
        )
    for i, folder in enumerate(collected.maps):
        suffix = f"-{i + 1}" if i else ""
        data = collected.sources.bytes(folder / run.FIGURE5)
        facts = collected.sources.object(folder / run.FOCUS)
        name = collected.sources.name(folder)
        if data is None:
            html.append(blocks.missing(f"Figure 5: {name}/{run.FIGURE5} is not there; `lesionforge explain` makes it."))
        else:
            html.append(picture(data, WIDTH_5, CAPTION_5, f"figure-5{suffix}"))
        table = focus_table(facts, suffix)
        if table.rows:
            html += [blocks.table(table), findings(facts)]
            found.append(table)
        elif data is not None:
            html.append(blocks.missing(f"Lesion focus: {name}/{run.FOCUS} is not there."))
        html.append(sheets(collected, folder))
    return Section("maps", "Where the models look", "".join(html), (), found)


def focus_table(facts: dict[str, Any], suffix: str) -> Table:
    """The share of each run's maps that lies inside the lesion."""
    rows = [row for row in facts.get("runs") or () if isinstance(row, dict)]
    keys = (tables.RUN, tables.KIND, tables.METHOD, tables.FOCUS, "focus_low", "focus_high", tables.AREA_SHARE,
            tables.RANDOM_FOCUS, tables.PERFECT_FOCUS, tables.NUM_IMAGES)  # fmt: skip
    titles = {tables.RUN: "run", tables.KIND: "kind", tables.METHOD: "map", tables.FOCUS: "share inside the lesion",
              tables.AREA_SHARE: "lesion's share of the image", tables.RANDOM_FOCUS: "random weights",
              tables.PERFECT_FOCUS: "perfect map", tables.NUM_IMAGES: "lesions"}  # fmt: skip
    return Table(
        f"focus{suffix}", "How much of each map lies inside the lesion",
        [{key: row.get(key) for key in keys} for row in rows],
        titles, intervals={tables.FOCUS: ("focus_low", "focus_high")},
        notes=["Perfect map: all of it inside, at the map's own coarse cells.",
               "Intervals are over lesions, not seeds."],
    )  # fmt: skip


def findings(facts: dict[str, Any]) -> str:
    """What explain says of its numbers."""
    lines = [
        line.strip().removeprefix("- ") for line in str(facts.get("text") or "").splitlines() if line.startswith("  - ")
    ]
    if not lines:
        return ""
    return blocks.details(
        "What can be said of these maps", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
    )


def sheets(collected: "Collected", folder: Path) -> str:
    """A sheet of heat maps for each run, folded."""
    paths = sorted(folder.glob(f"{run.SHEET}-*.png"))
    html = []
    for path in paths[:MOST_SHEETS]:
        data = collected.sources.bytes(path)
        if data is not None:
            html.append(picture(data, WIDTH_SHEET, path.stem.removeprefix(f"{run.SHEET}-")))
    if not html:
        return ""
    more = len(paths) - MOST_SHEETS
    note = blocks.text(f"{more} more sheets lie in {collected.sources.name(folder)}.", "data") if more > 0 else ""
    return blocks.details(f"Heat-map sheets of {counted(len(html), 'run')}", "".join(html) + note)


def failures(collected: "Collected") -> Section:
    """The malignant lesions with most benign ones scored above them."""
    worst = worst_scored(collected, NUM_WORST)
    if not worst:
        words = f"Worst-scored malignant lesions: no run has predictions of part {collected.part} with known targets."
        return Section("failures", "Failures", blocks.missing(words))
    store = pictures.opened(collected.store, collected.sources)
    lesions = (
        {one.image_id: one for one in pictures.lesions(store, [w.image_id for w in worst], ABOUT)} if store else {}
    )
    html = [blocks.text(
        f"The {len(worst)} malignant lesions of part {collected.part} that the models score worst, over all runs. The "
        "share says how many benign lesions are scored as more suspicious: 0 % is best, 50 % is chance."
    )]  # fmt: skip
    if not lesions:
        html.append(blocks.missing("Their pictures: the store of real lesions cannot be read from here."))
    else:
        html.append(
            blocks.images([image_of(one, lesions) for one in worst if one.image_id in lesions], "lesions large")
        )
        html.append(blocks.text(rights(store), "data"))
    table = failures_table(collected, worst, {key: one.row for key, one in lesions.items()})
    html.append(blocks.details("As a table, by training distribution", blocks.table(table)))
    return Section("failures", "Failures", "".join(html), (), [table])


def image_of(one: Missed, lesions: dict[str, pictures.Lesion]) -> Image:
    lesion = lesions[one.image_id]
    found = f"found by {one.num_found} of {one.num_runs} runs" if one.num_runs else "no threshold on record"
    described = about(lesion.row)
    caption = f"{percent(one.benign_above)} of benign above\n{found}" + (f"\n{described}" if described else "")
    return Image(
        lesion.data,
        caption,
        f"{one.image_id}: {percent(one.benign_above)} of benign lesions are scored above it; {found}. {described}",
    )


def failures_table(collected: "Collected", worst: list[Missed], rows: dict[str, dict[str, Any]]) -> Table:
    found = []
    for one in worst:
        row: dict[str, Any] = {tables.IMAGE_ID: one.image_id, "about": about(rows.get(one.image_id, {})) or None,
                               "benign_above": one.benign_above, "best": one.best, "num_found": one.num_found,
                               "num_runs": one.num_runs}  # fmt: skip
        found.append(row | {f"above_{arm}": one.by_arm.get(arm) for arm in collected.arms})
    titles = {tables.IMAGE_ID: "lesion", "about": "what is known", "benign_above": "benign above, mean",
              "best": "best run",
              "num_found": "runs that find it", "num_runs": "of runs"}  # fmt: skip
    titles |= {f"above_{arm}": f"above, {arm}" for arm in collected.arms}
    return Table("failures", "Worst-scored malignant lesions", found, titles)
