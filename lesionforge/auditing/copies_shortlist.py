"""Which references a candidate may be a copy of: those whose keypoints look most like its own.

Keypoints are compared by what neither rotation nor flip changes in their harmonics, whitened on the references. Many
references are first parted into cells (an inverted file; Jegou et al. 2011, doi 10.1109/TPAMI.2010.57), and a
candidate's keypoint is held against those of the nearest cells.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from lesionforge.auditing.copies_descriptor import (
    GREY_ORDERS,
    HARMONICS_SCALE,
    NUM_OF_SIGN,
    RADII,
    RED_GREEN_ORDERS,
)

NUM_DIMENSIONS = 32
WHITENING = 0.75  # power: 0 leaves the principal components' sizes, 1 makes them equal
FITTED_ROWS = 20_000  # references that the whitening is fitted on
NUM_MATCHES = 24  # of a keypoint
CELL = 8192  # keypoints in a cell, on average
NUM_PROBED = 16  # cells that a keypoint is held against
LLOYD_STEPS = 5
BLOCK = 4096  # rows at a time: what numpy makes of them stays small
TILE = 128  # keypoints of candidates at a time: their similarities to a cell stay in the processor's cache


class Whitening(NamedTuple):
    mean: np.ndarray  # (F,) float32
    matrix: np.ndarray  # (F, D) float32


def complex_harmonics(harmonics: np.ndarray) -> np.ndarray:
    """(..., 60, 2) int8 => (..., 60) complex64."""
    return (harmonics.astype(np.float32) / HARMONICS_SCALE).view(np.complex64)[..., 0]


def invariants(harmonics: np.ndarray) -> np.ndarray:
    """(N, 8, 60, 2) int8 => (N, 8, F) float32 that no rotation and no flip changes: sizes, and how rings agree."""
    rings = complex_harmonics(harmonics)
    parts = []
    start = 0
    for num_orders in (GREY_ORDERS, RED_GREEN_ORDERS):
        end = start + len(RADII) * num_orders
        channel = rings[..., start:end].reshape(*rings.shape[:2], len(RADII), num_orders)
        start = end
        agreement = (channel[..., :-1, 1:] * channel[..., 1:, 1:].conj()).real
        agreement = np.sign(agreement) * np.sqrt(np.abs(agreement))
        found = (channel[..., 0].real, np.abs(channel[..., 1:]), agreement)
        parts += [part.reshape(*rings.shape[:2], -1) for part in found]
    return np.concatenate(parts, axis=-1)


def fit_whitening(harmonics: np.ndarray) -> Whitening:
    """Principal components of the invariants of at most FITTED_ROWS images, evenly taken."""
    rows = harmonics[:: max(len(harmonics) // FITTED_ROWS, 1)]
    features = np.concatenate([invariants(part).reshape(len(part) * 2 * NUM_OF_SIGN, -1) for part in blocks(rows)])
    mean = features.mean(0, dtype=np.float64)
    covariance = np.cov(features, rowvar=False)
    sizes, directions = np.linalg.eigh(covariance)
    sizes, directions = sizes[::-1][:NUM_DIMENSIONS], directions[:, ::-1][:, :NUM_DIMENSIONS]
    matrix = directions / (sizes + 1e-3 * sizes[0] + 1e-9) ** (WHITENING / 2)
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def blocks(rows: np.ndarray) -> Iterable[np.ndarray]:
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def whitened(harmonics: np.ndarray, whitening: Whitening, pool: ThreadPoolExecutor) -> np.ndarray:
    """(N, 8, D) float32 of length 1."""
    out = np.empty((*harmonics.shape[:2], whitening.matrix.shape[1]), np.float32)

    def write(start: int) -> None:
        features = (invariants(harmonics[start : start + BLOCK]) - whitening.mean) @ whitening.matrix
        out[start : start + BLOCK] = features / (np.linalg.norm(features, axis=-1, keepdims=True) + 1e-9)

    for _ in pool.map(write, range(0, len(harmonics), BLOCK)):
        pass
    return out


class Matches(NamedTuple):
    """Of candidates' keypoints, in no order."""

    keypoint: np.ndarray  # (M,) int64, row of the candidates' keypoints of one sign
    reference_keypoint: np.ndarray  # (M,) int64
    similarity: np.ndarray  # (M,) float32


