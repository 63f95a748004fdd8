"""The runs of `examples/families.sh` as a Markdown table: `python examples/families.py OUT`."""

import sys
from pathlib import Path
from typing import Any

from lesionforge import run, tables
from lesionforge.files import read_json

SHOWN = {"pauc": "pAUC", "roc_auc": "AUC"}
TRANSFORMERS = ("vit", "swin", "eva02", "edgenext", "deit3", "beitv2")


def scores_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / run.EVALUATION / run.SCORES)["parts"][tables.VAL]["scores"]


def row_of(name: str, runs: list[Path], joined: Path) -> list[str]:
    """joined: the seeds' mean score, where there are several seeds."""
    family, mix = name.rsplit("-", 1)
    seeds = [scores_of(folder) for folder in runs]
    mean = scores_of(joined) if len(runs) > 1 else seeds[0]
    done = read_json(runs[0] / run.DONE)
    cells = [family, "transformer" if family in TRANSFORMERS else "CNN", str(done["model"]["image_size"]), mix]
    for score in SHOWN:
        value = mean[score]
        cells.append(" ".join(f"{scores[score]['estimate']:.3f}" for scores in seeds))
        cells.append(f"{value['estimate']:.3f} ({value['low']:.3f}-{value['high']:.3f})")
    return cells


def main(out: Path) -> None:
    titles = ["family", "kind", "px", "mix"]
    for title in SHOWN.values():
        titles += [f"{title} of each seed", f"{title} of the mean score"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for family in (*TRANSFORMERS, "convnext", "resnet", "densenet", "efficientnet", "mobilenetv2"):
        for name in (f"{family}-balanced", f"{family}-super"):
            runs = sorted(path for path in (out / "runs").glob(f"{name}-?") if (path / run.EVALUATION).exists())
            print(f"| {' | '.join(row_of(name, runs, out / 'seeds' / name))} |")
    commits = {read_json(path)["commit"] for path in (out / "runs").glob(f"*/{run.ENVIRONMENT}")}
    print(f"\nRuns made at commit {', '.join(sorted(map(str, commits)))}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
