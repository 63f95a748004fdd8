"""`lesionforge audit`: candidates -> a synthetic store with a verdict for each, and a report of one page.

Where nothing is kept there is no store: verdicts and report then lie in OUT-rejected.
"""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lesionforge import files, run
from lesionforge.auditing.audit_settings import AuditConfig
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lesionforge.auditing.audit_copies import Copies
    from lesionforge.auditing.audit_inputs import Inputs
    from lesionforge.auditing.features import Extractor
    from lesionforge.auditing.verdicts import Finding

__all__ = ["AuditConfig", "audit"]

log = logging.getLogger("lesionforge")

CACHE = ".cache"  # end of the name of the folder that an audit keeps while it is at work
REJECTED = "-rejected"  # end of the name of a folder that holds an audit in which nothing was kept


class Judged(NamedTuple):
    """What the filters say of the candidates."""

    findings: "list[Finding]"
    verdicts: "pl.DataFrame"
    kept: "np.ndarray"  # (N,) bool
    copies: "Copies | None"
    artefact_facts: dict[str, Any]


def audit(config: AuditConfig) -> None:
    """Write the store of the kept, verdicts.parquet, report.html, audit.json and its tables; of a group, one a fold.

    Raises:
        BadInput: candidates that are real, altered or of unknown origin; another split than the generator's; nothing
            kept.
    """
    from lesionforge.data import groups

    if not groups.is_group(config.candidates):
        audit_one(config)
        return
    if config.data.fold is not None:
        member = groups.member_of_fold(config.candidates, config.data.fold)
        audit_one(config.model_copy(update={"candidates": member}))
        return
    members = groups.members_of(config.candidates)
    if run.already_done(config.out, config):
        return
    with run.started(config.out, "audit", config) as keep:
        for member in members:
            changes = {"out": config.out / run.MEMBERS / member.name, "cache": cache_of(config)}
            audit_one(config.model_copy(update={"candidates": member, **changes}))
            keep()
        run.mark_done(config.out, members=[member.name for member in members])
    drop_own_cache(config)


def audit_one(config: AuditConfig) -> None:
    import torch

    from lesionforge.auditing import audit_inputs

    torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
    if run.already_done(config.out, config):
        audit_inputs.require_same(config.out, config.candidates, config.data.store)
        print(files.read_json(config.out / run.AUDIT)["text"])
        return
    fold = audit_inputs.fold_of(config.candidates, config.data.split, config.data.fold)
    inputs = audit_inputs.read_inputs(config.candidates, config.data.store, config.data.split, fold, config.seed)
    score = audit_inputs.read_scores(config.score.predictions, inputs.samples)
    refuse_rejected(config, inputs)
    extractor, why_not = build_extractor(config)
    cached = config.model_copy(update={"cache": cache_of(config)})
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "audit", config)
        judged = judge(cached, inputs, score)
        facts = report(folder, cached, inputs, judged, extractor, why_not)
        if not judged.kept.any():
            place = keep_rejected(folder, config.out)
            drop_own_cache(config)
            raise BadInput(nothing_kept(place))
        write_survivors(folder, inputs, judged.kept, facts)
    drop_own_cache(config)
    print(facts["text"])
    log.info("%s: %s, %s", config.out, run.REPORT, run.VERDICTS)


def cache_of(config: AuditConfig) -> Path:
    """Where none is given a folder beside `out`, so that an audit that was stopped goes on."""
    return config.cache or config.out.with_name(f"{config.out.name}{CACHE}")


def drop_own_cache(config: AuditConfig) -> None:
    if config.cache is None:
        shutil.rmtree(cache_of(config), ignore_errors=True)


def build_extractor(config: AuditConfig) -> "tuple[Extractor | None, str]":
    """The network that sets are compared with, and why there is none where there is none."""
    from lesionforge.auditing import features
    from lesionforge.engine import inference

    asked = config.features
    if not config.sets.enabled:
        return None, "sets.enabled is false"
    device = inference.build_accelerator(config.hardware.device, "fp32").device
    try:
        built = features.build_extractor(
            asked.name, asked.weights, asked.run, asked.image_size, asked.mean, asked.std, asked.timm_args, device,
            asked.precision,
        )  # fmt: skip
    except BadInput as error:
        cure = (
            "features.weights takes a weights file of this model, features.run a classifier trained here; "
            "--sets.no-enabled audits without"
        )
        raise BadInput(f"{error}; {cure}") from error
    return built, ""


