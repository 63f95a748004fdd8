"""What audit.json holds: every number of an audit, and the few sentences that the terminal prints."""

from pathlib import Path
from typing import Any

import polars as pl

import lesionforge
from lesionforge import run, tables
from lesionforge.auditing import verdicts
from lesionforge.auditing.audit_copies import Copies
from lesionforge.auditing.audit_filters import REPEAT
from lesionforge.auditing.audit_inputs import Inputs
from lesionforge.auditing.audit_page import interval, number, percent
from lesionforge.auditing.audit_report import RANDOM_MARK
from lesionforge.auditing.audit_sets import ALL, KEPT, Sets
from lesionforge.auditing.features import Extractor
from lesionforge.auditing.fidelity import VENDI
from lesionforge.auditing.sheets import DISCLAIMER

MOST_REPEATS = 0.25  # of the candidates that are duplicates (our choice)
LEAST_VENDI = 0.5  # of the real images' score (our choice)
MANIFEST_FACTS = ("kind", "method", "num_seen", "fold", "image_size", "base_sha256", "adapter_sha256", "split_sha256")


def gather(
    candidates: Path, inputs: Inputs, table: pl.DataFrame, funnel: pl.DataFrame, copies: Copies | None,
    artefact_facts: dict[str, Any], sets: Sets, shortcut: pl.DataFrame, extractor: Extractor | None, why_not: str,
    subtype: str,
) -> dict[str, Any]:  # fmt: skip
    """All of it, ready for JSON."""
    kept = table.filter(pl.col(tables.VERDICT) == verdicts.KEPT)
    features: dict[str, Any] = {"name": None, "is_random": False, "reason": f"not measured: {why_not}"}
    if extractor is not None:
        features = {"name": extractor.name, "is_random": extractor.is_random, "digest": extractor.digest}
    facts: dict[str, Any] = {
        "version": 1,
        "disclaimer": DISCLAIMER,
        "candidates": candidates.resolve().name,
        "made": run.now(),
        "lesionforge": lesionforge.__version__,
        "num_candidates": len(table),
        "num_kept": len(kept),
        "kept_by_class": {str(value): int((kept[tables.TARGET] == value).sum()) for value in (0, 1)},
        "funnel": funnel.to_dicts(),
        "copies": {"reason": "not looked for: copies.enabled is false"} if copies is None else copies.facts,
        "artefacts": artefact_facts,
        "features": features,
        "sets": sets.scores.to_dicts(),
        "subtypes": sets.subtypes.to_dicts(),
        "subtypes_reason": (
            f"Coverage of sub-types: the real store has no column {subtype} with values, or too few lesions of any."
        ),
        "shortcut": shortcut.to_dicts(),
        "generators": [generator_facts(name, manifest) for name, manifest in inputs.provenance.manifests.items()],
        "real": inputs.facts | {
            "licences": distinct(inputs.references, tables.LICENSE),
            "attributions": distinct(inputs.references, tables.ATTRIBUTION),
        },
    }  # fmt: skip
    facts["warnings"] = warnings_of(facts)
    facts["text"] = as_text(facts, table)
    return facts


def generator_facts(name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    base = manifest.get("base") or {}
    split = str(manifest.get("split_name") or "unknown")
    if manifest.get("fold") is not None:
        split += f", fold {manifest['fold']}"
    known = {key: manifest.get(key) for key in MANIFEST_FACTS}
    return {"id": name, "base": base.get("name"), "base_licence": base.get("licence"), "split": split, **known}


def distinct(samples: pl.DataFrame, column: str) -> list[str]:
    return sorted(samples[column].drop_nulls().unique().to_list()) if column in samples.columns else []


def warnings_of(facts: dict[str, Any]) -> list[str]:
    """What a reader must know before reading a number."""
    found, real, copies = [], facts["real"], facts["copies"]
    if facts["features"]["is_random"]:
        found.append(f"{RANDOM_MARK}. Features: {facts['features']['name']}.")
    if real["num_seen_not_in_store"]:
        found.append(
            f"{real['num_seen_not_in_store']:,} of {real['num_seen']:,} images behind the candidates are not in this "
            "store: copies of those cannot be found."
        )
    if real["held_out"] != "part val":
        found.append(
            f"The split has no part val: the copy threshold and the baselines are of {real['num_held_out']:,} lesions "
            "of some training patients, which the generator saw."
        )
    if real["other_splits"]:
        found.append("The generator was trained with another split; it saw nothing of this one's val or test.")
    if "copy_rate" in copies and copies["held_out_rate"]["total"] * copies["false_alarms"] < 1:
        found.append(
            f"{copies['held_out_rate']['total']:,} held-out lesions are too few to calibrate "
            f"{percent(copies['false_alarms'])} false alarms: the threshold is at the most similar of them."
        )
    if copies.get("num_own_source"):
        found.append(
            f"{copies['num_own_source']:,} inpainted candidates are like the image whose skin they were painted on, as "
            "they must be; each was held against all other images."
        )
    return found + collapse_of(facts)


def collapse_of(facts: dict[str, Any]) -> list[str]:
    """Signs that a generator makes few different images."""
    found = []
    num_repeats = sum(row["num_dropped"] for row in facts["funnel"] if row["filter"] == REPEAT)
    if num_repeats > MOST_REPEATS * facts["num_candidates"]:
        found.append(
            f"The generator repeats itself: {num_repeats:,} of {facts['num_candidates']:,} candidates "
            f"({percent(num_repeats / facts['num_candidates'])}) were dropped as duplicates of others; more than "
            f"{percent(MOST_REPEATS)} is a sign of mode collapse."
        )
    vendi = [row for row in facts["sets"] if row["score"] == VENDI and row["estimate"] is not None]
    for class_name in dict.fromkeys(row["class"] for row in vendi):
        of_class = {row["set"]: row for row in vendi if row["class"] == class_name}
        row = of_class.get(ALL) or of_class[KEPT]  # all are kept where there is no row of all
        if row["baseline"] is not None and row["estimate"] < LEAST_VENDI * row["baseline"]:
            found.append(
                f"The {class_name} candidates are little varied: Vendi score {number(row['estimate'])}, of as many "
                f"real images {number(row['baseline'])}; less than {percent(LEAST_VENDI)} of it is a sign of mode "
                "collapse."
            )
    return found


def as_text(facts: dict[str, Any], table: pl.DataFrame) -> str:
    kept, total = facts["num_kept"], facts["num_candidates"]
    lines = [f"{kept:,} of {total:,} candidates kept"]
    if kept < total:
        lines[0] += f"; dropped: {verdicts.count_by_reason(table)}"
    copies = facts["copies"]
    if "copy_rate" in copies:
        rate, held_out = copies["copy_rate"], copies["held_out_rate"]
        lines.append(
            f"near-copies of training images: {percent(rate['estimate'])} ({interval(rate, percent)}); of real "
            f"held-out lesions {percent(held_out['estimate'])} lie beyond the same threshold"
        )
    if facts["features"]["is_random"]:
        lines.append(RANDOM_MARK)
    return "\n".join([*lines, DISCLAIMER])
