"""Near-copies: candidates held against every real image that the generator may have seen, by a calibrated threshold;
and candidates that repeat each other.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.auditing import artefacts, copies, features, rates, verdicts
from lesionforge.auditing.audit_inputs import Inputs, some_of
from lesionforge.data import pixels
from lesionforge.data.store import Store
from lesionforge.errors import BadInput
from lesionforge.progress import progress

CHUNK = 32  # images that one thread decodes and measures at a time
ARTEFACTS = "artefacts 1"  # kind of the cached measures; another number when artefacts.py measures otherwise
INPAINTING = "inpainting"

Rows = dict[str, np.ndarray]


class Copies(NamedTuple):
    threshold: float
    score: np.ndarray  # (N,) float64, of each candidate to the reference it is most alike
    nearest: np.ndarray  # (N,) int64, rows of the references, -1 for none
    held_out_score: np.ndarray  # (M,) float64
    facts: dict[str, Any]


def describe(store: Store, table: pl.DataFrame, cache: Path | None, num_threads: int, title: str) -> Rows:
    """The copy descriptors of a table's images, a row each."""
    return per_image(store, table, cache, num_threads, title, copies.DESCRIPTION, copies.describe)


def measure(store: Store, table: pl.DataFrame, cache: Path | None, num_threads: int, title: str) -> Rows:
    """The artefact measures of a table's images, a row each."""
    return per_image(store, table, cache, num_threads, title, ARTEFACTS, artefacts.measure)


def per_image(store, table, cache, num_threads, title, kind, compute) -> Rows:  # type: ignore[no-untyped-def]
    """What `compute` says of each image's pixels, kept in the cache; threads take an image each."""
    rows = store.rows(table[tables.IMAGE_ID])
    ids = table[tables.IMAGE_ID]

    def of_some(positions: np.ndarray) -> Rows:
        chunks = [positions[i : i + CHUNK] for i in range(0, len(positions), CHUNK)]
        parts = list(pool.map(lambda chunk: compute([decoded(store, rows, ids, int(p)) for p in chunk]), chunks))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    with ThreadPoolExecutor(num_threads) as pool, progress(title, len(table)) as advance:
        return features.cached(cache, kind, table[tables.SHA256].to_list(), of_some, 4 * num_threads * CHUNK, advance)


def decoded(store: Store, rows: np.ndarray, ids: pl.Series, position: int) -> np.ndarray:
    try:
        return pixels.decode(store.read(int(rows[position])))
    except pixels.BadImage as error:
        raise BadInput(f"{ids[position]} in {store.path}: {error}; make the store anew from sound images") from error


def find_copies(
    inputs: Inputs, false_alarms: float, num_calibration: int, ignore_own_source: bool, cache: Path | None,
    num_threads: int, seed: int,
) -> tuple[Copies, Rows]:  # fmt: skip
    """Calibrate the threshold on held-out lesions and hold all candidates against the references.

    Returns:
        The copies, and the candidates' descriptors, to find repeats by.
    """
    held_out = some_of(inputs.held_out, num_calibration, seed)
    of_candidates = describe(inputs.candidates, inputs.samples, cache, num_threads, "describing candidates")
    of_references = describe(inputs.real, inputs.references, cache, num_threads, "describing training images")
    of_held_out = describe(inputs.real, held_out, cache, num_threads, "describing held-out lesions")
    is_fitting = inputs.references[tables.IMAGE_ID].is_in(inputs.fitting[tables.IMAGE_ID].implode()).to_numpy()

    with progress("comparing held-out lesions", len(held_out)) as advance:
        real = copies.copy_scores(of_held_out, chosen(of_references, is_fitting), advance, False, num_threads)
    threshold = copies.calibrated_threshold(real.score, false_alarms)
    with progress("comparing candidates", len(inputs.samples)) as advance:
        own = own_source(inputs) if ignore_own_source else None
        score, nearest = copies.copy_scores(of_candidates, of_references, advance, False, num_threads, own)
    facts = rate_facts(score, real.score, held_out[tables.TARGET].to_numpy(), threshold, inputs.samples)
    num_own_source = 0 if own is None else int((own >= 0).sum())
    facts |= {"false_alarms": false_alarms, "num_own_source": num_own_source, "descriptor": copies.DESCRIPTION}
    return Copies(threshold, score, nearest, real.score, facts), of_candidates