def judge(config: AuditConfig, inputs: "Inputs", score: "np.ndarray | None") -> Judged:
    """Every filter's say, in the order of the funnel: artefacts, copies, classifier score, repeats."""
    import numpy as np

    from lesionforge import tables
    from lesionforge.auditing import audit_copies, audit_filters, verdicts

    num_images, threads = len(inputs.samples), config.hardware.loader_threads
    findings, measures, artefact_facts = audit_filters.artefact_findings(
        inputs, config.artefacts.filters, config.artefacts.false_alarms, config.artefacts.num_calibration,
        config.cache, threads, config.seed,
    )  # fmt: skip
    found, repeats, descriptors = None, None, None
    if config.copies.enabled:
        asked = config.copies
        found, descriptors = audit_copies.find_copies(
            inputs, asked.false_alarms, asked.num_calibration, asked.own_source == "ignored", config.cache, threads,
            config.seed,
        )  # fmt: skip
    findings.append(audit_filters.copy_finding(found, num_images))
    target = inputs.samples[tables.TARGET].to_numpy()
    findings.append(verdicts.score_finding(score, target, config.score.low, config.score.high, num_images))
    if config.duplicates and found is not None and descriptors is not None:
        kept = verdicts.passed(findings, num_images)
        is_repeat, repeats = audit_copies.find_repeats(descriptors, kept, found.threshold, threads)
        limit = f"copy score of {found.threshold:.3g} or more to an earlier candidate"
        findings.append(verdicts.Finding(audit_filters.REPEAT, is_repeat, True, limit))
    else:
        findings.append(verdicts.Finding(audit_filters.REPEAT, np.zeros(num_images, bool), False, "not looked for"))
    ids = inputs.samples[tables.IMAGE_ID].to_list()
    table = verdicts.verdict_table(
        inputs.samples,
        findings,
        None if found is None else found.score,
        None if found is None else audit_copies.nearest_image(inputs, found.nearest),
        None if repeats is None else [ids[row] if row >= 0 else None for row in repeats],
        measures,
        score,
    )
    return Judged(findings, table, verdicts.passed(findings, num_images), found, artefact_facts)


def report(
    folder: Path, config: AuditConfig, inputs: "Inputs", judged: Judged, extractor: "Extractor | None", why_not: str
) -> dict[str, Any]:
    """Measure the sets, draw the pictures, write the tables, audit.json and the page; returns what audit.json holds."""
    from lesionforge import tables
    from lesionforge.auditing import audit_facts, audit_pictures, audit_report, audit_sets, audit_shortcut, verdicts
    from lesionforge.engine import inference

    device = inference.build_accelerator(config.hardware.device, "fp32").device
    asked, threads = config.sets, config.hardware.loader_threads
    funnel = verdicts.funnel(judged.findings, len(inputs.samples))
    sets = audit_sets.no_sets()
    if asked.enabled:
        sets = audit_sets.measure_sets(
            inputs, judged.kept, extractor, why_not, asked.subtype, asked.num_images, config.cache,
            config.features.batch_size, threads, config.seed, device,
        )  # fmt: skip
    shortcut = audit_shortcut.no_test()
    if asked.enabled and asked.shortcut:
        shortcut = audit_shortcut.shortcut_table(inputs, judged.kept, config.seed, device)
    pairs = audit_pictures.draw(
        folder, inputs, judged.verdicts, judged.copies, sets.spectra, config.report.num_pairs, config.report.num_shown,
        config.seed,
    )  # fmt: skip
    facts = audit_facts.gather(
        config.candidates, inputs, judged.verdicts, funnel, judged.copies, judged.artefact_facts, sets, shortcut,
        extractor, why_not, asked.subtype,
    )  # fmt: skip
    for name, table in (
        (run.FUNNEL, funnel), (run.SETS, sets.scores), (run.SPECTRA, sets.spectra), (run.SUBTYPES, sets.subtypes),
        (run.SHORTCUT, shortcut), (run.PAIRS_TABLE, pairs),
    ):  # fmt: skip
        tables.write_table(folder / name, table)
    tables.write_table(folder / run.VERDICTS, judged.verdicts)
    for text in audit_facts.collapse_of(facts):
        log.warning("%s", text)
    files.write_json(folder / run.AUDIT, facts)
    audit_report.write_report(
        folder / run.REPORT,
        facts,
        {"funnel": funnel, "scores": sets.scores, "subtypes": sets.subtypes, "shortcut": shortcut},
    )
    return facts


