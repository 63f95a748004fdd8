"""What a study's files say, as the phrases that the checklists take. None is not on record, "" is on record as none."""

import statistics
from typing import TYPE_CHECKING, Any

from lesionforge import run, tables
from lesionforge.reporting import mixes, pictures
from lesionforge.reporting.checklists import Facts
from lesionforge.reporting.collected import ENSEMBLE, PRIMARY
from lesionforge.reporting.results import NAMES
from lesionforge.reporting.words import counted, ends_of, in_interval, listed, percent, signed

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.reporting.collected import Cell, Collected
    from lesionforge.reporting.results import Results

Phrases = dict[str, str | None]
COLUMNS = (
    tables.PATIENT_ID, tables.ATTRIBUTION, tables.LICENSE, tables.AGE, tables.SEX, tables.SITE,
)  # fmt: skip
MOST = 6  # values that a phrase lists


def facts_of(collected: "Collected", results: "Results") -> Facts:
    """All that is on record."""
    phrases = (
        design(collected) | data(collected) | training(collected) | scores(collected, results) | synthetic(collected)
    )
    return Facts(**{name: bare(words) for name, words in (phrases | record(collected)).items()})


def bare(words: str | None) -> str | None:
    return words.strip().rstrip(".") if words else words


def design(collected: "Collected") -> Phrases:
    first = next((cell for cell in collected.cells if cell.scores), None)
    models = [
        f"{name} ({parameters:.3g} million parameters)" if (parameters := collected.parameters_of(name)) else name
        for name in collected.models
    ]
    seeds, folds = ({getattr(cell, name) for cell in collected.cells} - {None} for name in ("seed", "fold"))
    arms = [f"{arm} (reference)" if arm == collected.reference else arm for arm in collected.arms]
    of_folds = counted(len(folds), "fold") if folds else "no folds"
    return {
        "title": collected.title, "question": collected.question or None, "models": listed(models),
        "arms": listed(arms),
        "part": f"{collected.part}, {counted(first.scores.get(tables.NUM_IMAGES) or 0, 'lesion')}" if first else None,
        "seeds": f"{counted(len(seeds), 'seed')}, {of_folds}" if seeds else None,
        "ensemble": "ensembles of the runs' scores" if any(c.kind == ENSEMBLE for c in collected.cells) else "",
    }  # fmt: skip


def data(collected: "Collected") -> Phrases:
    leaks = collected.sources.object(collected.split / run.LEAKS) if collected.split else {}
    phrases: Phrases = {}
    if leaks:
        groups = {str(name): one for name, one in (leaks.get("parts") or leaks.get("folds") or {}).items()}
        phrases["split"] = f"{leaks.get('name')}, dealt by {leaks.get('by')}"
        phrases["counts"] = "; ".join(
            f"{name}: {counted(one.get('images') or 0, 'lesion')}, {one.get('malignant') or 0:,} malignant, "
            f"{counted(one.get('patients') or 0, 'known patient')}" for name, one in groups.items()
        ) or None  # fmt: skip
        phrases["malignant_share"] = "; ".join(
            f"{name}: {percent((one.get('malignant') or 0) / one['images'], 2)} malignant"
            for name, one in groups.items() if one.get("images")
        ) or None  # fmt: skip
        shared = listed([f"{number:,} {what}" for what, number in (leaks.get("shared") or {}).items() if number])
        unknown = leaks.get("images_of_unknown_patients") or 0
        phrases["leaks"] = (
            f"{'shared between parts: ' + shared if shared else 'no patient, lesion or identical image on two sides'}"
            + (f"; the patient of {counted(unknown, 'lesion')} is unknown" if unknown else "")
        )  # fmt: skip
    rows = mixes.rows_of(collected)
    phrases["mixes"] = "; ".join(
        f"{row[tables.ARM]}: {row['drawn_malignant']:,} real and {row['drawn_synthetic']:,} synthetic malignant, "
        f"{row['drawn_benign']:,} benign" for row in rows
    ) or None  # fmt: skip
    store = pictures.opened(collected.store, collected.sources)
    return phrases | (of_samples(store.samples(pictures.columns_of(store, COLUMNS))) if store is not None else {})


def of_samples(samples: "pl.DataFrame") -> Phrases:
    """Institutions, licences, who the patients are and what is not known of them."""
    phrases: Phrases = {}
    for name, key in ((tables.ATTRIBUTION, "sources"), (tables.LICENSE, "licences")):
        if name in samples.columns and samples[name].drop_nulls().len():
            counts = samples[name].drop_nulls().value_counts(sort=True).sort(["count", name], descending=[True, False])
            phrases[key] = listed([f"{row[name]} ({row['count']:,})" for row in counts.head(MOST).to_dicts()])
    described = []
    if tables.AGE in samples.columns and samples[tables.AGE].drop_nulls().len():
        ages = [float(age) for age in samples[tables.AGE].drop_nulls().to_list()]
        described.append(f"median age {statistics.median(ages):.0f} years (of {len(ages):,} lesions)")
    if tables.SEX in samples.columns and samples[tables.SEX].drop_nulls().len():
        counts = samples[tables.SEX].drop_nulls().value_counts().sort(tables.SEX)
        described.append(", ".join(f"{row[tables.SEX]} {row['count']:,}" for row in counts.to_dicts()))
    phrases["demographics"] = "; ".join(described) or None
    unknown = (
        [f"patient of {samples[tables.PATIENT_ID].null_count():,}"] if samples[tables.PATIENT_ID].null_count() else []
    )
    for name, words in ((tables.AGE, "age"), (tables.SEX, "sex"), (tables.SITE, "site")):
        if name in samples.columns and samples[name].null_count():
            unknown.append(f"{words} of {samples[name].null_count():,}")
    phrases["missing"] = (
        f"unknown of {len(samples):,} lesions: {', '.join(unknown)}" if unknown else "no metadata are missing"
    )
    return phrases


