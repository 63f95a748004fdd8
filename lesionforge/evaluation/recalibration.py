"""Scores made into probabilities: prior correction, temperature, isotonic regression. Fitted on val, never on test.

prior              the logit moves by logit(prevalence) - logit(prior of training) (Elkan 2001; Saerens et al. 2002)
temperature        the logit is divided by one number that minimises log-loss on val (Guo et al. 2017)
prior_temperature  both: to val's prevalence, a temperature there, on to the stated prevalence (a temperature alone
                   cannot move the prior of a balanced training)
isotonic           the rising step function nearest to val's targets, lines between the steps (Zadrozny and Elkan 2002)

The first three keep every rank, so every rank score. Isotonic regression never turns two scores round but ties those
of a step, which moves rank scores a little.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lesionforge import run, tables
from lesionforge.errors import BadInput
from lesionforge.evaluation import predictions
from lesionforge.evaluation.calibration import CROSS_FITTED, RAW
from lesionforge.metrics import Floats
from lesionforge.recipe import read_recipe

log = logging.getLogger("lesionforge")

PRIOR, TEMPERATURE, PRIOR_TEMPERATURE, ISOTONIC = "prior", "temperature", "prior_temperature", "isotonic"
FITTED = (TEMPERATURE, PRIOR_TEMPERATURE, ISOTONIC)  # on val's targets
HOTTEST = 1e4  # the largest temperature looked for, and one over the smallest; our choice
NUM_FOLDS = 5  # of cross-fitting, our choice


class Fit(NamedTuple):
    """A method with its numbers; score -> sigmoid((logit + shift) / temperature + last_shift), or the steps."""

    method: str
    shift: float = 0.0  # to the prevalence asked for; of prior_temperature to val's, on which its temperature is fitted
    temperature: float = 1.0
    last_shift: float = 0.0  # of prior_temperature: from val's prevalence to the one asked for
    steps: tuple[Floats, Floats] | None = None  # scores ascending and the probability at each, (S,) both


def log_odds(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))


def fit_all(
    methods: Iterable[str],
    val: tuple[pl.DataFrame, str] | None,
    prevalence: float | Literal["val"] | None,
    training_prior: float | None,
    folder: Path | None,
) -> tuple[dict[str, Fit], dict[str, Any]]:
    """Each method fitted, and the numbers behind it for scores.json.

    Args:
        val: val's predictions and what they are called, where there are any.
        folder: the training run, where its prior is to be read.

    Raises:
        BadInput: no val predictions to fit on, no training run to read the prior from, no fit.
    """
    methods = list(dict.fromkeys(methods))
    on_val = [method for method in methods if method in FITTED]
    if val is None and (on_val or prevalence == tables.VAL):
        raise BadInput(
            f"calibration ({', '.join(on_val) or 'prevalence val'}): no val predictions to fit on, and nothing "
            "is fitted on the lesions that are scored; give val predictions with --threshold-from FILE"
        )
    empty = {method: Fit(method) for method in methods}
    facts: dict[str, Any] = {"fitted_on": val[1] if val and (on_val or prevalence == tables.VAL) else None, "notes": []}
    if PRIOR in methods or PRIOR_TEMPERATURE in methods:
        if training_prior is None:
            if folder is None:
                raise BadInput(
                    "calibration: the prior of training is not known; give it with --calibration.training-prior"
                )
            training_prior, facts["notes"] = from_run(folder)
        share = None if val is None else cast(float, val[0][tables.TARGET].mean())
        stated = share if prevalence == tables.VAL else prevalence
        assert isinstance(stated, float)  # the config's own rule
        to, come = log_odds(stated), log_odds(training_prior)
        empty[PRIOR] = Fit(PRIOR, shift=to - come)
        if share is not None:
            of_val = log_odds(share)
            empty[PRIOR_TEMPERATURE] = Fit(PRIOR_TEMPERATURE, shift=of_val - come, last_shift=to - of_val)
        facts |= {"training_prior": training_prior, "prevalence": stated}
    table, name = val or (None, "")
    fits = {method: fit(empty[method], table, name) for method in methods}
    facts["methods"] = {method: numbers_of(found) for method, found in fits.items()}
    return fits, facts


def numbers_of(found: Fit) -> dict[str, float]:
    if found.steps is not None:
        return {"num_steps": len(np.unique(found.steps[1]))}
    return {"shift": found.shift, "temperature": found.temperature, "last_shift": found.last_shift}


def fit(empty: Fit, val: pl.DataFrame | None, name: str) -> Fit:
    """What is fitted on val's predictions, put in; the shifts stay as they are."""
    if empty.method == PRIOR:
        return empty
    assert val is not None  # the caller's to see to
    targets = val[tables.TARGET].to_numpy()
    if empty.method == ISOTONIC:
        return empty._replace(steps=isotonic(targets, val[tables.SCORE].to_numpy()))
    try:
        return empty._replace(temperature=temperature(targets, predictions.logits_of(val, name) + empty.shift))
    except BadInput as error:
        raise BadInput(f"{name}: {empty.method}: {error}") from error


