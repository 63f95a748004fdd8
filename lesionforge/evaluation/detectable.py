"""The smallest difference that the data at hand can show, before anything is trained: simulated on their own patients.

Two equally good runs are drawn on the lesions as they lie among the patients (`simulated.py`); how far their scores
differ by chance is V(c), c being the correlation of two runs. A study that reports p < alpha finds a true difference D
with a power of 80 % where

    D = (t_(1 - alpha / 2) + t_(0.8)) sqrt(V(c) - V(w) + max(2 s^2, V(w)) / S)

w being the correlation of seeds of one arm (V(w) is what patients do to single runs, which more seeds average out, as
`variance.py` has it), s the standard deviation between seeds, S the seeds of a side, t with the degrees of freedom of
`variance.py`. With one seed and one fold compare speaks of two trained models: V(c) alone.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lesionforge import metrics, tables
from lesionforge.data import parts
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput
from lesionforge.evaluation import paired, predictions, simulated, student, variance
from lesionforge.evaluation.paired import Lesions
from lesionforge.metrics import Floats

ALPHA, POWER = 0.05, 0.8
CORRELATIONS = (0.5, 0.7, 0.8, 0.9, 0.95)  # shown beside the expected one
SEEDS = (1, 3, 5, 10)
NUM_STUDIES = 400
NUM_FOR_DF = 20  # of them, whose influences give the degrees of freedom
MOST_BENIGN = 10_000  # drawn at random from more: the malignant lesions decide, and a plan takes seconds
NAMES = {metrics.PAUC: "pAUC", metrics.ROC_AUC: "AUC"}


class Design(NamedTuple):
    """What will be scored, on which side of a split or as bare numbers, and what is expected of it."""

    store: Path | None
    split: Path | None
    fold: int | None
    part: str
    num_malignant: int | None
    num_malignant_patients: int | None
    num_benign: int
    expected_auc: float
    correlation: float
    seed_correlation: float
    patient_correlation: float
    num_seeds: int
    seed_sd_pauc: float
    seed_sd_auc: float
    num_comparisons: int
    seed: int


def plan(design: Design) -> dict[str, Any]:
    """All of plan.json.

    Raises:
        BadInput: the store or split cannot be read, or the part has too few malignant lesions.
    """
    lesions, source, num_folds = lesions_to_score(design)
    malignant, _ = paired.clusters_by_class(lesions)
    if malignant < variance.LEAST_CLUSTERS:
        raise BadInput(
            f"{source}: malignant lesions of {malignant} patients, {variance.LEAST_CLUSTERS} are the least for an "
            "interval; score a part with more, or all folds"
        )
    counted = {
        tables.NUM_IMAGES: len(lesions.malignant),
        tables.NUM_MALIGNANT: int(lesions.malignant.sum()),
        tables.NUM_MALIGNANT_CLUSTERS: malignant,
        tables.NUM_FOLDS: num_folds,
    }
    correlations = sorted({*CORRELATIONS, design.correlation})
    drawn_for = sorted({*correlations, design.seed_correlation})
    seeds = sorted({*SEEDS, design.num_seeds})
    drawn = differences(
        fewer_benign(lesions, design.seed), drawn_for, design.expected_auc, design.patient_correlation, design.seed
    )
    shift = simulated.shift_of(design.expected_auc)
    levels = {metrics.PAUC: simulated.expected_pauc(shift), metrics.ROC_AUC: design.expected_auc}
    seed_sds = {metrics.PAUC: design.seed_sd_pauc, metrics.ROC_AUC: design.seed_sd_auc}
    alpha = ALPHA / design.num_comparisons
    rows = [
        {
            tables.SCORE: name,
            "correlation": correlation,
            tables.NUM_SEEDS: num_seeds,
            "detectable": detectable(
                *drawn[correlation][name],
                drawn[max(correlation, design.seed_correlation)][name][0],
                num_folds,
                num_seeds,
                seed_sds[name],
                alpha,
            ),
        }
        for name in NAMES
        for correlation in correlations
        for num_seeds in seeds
    ]
    return {
        "source": source,
        **counted,
        "levels": levels,
        "largest": {metrics.PAUC: 1 - metrics.MIN_TPR, metrics.ROC_AUC: 1.0},
        "seed_sds": seed_sds,
        "expected": {"correlation": design.correlation, tables.NUM_SEEDS: design.num_seeds},
        "seed_correlation": design.seed_correlation,
        "patient_correlation": design.patient_correlation,
        "alpha": alpha,
        "num_comparisons": design.num_comparisons,
        "power": POWER,
        "num_studies": NUM_STUDIES,
        "seed": design.seed,
        "detectable": rows,
    }


def lesions_to_score(design: Design) -> tuple[Lesions, str, int]:
    """The lesions of the part (of one fold where there are folds), what they are called, and how many folds."""
    if design.num_malignant is not None:
        num_patients = design.num_malignant_patients or design.num_malignant
        each = np.bincount(np.arange(design.num_malignant) % num_patients)
        malignant = np.concatenate([each, np.zeros(design.num_benign, np.int64)])
        benign = np.concatenate([np.zeros(num_patients, np.int64), np.ones(design.num_benign, np.int64)])
        return simulated.lesions_of(malignant, benign), "lesions as given", 1
    assert design.store is not None  # the config's own rule
    assert design.split is not None
    fold, num_folds, part = design.fold, 1, design.part
    source = f"{design.store}, part {part}"
    if fold is None and tables.FOLD in parts.read_split_table(design.split).columns:
        folds = parts.folds_of(design.split)
        fold, num_folds = folds[0], len(folds)
    if fold is not None:
        source += f" of fold {fold}"
    samples = open_store(design.store).samples([tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET])
    rows = parts.part_of(samples, parts.read_split(design.split, fold), part)
    predictions.require_targets(rows, source)
    return Lesions(rows[tables.TARGET].to_numpy() == 1, predictions.cluster_numbers(rows)), source, num_folds


def fewer_benign(lesions: Lesions, seed: int) -> Lesions:
    """All malignant lesions, and at most MOST_BENIGN of the others."""
    benign = np.flatnonzero(~lesions.malignant)
    if len(benign) <= MOST_BENIGN:
        return lesions
    kept = np.random.default_rng(seed).choice(benign, MOST_BENIGN, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(lesions.malignant), kept]))
    return Lesions(lesions.malignant[rows], np.unique(lesions.clusters[rows], return_inverse=True)[1])


def differences(
    lesions: Lesions, correlations: Sequence[float], auc: float, patient_correlation: float, seed: int
) -> dict[float, dict[str, tuple[float, float]]]:
    """For each correlation and score: the standard deviation of two equal runs' difference, and its df."""
    rng = np.random.default_rng(seed)
    shift = simulated.shift_of(auc)
    found = {each: {name: np.empty(NUM_STUDIES) for name in NAMES} for each in correlations}
    dfs: dict[float, dict[str, list[float]]] = {each: {name: [] for name in NAMES} for each in correlations}
    for study in range(NUM_STUDIES):
        # three runs that have nothing in common; any correlation is mixed from them
        common, first, second = simulated.scores(rng, lesions, np.zeros((3, 1)), 0, 1, patient_correlation)[:, 0]
        for each in correlations:
            mixed = math.sqrt(each) * common + math.sqrt(1 - each) * np.stack([first, second])
            scores: Floats = mixed + shift * lesions.malignant
            for name, points in paired.points(lesions, scores, list(NAMES)).items():
                found[each][name][study] = points[0] - points[1]
            if study < NUM_FOR_DF:
                for name, without in paired.left_out(lesions, scores, list(NAMES)).items():
                    dfs[each][name].append(variance.df_of(without[:, 0] - without[:, 1]))
    return {
        each: {name: (float(found[each][name].std()), float(np.median(dfs[each][name]))) for name in NAMES}
        for each in correlations
    }


