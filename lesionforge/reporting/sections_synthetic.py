"""Section of the synthetic lesions: Figures 1 to 4a of the study and what the audit said."""

from html import escape
from typing import TYPE_CHECKING, Any

from lesionforge import run, tables
from lesionforge.reporting import blocks, pictures
from lesionforge.reporting.blocks import Image, Section, Table
from lesionforge.reporting.drawing import INK, MUTED, Drawing, Label, Mark, Picture, in_width
from lesionforge.reporting.figures_of_verbs import picture
from lesionforge.reporting.words import counted, decimals, listed, percent

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.reporting.collected import Collected, Generator

NUM_SHOWN, NUM_DROPPED, NUM_PAIRS = 16, 8, 6
MOST_GENERATORS = 3  # shown with pictures; the others have their numbers
WIDTH_4A = 1100  # pixels
MEASURES = {"kid_held_out": "KID to held-out real lesions", "precision": "precision: look like real ones",
            "recall": "recall: real ones covered", "coverage": "coverage",
            "vendi": "Vendi score: how many kinds"}  # fmt: skip


def synthetic(collected: "Collected") -> Section:
    """Each generator: how it learned, what it made, what the audit kept."""
    if not collected.generators:
        words = "Figures 2, 3 and 4a: this study has no generator, so no synthetic lesions."
        return Section("synthetic", "Synthetic lesions", blocks.missing(words))
    html: list[str] = []
    drawings: list[Drawing] = []
    found: list[Table] = []
    for i, generator in enumerate(collected.generators):
        fold = f", fold {generator.fold}" if generator.fold is not None else ""
        if len(collected.generators) > 1:
            html.append(f"<h3>{escape(generator.name + fold)}</h3>")
        suffix = f"-{i + 1}" if i else ""
        with_pictures = i < MOST_GENERATORS
        html.append(learning(collected, generator, suffix if with_pictures else None))
        html.append(verdict(collected, generator, suffix, found))
        if with_pictures:
            html.append(beside_real(collected, generator, suffix, drawings))
    without = [one.name for one in collected.generators[MOST_GENERATORS:]]
    if without:
        words = f"Pictures are of the first {MOST_GENERATORS} generators; without pictures: {listed(without)}."
        html.insert(0, blocks.text(words, "data"))
    return Section("synthetic", "Synthetic lesions", "".join(html), drawings, found)


def learning(collected: "Collected", generator: "Generator", suffix: str | None) -> str:
    """What the generator is, and Figure 4a."""
    folder = generator.finetune
    if folder is None:
        return blocks.text(f"{generator.name}: images that were generated elsewhere; how is not on record here.")
    manifest = collected.sources.object(folder / run.GENERATOR)
    done = collected.sources.object(folder / run.DONE)
    html = []
    if manifest or done:
        seconds, base = done.get("seconds"), manifest.get("base") or {}
        minutes = f", {seconds / 60:.0f} minutes" if seconds else ""
        html.append(blocks.facts([
            ("generator", f"{manifest.get('kind')}, method {manifest.get('method')}, {manifest.get('image_size')} px"),
            ("base", f"{base.get('name')}; licence: {base.get('licence')}"),
            ("saw", f"{counted(manifest.get('num_seen') or 0, 'real image')} of part train, none of val or test"),
            ("training", counted(done.get("num_steps") or 0, "step") + minutes),
        ]))  # fmt: skip
    else:
        html.append(blocks.missing(f"{generator.name}: {collected.sources.name(folder)} holds no finished generator."))
    data = collected.sources.bytes(folder / run.FIGURE4A)
    if data is None:
        html.append(blocks.missing(f"Figure 4a: {collected.sources.name(folder / run.FIGURE4A)} is not there."))
    elif suffix is not None:
        caption = "Figure 4a of the study: samples from the same seeds while the generator learns, by epoch."
        html.append(picture(data, WIDTH_4A, caption, f"figure-4a{suffix}"))
    return "".join(html)