def calibrated(table: pl.DataFrame, found: Fit, name: str) -> pl.DataFrame:
    """The predictions with calibrated scores and their logits (empty where a score is 0 or 1)."""
    if found.steps is not None:
        scores = np.interp(table[tables.SCORE].to_numpy(), *found.steps)
        with np.errstate(divide="ignore"):
            return predictions.with_scores(table, scores, np.log(scores) - np.log1p(-scores))
    logits = (predictions.logits_of(table, name) + found.shift) / found.temperature + found.last_shift
    return predictions.with_scores(table, predictions.sigmoid(logits), logits)


def versions_of(
    table: pl.DataFrame, fits: dict[str, Fit], in_sample: bool, name: str, seed: int
) -> dict[str, pl.DataFrame]:
    """{version: predictions}: raw, each method, and where a method was fitted on these lesions, cross-fitted."""
    versions = {RAW: table}
    for method, found in fits.items():
        versions[method] = calibrated(table, found, name)
        if in_sample and method in FITTED:
            try:
                versions[method + CROSS_FITTED] = cross_fitted(table, found, name, seed)
            except BadInput as error:
                log.warning("%s: not cross-fitted: %s", method, error)
    return versions


def temperature(targets: NDArray[Any], logits: Floats) -> float:
    """The T > 0 at which sigmoid(logits / T) has the least log-loss.

    The loss is convex in 1/T, so its slope has one zero; it is found by halving in log(1/T), down to the last bits.

    Raises:
        BadInput: the zero is not between 1/HOTTEST and HOTTEST.
    """
    logits = np.asarray(logits, dtype=np.float64)

    def slope(log_inverse: float) -> float:
        return float(np.mean((predictions.sigmoid(np.exp(log_inverse) * logits) - targets) * logits))

    low, high = -np.log(HOTTEST), np.log(HOTTEST)
    if slope(low) >= 0:
        raise BadInput("no temperature fits: a higher one is always better, so the scores say nothing, or the contrary")
    if slope(high) <= 0:
        raise BadInput("no temperature fits: a lower one is always better, every logit having its target's sign")
    while high - low > 1e-14:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def isotonic(targets: NDArray[Any], scores: Floats) -> tuple[Floats, Floats]:
    """Pool adjacent violators (Ayer et al. 1955): distinct scores ascending and the nearest rising shares at them.

    Returns:
        (S,), (S,); the ends of each step only, which `np.interp` needs no more than.
    """
    distinct, place, num = np.unique(scores, return_inverse=True, return_counts=True)
    malignant = np.bincount(place, targets)
    pooled: list[list[float]] = []  # malignant lesions, lesions, distinct scores; shares rise from pool to pool
    for found, held in zip(malignant, num, strict=True):
        pooled.append([float(found), float(held), 1])
        while (
            len(pooled) > 1 and pooled[-2][0] * pooled[-1][1] >= pooled[-1][0] * pooled[-2][1]
        ):  # whole numbers: exact
            last = pooled.pop()
            pooled[-1] = [a + b for a, b in zip(pooled[-1], last, strict=True)]
    pools = np.array(pooled)
    ends = np.cumsum(pools[:, 2]).astype(np.int64)
    kept, step = np.unique(np.stack([np.append(0, ends[:-1]), ends - 1]), return_index=True)
    return distinct[kept], (pools[:, 0] / pools[:, 1])[step % len(pools)]


