"""The audit's report: one HTML file that holds its pictures, asks for nothing from outside, and prints well."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from lesionforge import run
from lesionforge.auditing.audit_page import (
    STYLE,
    html_table,
    image,
    interval,
    number,
    of_count,
    percent,
    with_interval,
)
from lesionforge.auditing.audit_sets import ALL, CLASSES, KEPT, MEANING, NEAR
from lesionforge.auditing.audit_shortcut import KEPT as SHORTCUT_KEPT
from lesionforge.auditing.sheets import DISCLAIMER
from lesionforge.files import write_whole

RANDOM_MARK = "RANDOM WEIGHTS: these numbers show that the machinery runs, and nothing else"


def write_report(path: Path, facts: Mapping[str, Any], audit_tables: Mapping[str, pl.DataFrame]) -> None:
    """Write report.html.

    Args:
        facts: what audit.json holds.
        audit_tables: funnel, scores, subtypes, shortcut.

    The pictures that lie beside `path` are taken into the page.
    """
    parts = [
        head(facts),
        cards(facts, audit_tables),
        warnings(facts),
        funnel_section(facts, audit_tables["funnel"]),
        copies_section(facts, path.parent),
        sets_section(facts, audit_tables["scores"]),
        subtypes_section(facts, audit_tables["subtypes"], path.parent),
        shortcut_section(facts, audit_tables["shortcut"]),
        pictures_section(path.parent),
        origin_section(facts),
    ]
    title = escape(f"Audit of {facts['candidates']}")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(part for part in parts if part) + "\n</body></html>\n"
    )
    with write_whole(path, "w") as file:
        file.write(page)


def head(facts: Mapping[str, Any]) -> str:
    kept, total = facts["num_kept"], facts["num_candidates"]
    return (
        f"<h1>Audit of {escape(facts['candidates'])}</h1>"
        f"<p>{kept:,} of {total:,} generated images were kept, {total - kept:,} dropped. Every verdict follows from a "
        "limit that was set on real lesions; nothing was chosen by hand.</p>"
        f'<p class="muted">lesionforge {escape(facts["lesionforge"])}, {escape(facts["made"])}; {DISCLAIMER}. '
        f"This page shows real training lesions: keep it under their licence{licences(facts)}.</p>"
    )


def licences(facts: Mapping[str, Any]) -> str:
    found = facts["real"].get("licences") or []
    return f" ({escape(', '.join(found))})" if found else ""


def cards(facts: Mapping[str, Any], audit_tables: Mapping[str, pl.DataFrame]) -> str:
    shown = [(f"{facts['num_kept']:,} of {facts['num_candidates']:,}", "images kept")]
    copies = facts["copies"]
    if "copy_rate" in copies:
        rate, real = copies["copy_rate"], copies["held_out_rate"]
        shown.append((percent(rate["estimate"]), f"near-copies of training images ({interval(rate, percent)}); "
                      f"{percent(real['estimate'])} of real held-out lesions lie beyond that threshold"))  # fmt: skip
    scores = audit_tables["scores"]
    kid = scores.filter((pl.col("score") == "kid_held_out") & (pl.col("set") == KEPT)).head(1)
    if len(kid) and kid["estimate"][0] is not None:
        row = kid.row(0, named=True)
        note = ' <em class="mark">random weights</em>' if facts["features"].get("is_random") else ""
        text = f"KID of kept to held-out {row['class']}{note}; real training images: {number(row['baseline'])}"
        shown.append((number(row["estimate"]), text))
    if len(audit_tables["shortcut"]):
        shown.append(shortcut_card(audit_tables["shortcut"]))
    boxes = "".join(f'<div class="card"><b>{escape(value)}</b><span>{text}</span></div>' for value, text in shown)
    return f'<div class="cards">{boxes}</div>'


def shortcut_card(shortcut: pl.DataFrame) -> tuple[str, str]:
    """Of the malignant images that are kept, whatever else was tested."""
    malignant = CLASSES[1]
    words = f"AUC of a small classifier that tells real from generated ({malignant}, {SHORTCUT_KEPT})"
    found = shortcut.filter((pl.col("class") == malignant) & (pl.col("format") == SHORTCUT_KEPT)).to_dicts()
    if not found or found[0]["estimate"] is None:
        reason = found[0]["reason"] if found else f"no {malignant} candidates"
        return "–", f"{words} was not computed: {escape(reason or '')}"
    return f"{found[0]['estimate']:.2f}", f"{words}; 0.5 is chance"


def warnings(facts: Mapping[str, Any]) -> str:
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in facts["warnings"])


def funnel_section(facts: Mapping[str, Any], funnel: pl.DataFrame) -> str:
    total = max(facts["num_candidates"], 1)
    rows = [
        [
            escape(row["filter"]) + ("" if row["is_on"] else ' <span class="muted">(off)</span>'),
            f'<span class="muted">{escape(row["limit"])}</span>',
            f"{row['num_dropped']:,}",
            f"{row['num_left']:,}",
            f"{row['num_alone']:,}" if row["num_alone"] is not None else "–",
            f'<div class="bar"><i style="width:{100 * row["num_dropped"] / total:.1f}%"></i></div>',
        ]
        for row in funnel.to_dicts()
    ]
    real = facts["artefacts"].get("dropped_real")
    of_real = ""
    if real:
        of_real = (
            f" On {real['total']:,} real training images the limits of all artefact filters together drop "
            f"{percent(real['estimate'])}."
        )
    header = ["filter", "limit", "#dropped", "#left", "#alone", ""]
    return (
        f"<h2>Verdicts</h2><p>The filters in their order; the first that objects gives the reason, so that the drops "
        f"and the kept add up to {facts['num_candidates']:,}. “Alone” is what a filter would take by "
        f"itself.{of_real}</p>" + html_table(header, rows)
    )


def copies_section(facts: Mapping[str, Any], folder: Path) -> str:
    copies, real = facts["copies"], facts["real"]
    if "copy_rate" not in copies:
        return f"<h2>Near-copies</h2><p>{escape(copies['reason'])}</p>"
    rate, held_out, factor = copies["copy_rate"], copies["held_out_rate"], copies["ratio"]
    num_compared = real["num_seen"] - real["num_seen_not_in_store"]
    text = (
        f"Lesions look alike, so the threshold is calibrated: {held_out['total']:,} real lesions "
        f"({escape(real['held_out'])}) were held against the training images they are most alike, and "
        f"{percent(copies['false_alarms'])} of them may lie beyond it ({held_out['count']:,} do). Of {rate['total']:,} "
        f"candidates {rate['count']:,} do, <b>{percent(rate['estimate'])}</b> ({interval(rate, percent)}), "
        f"{times_real(factor)}. Compared with "
        f"{real['num_references']:,} real images of part train, among them {num_compared:,} of the "
        f"{real['num_seen']:,} that the generator learned from or started from."
    )
    rows = [
        [name, of_count(of["copy_rate"]), interval(of["copy_rate"], percent), of_count(of["held_out_rate"])]
        for name, of in copies["by_class"].items()
    ]
    table = html_table(["class", "candidates beyond the threshold", "95 % interval", "held-out real beyond it"], rows)
    pictures = image(folder / run.COPY_SCORES, "Histogram of copy scores") + image(
        folder / run.PAIRS, "The most similar pairs of a candidate and a training image"
    )
    return f"<h2>Near-copies of training images</h2><p>{text}</p>{table}{pictures}"


def times_real(factor: Mapping[str, Any]) -> str:
    if factor["estimate"] is not None:
        return f"{number(factor['estimate'])} times the real rate ({interval(factor, number)})"
    if factor["low"] is None:
        return "which cannot be held against a rate of no images"
    return (
        f"and no ratio to the real rate is told, as a count is 0; it lies between {interval(factor, number, ' and ')}"
    )


def sets_section(facts: Mapping[str, Any], scores: pl.DataFrame) -> str:
    if not len(scores):
        return f"<h2>The images as a set</h2><p>{escape(facts['features'].get('reason', 'not measured'))}</p>"
    mark = f'<p class="mark">{RANDOM_MARK}</p>' if facts["features"].get("is_random") else ""
    parts = []
    for class_name in scores["class"].unique(maintain_order=True):
        of_class = scores.filter(pl.col("class") == class_name)
        sets = [name for name in (KEPT, ALL) if name in of_class["set"]]
        counts = ", ".join(f"{of_class.filter(pl.col('set') == name)['num_images'][0]:,} {name}" for name in sets)
        rows = []
        for score in of_class["score"].unique(maintain_order=True):
            found = {
                row["set"]: row for row in of_class.filter(pl.col("score") == score).to_dicts() if row["set"] in sets
            }
            # of real images, where any set has them: what is kept may be too little to compare
            real = next((row for row in found.values() if row["baseline"] is not None), found[sets[0]])
            rows.append([
                escape(MEANING[score]),
                *(cell_of(found.get(name)) for name in sets),
                with_interval(real["baseline"], real["baseline_low"], real["baseline_high"]),
                "as real" if real["better"] == NEAR else escape(real["better"] or ""),
            ])  # fmt: skip
        header = ["measure", *(f"#{name}" for name in sets), "#real images", "better"]
        parts.append(f"<p><b>{escape(class_name)}</b> ({counts} compared)</p>" + html_table(header, rows))
    return (
        f"<h2>The images as a set</h2><p>Features: {escape(facts['features'].get('name') or 'none')}. Beside each "
        "score stands the same of real images, at the same number of images; brackets hold 95 % intervals. Numbers "
        f"made with other features cannot be compared.</p>{mark}" + "".join(parts)
    )


def cell_of(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    if row["estimate"] is None:
        return f'<span class="muted">not computed: {escape(row["reason"] or "")}</span>'
    return with_interval(row["estimate"], row["low"], row["high"])


def subtypes_section(facts: Mapping[str, Any], subtypes: pl.DataFrame, folder: Path) -> str:
    rows = [
        [
            escape(row["subtype"]),
            escape(row["class"]),
            f"{row['num_covered']:,} of {row['num_real']:,}",
            with_interval(row["estimate"], row["low"], row["high"], percent),
        ]
        for row in subtypes.filter(pl.col("set") == KEPT).to_dicts()
    ]
    table = html_table(["real sub-type", "class", "#covered", "#share"], rows)
    if not rows:
        table = f"<p>{escape(facts['subtypes_reason'])}</p>"
    spectrum = image(folder / run.SPECTRUM, "Power over spatial frequency")
    meaning = "<p>Real lesions of part train with a kept image near, by sub-type; and the mean frequency spectra.</p>"
    return f'<h2>Sub-types and frequencies</h2>{meaning}<div class="two"><div>{table}</div><div>{spectrum}</div></div>'


def shortcut_section(facts: Mapping[str, Any], shortcut: pl.DataFrame) -> str:
    if not len(shortcut):
        return ""
    rows = [
        [
            escape(row["class"]),
            escape(row["format"]),
            f"{row['num_real']:,} / {row['num_synthetic']:,}" if row["num_real"] is not None else "–",
            cell_of(row),
            number(row["cues"]),
            number(row["network"]),
            escape(f"{row['strongest_cue']} ({number(row['strongest_cue_auc'])})" if row["strongest_cue"] else "–"),
        ]
        for row in shortcut.to_dicts()
    ]
    return (
        "<h2>Shortcut test</h2><p>How well a small classifier, trained here on pixels, tells generated images from "
        "real ones: AUC 0.5 is chance, 1 is always. What it finds a malignancy classifier can find too, instead of "
        "the lesion. Before: as the generator made them; after: resized and encoded like the real crops.</p>"
        + html_table(
            ["class", "format", "#real / generated", "#AUC of both", "#of cues", "#of a network", "strongest cue"], rows
        )
    )


def pictures_section(folder: Path) -> str:
    pictures = image(folder / run.SHOWN, "Real lesions, kept and dropped candidates")
    return f"<h2>Pictures</h2>{pictures}" if pictures else ""


def origin_section(facts: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(str(row.get("kind"))), escape(str(row.get("method"))), escape(str(row.get("base"))),
            escape(str(row.get("base_licence"))), f"{row.get('num_seen') or 0:,}", escape(str(row.get("split"))),
            f"<code>{escape(row['id'][:12])}</code>",
        ]
        for row in facts["generators"]
    ]  # fmt: skip
    header = ["kind", "method", "base", "licence of the base", "#real images seen", "split, fold", "manifest"]
    hashes = ", ".join(f"{name} <code>{escape(facts['real'][name][:12])}</code>" for name in
                       ("candidates_sha256", "real_sha256", "split_sha256"))  # fmt: skip
    return (
        "<h2>Where the images come from</h2>" + html_table(header, rows) + f'<p class="muted">{hashes}. Beside this '
        "page: verdicts.parquet (each image with its reason and scores), audit.json and the tables as CSV. "
        "Attribution of the real lesions: "
        f"{escape('; '.join(facts['real'].get('attributions') or ['not given in the store']))}. {DISCLAIMER}.</p>"
    )
