"""Who lies near whom: precision and recall of a generated set, and which real sub-types it covers.

Each image of one set owns a ball in feature space that reaches to its k-th nearest neighbour in the same set; an image
of the other set is "inside" where any ball holds it. Work goes in blocks: memory grows with the number of images, not
with its square. Time grows with the square, so draw a few thousands of a large set first (`fidelity.drawn`).
"""

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch

from lesionforge.bootstrap import Estimate, clusters_of, estimate, resampled_sums
from lesionforge.errors import BadInput

NUM_NEIGHBOURS = 3  # Kynkaanniemi et al. 2019, section 2
NUM_NEIGHBOURS_COVERAGE = 5  # Naeem et al. 2020, section 3.3
BLOCK = 1024, 16_384  # queries and references at a time: 134 MB of float64
NUM_REPLICATES = 1000
SLACK = 1e-12  # of the squared norms: rounding must not push an identical image out of a ball
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1] with 95 % intervals over the images counted, the other set as it is."""

    precision: Estimate  # of the synthetic images: how many look real
    recall: Estimate  # of the real images: how many the generator could have made
    coverage: Estimate  # of the real images: how many have a synthetic one in their own ball
    density: float  # real balls around a synthetic image, over k; 1 where both sets are alike, no upper limit


class SubtypeCoverage(NamedTuple):
    subtype: str
    num_real: int
    num_covered: int
    share: Estimate


def precision_recall(
    real: np.ndarray,
    synthetic: np.ndarray,
    patients: np.ndarray | None = None,
    num_neighbours: int = NUM_NEIGHBOURS,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Args:
        real, synthetic: (N, D) and (M, D) features.
        patients: (N,) whole numbers from 0, -1 where unknown, of the real images: the intervals of recall and coverage
            are then clustered by patient.

    Raises:
        BadInput: too few images for `num_neighbours`.
    """
    refuse_few(real, num_neighbours, "real")
    refuse_few(synthetic, num_neighbours, "synthetic")
    real_radii, synthetic_radii = radii(real, num_neighbours, device), radii(synthetic, num_neighbours, device)
    num_balls, is_covered = balls_around(synthetic, real, real_radii, device)
    num_synthetic_balls, _ = balls_around(real, synthetic, synthetic_radii, device)
    return PrecisionRecall(
        share(num_balls > 0, None, seed),
        share(num_synthetic_balls > 0, patients, seed),
        share(is_covered, patients, seed),
        float(num_balls.mean() / num_neighbours),
    )


