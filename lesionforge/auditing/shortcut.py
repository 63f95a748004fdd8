"""The shortcut test: how well small classifiers tell real images from synthetic ones.

A classifier that is trained on both learns whatever tells them apart as a sign of the class that was generated, so a
difference in format (size, compression, sharpness) is as bad as one in content. Two classifiers are cross-validated:
a logistic regression on cues of the format alone, and a small network on pixels. AUC 0.5: they cannot be told apart.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lesionforge import bootstrap, metrics
from lesionforge.auditing.fidelity_images import LUMINANCE, radial_power
from lesionforge.bootstrap import Estimate, clusters_of
from lesionforge.data import augment
from lesionforge.errors import BadInput

NUM_FOLDS = 5
FEWEST = 2 * NUM_FOLDS  # images of each kind
SIDE = 64  # pixels that the network sees: the whole image, and as many from its middle, unscaled
NUM_RINGS = 16  # of the spectrum at native size, from frequency 0 to Nyquist
NUM_BINS = 10  # of each cue, at its quantiles: a cue can give itself away by one value in the middle of its range
PENALTY = 1.0  # of the squared weights, as sklearn's C = 1
NUM_STEPS = 120  # of the network's training, however few the images
BATCH_SIZE, LR, WEIGHT_DECAY = 32, 3e-3, 1e-2
MOST_SURE = 5.0  # a logit beyond it counts as this much when both classifiers are averaged
GRID = 8  # pixels, JPEG's blocks

SIZE, COLOUR, SHARPNESS, BLOCKS = "size", "colour", "spectrum", "jpeg_blocks"


class ShortcutScore(NamedTuple):
    """Out-of-fold AUC of telling synthetic (1) from real (0), each with its 95 % bootstrap interval."""

    auc: float  # of both classifiers together: their mean logit
    low: float
    high: float
    num_real: int
    num_synthetic: int
    cues: Estimate  # of the logistic regression on all cues
    network: Estimate
    by_cue: dict[str, float]  # AUC of each group of cues alone, the one that gives most away first


def shortcut_auc(
    real: Sequence[np.ndarray],
    synthetic: Sequence[np.ndarray],
    seed: int,
    real_facts: Mapping[str, np.ndarray] | None = None,
    synthetic_facts: Mapping[str, np.ndarray] | None = None,
    real_patients: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda count: None,
) -> ShortcutScore:
    """How well real and synthetic images are told apart; 5-fold cross-validation, every image scored once.

    Give equally many of each and of one class; a few hundred are enough.

    Args:
        real, synthetic: (H, W, 3) uint8 each, as decoded from their files.
        real_facts, synthetic_facts: further cues by name, one number per image, such as bytes per pixel or estimated
            JPEG quality; the same names in both.
        real_patients: (N,) whole numbers from 0, -1 where unknown: a patient's images share a fold, and the interval
            is clustered.
        advance: told of 1 after each of NUM_FOLDS folds.

    Raises:
        BadInput: fewer than FEWEST images of either kind.
    """
    if min(len(real), len(synthetic)) < FEWEST:
        raise BadInput(
            f"shortcut test of {len(real)} real and {len(synthetic)} synthetic images, expected {FEWEST} or more of "
            "each; generate more, or leave the test out"
        )
    if real_patients is not None and (num_patients := len(np.unique(clusters_of(real_patients)))) < NUM_FOLDS:
        raise BadInput(
            f"shortcut test on real images of {num_patients} patients, expected {NUM_FOLDS} or more; give real images "
            "of more patients"
        )
    images = [*real, *synthetic]
    is_synthetic = np.repeat([0, 1], [len(real), len(synthetic)])
    patients = np.full(len(images), -1)
    if real_patients is not None:
        patients[: len(real)] = np.unique(np.append(real_patients, -1), return_inverse=True)[1][:-1] - 1  # no gaps
    fold = folds(is_synthetic, patients, seed)

    groups = cues_of(images, facts_of(real_facts, synthetic_facts))
    seen = np.stack([network_input(image) for image in images])  # (N, SIDE, SIDE, 6) uint8
    logits = {name: np.zeros(len(images)) for name in ("cues", "network", *groups)}
    for number in range(NUM_FOLDS):
        train, held_out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        for name, columns in {"cues": np.concatenate(list(groups.values()), axis=1), **groups}.items():
            fitted = logistic_logits(columns[train], is_synthetic[train], columns[held_out])
            logits[name][held_out] = fitted
        logits["network"][held_out] = network_logits(
            seen[train], is_synthetic[train], seen[held_out], [seed, number], device
        )
        advance(1)
    cues, network = (np.clip(logits[name], -MOST_SURE, MOST_SURE) for name in ("cues", "network"))
    logits["both"] = cues + network

    clusters = None if real_patients is None else patients
    found = {
        name: bootstrap.estimates(is_synthetic, ranked(values, fold), clusters, seed=seed)[metrics.ROC_AUC]
        for name, values in logits.items()
    }
    by_cue = {name: found[name].estimate or 0.0 for name in groups}
    both = found["both"]
    assert both.estimate is not None  # both kinds are there
    assert both.low is not None
    assert both.high is not None
    return ShortcutScore(
        both.estimate, both.low, both.high, len(real), len(synthetic), found["cues"], found["network"],
        dict(sorted(by_cue.items(), key=lambda item: -item[1])),
    )  # fmt: skip


def folds(is_synthetic: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray:
    """Each image's fold, as many of a kind in each as can be; all images of a patient in one. (N,) int64"""
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(is_synthetic), np.int64)
    clusters = clusters_of(patients)
    for kind in (0, 1):
        members = np.flatnonzero(is_synthetic == kind)
        names, num_images = np.unique(clusters[members], return_counts=True)
        shuffled = rng.permutation(len(names))
        taken = np.zeros(NUM_FOLDS, np.int64)
        chosen = np.zeros(len(names), np.int64)
        for cluster in shuffled[np.argsort(-num_images[shuffled], kind="stable")]:  # the largest first: even folds
            chosen[cluster] = taken.argmin()
            taken[taken.argmin()] += num_images[cluster]
        fold[members] = chosen[np.searchsorted(names, clusters[members])]
    return fold


