"""Copies of real lesions among generated ones, and generated ones that repeat each other.

A candidate's likeliest sources are found by keypoints that follow rotation, flip, zoom and shift (copies_shortlist),
laid over it (copies_alignment), and scored by the correlation of the overlap. Lesions look alike, so no fixed score
makes a copy: the threshold comes from real lesions that nobody copied.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from lesionforge.auditing import copies_alignment as alignment
from lesionforge.auditing import copies_shortlist as shortlists
from lesionforge.auditing.copies_descriptor import HARMONICS, KEYPOINTS, THUMBNAILS, describe

__all__ = ["DESCRIPTION", "CopyScores", "calibrated_threshold", "copy_scores", "describe"]

DESCRIPTION = "copies 1"  # kind of the cached rows; another number when describe() says otherwise
SHORTLIST = 20  # references that a candidate is laid over
HYPOTHESES = 3  # pairs of keypoints that are tried
FINALISTS = 3  # references whose overlay is refined
STEPS = 6
CHUNK = 32  # candidates that a thread takes at a time


class CopyScores(NamedTuple):
    score: np.ndarray  # (N,) float64, higher = more alike, at most 1
    nearest: np.ndarray  # (N,) int64, rows of the references


def copy_scores(
    candidates: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    advance: Callable[[int], None] = lambda count: None,
    exclude_self: bool = False,
    num_threads: int = 1,
    excluded: np.ndarray | None = None,
) -> CopyScores:
    """The reference that each candidate is most alike, and how much; the same at any number of threads.

    Args:
        candidates, references: descriptors of N and R images, as `describe` makes them.
        advance: told of candidates as they are scored, N in all.
        exclude_self: candidates and references are the same images, and none is its own copy.
        num_threads: threads beside those of the matrix products.
        excluded: (N,) int64, a row of the references that each candidate is not held against; -1 for none.

    Returns:
        Scores; -1 and row -1 where there is no reference to compare with.
    """
    num, num_references = len(candidates[THUMBNAILS]), len(references[THUMBNAILS])
    if exclude_self and num != num_references:
        raise ValueError(f"{num} candidates and {num_references} references cannot be the same images")
    score, nearest = np.full(num, -1.0), np.full(num, -1, np.int64)
    if num == 0 or num_references == 0:
        advance(num)
        return CopyScores(score, nearest)
    with ThreadPoolExecutor(num_threads) as pool:
        whitening = shortlists.fit_whitening(references[HARMONICS])
        of_references = shortlists.whitened(references[HARMONICS], whitening, pool)
        of_candidates = shortlists.whitened(candidates[HARMONICS], whitening, pool)
        rows = shortlists.shortlist(of_candidates, of_references, SHORTLIST, exclude_self, pool, excluded)  # (N, S)

        def of_chunk(start: int) -> tuple[int, np.ndarray, np.ndarray]:
            which = slice(start, start + CHUNK)
            some = {name: array[which] for name, array in candidates.items()}
            return start, *best_of(some, references, of_candidates[which], of_references, rows[which])

        for start, best, row in pool.map(of_chunk, range(0, num, CHUNK)):
            score[start : start + CHUNK], nearest[start : start + CHUNK] = best, row
            advance(len(best))
    return CopyScores(score, nearest)


def best_of(
    candidates: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    of_candidates: np.ndarray,
    of_references: np.ndarray,
    rows: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) score and (n,) row of the best among each candidate's shortlist. rows: (n, S), -1 for none."""
    score, nearest = np.full(len(rows), -1.0), np.full(len(rows), -1, np.int64)
    candidate, place = np.nonzero(rows >= 0)
    if not len(candidate):
        return score, nearest
    reference = rows[candidate, place]  # (P,)
    first, second = alignment.likely_pairs(of_candidates[candidate], of_references[reference], HYPOTHESES)
    c, r = np.repeat(candidate, HYPOTHESES), np.repeat(reference, HYPOTHESES)
    first, second = first.ravel(), second.ravel()
    maps = alignment.pair_maps(
        candidates[HARMONICS][c, first], references[HARMONICS][r, second],
        candidates[KEYPOINTS][c, first], references[KEYPOINTS][r, second],
    )  # fmt: skip
    thumbnails = candidates[THUMBNAILS].astype(np.float32)
    flat = thumbnails.reshape(len(rows), -1)
    distinct, place_of = np.unique(reference, return_inverse=True)
    others = references[THUMBNAILS][distinct].astype(np.float32).reshape(len(distinct), -1)
    place_of = np.repeat(place_of, HYPOTHESES)
    quick, _ = alignment.correlate(flat[c], others[place_of], maps, alignment.EVERY_SECOND)

    by_pair = quick.reshape(-1, HYPOTHESES)
    best_hypothesis = np.arange(len(by_pair)) * HYPOTHESES + by_pair.argmax(1)
    order = best_hypothesis[np.lexsort((-by_pair.max(1), candidate))]
    rank = np.arange(len(order)) - np.searchsorted(c[order], c[order])
    final = order[rank < FINALISTS]  # rows of maps
    refined = alignment.refined(
        flat[c[final]], others[place_of[final]], maps[final], alignment.descent(thumbnails)[c[final]], STEPS
    )
    last = np.lexsort((-refined, c[final]))
    found, at = np.unique(c[final][last], return_index=True)
    score[found], nearest[found] = refined[last][at], r[final][last][at]
    return score, nearest


def calibrated_threshold(held_out_scores: np.ndarray, false_alarms: float = 0.01) -> float:
    """The lowest threshold that at most a share `false_alarms` of held-out images reaches (score >= threshold).

    Args:
        held_out_scores: (M,) of real images that are copies of none, to the references.
        false_alarms: in [0, 1).
    """
    scores = np.sort(np.asarray(held_out_scores, np.float64))[::-1]
    if not len(scores) or not np.isfinite(scores).all() or not 0 <= false_alarms < 1:
        raise ValueError(f"{len(scores)} held-out scores and {false_alarms} false alarms give no threshold")
    return math.nextafter(scores[math.floor(false_alarms * len(scores))], math.inf)