def cross_fitted(val: pl.DataFrame, found: Fit, name: str, seed: int) -> pl.DataFrame:
    """Val's predictions, each calibrated by a fit on the patients of the other folds: no lesion helps its own score.

    Patients, those with malignant lesions first, are shuffled and dealt to five folds in turn.

    Raises:
        BadInput: a fold cannot be fitted without.
    """
    val = val.sort(tables.IMAGE_ID)
    clusters = predictions.cluster_numbers(val)
    num_clusters = int(clusters.max()) + 1
    has_malignancy = np.bincount(clusters, val[tables.TARGET].to_numpy(), num_clusters) > 0
    shuffled = np.random.default_rng(seed).permutation(num_clusters)
    order = shuffled[np.argsort(~has_malignancy[shuffled], kind="stable")]
    folds = np.empty(num_clusters, np.int64)
    folds[order] = np.arange(num_clusters) % NUM_FOLDS
    fold = folds[clusters]
    rows = []
    for number in np.unique(fold):
        inside, outside = val.filter(fold == number), val.filter(fold != number)
        if outside[tables.TARGET].n_unique() < 2:
            raise BadInput(f"{name}: without fold {number} one class is left, so {found.method} cannot be cross-fitted")
        rows.append(calibrated(inside, fit(found, outside, name), name))
    return pl.concat(rows).sort(tables.IMAGE_ID)


# ------------------------------------------------------------------------------------------------ the prior of training


def from_run(folder: Path) -> tuple[float, list[str]]:
    """The share of malignant images that a run was taught to expect, and what makes that only nearly so.

    As training sees them: balanced batches hold one half, k fresh benign images per malignant one 1 / (1 + k), a
    shuffled epoch the mix's share; a weight on malignant images multiplies the odds. Of a group of runs (folds, seeds)
    the mean log-odds.

    Raises:
        BadInput: the folder holds no training run.
    """
    members = [entry for entry in sorted((folder / run.MEMBERS).glob("*")) if (entry / run.MIX).is_file()]
    if members and not (folder / run.MIX).is_file():
        found = [from_run(member) for member in members]
        logits = np.array([log_odds(prior) for prior, _ in found])
        return float(predictions.sigmoid(logits.mean(keepdims=True))[0]), list(
            dict.fromkeys(note for _, notes in found for note in notes)
        )
    missing = [name for name in (run.MIX, run.CONFIG) if not (folder / name).is_file()]
    if missing:
        raise BadInput(
            f"{folder}: not a training run (no {' and no '.join(missing)} in it), so the prior of its training is "
            "unknown; give it with --calibration.training-prior; of an ensemble, calibrate the members first"
        )
    settings = read_recipe(folder / run.CONFIG).settings
    share = tables.read_table(folder / run.MIX, [tables.TARGET])[tables.TARGET].mean()
    assert isinstance(share, float)
    data, loss = settings.get("data", {}), settings.get("loss", {})
    return prior_of(
        share,
        data.get("sampler", "shuffle"),
        data.get("benign_per_malignant", 1),
        loss.get("positive_weight", 1.0),
    ), notes_on_loss(loss)


def prior_of(mix_share: float, sampler: str, benign_per_malignant: int, positive_weight: float | str) -> float:
    """The effective prior, from the share of malignant images in the mix and how they are drawn and weighted."""
    odds_of_mix = mix_share / (1 - mix_share)
    odds = {"balanced": 1.0, "fresh_benign": 1 / benign_per_malignant}.get(sampler, odds_of_mix)
    weight = 1 / odds if positive_weight == "balanced" else float(positive_weight)  # both classes sum to the same
    return odds * weight / (1 + odds * weight)


def notes_on_loss(loss: dict[str, Any]) -> list[str]:
    bent = [
        words
        for words, yes in {
            "focal loss": loss.get("kind") == "focal",
            "label smoothing": loss.get("label_smoothing", 0) > 0,
            "mixup": loss.get("mixup", 0) > 0,
            "cutmix": loss.get("cutmix", 0) > 0,
        }.items()
        if yes
    ]
    if not bent:
        return []
    return [f"trained with {', '.join(bent)}: its scores are no probabilities even at the prior of training"]