def shortlist(
    candidates: np.ndarray, references: np.ndarray, length: int, exclude_self: bool, pool: ThreadPoolExecutor,
    excluded: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """References that look most like each candidate.

    Args:
        candidates, references: (N, 8, D) and (R, 8, D) float32 of length 1.
        length: how many.
        exclude_self: candidates and references are the same images; none is its own.
        excluded: (N,) int64, a row of the references that each candidate is not to get; -1 for none.

    Returns:
        (N, length) int64 rows of the references, the likeliest first; -1 where there are no more.
    """
    num, num_references = len(candidates), len(references)
    if exclude_self:
        excluded = np.arange(num)
    if num_references <= length:
        rows = np.tile(np.arange(num_references), (num, 1))
        return rows if excluded is None else np.where(rows == excluded[:, None], -1, rows)
    pairs, votes = [], []
    for half in (slice(0, NUM_OF_SIGN), slice(NUM_OF_SIGN, 2 * NUM_OF_SIGN)):
        found = match(
            candidates[:, half].reshape(num * NUM_OF_SIGN, -1),
            references[:, half].reshape(num_references * NUM_OF_SIGN, -1),
            pool,
        )
        candidate, reference = found.keypoint // NUM_OF_SIGN, found.reference_keypoint // NUM_OF_SIGN
        weakest = np.full(num * NUM_OF_SIGN, np.inf, np.float32)
        np.minimum.at(weakest, found.keypoint, found.similarity)
        # what a keypoint has in common with many says little: only what stands out counts
        vote = (found.similarity - weakest[found.keypoint] + 1e-3) ** 2
        kept = slice(None) if excluded is None else reference != excluded[candidate]
        pairs.append((candidate * num_references + reference)[kept])
        votes.append(vote[kept])
    pair, place = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.bincount(place, np.concatenate(votes))
    candidate = pair // num_references
    order = np.lexsort((-total, candidate))
    candidate, reference = candidate[order], (pair % num_references)[order]
    rank = np.arange(len(order)) - np.searchsorted(candidate, candidate)
    rows = np.full((num, length), -1, np.int64)
    kept = rank < length
    rows[candidate[kept], rank[kept]] = reference[kept]
    return rows


def match(candidates: np.ndarray, references: np.ndarray, pool: ThreadPoolExecutor) -> Matches:
    """The NUM_MATCHES references' keypoints most alike each candidate's, of those in the cells probed.

    Args:
        candidates, references: (Q, D) and (K, D) float32 of length 1.
    """
    num_cells = max(len(references) // CELL, 1)
    centres = cell_centres(references, num_cells)
    cell_of = np.concatenate(list(pool.map(lambda part: (part @ centres.T).argmax(1), blocks(references))))
    by_cell = np.argsort(cell_of, kind="stable")
    bounds = np.searchsorted(cell_of[by_cell], np.arange(num_cells + 1))
    near = candidates @ centres.T  # (Q, num_cells)
    probed = np.argsort(-near, axis=1, kind="stable")[:, :NUM_PROBED]  # nearest first
    floor = np.zeros(len(candidates), np.float32)  # what a match in a further cell must exceed

    def search(cell: int, rows: np.ndarray, is_nearest: bool) -> list[Matches]:
        """Matches of some candidates in one cell; in a candidate's nearest cell they set its floor."""
        members = by_cell[bounds[cell] : bounds[cell + 1]]
        vectors = references[members].T.copy()  # (D, members)
        out = []
        for start in range(0, len(rows), TILE):
            tile = rows[start : start + TILE]
            similarity = candidates[tile] @ vectors  # (tile, members)
            if is_nearest:
                num = min(NUM_MATCHES, len(members))
                column = np.argpartition(similarity, -num, axis=1)[:, -num:]
                found = np.take_along_axis(similarity, column, axis=1)
                floor[tile] = found.min(1)
                out.append(Matches(np.repeat(tile, num), members[column.ravel()], found.ravel()))
            else:
                place = np.flatnonzero(similarity > floor[tile, None])
                row, column = np.divmod(place, len(members))
                out.append(Matches(tile[row], members[column], similarity.ravel()[place]))
        return out

    def all_cells(columns: np.ndarray, is_nearest: bool) -> list[Matches]:
        row = np.repeat(np.arange(len(columns)), columns.shape[1])
        order = np.argsort(columns.ravel(), kind="stable")
        ends = np.searchsorted(columns.ravel()[order], np.arange(num_cells + 1))
        cells = [c for c in range(num_cells) if ends[c + 1] > ends[c] and bounds[c + 1] > bounds[c]]
        tasks = pool.map(lambda cell: search(cell, row[order[ends[cell] : ends[cell + 1]]], is_nearest), cells)
        return [matches for task in tasks for matches in task]

    found = all_cells(probed[:, :1], True)
    if num_cells > 1:
        found += all_cells(probed[:, 1:], False)
    return strongest(Matches(*(np.concatenate(column) for column in zip(*found, strict=True))))


def strongest(matches: Matches) -> Matches:
    """NUM_MATCHES of each keypoint."""
    order = np.lexsort((matches.reference_keypoint, -matches.similarity, matches.keypoint))
    keypoint = matches.keypoint[order]
    rank = np.arange(len(order)) - np.searchsorted(keypoint, keypoint)
    order = order[rank < NUM_MATCHES]
    return Matches(*(column[order] for column in matches))


def cell_centres(vectors: np.ndarray, num_cells: int) -> np.ndarray:
    """(num_cells, D) float32 of length 1: k-means on a sample, evenly taken, by Lloyd's steps."""
    sample = vectors[:: max(len(vectors) // (64 * num_cells), 1)]
    centres = sample[:: max(len(sample) // num_cells, 1)][:num_cells].copy()
    for _ in range(LLOYD_STEPS if num_cells > 1 else 0):
        cell_of = np.concatenate([(part @ centres.T).argmax(1) for part in blocks(sample)])
        order = np.argsort(cell_of, kind="stable")
        cells, starts = np.unique(cell_of[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts)
        centres[cells] = sums / (np.linalg.norm(sums, axis=1, keepdims=True) + 1e-9)
    return centres