def chosen(rows: Mapping[str, np.ndarray], which: np.ndarray) -> Rows:
    """Some rows of descriptors. which: (N,) bool, or positions."""
    if which.dtype == bool and which.all():
        return dict(rows)
    return {name: array[which] for name, array in rows.items()}


def own_source(inputs: Inputs) -> np.ndarray | None:
    """(N,) int64, the row of the reference whose skin each inpainted candidate was painted on, -1 for none."""
    if not {tables.GENERATION, tables.SOURCE_IMAGE} <= set(inputs.samples.columns):
        return None
    row_of = {image_id: row for row, image_id in enumerate(inputs.references[tables.IMAGE_ID])}
    told = zip(inputs.samples[tables.GENERATION], inputs.samples[tables.SOURCE_IMAGE], strict=True)
    return np.array([row_of.get(source, -1) if way == INPAINTING else -1 for way, source in told], np.int64)


def nearest_image(inputs: Inputs, nearest: np.ndarray) -> list[str | None]:
    """Ids of references; None where there was none to compare with (row -1)."""
    ids = inputs.references[tables.IMAGE_ID].to_list()
    return [ids[row] if row >= 0 else None for row in nearest]


def rate_facts(
    score: np.ndarray, held_out_score: np.ndarray, held_out_target: np.ndarray, threshold: float, samples: pl.DataFrame
) -> dict[str, Any]:
    """How many are called copies, of the candidates and of the real held-out lesions, by class too."""
    is_copy, is_alarm = score >= threshold, held_out_score >= threshold
    target = samples[tables.TARGET].to_numpy()
    facts: dict[str, Any] = {
        "threshold": float(threshold),
        "copy_rate": rates.share(int(is_copy.sum()), len(is_copy)),
        "held_out_rate": rates.share(int(is_alarm.sum()), len(is_alarm)),
        "ratio": rates.ratio(int(is_copy.sum()), len(is_copy), int(is_alarm.sum()), len(is_alarm)),
        "by_class": {},
    }
    for value, name in ((1, "malignant"), (0, "benign")):
        of_class, real_class = target == value, held_out_target == value
        if of_class.any():
            facts["by_class"][name] = {
                "copy_rate": rates.share(int((is_copy & of_class).sum()), int(of_class.sum())),
                "held_out_rate": rates.share(int((is_alarm & real_class).sum()), int(real_class.sum())),
            }
    return facts


def find_repeats(
    of_candidates: Rows, kept: np.ndarray, threshold: float, num_threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """What repeats an earlier candidate among those that are kept.

    Each candidate tells only the one it is most alike, so this goes on until no two of those left are alike.

    Returns:
        (N,) bool; (N,) int64, the row that each repeats, -1 for none.
    """
    left, repeats_of = kept.copy(), np.full(len(kept), -1, np.int64)
    while left.sum() > 1:
        rows = np.flatnonzero(left)
        with progress("comparing candidates with each other", len(rows)) as advance:
            some = chosen(of_candidates, left)
            found = copies.copy_scores(some, some, advance, True, num_threads)
        alike = np.flatnonzero(found.score >= threshold)
        pairs = [(int(rows[i]), int(rows[found.nearest[i]])) for i in alike]
        if not pairs:
            break
        for first, repeat in verdicts.without_repeats(pairs, left):
            repeats_of[repeat] = first
    return repeats_of >= 0, root_of(repeats_of)


def root_of(repeats_of: np.ndarray) -> np.ndarray:
    """Follow chains to the candidate that is kept."""
    roots = repeats_of.copy()
    for row in np.flatnonzero(repeats_of >= 0):
        while repeats_of[roots[row]] >= 0:
            roots[row] = repeats_of[roots[row]]
    return roots
