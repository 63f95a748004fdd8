"""The point pAUC against the challenge's script, and 1,000 patient-clustered replicates against resampling rows.

    python benchmarks/bench_metrics.py [--write]

A full-size stand-in for SLICE-3D's labels (401,059 lesions, 1,042 patients of very unequal size, 393 malignant of 259
patients) with scores as a fair model's. The naive bootstrap gathers the rows of the drawn patients and calls the
challenge's formula; a few of its replicates are timed and scaled, all of ours are run.
"""

from anchor import Comparison, compare, header, parser, show, table  # first: it pins the threads

# isort: split

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from lesionforge import bootstrap, metrics

NUM_LESIONS, NUM_PATIENTS, NUM_MALIGNANT, NUM_WITH_MALIGNANCY = 401_059, 1_042, 393, 259
NUM_REPLICATES, NUM_NAIVE = 1000, 5
SEED = 0

POINT, REPLICATE = "pAUC, one value", "a replicate (ours: all scores; naive: pAUC)"
TARGETS = {POINT: 6.0, REPLICATE: 300.0}


def challenge_score(solution: pd.DataFrame, submission: pd.DataFrame, row_id: str, min_tpr: float = 0.80) -> float:
    """The public formula of the challenge's script, on its frames."""
    solution, submission = solution.drop(columns=row_id), submission.drop(columns=row_id)
    if not pd.api.types.is_numeric_dtype(submission.values.dtype):
        raise ValueError("submission must be numeric")
    return partial_area(solution.values.ravel(), submission.values.ravel(), min_tpr)


def partial_area(targets: np.ndarray, scores: np.ndarray, min_tpr: float = 0.80) -> float:
    fpr, tpr, _ = sk.roc_curve(abs(targets - 1), -1.0 * scores)
    max_fpr = abs(1 - min_tpr)
    stop = np.searchsorted(fpr, max_fpr, "right")
    last = np.interp(max_fpr, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
    return float(sk.auc(np.append(fpr[:stop], max_fpr), np.append(tpr[:stop], last)))


def stand_in() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores and patients of lesions in random order."""
    rng = np.random.default_rng(SEED)
    sizes = rng.gamma(0.8, size=NUM_PATIENTS) + 0.01
    patients = np.concatenate(
        [np.arange(NUM_PATIENTS), rng.choice(NUM_PATIENTS, NUM_LESIONS - NUM_PATIENTS, p=sizes / sizes.sum())]
    )
    chosen = rng.choice(NUM_PATIENTS, NUM_WITH_MALIGNANCY, replace=False)
    targets = np.zeros(NUM_LESIONS, np.int64)
    of_chosen = rng.permutation(np.flatnonzero(np.isin(patients, chosen)))
    firsts = of_chosen[np.unique(patients[of_chosen], return_index=True)[1]]  # each of them has one
    others = np.setdiff1d(of_chosen, firsts)
    targets[firsts] = 1
    targets[rng.choice(others, NUM_MALIGNANT - NUM_WITH_MALIGNANCY, replace=False)] = 1
    logits = rng.normal(size=NUM_LESIONS) + 0.5 * rng.normal(size=NUM_PATIENTS)[patients] + 2 * targets - 4
    return targets, 1 / (1 + np.exp(-logits)), patients


def naive(targets: np.ndarray, scores: np.ndarray, rows_of: list[np.ndarray], drawn: np.ndarray) -> list[float]:
    paucs = []
    for patients in drawn:
        rows = np.concatenate([rows_of[patient] for patient in patients])
        paucs.append(partial_area(targets[rows], scores[rows]))
    return paucs


def main() -> None:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    targets, scores, patients = stand_in()
    ids = [f"ISIC_{i:07d}" for i in range(NUM_LESIONS)]
    solution = pd.DataFrame({"isic_id": ids, "target": targets})
    submission = pd.DataFrame({"isic_id": ids, "target": scores})
    ours, theirs = metrics.pauc(targets, scores), challenge_score(solution, submission, "isic_id")
    assert ours is not None
    assert abs(ours - theirs) < 1e-12

    point = compare(
        POINT,
        lambda: metrics.pauc(targets, scores),
        lambda: challenge_score(solution, submission, "isic_id"),
        rounds=15,
    )
    order = np.argsort(patients, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(patients))[:-1])
    drawn = np.random.default_rng(SEED).integers(0, NUM_PATIENTS, size=(NUM_NAIVE, NUM_PATIENTS))
    table_of_counts = bootstrap.count(targets, scores, patients)
    times = np.array([np.bincount(row, minlength=NUM_PATIENTS) for row in drawn], dtype=np.float64)
    same = bootstrap.scores_of(table_of_counts, times)[metrics.PAUC]
    assert np.abs(same - naive(targets, scores, rows_of, drawn)).max() < 1e-12

    replicates = compare(
        REPLICATE,
        lambda: bootstrap.estimates(targets, scores, patients, 0.05, NUM_REPLICATES, SEED),
        lambda: naive(targets, scores, rows_of, drawn),
    )
    each = Comparison(REPLICATE, 1, replicates.ours / NUM_REPLICATES, replicates.theirs / NUM_NAIVE)
    found = bootstrap.estimates(targets, scores, patients, 0.05, NUM_REPLICATES, SEED)[metrics.PAUC]
    text = [
        header(("numpy", "scikit-learn", "pandas"), SEED),
        f"{NUM_LESIONS:,} lesions, {NUM_PATIENTS:,} patients, {NUM_MALIGNANT} malignant; CPU time",
        table([point, each], TARGETS),
        f"{NUM_REPLICATES:,} replicates of all {len(metrics.SCORES)} scores: {replicates.ours:.2f} s, asked <= 0.5 s; "
        f"naive, pAUC only: {NUM_REPLICATES * each.theirs:.0f} s (from {NUM_NAIVE} replicates)",
        f"pAUC {found.estimate:.4f} ({found.low:.4f} to {found.high:.4f}); both equal the challenge's within 1e-12, on "
        "the same resamples too",
    ]
    show("\n".join(text), "metrics", arguments.write)


if __name__ == "__main__":
    main()