def write_survivors(folder: Path, inputs: "Inputs", kept: "np.ndarray", facts: dict[str, Any]) -> None:
    """The store of what is kept: ids, bytes and provenance as they were."""
    import numpy as np

    from lesionforge import tables
    from lesionforge.data.provenance import copy_provenance
    from lesionforge.data.store import MEASURED_COLUMNS, write_store

    rows = np.flatnonzero(kept)
    samples = inputs.samples[rows].drop(MEASURED_COLUMNS)
    images = ((image_id, bytes(inputs.candidates.read(int(row)))) for image_id, row in
              zip(samples[tables.IMAGE_ID], rows, strict=True))  # fmt: skip
    write_store(folder, images, samples)
    provenance_sha256 = copy_provenance(inputs.candidates.path, folder)
    run.mark_done(
        folder,
        num_images=len(rows),
        num_candidates=len(kept),
        store_sha256=files.read_json(folder / run.STORE)["samples_sha256"],
        provenance_sha256=provenance_sha256,
        **inputs_sha256(facts),
        verdicts_sha256=files.sha256_of_file(folder / run.VERDICTS),
    )


def inputs_sha256(facts: dict[str, Any]) -> dict[str, str]:
    return {name: facts["real"][name] for name in ("candidates_sha256", "real_sha256", "split_sha256")}


def rejected_places(out: Path) -> list[Path]:
    return [place for place in out.parent.glob(f"{out.name}{REJECTED}*") if (place / run.VERDICTS).is_file()]


def refuse_rejected(config: AuditConfig, inputs: "Inputs") -> None:
    """Say at once what this very audit came to before."""
    from lesionforge.recipe import read_recipe

    for place in rejected_places(config.out):
        same_config = not run.differing_keys(read_recipe(place / run.CONFIG).settings, config)
        facts = files.read_json(place / run.AUDIT)
        if same_config and inputs_sha256(facts) == inputs_sha256({"real": inputs.facts}):
            raise BadInput(nothing_kept(place))


def keep_rejected(folder: Path, out: Path) -> Path:
    """Keep all of an audit in which nothing was kept, in the first free OUT-rejected; there is no store in it."""
    number = 1
    while (place := out.with_name(f"{out.name}{REJECTED}{'' if number == 1 else f'-{number}'}")).exists():
        number += 1
    with files.write_folder_whole(place) as kept:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    return place


def nothing_kept(place: Path) -> str:
    from lesionforge import tables
    from lesionforge.auditing import verdicts

    table = tables.read_table(place / run.VERDICTS)
    return (
        f"none of {len(table):,} candidates was kept ({verdicts.count_by_reason(table)}), so there is no store to "
        f"write; look at {place / run.REPORT} (each verdict is in {run.VERDICTS} beside it), then {cure_of(table)}"
    )


def cure_of(table: "pl.DataFrame") -> str:
    """What helps, by what took most."""
    from lesionforge import tables
    from lesionforge.auditing import audit_filters, verdicts

    reason = table[tables.VERDICT_REASON].value_counts(sort=True)[tables.VERDICT_REASON][0]
    if reason in (audit_filters.COPY, audit_filters.REPEAT):
        return "train the generator on more images or for fewer epochs, or take an earlier checkpoint of it"
    if reason == verdicts.SCORE_REASON:
        return "widen score.low and score.high, or generate more"
    return "train the generator longer or mend its settings, or name fewer artefacts.filters"
