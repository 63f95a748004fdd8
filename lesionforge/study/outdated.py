"""What a changed setting makes out of date: each step has a fingerprint of its settings and of all that it builds on.

A folder made for another fingerprint is moved to replaced/, never deleted, and its job and those that need it run anew.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from lesionforge import run
from lesionforge.files import read_json, sha256_of_file, write_json
from lesionforge.study.jobs import ALL, FINGERPRINTS, JOBS, REPLACED, Job

log = logging.getLogger("lesionforge")


def marker_of(study: Path, job: str) -> Path:
    """The file that says that a job is done; Snakemake's output."""
    return study / JOBS / f"{job}.json"


def fingerprints_of(study: Path, jobs: dict[str, Job], data: tuple[Path, ...]) -> dict[str, list[str]]:
    """For each job, by key, the fingerprint of each step, in order.

    A fingerprint covers the settings that can change a result, the steps before it in its job, what the job needs, and
    what the stores and the split hold; not where the study lies.
    """
    held = [digest_of(path) for path in data]
    found: dict[str, list[str]] = {}
    for key, job in jobs.items():
        below: list[Any] = [*held, *(needed_fingerprint(found, jobs, needed) for needed in job.needs)]
        found[key] = []
        for step in job.steps:
            settings = run.flat(step.config.model_dump(mode="json"))
            counted = {
                name: relative_to(study, value)
                for name, value in settings.items()
                if not name.startswith(step.config.runtime_keys)
            }
            below = [hashlib.sha256(json.dumps([step.verb, counted, below]).encode()).hexdigest()]
            found[key] += below
    return found


def needed_fingerprint(found: dict[str, list[str]], jobs: dict[str, Job], needed: tuple[str, str]) -> str:
    key, verb = needed
    verbs = [step.verb for step in jobs[key].steps]
    return found[key][-1 if verb == ALL else verbs.index(verb)]


def relative_to(study: Path, value: Any) -> Any:
    """A setting with the study's own folder left out, so that a study may be moved."""
    if isinstance(value, list):
        return [relative_to(study, each) for each in value]
    return value.replace(f"{study}/", "@/") if isinstance(value, str) else value


def digest_of(path: Path) -> str:
    """SHA-256 of what says what a store or a split holds; the empty word where there is no such file."""
    for file in (path / run.STORE, path / run.SPLIT, path):
        if file.is_file():
            return sha256_of_file(file)
    return ""


def set_aside(study: Path, jobs: dict[str, Job], fingerprints: dict[str, list[str]], stamp: str) -> list[str]:
    """Move what was made for other settings to replaced/STAMP, note what is made now; the jobs that lost something.

    A folder without a noted fingerprint (made by hand with the same command) is left to its verb, which refuses it
    where its config differs.
    """
    path = study / FINGERPRINTS
    noted: dict[str, list[str]] = read_json(path) if path.is_file() else {}
    lost, made_anew = [], set()
    for key, job in jobs.items():
        before, marker = noted.get(key), marker_of(study, key)
        changed = first_difference(before, fingerprints[key]) if before is not None else len(job.steps)
        if any(needed in made_anew for needed, _ in job.needs):
            changed = 0
        if changed == 0 or (marker.is_file() and not (job.folder / run.DONE).is_file()):  # changed, or deleted by hand
            made_anew.add(key)
        for step in job.steps[changed:]:
            if step.folder.exists():
                move(study, step.folder, stamp)
                lost.append(key)
        if changed < len(job.steps) or not (job.folder / run.DONE).is_file():
            marker.unlink(missing_ok=True)
    write_json(path, noted | fingerprints)
    return list(dict.fromkeys(lost))


def first_difference(before: list[str], now: list[str]) -> int:
    """The first step that differs, the number of steps if none does."""
    pairs = zip(before, now, strict=False)
    return next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(before), len(now)))


def move(study: Path, folder: Path, stamp: str) -> None:
    to = study / REPLACED / stamp / folder.relative_to(study)
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, to)
    log.info("%s was made with other settings: moved to %s", folder, to)
