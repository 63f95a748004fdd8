"""The runs of `examples/synthetic.sh` as Markdown tables, with paired differences: `python examples/synthetic.py OUT`.

A difference is paired: both arms score the same val lesions, and each replicate of the bootstrap draws the same
patients for both (a lesion of unknown patient is drawn alone).
"""

import sys
from pathlib import Path

import numpy as np

from lesionforge import bootstrap, metrics, run, tables
from lesionforge.files import read_json

ARMS = {"0x": "0", "1x": "237", "3x": "711", "oversampled": "0, real ones oversampled"}
SCORES = {"pAUC": metrics.pauc, "AUC": metrics.roc_auc}
NUM_REPLICATES = 2000


def predictions(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores and clusters of val, in the order of the image ids."""
    table = tables.read_table(folder / run.PREDICTIONS / f"{tables.VAL}.parquet").sort(tables.IMAGE_ID)
    patients = table[tables.PATIENT_ID].rank("dense").fill_null(0).to_numpy().astype(np.int64) - 1
    return table[tables.TARGET].to_numpy(), table[tables.SCORE].to_numpy(), bootstrap.clusters_of(patients)


def replicates_of(targets: np.ndarray, scores: list[np.ndarray], clusters: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure of each scoring in each replicate, (R, len(scores)); the same lesions are drawn for all."""
    members = [np.flatnonzero(clusters == cluster) for cluster in range(clusters.max() + 1)]
    rng = np.random.default_rng(0)
    rows: dict[str, list[list[float]]] = {name: [] for name in SCORES}
    for _ in range(NUM_REPLICATES):
        drawn = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        for name, measure in SCORES.items():
            values = [measure(targets[drawn], each[drawn]) for each in scores]
            rows[name].append([np.nan if value is None else value for value in values])
    return {name: np.array(values) for name, values in rows.items()}


def interval(values: np.ndarray, digits: int = 3) -> str:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return f"{low:.{digits}f} to {high:.{digits}f}"


def main(out: Path) -> None:
    print("| family | synthetic malignant | score | each seed | mean score of the seeds | difference to 0 synthetic |")
    print("|---|---|---|---|---|---|")
    commits = set()
    for family in sorted({folder.name.split("-")[0] for folder in (out / "runs").glob("*-0x-*")}):
        runs = {arm: sorted((out / "runs").glob(f"{family}-{arm}-*")) for arm in ARMS}
        runs = {arm: folders for arm, folders in runs.items() if folders}
        seeds = {arm: [predictions(folder)[1] for folder in folders] for arm, folders in runs.items()}
        targets, _, clusters = predictions(runs["0x"][0])
        means = [np.mean(seeds[arm], axis=0) for arm in runs]
        drawn = replicates_of(targets, means, clusters)
        for number, arm in enumerate(runs):
            commits |= {read_json(folder / run.ENVIRONMENT)["commit"] for folder in runs[arm]}
            for name, measure in SCORES.items():
                values = drawn[name]
                each = " ".join(f"{measure(targets, scores):.3f}" for scores in seeds[arm])
                point = measure(targets, means[number])
                against = "-"
                if number:
                    difference = point - measure(targets, means[0])
                    against = f"{difference:+.3f} ({interval(values[:, number] - values[:, 0])})"
                cells = [family, ARMS[arm], name, each, f"{point:.3f} ({interval(values[:, number])})", against]
                print(f"| {' | '.join(cells)} |")
    print(f"\nRuns made at commit {', '.join(sorted(map(str, commits)))}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
