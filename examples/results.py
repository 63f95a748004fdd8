"""The runs of `examples/real.sh` as a Markdown table: `python examples/results.py OUT/runs`."""

import sys
from pathlib import Path

from lesionforge import run, tables
from lesionforge.files import read_json

SHOWN = {
    "pauc": "pAUC",
    "roc_auc": "AUC",
    "average_precision": "average precision",
    "sensitivity_at_90_specificity": "sensitivity at 90 % specificity",
}


def row_of(folder: Path) -> list[str]:
    done, scores = read_json(folder / run.DONE), read_json(folder / run.EVALUATION / run.SCORES)["parts"][tables.VAL]
    mix = tables.read_table(folder / run.MIX)
    malignant = int(mix[tables.TARGET].sum())
    return [
        folder.name,
        done["model"]["name"].split(".")[0],
        "ImageNet" if done["model"]["weights"] != "random" else "random",
        f"{malignant:,} / {len(mix) - malignant:,}",
        *(in_cell(scores["scores"][name]) for name in SHOWN),
        f"{done['seconds'] / 60:.1f}",
        read_json(folder / run.ENVIRONMENT)["commit"],
    ]


def in_cell(score: dict[str, float]) -> str:
    """0.080 (0.051-0.108)"""
    return f"{score['estimate']:.3f} ({score['low']:.3f}-{score['high']:.3f})"


def main(runs: Path) -> None:
    titles = ["run", "model", "weights", "malignant / benign", *SHOWN.values(), "minutes", "commit"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for folder in sorted(path.parent.parent for path in runs.glob(f"*/{run.EVALUATION}/{run.SCORES}")):
        print(f"| {' | '.join(row_of(folder))} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