def detectable(
    se_patient: float,
    df_patient: float,
    se_alike: float,
    num_folds: int,
    num_seeds: int,
    seed_sd: float,
    alpha: float,
) -> float:
    """The true difference that is found with a power of 80 %, the variance being what compare would make of it.

    One seed and one fold: of the patients alone, about two trained models. One seed and several folds: also what folds
    differ by beyond their patients. More seeds: their own variance, and of the patients only what all seeds share.

    Args:
        se_patient: standard deviation of the difference of two equal runs of two arms.
        se_alike: of two seeds of one arm, as far as patients make it; at most `se_patient`.
        seed_sd: standard deviation between seeds on the same lesions.
    """
    own = max(2 * seed_sd**2, se_alike**2)
    if num_seeds > 1:
        of_patients = max(se_patient**2 - se_alike**2, 0.0)
        of_seeds = variance.Part(own / num_seeds / num_folds, 2 * (num_seeds - 1) * num_folds)
    else:
        of_patients = se_patient**2
        more = own - se_alike**2 if num_folds > 1 else 0.0
        of_seeds = variance.Part(more / num_folds, max(num_folds - 1, 1))
    spread = [variance.Part(of_patients / num_folds, df_patient * num_folds), of_seeds]
    total = sum(part.variance for part in spread)
    if total == 0:
        return 0.0
    df = total**2 / sum(part.variance**2 / part.df for part in spread)
    return (student.quantile(1 - alpha / 2, df) + student.quantile(POWER, df)) * math.sqrt(total)


