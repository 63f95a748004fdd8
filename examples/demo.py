"""`make demo`: the `smoke` study on the built-in phantom data set: a generator and its audit, three training
distributions, a transformer, a CNN and their ensemble, heat maps, submissions, one report.

Every step is a `lesionforge` command, printed as one would type it. Run it again after an interruption: what is done is
left alone.
"""

import argparse
import shlex
import time
from pathlib import Path

from lesionforge import run
from lesionforge.cli import main
from lesionforge.progress import in_words


def lesionforge(*words: str | Path) -> None:
    """Print a command, run it, stop the demo where it fails."""
    argv = [str(word) for word in words]
    print(f"\n$ lesionforge {shlex.join(argv)}", flush=True)
    if code := main(argv):
        raise SystemExit(code)


def demo(out: Path) -> None:
    started = time.monotonic()
    challenge, store, hidden = out / "challenge", out / "stores/train", out / "stores/test"
    split, study = out / "splits/patient", out / "study"
    lesionforge("phantom", "--num-images", "6000", "--malignant-fraction", "0.08", "--out", challenge)
    for part, made in (("train", store), ("test", hidden)):
        lesionforge(
            "prepare", "--images", challenge / f"{part}-image.hdf5", "--metadata", challenge / f"{part}-metadata.csv",
            "--out", made,
        )  # fmt: skip
    lesionforge("split", "--store", store, "--fractions", "0.6", "0.2", "0.2", "--out", split)
    lesionforge(
        "study", "--recipe", "study_smoke", "--data.store", store, "--data.split", split, "--data.hidden", hidden,
        "--data.sample-submission", challenge / "sample_submission.csv", "--out", study,
    )  # fmt: skip
    print(f"\nleak report      {split / run.LEAKS}")
    print(f"runs             {study / 'runs'}  (weights, mix, predictions, evaluation, log, TensorBoard)")
    print(f"generator        {study / 'generators/scratch' / run.FIGURE4A}")
    print(f"audit            {study / 'synthetic/scratch' / run.REPORT}")
    print(f"submissions      {study / 'submissions'}")
    print(f"report           {study / 'report' / run.REPORT}")
    print("\nThe phantom proves nothing about skin. Research software, not a medical device. ", end="")
    print(f"Done in {in_words(time.monotonic() - started)}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything that is made")
    demo(parser.parse_args().out)