def ranked(logits: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Ranks within each fold, in (0, 1]: five models' logits have no common zero."""
    ranks = np.zeros(len(logits))
    for number in np.unique(fold):
        inside = fold == number
        ordered = np.sort(logits[inside])
        places = np.searchsorted(ordered, logits[inside], "left") + np.searchsorted(ordered, logits[inside], "right")
        ranks[inside] = (places + 1) / (2 * len(ordered))  # ties share the middle of their places
    return ranks


def facts_of(
    real: Mapping[str, np.ndarray] | None, synthetic: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    real, synthetic = real or {}, synthetic or {}
    if set(real) != set(synthetic):
        raise ValueError(f"facts of real images {sorted(real)}, of synthetic ones {sorted(synthetic)}")
    return {name: np.concatenate([values, synthetic[name]]) for name, values in real.items()}


def cues_of(images: Sequence[np.ndarray], facts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Groups of cues, each (N, C) float64."""
    groups = {
        SIZE: np.array([image.shape[:2] for image in images], np.float64),
        COLOUR: np.stack([np.concatenate([image.mean((0, 1)), image.std((0, 1))]) for image in images]),
        SHARPNESS: np.stack([rings(image) for image in images]),
        BLOCKS: np.stack([block_edges(image) for image in images]),
    }
    return groups | {name: np.asarray(values, np.float64)[:, None] for name, values in facts.items()}


def rings(image: np.ndarray) -> np.ndarray:
    """Log power of the largest middle square at native size, in NUM_RINGS rings up to Nyquist, dB."""
    height, width = image.shape[:2]
    side = max(min(height, width), 2 * NUM_RINGS)
    power = radial_power(middle(image, side) @ LUMINANCE / 255)  # (side // 2,)
    edges = np.linspace(0, len(power), NUM_RINGS + 1).astype(int)
    return np.add.reduceat(power, edges[:-1]) / np.diff(edges)


def block_edges(image: np.ndarray) -> np.ndarray:
    """How much stronger steps are on the borders of JPEG's 8 px blocks than between, across and down; log ratio."""
    values = image @ LUMINANCE
    found = []
    for steps in (np.abs(np.diff(values, axis=1)).mean(0), np.abs(np.diff(values, axis=0)).mean(1)):
        on_border = np.arange(len(steps)) % GRID == GRID - 1
        border, between = (steps[chosen].mean() if chosen.any() else 0.0 for chosen in (on_border, ~on_border))
        found.append(np.log((border + 0.1) / (between + 0.1)))  # 0.1 of 255: a flat image has no edges
    return np.array(found, np.float64)


def middle(image: np.ndarray, side: int) -> np.ndarray:
    """The middle square of `side` pixels; a smaller image is mirrored outwards. (side, side, 3) uint8"""
    missing = [max(side - length, 0) for length in image.shape[:2]]
    if any(missing):
        image = np.pad(image, [*((n // 2, n - n // 2) for n in missing), (0, 0)], mode="symmetric")
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def network_input(image: np.ndarray) -> np.ndarray:
    """The whole image stretched to SIDE, and its unscaled middle, where the traces of a format are."""
    whole = np.empty((SIDE, SIDE, 3), np.uint8)
    augment.resize(image, whole)
    return np.concatenate([whole, middle(image, SIDE)], axis=2)  # (SIDE, SIDE, 6)


def logistic_logits(train: np.ndarray, targets: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Logits of an L2-penalised logistic regression on each cue and on its quantile bins; (M,) float64."""
    mean, std = train.mean(0), train.std(0)
    varies = std > 1e-9 * np.maximum(np.abs(mean), 1)
    borders = [np.unique(np.quantile(column, np.arange(1, NUM_BINS) / NUM_BINS)) for column in train.T]

    def design(rows: np.ndarray) -> np.ndarray:
        columns = [((rows - mean) / np.where(varies, std, 1))[:, varies]]
        for number in np.flatnonzero(varies):
            bins = np.searchsorted(borders[number], rows[:, number])
            columns.append(np.eye(len(borders[number]) + 1)[bins])
        return np.concatenate(columns, axis=1)

    weights, bias = fit_logistic(design(train), targets)
    return design(held_out) @ weights + bias


def fit_logistic(rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (C,) and bias that minimise the summed log loss + PENALTY / 2 * |weights|^2, as sklearn's at C = 1."""
    inputs, expected = torch.from_numpy(rows).double(), torch.from_numpy(targets).double()
    weights = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs @ weights[:-1] + weights[-1]
        value = nn.functional.binary_cross_entropy_with_logits(logits, expected, reduction="sum")
        value = value + PENALTY / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = weights.detach().numpy()
    return found[:-1], float(found[-1])


def small_network() -> nn.Sequential:
    """Four convolutions that halve the image each, about 50,000 weights; (B, 6, SIDE, SIDE) => (B, 1)."""
    layers: list[nn.Module] = []
    for channels, wider in ((6, 16), (16, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))


def network_logits(
    train: np.ndarray, targets: np.ndarray, held_out: np.ndarray, entropy: Sequence[int], device: torch.device | str
) -> np.ndarray:
    """Train the small network on (N, SIDE, SIDE, 6) uint8 and score others; (M,) float64 logits."""
    rng = np.random.default_rng(entropy)
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU: the same ones on every device
        torch.manual_seed(int(rng.integers(2**31)))
        network = small_network()
    network = network.to(device).to(memory_format=torch.channels_last)

    def pixels(rows: np.ndarray) -> torch.Tensor:  # (B, SIDE, SIDE, 6) uint8 => (B, 6, SIDE, SIDE) float32
        return torch.from_numpy(rows).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

    inputs, expected = pixels(train), torch.from_numpy(targets).float().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=NUM_STEPS)
    num_batches = -(-len(train) // BATCH_SIZE)
    network.train()
    for step in range(NUM_STEPS):
        if step % num_batches == 0:
            batches = np.array_split(rng.permutation(len(train)), num_batches)
        rows = torch.from_numpy(batches[step % num_batches]).to(device)
        turned = [axis for axis in (2, 3) if rng.random() < 0.5]
        logits = network(inputs[rows].flip(turned)).squeeze(1)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, expected[rows]).backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        return network(pixels(held_out)).squeeze(1).double().cpu().numpy()