def values_of(cells: "list[Cell]", *path: str) -> list[str]:
    """The different values of a setting over the runs, in words."""
    found: dict[str, None] = {}
    for cell in cells:
        value: Any = cell.config
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[str(value)] = None
    return list(found)


def training(collected: "Collected") -> Phrases:
    cells = [cell for cell in collected.cells if cell.kind != ENSEMBLE and cell.config]
    if not cells:
        return {}

    def one(*path: str) -> str:
        return " or ".join(values_of(cells, *path)[:MOST])

    size = one("data", "image_size")
    selection = {"last": "the last epoch is kept", "best": "the epoch with the best pAUC on val is kept"}
    return {
        "image_size": f"{size} x {size} pixels" if size else None,
        "augmentation": f"preset {one('augment', 'preset')}" if one("augment", "preset") else None,
        "weights": one("model", "weights") or None,
        "training": f"{one('optim', 'epochs')} epochs, batches of {one('data', 'batch_size')}, AdamW, learning rate "
                    f"{one('optim', 'lr')}" if one("optim", "epochs") else None,
        "selection": " or ".join(selection.get(v, v) for v in values_of(cells, "select")) or None,
        "threshold": thresholds(cells),
    }  # fmt: skip


def thresholds(cells: "list[Cell]") -> str | None:
    """How the runs' thresholds were chosen; their values differ from run to run."""
    found = [one for cell in cells if isinstance(one := cell.scores.get(tables.THRESHOLD), dict)]
    rules = [
        "given" if one.get("rule") == "given"
        else f"chosen on {one.get('chosen_on') or tables.VAL} by rule {one.get('rule')}"
        for one in found if one.get("value") is not None
    ]  # fmt: skip
    if not rules:
        return None
    in_sample = "; chosen on the very lesions that are scored" if any(one.get("in_sample") for one in found) else ""
    return f"each run's own, {' or '.join(dict.fromkeys(rules))}{in_sample}"


def scores(collected: "Collected", results: "Results") -> Phrases:
    names = [NAMES.get(name, name) for name in results.scores()]
    found = [
        f"{one.model} on {one.arm} {in_interval(one.estimate, one.low, one.high)}"
        for model in collected.models for arm in collected.arms if (one := results.estimate(model, arm, PRIMARY))
    ]  # fmt: skip
    ends = ends_of(results.of(PRIMARY))
    groups = collected.sources.object(collected.subgroups / run.SUBGROUPS) if collected.subgroups else {}
    tones = [row for row in groups.get("groups") or () if row.get(tables.ATTRIBUTE) == "skin_tone"]
    has_maps = any((folder / run.FOCUS).is_file() for folder in collected.maps)
    has_failures = any(cell.predictions is not None for cell in collected.cells)
    tests = "95 % intervals by resampling patients"
    if results.is_compared:
        tests = (
            "95 % intervals: t with the patients' and, where there are several, the seeds' variance; paired "
            "differences on the same lesions, a permutation test, Holm's correction over a table"
        )
    return {
        "metrics": listed(names) or None, "statistics": tests if found else None,
        "results": f"{NAMES[PRIMARY]}: {'; '.join(found)}" if found else None,
        "difference_intervals": f"the intervals of the differences together run from {signed(ends[0])} to "
                                f"{signed(ends[1])}" if ends else None,
        "subgroups": f"{len(groups.get('groups') or ())} groups, those with too few malignant lesions named only"
                     if groups else None,
        "skin_tone": ", ".join(f"{row.get(tables.GROUP)} {row.get(tables.NUM_IMAGES) or 0:,}" for row in tones) or None,
        "explanations": "heat maps with the share inside the lesion measured" if has_maps else None,
        "failures": "the worst-scored malignant lesions are shown in the report" if has_failures else None,
    }  # fmt: skip


def synthetic(collected: "Collected") -> Phrases:
    if not collected.generators:
        return {"generators": "", "audit": ""}
    made, judged = [], []
    for one in collected.generators:
        manifest = collected.sources.object(one.finetune / run.GENERATOR) if one.finetune else {}
        if manifest:
            made.append(
                f"{one.name} ({manifest.get('kind')}, {counted(manifest.get('num_seen') or 0, 'real image')} seen)"
            )
        audit = collected.sources.object(one.synthetic / run.AUDIT) if one.synthetic else {}
        if audit:
            judged.append(
                f"{one.name}: {audit.get('num_kept') or 0:,} of {audit.get('num_candidates') or 0:,} images kept"
            )
    return {"generators": listed(made) or None, "audit": "; ".join(judged) or None}


def record(collected: "Collected") -> Phrases:
    found = [cell.environment for cell in collected.cells if cell.environment]
    if not found:
        return {}
    packages = found[0].get("packages") or {}
    named = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "numpy") if packages.get(name))
    commits = sorted({str(one["commit"]) for one in found if one.get("commit")})
    return {
        "software": f"lesionforge {found[0].get('lesionforge')}, Python {found[0].get('python')}, {named}",
        "commits": ", ".join(commits[:MOST]) or None, "commands": "in the report, section Record",
    }  # fmt: skip