def subtype_coverage(
    real: np.ndarray,
    synthetic: np.ndarray,
    subtypes: Sequence[str | None],
    fewest: int,
    patients: np.ndarray | None = None,
    num_neighbours: int = NUM_NEIGHBOURS_COVERAGE,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[SubtypeCoverage]:
    """Coverage (Naeem et al. 2020) of each real sub-type with at least `fewest` images, the commonest first.

    The balls are those of the whole real set, so that a rare sub-type's do not grow for its being rare.

    Args:
        subtypes: (N,) of the real images; None where it is unknown.

    Raises:
        BadInput: too few real images for `num_neighbours`, or no synthetic one.
    """
    refuse_few(real, num_neighbours, "real")
    refuse_few(synthetic, 0, "synthetic")
    _, is_covered = balls_around(synthetic, real, radii(real, num_neighbours, device), device)
    names = np.array([name or "" for name in subtypes])
    counts = Counter(name for name in subtypes if name)
    rows = []
    for name, num_real in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if num_real < fewest:
            continue
        inside = names == name
        of_patients = None if patients is None else patients[inside]
        covered = is_covered[inside]
        rows.append(SubtypeCoverage(name, num_real, int(covered.sum()), share(covered, of_patients, seed)))
    return rows


def refuse_few(features: np.ndarray, num_neighbours: int, which: str) -> None:
    if len(features) <= num_neighbours:
        raise BadInput(f"{len(features)} {which} images, expected at least {num_neighbours + 1}; give more")


def radii(points: np.ndarray, num_neighbours: int, device: torch.device | str = "cpu") -> np.ndarray:
    """Squared distance of each point to its k-th nearest other point; (N, D) => (N,) float64."""
    found = []
    everything, norms, _ = on_device(points, device, None)
    for start in range(0, len(points), BLOCK[0]):
        queries, query_norms = everything[start : start + BLOCK[0]], norms[start : start + BLOCK[0]]
        nearest = queries.new_full((len(queries), 0), 0.0)
        for first in range(0, len(points), BLOCK[1]):
            block = squared(queries, query_norms, everything[first : first + BLOCK[1]], norms[first : first + BLOCK[1]])
            own = torch.arange(start, start + len(queries), device=block.device) - first
            inside = (own >= 0) & (own < block.shape[1])
            block[inside.nonzero().squeeze(1), own[inside]] = torch.inf
            nearest = torch.cat([nearest, block], dim=1)
            nearest = nearest.topk(min(num_neighbours, nearest.shape[1]), largest=False).values  # (Q, k) ascending
        found.append(nearest[:, -1].cpu().numpy())
    return np.concatenate(found)


def balls_around(
    queries: np.ndarray, centres: np.ndarray, radii: np.ndarray, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) int64, in how many balls each query lies; (N,) bool, which balls hold any query."""
    points, norms, shift = on_device(centres, device, None)
    limits = torch.from_numpy(radii).to(points)
    num_balls, is_hit = np.zeros(len(queries), np.int64), torch.zeros(len(centres), dtype=torch.bool, device=device)
    for start in range(0, len(queries), BLOCK[0]):
        asked, asked_norms, _ = on_device(queries[start : start + BLOCK[0]], device, shift)
        for first in range(0, len(centres), BLOCK[1]):
            last = first + BLOCK[1]
            distance = squared(asked, asked_norms, points[first:last], norms[first:last])
            slack = SLACK * (asked_norms[:, None] + norms[first:last])
            inside = distance <= limits[first:last] + slack  # (Q, N)
            num_balls[start : start + len(asked)] += inside.sum(1).cpu().numpy()
            is_hit[first:last] |= inside.any(0)
    return num_balls, is_hit.cpu().numpy()


def on_device(
    points: np.ndarray, device: torch.device | str, shift: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points in float64, moved by the mean of the centres: small norms leave more digits to the distances."""
    moved = torch.from_numpy(np.ascontiguousarray(points)).to(device).double()
    if shift is None:
        shift = moved.mean(0)
    moved = moved - shift
    return moved, moved.square().sum(1), shift


def squared(a: torch.Tensor, a_norms: torch.Tensor, b: torch.Tensor, b_norms: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances, (Q, N)."""
    return torch.addmm(b_norms, a, b.T, alpha=-2).add_(a_norms[:, None]).clamp_(min=0)


def share(is_one: np.ndarray, patients: np.ndarray | None, seed: int) -> Estimate:
    """A proportion with its 95 % interval: Wilson's, or the bootstrap's over patients where they are given.

    Where all images agree no bootstrap could show a spread, and Wilson's interval over patients stands in.
    """
    total = int(np.count_nonzero(is_one))
    if patients is None:
        return wilson(total / max(len(is_one), 1), len(is_one))
    clusters = np.unique(clusters_of(patients), return_inverse=True)[1]
    sums = np.stack([np.bincount(clusters, is_one), np.bincount(clusters)], axis=1).astype(np.float64)  # (K, 2)
    if total in (0, len(is_one)):
        return wilson(total / len(is_one), len(sums))
    drawn = resampled_sums(sums, NUM_REPLICATES, seed)
    return estimate(total / len(is_one), drawn[:, 0] / drawn[:, 1])


def wilson(proportion: float, num: int) -> Estimate:
    """Wilson's score interval (1927), which stays in [0, 1] and has a width where all or none are ones."""
    if not num:
        return Estimate(None, None, None, 0)
    centre = (proportion + Z**2 / (2 * num)) / (1 + Z**2 / num)
    half = Z * sqrt(proportion * (1 - proportion) / num + Z**2 / (4 * num**2)) / (1 + Z**2 / num)
    low = 0.0 if proportion == 0 else max(centre - half, 0.0)  # exact: rounding would leave 1e-17 there
    high = 1.0 if proportion == 1 else min(centre + half, 1.0)
    return Estimate(proportion, low, high, 0)