def verdict(collected: "Collected", generator: "Generator", suffix: str, found: list[Table]) -> str:
    """What the audit kept, dropped and measured."""
    folder = generator.synthetic
    if folder is None:
        return blocks.missing(f"{generator.name}: no audited store; `lesionforge audit` makes one.")
    audit = collected.sources.object(folder / run.AUDIT)
    if not audit:
        return blocks.missing(
            f"{generator.name}: {collected.sources.name(folder / run.AUDIT)} is not there, so no audit's verdict."
        )
    cards = [(f"{audit.get('num_kept') or 0:,} of {audit.get('num_candidates') or 0:,}", "generated images kept")]
    rate = (audit.get("copies") or {}).get("copy_rate")
    if rate:
        held = (audit.get("copies") or {}).get("held_out_rate") or {}
        cards.append((percent(rate.get("estimate"), 1), "near-copies of training images; of real held-out lesions "
                      f"{percent(held.get('estimate'), 1)} lie beyond the same threshold"))  # fmt: skip
    cards += [
        (decimals(row["estimate"], 2), f"AUC of a small classifier that tells {row.get('class')} generated from real "
         "images; 0.5 is chance, and what it finds a malignancy classifier can find too")
        for row in audit.get("shortcut") or ()
        if row.get("format") == "after formatting, all that is kept" and row.get("estimate") is not None
    ]  # fmt: skip
    boxes = "".join(f"<div class=card><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in cards)
    html = [f"<div class=cards>{boxes}</div>"]
    html += [blocks.warning(str(words)) for words in audit.get("warnings") or ()]
    if (audit.get("features") or {}).get("is_random"):
        html.append(blocks.warning("The measures below come from random weights: they show that the machinery runs."))
    funnel = [{"filter": r.get("filter"), "limit": r.get("limit"), "num_dropped": r.get("num_dropped"),
               "num_left": r.get("num_left")} for r in audit.get("funnel") or () if r.get("is_on")]  # fmt: skip
    if funnel:
        titles = {
            "filter": "filter",
            "limit": "limit, set on real lesions",
            "num_dropped": "dropped",
            "num_left": "left",
        }
        one = Table(f"audit-funnel{suffix}", "What the audit dropped", funnel, titles)
        html.append(blocks.details("What the audit dropped, filter by filter", blocks.table(one, sortable=False)))
        found.append(one)
    measured = measures(audit)
    if measured:
        titles = {"class": "class", "measure": "measure", tables.ESTIMATE: "kept images", "baseline": "real images"}
        one = Table(f"audit-measures{suffix}", "The kept images as a set, beside real ones", measured, titles,
                    intervals={tables.ESTIMATE: (tables.LOW, tables.HIGH),
                               "baseline": ("baseline_low", "baseline_high")},
                    notes=["The same measure between sets of real lesions stands beside, at the same number of images.",
                           f"Features: {(audit.get('features') or {}).get('name') or 'not on record'}."])  # fmt: skip
        html.append(blocks.table(one, sortable=False))
        found.append(one)
    return "".join(html)


def measures(audit: dict[str, Any]) -> list[dict[str, Any]]:
    keys = (tables.ESTIMATE, tables.LOW, tables.HIGH, "baseline", "baseline_low", "baseline_high")
    return [
        {"class": row.get("class"), "measure": MEASURES[row["score"]]} | {key: row.get(key) for key in keys}
        for row in audit.get("sets") or () if row.get("set") == "kept" and row.get("score") in MEASURES
    ]  # fmt: skip


def beside_real(collected: "Collected", generator: "Generator", suffix: str, drawings: list[Drawing]) -> str:
    """Figures 2 and 3: kept images beside real lesions; what was dropped, and the closest pairs."""
    store = pictures.opened(generator.synthetic, collected.sources)
    real = pictures.opened(collected.store, collected.sources)
    html = []
    for one, name in ((store, "the audited store"), (real, "the store of real lesions")):
        if one is None:
            html.append(blocks.missing(f"Figures 2 and 3: {name} cannot be read, so its lesions are not shown."))
    made = malignant_of(store, None) if store is not None else []
    train = train_ids(collected)
    shown = malignant_of(real, train) if real is not None else []
    rows = [(f"Generated, kept by the audit ({generator.name})", made), ("Real malignant lesions of part train", shown)]
    grids = [(title, lesions) for title, lesions in rows if lesions]
    if grids:
        html.append("<h3>Figure 2: generated lesions beside real ones</h3>")
        for title, lesions in grids:
            html.append(
                blocks.text(title, "data")
                + blocks.images([Image(one.data, "", f"{title}: {one.image_id}") for one in lesions])
            )
        html.append(
            blocks.text(f"Evenly spread over the sorted ids; nothing was picked by eye. {rights(real)}", "data")
        )
        drawings.append(sheet(f"figure-2{suffix}", "Generated lesions beside real ones", grids))
    html.append(dropped(collected, generator, real, suffix, drawings))
    return "".join(html)


def malignant_of(store: Any, allowed: "pl.Series | None") -> list[pictures.Lesion]:
    import polars as pl

    samples = store.samples([tables.IMAGE_ID, tables.TARGET]).filter(pl.col(tables.TARGET) == 1)
    if allowed is not None:
        samples = samples.filter(pl.col(tables.IMAGE_ID).is_in(allowed.implode()))
    return pictures.lesions(store, pictures.evenly(samples[tables.IMAGE_ID], NUM_SHOWN))


def train_ids(collected: "Collected") -> "pl.Series | None":
    """Ids of the lesions that some run trained on: those may be shown as training lesions."""
    mix = next((cell.mix for cell in collected.cells if cell.mix is not None), None)
    return None if mix is None else mix[tables.IMAGE_ID]


def rights(real: Any) -> str:
    """Licences and attributions of the real lesions."""
    if real is None:
        return ""
    samples = real.samples(pictures.columns_of(real, (tables.IMAGE_ID, tables.LICENSE, tables.ATTRIBUTION)))
    found = []
    for name, words in ((tables.LICENSE, "Licences"), (tables.ATTRIBUTION, "Attribution")):
        if name in samples.columns:
            values = sorted(str(value) for value in samples[name].drop_nulls().unique().to_list())[:8]
            found += [f"{words}: {'; '.join(values)}."] if values else []
    return " ".join(found)


def dropped(collected: "Collected", generator: "Generator", real: Any, suffix: str, drawings: list[Drawing]) -> str:
    """Figure 3: dropped candidates with their reason, and the pairs most alike."""
    if generator.synthetic is None:
        return ""
    candidates = pictures.opened(generator.candidates, collected.sources)
    verdicts = collected.sources.table(generator.synthetic / run.VERDICTS)
    pairs = collected.sources.table(generator.synthetic / run.PAIRS_TABLE)
    if candidates is None or verdicts is None:
        return blocks.missing("Figure 3: the candidates' store or the audit's verdicts are not there, so what was "
                             "dropped is not shown.")  # fmt: skip
    html = []
    grids: list[tuple[str, list[pictures.Lesion]]] = []
    if tables.VERDICT_REASON in verdicts.columns:
        gone = verdicts.filter(verdicts[tables.VERDICT_REASON].is_not_null())
        reasons = dict(zip(gone[tables.IMAGE_ID].to_list(), gone[tables.VERDICT_REASON].to_list(), strict=True))
        lesions = pictures.lesions(candidates, pictures.evenly(gone[tables.IMAGE_ID], NUM_DROPPED))
        if lesions:
            html.append(blocks.text("Generated, dropped by the audit, with its reason", "data"))
            html.append(blocks.images([Image(one.data, why := reasons[one.image_id], f"dropped: {why} ({one.image_id})",
                                            "dropped") for one in lesions]))  # fmt: skip
            grids.append(("Dropped by the audit", lesions))
    if pairs is not None and real is not None and tables.NEAREST_IMAGE in pairs.columns:
        html.append(closest(candidates, real, pairs.head(NUM_PAIRS).to_dicts(), grids))
    if grids:
        html.insert(0, "<h3>Figure 3: what was dropped, and the closest pairs</h3>")
        drawings.append(sheet(f"figure-3{suffix}", "Dropped candidates, and the closest pairs", grids))
    return "".join(html)


def closest(
    candidates: Any, real: Any, rows: list[dict[str, Any]], grids: list[tuple[str, list[pictures.Lesion]]]
) -> str:
    """Candidates, each followed by the real training image that it is most alike."""
    cells, both = [], []
    for row in rows:
        made = pictures.lesions(candidates, [str(row[tables.IMAGE_ID])])
        near = pictures.lesions(real, [str(row[tables.NEAREST_IMAGE])])
        if made and near:
            judged = str(row.get("verdict") or "")
            cells.append(
                Image(
                    made[0].data,
                    f"copy score {decimals(row.get(tables.COPY_SCORE), 2)}",
                    f"generated {made[0].image_id}",
                    judged,
                )
            )
            cells.append(Image(near[0].data, "nearest real", f"real {near[0].image_id}"))
            both += [made[0], near[0]]
    if not cells:
        return ""
    grids.append(("Closest pairs: generated, then the real training image it is most alike", both))
    words = "The closest pairs of all: each generated image, then the real training image it is most alike"
    return blocks.text(words, "data") + blocks.images(cells)


def sheet(name: str, title: str, grids: list[tuple[str, list[pictures.Lesion]]]) -> Drawing:
    """Lesions in rows of eight, as a figure's file."""
    side, gap, per_row, y = 88.0, 6.0, 8, 10.0
    marks: list[Mark] = []
    for heading, lesions in grids:
        marks.append(Label(8, y + 14, in_width(heading, 13, 740), 13, INK, bold=True))
        y += 24
        for i, one in enumerate(lesions):
            x, row = 8 + (side + gap) * (i % per_row), i // per_row
            marks.append(Picture(x, y + row * (side + gap), side, side, one.data, one.image_id))
        y += (side + gap) * -(-len(lesions) // per_row) + 10
    marks.append(
        Label(8, y + 12, "Research software, not a medical device. Keep real lesions under their licence.", 10.5, MUTED)
    )
    return Drawing(name, title, title, 8 + (side + gap) * per_row + 2, y + 22, marks)
