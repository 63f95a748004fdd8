"""What a changed setting makes out of date: each step has a fingerprint of its settings and of all that it builds on.

A folder made for another fingerprint is moved to replaced/, never deleted, and its job and those that need it run anew.
"""

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lesionforge import run
from lesionforge.files import read_json, sha256_of_file, write_json
from lesionforge.study.jobs import ALL, FINGERPRINTS, JOBS, REPLACED, Job, Step

log = logging.getLogger("lesionforge")

VERSION = 2  # of how a fingerprint is taken
READ_BY_NONE = ("evaluate",)  # verbs whose result no other step reads
INSIDE = "@/"  # the study's own folder


def marker_of(study: Path, job: str) -> Path:
    """The file that says that a job is done; Snakemake's output."""
    return study / JOBS / f"{job}.json"


def fingerprints_of(study: Path, jobs: dict[str, Job]) -> dict[str, list[str]]:
    """For each job, by key, the fingerprint of each step, in order.

    A fingerprint covers the settings that can change a result, what the stores, splits and files that they name hold,
    the steps before it in its job and what the job needs; not where the study lies.
    """
    held: dict[str, str] = {}  # path: digest, each read once
    found: dict[str, list[str]] = {}
    for key, job in jobs.items():
        below: list[Any] = [needed_fingerprint(found, jobs, needed) for needed in job.needs]
        found[key] = []
        for step in job.steps:
            settings = run.flat(step.config.model_dump(mode="json"))
            counted = {
                name: relative_to(study, value)
                for name, value in settings.items()
                if not name.startswith(step.config.runtime_keys)
            }
            for path in [path for value in counted.values() for path in paths_in(value)]:
                held.setdefault(path, digest_of(Path(path)))
            read = [held[path] for value in counted.values() for path in paths_in(value)]
            mark = hashlib.sha256(json.dumps([step.verb, counted, read, below]).encode()).hexdigest()
            found[key].append(mark)
            if step.verb not in READ_BY_NONE:
                below = [mark]
    return found


def needed_fingerprint(found: dict[str, list[str]], jobs: dict[str, Job], needed: tuple[str, str]) -> str:
    key, verb = needed
    places = [place for place, step in enumerate(jobs[key].steps) if step.verb not in READ_BY_NONE]
    if verb == ALL:
        return found[key][places[-1]]
    return found[key][next(place for place in places if jobs[key].steps[place].verb == verb)]


def paths_in(value: Any) -> list[str]:
    """What may name something outside the study: text with a slash, alone or in a list."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str) and "/" in each and not each.startswith(INSIDE)]


def relative_to(study: Path, value: Any) -> Any:
    """A setting with the study's own folder left out, so that a study may be moved."""
    if isinstance(value, list):
        return [relative_to(study, each) for each in value]
    return value.replace(f"{study}/", INSIDE) if isinstance(value, str) else value


def digest_of(path: Path) -> str:
    """SHA-256 of what says what a store, a split or a file holds; the empty word where there is no such file."""
    with suppress(OSError):  # text that is no path, such as a long prompt
        for file in (path / run.STORE, path / run.SPLIT, path):
            if file.is_file():
                return sha256_of_file(file)
    return ""


def stale_steps(study: Path, jobs: dict[str, Job], fingerprints: dict[str, list[str]]) -> dict[str, list[Step]]:
    """By key, the steps of each job whose result is not there any more, or was made for other settings.

    A job without a noted fingerprint (made by hand with the same command) is left to its verbs, which refuse a folder
    whose config differs.
    """
    noted = noted_in(study)
    stale: dict[str, list[Step]] = {}
    for key, job in jobs.items():
        before, now = noted.get(key), fingerprints[key]
        pairs = zip(job.steps, before or [], now, strict=False)
        found = [step for step, old, new in pairs if old != new] + list(job.steps[len(before or now) :])
        deleted_by_hand = marker_of(study, key).is_file() and not (job.folder / run.DONE).is_file()
        needed_anew = any(jobs[needed].steps[0] in stale.get(needed, []) for needed, _ in job.needs)
        stale[key] = list(job.steps) if deleted_by_hand or needed_anew else found
    return stale


def set_aside(study: Path, jobs: dict[str, Job], fingerprints: dict[str, list[str]], stamp: str) -> list[str]:
    """Move what was made for other settings to replaced/STAMP, note what is made now; the jobs that lost something."""
    lost = []
    for key, stale in stale_steps(study, jobs, fingerprints).items():
        for step in stale:
            if step.folder.exists():
                move(study, step.folder, stamp)
                lost.append(key)
        if stale or not (jobs[key].folder / run.DONE).is_file():
            marker_of(study, key).unlink(missing_ok=True)
    write_json(study / FINGERPRINTS, {"version": VERSION, "jobs": noted_in(study) | fingerprints})
    return list(dict.fromkeys(lost))


def noted_in(study: Path) -> dict[str, list[str]]:
    """The fingerprints that the folders were made for; none where another version of this module noted them."""
    path = study / FINGERPRINTS
    noted = read_json(path) if path.is_file() else {}
    return noted["jobs"] if noted.get("version") == VERSION else {}


def move(study: Path, folder: Path, stamp: str) -> None:
    to = study / REPLACED / stamp / folder.relative_to(study)
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, to)
    log.info("%s was made with other settings: moved to %s", folder, to)
