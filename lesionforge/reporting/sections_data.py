"""Sections of what goes in: the data, what leaks, the training distributions."""

from typing import TYPE_CHECKING, Any

from lesionforge import run, tables
from lesionforge.reporting import blocks, mixes
from lesionforge.reporting.blocks import Section, Table
from lesionforge.reporting.words import counted, listed

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected


def data(collected: "Collected") -> Section:
    """The parts of the split, what they share, and the mixes asked for and drawn."""
    html: list[str] = []
    found: list[Table] = []
    leaks = collected.sources.object(collected.split / run.LEAKS) if collected.split else {}
    if leaks.get("parts") or leaks.get("folds"):
        counts = parts_table(leaks)
        html += [leak_words(leaks), blocks.table(counts, sortable=False)]
        found.append(counts)
    else:
        where = collected.split or "the split"
        html.append(blocks.missing(f"Leak report: {where}/{run.LEAKS} is not there; `lesionforge split` writes it."))
    store = collected.sources.object(collected.store / run.DONE) if collected.store else {}
    if store:
        images, same = store.get("num_images") or 0, store.get("num_identical_to_another")
        html.append(blocks.facts([
            ("store", f"{counted(images, 'lesion')}, {store.get('num_malignant') or 0:,} malignant"),
            ("patients", patients_of(store)),
            ("identical images", f"{same or 'none'} of them byte for byte another"),
        ]))  # fmt: skip
    mix = mixes_table(collected)
    if mix.rows:
        html.append(blocks.table(mix))
        found.append(mix)
    else:
        html.append(blocks.missing("Training distributions: no run holds its mix.parquet."))
    return Section("data", "Data and training distributions", "".join(html), (), found, short="Data")


def patients_of(store: dict[str, Any]) -> str:
    without = store.get("num_without_patient") or 0
    known = counted(store.get("num_patients") or 0, "patient")
    return (
        f"{known}; {without:,} lesions of unknown patients, each counted as a patient of its own" if without else known
    )


def leak_words(leaks: dict[str, Any]) -> str:
    """What the parts share, and whether the split leaks by design."""
    shared = {name: number for name, number in (leaks.get("shared") or {}).items() if number}
    name = leaks.get("name") or "split"
    unknown = leaks.get("images_of_unknown_patients") or 0
    text = f"Split: {name}."
    if leaks.get("leaky"):
        return blocks.warning(f"{text} This split leaks by design: scores on it say too much.")
    if shared:
        named = listed([f"{number:,} {what}" for what, number in shared.items()])
        return blocks.warning(f"{text} Parts share {named}: scores may say too much.")
    words = blocks.text(f"{text} No patient, lesion or identical image is on two sides.")
    if unknown:
        words += blocks.warning(
            f"The patient of {counted(unknown, 'lesion')} is unknown, so patients on two sides cannot be ruled out."
        )
    return words


def parts_table(leaks: dict[str, Any]) -> Table:
    """Counts of each part."""
    groups = leaks.get("parts") or leaks.get("folds") or {}
    rows = [{tables.PART: str(name), **counts} for name, counts in groups.items() if isinstance(counts, dict)]
    columns = [name for name in ("images", "malignant", "benign", "patients") if any(name in row for row in rows)]
    return Table("parts", "Lesions of each part", rows, {tables.PART: "part"} | {name: name for name in columns})


def mixes_table(collected: "Collected") -> Table:
    rows = mixes.rows_of(collected)
    titles = {
        tables.ARM: "training distribution", "asked_malignant": "real malignant, asked", "drawn_malignant": "drawn",
        "asked_synthetic": "synthetic, asked", "drawn_synthetic": "drawn", "asked_benign": "benign, asked",
        "drawn_benign": "drawn", "sampler": "sampler", "augmentation": "augmentation", "num_runs": "runs",
    }  # fmt: skip
    return Table("mixes", "Training images asked for and drawn", rows, titles)
