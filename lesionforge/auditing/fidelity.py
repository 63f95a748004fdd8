"""How near a generated set lies to a real one, over features: KID, FID, MiFID, and how diverse it is.

Every number depends on the network that the features are of (`features.Extractor.name`); none can be compared with a
paper's that used Inception. A number means little alone: beside each stands the same of real images that the generator
has not seen, at the same number of images (`feature_scores`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lesionforge.bootstrap import Estimate, clusters_of, estimate
from lesionforge.errors import BadInput

MOST = 5_000  # images of a set that KID looks at: its kernel matrices then take 600 MB
NUM_REPLICATES = 1000
NUM_DRAWS = 100  # subsets of the Vendi score
KID, FID, MIFID, VENDI = "kid", "fid", "mifid", "vendi"
PRECISION, RECALL, COVERAGE, DENSITY = "precision", "recall", "coverage", "density"


class SetScore(NamedTuple):
    """A score of the synthetic set, and the same of real images that no generator saw."""

    synthetic: Estimate
    baseline: Estimate | None  # None where there are too few held-out images
    better: str  # "lower", "higher" or "near the baseline"
    interval: str  # what the interval covers; "" where there is none


def feature_scores(
    reference: np.ndarray,
    synthetic: np.ndarray,
    held_out: np.ndarray,
    reference_patients: np.ndarray | None = None,
    held_out_patients: np.ndarray | None = None,
    seed: int = 0,
    device: Any = "cpu",
) -> dict[str, SetScore]:
    """All scores over features, each beside its held-out real baseline.

    Scores that move with the number of images (FID, MiFID, Vendi, recall, coverage) are taken of equally many synthetic
    and held-out ones, drawn once by `seed`; KID, precision and density of all. No density or precision where a set has
    too few images for its balls.

    Args:
        reference: (N, D) features of the real images that the generator saw.
        synthetic: (M, D).
        held_out: (H, D) of real images that it did not see; may be empty.
        reference_patients, held_out_patients: (N,), (H,) whole numbers from 0, -1 where unknown.

    Raises:
        BadInput: fewer than two images in a set, or torchmetrics is missing.
    """
    from lesionforge.auditing.fidelity_neighbours import NUM_NEIGHBOURS, precision_recall

    refuse_unlike(reference, synthetic)
    has_baseline = len(held_out) > NUM_NEIGHBOURS
    num = min(len(synthetic), len(held_out)) if has_baseline else len(synthetic)
    equal = drawn(synthetic, num, seed)
    sets = [equal, drawn(held_out, num, seed)] if has_baseline else [equal]

    def both(*estimates: Estimate) -> tuple[Estimate, Estimate | None]:
        return estimates[0], estimates[1] if len(estimates) > 1 else None

    over_images = "the draw of both sets' images" + ("" if reference_patients is None else ", reals by patient")
    rows = {
        KID: SetScore(
            kid(reference, synthetic, reference_patients, seed=seed),
            kid(reference, held_out, reference_patients, held_out_patients, seed=seed) if has_baseline else None,
            "lower", over_images,
        ),
        FID: SetScore(*both(*(point(fid(reference, other)) for other in sets)), "near the baseline", ""),
        MIFID: SetScore(*both(*(point(mifid(reference, other)) for other in sets)), "near the baseline", ""),
        VENDI: SetScore(*both(*(vendi(other, max(num // 2, 1), seed) for other in sets)), "near the baseline",
                        f"the draw of {max(num // 2, 1)} of {num} images"),
    }  # fmt: skip
    if min(len(reference), num) <= NUM_NEIGHBOURS:
        return rows
    found = [precision_recall(reference, other, reference_patients, seed=seed, device=device) for other in sets]
    for name in (RECALL, COVERAGE):
        estimates = [getattr(f, name) for f in found]
        rows[name] = SetScore(*both(*estimates), "near the baseline", "the reference images")
    if num < len(synthetic):
        found[0] = precision_recall(reference, synthetic, reference_patients, seed=seed, device=device)
    rows[PRECISION] = SetScore(*both(*(f.precision for f in found)), "near the baseline", "the images judged")
    rows[DENSITY] = SetScore(*both(*(point(f.density) for f in found)), "near the baseline", "")
    return rows


def point(value: float) -> Estimate:
    return Estimate(value, None, None, 0)


def drawn(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` rows, drawn without replacement, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]


def refuse_unlike(first: np.ndarray, second: np.ndarray) -> None:
    if min(len(first), len(second)) < 2:
        raise BadInput(f"{len(first)} and {len(second)} images to compare, expected two or more of each; give more")
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"features of unlike networks: {first.shape} and {second.shape}")


def kid(
    real: np.ndarray,
    other: np.ndarray,
    real_patients: np.ndarray | None = None,
    other_patients: np.ndarray | None = None,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Kernel distance (KID; Binkowski et al. 2018): the unbiased squared MMD under the kernel (x.y / D + 1)^3.

    Unbiased at any number of images, so it may be below 0; 0 means the same distribution. The paper's mean over
    subsets estimates the same with more noise; all images are used here, MOST of a larger set. The interval is the
    bootstrap's over the images of both sets, patients drawn whole where they are given; a pair of an image with its
    own copy, which the bootstrap makes, is left out, else every replicate would lie too high. Where the sets are of one
    distribution the interval is wider than need be, by about half (the MMD is degenerate there).

    Args:
        real, other: (N, D) and (M, D) features.
        real_patients, other_patients: (N,), (M,) whole numbers from 0, -1 where unknown.
    """
    refuse_unlike(real, other)
    rng = np.random.default_rng(seed)
    sets, times = [], []
    for features, patients in ((real, real_patients), (other, other_patients)):
        rows = drawn(np.arange(len(features)), MOST, seed)
        of_patients = np.full(len(rows), -1) if patients is None else patients[rows]
        clusters = np.unique(clusters_of(of_patients), return_inverse=True)[1]
        num = int(clusters.max()) + 1
        weights = rng.multinomial(num, np.full(num, 1 / num), size=num_replicates)[:, clusters]
        times.append(np.concatenate([np.ones((1, len(rows)), np.int64), weights]).astype(np.float64))  # (1 + R, N)
        sets.append(features[rows].astype(np.float64))
    (x, y), (x_times, y_times) = sets, times
    with np.errstate(invalid="ignore", divide="ignore"):
        across = ((x_times @ kernel(x, y)) * y_times).sum(1) / (x_times.sum(1) * y_times.sum(1))
        values = within(x, x_times) + within(y, y_times) - 2 * across  # (1 + R,)
    return estimate(float(values[0]), values[1:])


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def within(x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean kernel of the pairs of unlike images, image i counted times[:, i] times; (R,)."""
    pairs = kernel(x, x)
    np.fill_diagonal(pairs, 0)
    return ((times @ pairs) * times).sum(1) / (times.sum(1) ** 2 - np.square(times).sum(1))


def fid(real: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of two normal distributions (FID; Heusel et al. 2017), by torchmetrics.

    Biased upwards, the more the fewer images (Chong & Forsyth 2020): at a few hundred it can be read only against
    other sets of the same size. No interval: a bootstrap repeats images, which is a bias of its own.
    """
    refuse_unlike(real, other)
    torchmetrics_or_refuse()
    from torchmetrics.image.fid import FrechetInceptionDistance

    return max(by_torchmetrics(FrechetInceptionDistance, real, other), 0.0)


def mifid(seen: np.ndarray, synthetic: np.ndarray) -> float:
    """FID divided by the mean cosine distance of a synthetic image to the nearest image that its generator saw, where
    that is below 0.1 (MiFID; Bai et al. 2021), by torchmetrics: copies make it large.

    torchmetrics looks for the nearest synthetic image of each real one; the paper, and we, the other way round. 0.1 was
    chosen for Inception and photographs: lesions are nearer to each other in most networks, so read the baseline too.
    """
    refuse_unlike(seen, synthetic)
    torchmetrics_or_refuse()
    from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

    return max(by_torchmetrics(MemorizationInformedFrechetInceptionDistance, synthetic, seen), 0.0)


def by_torchmetrics(metric: Any, first: np.ndarray, second: np.ndarray) -> float:
    """A metric of torchmetrics over features that exist already; `first` is what it calls real."""
    import torch

    class Given(torch.nn.Identity):
        num_features = first.shape[1]

    computed = metric(feature=Given())
    for features, real in ((first, True), (second, False)):
        computed.update(torch.from_numpy(features.astype(np.float64)), real=real)
    return float(computed.compute())


def vendi(features: np.ndarray, num_images: int, seed: int, num_draws: int = NUM_DRAWS) -> Estimate:
    """Vendi score (Friedman & Dieng 2022): the effective number of unlike images among `num_images`.

    exp of the entropy of the eigenvalues of K / n, K the cosine similarity of features; from 1 (all the same) to n
    (all orthogonal). It grows with n: compare sets at equal `num_images`. The mean over draws without replacement,
    with the range of the middle 95 % of them; no range where `num_images` is all there are.

    Args:
        features: (N, D).
    """
    rng = np.random.default_rng(seed)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if num_images >= len(unit):
        return point(effective_number(unit))
    values = [effective_number(unit[rng.choice(len(unit), num_images, replace=False)]) for _ in range(num_draws)]
    return estimate(float(np.mean(values)), np.array(values))


def effective_number(unit: np.ndarray) -> float:
    """exp of the entropy of the similarity's spectrum; the smaller of the two Gram matrices has all of it."""
    small = unit.astype(np.float64) if len(unit) <= unit.shape[1] else unit.T.astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(small @ small.T) / len(unit)
    positive = eigenvalues[eigenvalues > 1e-15]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def torchmetrics_or_refuse(names: Sequence[str] = ("torchmetrics",)) -> None:
    """Raises: BadInput where the extra is not installed."""
    from importlib.util import find_spec

    for name in names:
        if find_spec(name) is None:
            raise BadInput(f"fidelity needs the package {name}, not installed; pip install 'lesionforge[diffusion]'")