def as_words(result: dict[str, Any]) -> str:
    """What the terminal shows of plan.json."""
    folds = f" in each of {result[tables.NUM_FOLDS]} folds" if result[tables.NUM_FOLDS] > 1 else ""
    lines = [
        f"{result['source']}: {result[tables.NUM_MALIGNANT]:,} malignant lesions of "
        f"{result[tables.NUM_MALIGNANT_CLUSTERS]:,} patients in {result[tables.NUM_IMAGES]:,} images{folds}",
        f"smallest difference found with a power of {result['power']:.0%} at p < {result['alpha']:.3g}",
    ]
    expected = result["expected"]
    sentences = []
    for name, label in NAMES.items():
        rows = [row for row in result["detectable"] if row[tables.SCORE] == name]
        seeds = sorted({row[tables.NUM_SEEDS] for row in rows})
        level, room = result["levels"][name], result["largest"][name] - result["levels"][name]
        lines += ["", f"{label}, expected {level:.3f}, seeds vary by {result['seed_sds'][name]:.3f}"]
        lines.append("  correlation of two runs  " + "".join(f"{seed_words(each):>10}" for each in seeds))
        for correlation in sorted({row["correlation"] for row in rows}):
            values = {row[tables.NUM_SEEDS]: row["detectable"] for row in rows if row["correlation"] == correlation}
            cells = "".join(f"{values[each]:9.3f}{'*' if values[each] > room else ' '}" for each in seeds)
            lines.append(f"  {correlation:<25g}{cells}")
        asked = next(row["detectable"] for row in rows if expected.items() <= row.items())
        too_far = f" (more than the {room:.3f} that there is room for upward)" if asked > room else ""
        sentences.append(
            f"a difference of {label} below {asked:.3f}{too_far} will often not be told from chance, with "
            f"{seed_words(expected[tables.NUM_SEEDS])} a side and correlation {expected['correlation']:g}"
        )
    if any(
        row["detectable"] > result["largest"][row[tables.SCORE]] - result["levels"][row[tables.SCORE]]
        for row in result["detectable"]
    ):
        sentences.append("* no improvement can be that large; a loss can")
    sentences += [
        "1 seed: about two trained models; the chance of training again is not in it, so it may look better than more"
        if not folds
        else "1 seed: the chance of training again is what the folds differ by beyond their patients",
        f"more seeds lower what each run has by itself (seeds of an arm correlate {result['seed_correlation']:g}); "
        "below that, more malignant lesions are needed",
    ]
    if result["num_comparisons"] > 1:
        sentences.append(f"for {result['num_comparisons']} comparisons, at the strictest step of Holm's correction")
    if folds:
        sentences.append("as if every fold were like this one; what folds share in training is not in it")
    return "\n".join([*lines, "", *(f"  - {sentence}" for sentence in sentences), "", result["disclaimer"]])


def seed_words(num_seeds: int) -> str:
    return "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
