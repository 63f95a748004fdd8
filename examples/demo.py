"""`make demo`: the whole chain on the built-in phantom data set, two architectures by two training distributions; then
a generator, its audited images, and one of the architectures trained with them.

Every step is a `lesionforge` command, printed as one would type it; they run in one process only so that torch is
loaded once. Run it again after an interruption: what is finished is left alone.
"""

import argparse
import shlex
import time
from pathlib import Path

from lesionforge import run
from lesionforge.cli import main
from lesionforge.files import read_json
from lesionforge.progress import in_words

# Name: kind and learning rate, both from random weights.
MODELS = {"edgenext_xx_small": ("transformer", "1e-3"), "efficientnet_lite0": ("CNN", "4e-3")}
# The study's distributions; 6,000 images hold fewer malignant ones than the challenge, so the first is scaled and the
# second takes all. Both see as many images in training.
DISTRIBUTIONS = {
    "super_downsampled": ["--data.mix.scale", "auto"],
    "balanced_aug": ["--data.mix.malignant", "all", "--data.mix.benign", "all"],
}
TRAINING = shlex.split(
    "--model.weights random --data.image-size 64 --data.batch-size 32 --data.samples-per-epoch 960 "
    "--optim.epochs 16 --val-every 8 --hardware.cache memory "
    # milder than the recipes' strong augmentation, which wants longer trainings than a demo's
    "--augment.cutout-probability 0 --augment.clahe-probability 0 --augment.colour-probability 0 "
    "--augment.blur-probability 0.2 --augment.distortion-probability 0.2"
)
# A generator from random weights, as small as gives lesion-like blobs in a minute; what it learned from is part train.
GENERATOR = shlex.split(
    "--base scratch --data.image-size 32 --scratch.vae-width 16 --scratch.vae-steps 300 --scratch.unet-width 32 "
    "--scratch.unet-levels 2 --scratch.text-width 64 --scratch.prior-steps 700 --optim.epochs 3 --optim.ema-decay 0.99 "
    "--samples.epochs 0 --val-images 32"
)
NUM_CANDIDATES = 112  # so that about 64 are left after the audit
WITH_SYNTHETIC = "efficientnet_lite0"
SHOWN = {"pauc": "pAUC", "roc_auc": "AUC", "sensitivity_at_90_specificity": "sens. at 90 % spec."}


def lesionforge(*words: str | Path) -> None:
    """Print a command, run it, stop the demo where it fails."""
    argv = [str(word) for word in words]
    print(f"\n$ lesionforge {shlex.join(argv)}", flush=True)
    if code := main(argv):
        raise SystemExit(code)


def demo(out: Path) -> None:
    started = time.monotonic()
    challenge, store, hidden, split = (
        out / "challenge",
        out / "stores/train",
        out / "stores/test",
        out / "splits/patient",
    )

    lesionforge("phantom", "--num-images", "6000", "--malignant-fraction", "0.08", "--out", challenge)
    for part, made in (("train", store), ("test", hidden)):
        lesionforge(
            "prepare", "--images", challenge / f"{part}-image.hdf5", "--metadata", challenge / f"{part}-metadata.csv",
            "--out", made,
        )  # fmt: skip
    lesionforge("split", "--store", store, "--fractions", "0.6", "0.2", "0.2", "--out", split)
    data = ["--data.store", store, "--data.split", split]

    runs = {}
    for distribution, changes in DISTRIBUTIONS.items():
        for model, (kind, lr) in MODELS.items():
            folder = runs[model, kind, distribution] = out / "runs" / f"{model}-{distribution}"
            settings = ["--recipe", distribution, *changes, *data, "--model.name", model, "--optim.lr", lr]
            score(folder, hidden, challenge, *settings)

    generator, candidates, synthetic = out / "generator", out / "stores/candidates", out / "stores/synthetic"
    lesionforge("finetune", *GENERATOR, *data, "--out", generator)
    lesionforge(
        "generate", "--generator", generator, "--num-images", str(NUM_CANDIDATES), "--guidance-scale", "2",
        "--num-inference-steps", "15", "--batch-size", "32", "--out", candidates,
    )  # fmt: skip
    kind, lr = MODELS[WITH_SYNTHETIC]
    lesionforge(
        "audit", "--candidates", candidates, *data, "--features.run", runs[WITH_SYNTHETIC, kind, "balanced_aug"],
        "--copies.num-calibration", "400", "--artefacts.num-calibration", "400", "--sets.num-images", "300",
        "--out", synthetic,
    )  # fmt: skip
    folder = runs[WITH_SYNTHETIC, kind, "with synthetic"] = out / "runs" / f"{WITH_SYNTHETIC}-synthetic"
    score(
        folder, hidden, challenge, "--recipe", "super_downsampled", "--data.mix.malignant", "all",
        "--data.mix.benign", "570", "--data.mix.synthetic-malignant", "all", "--data.synthetic", synthetic, *data,
        "--model.name", WITH_SYNTHETIC, "--optim.lr", lr,
    )  # fmt: skip

    print("\nTest part of the phantom data, other patients than train and val; 95 % intervals, clustered by patient\n")
    print(f"{'model':20}{'kind':13}{'trained on':20}" + "".join(f"{title:>28}" for title in SHOWN.values()))
    for (model, kind, distribution), folder in runs.items():
        scores = read_json(folder / run.EVALUATION / run.SCORES)["parts"]["test"]["scores"]
        print(f"{model:20}{kind:13}{distribution:20}" + "".join(f"{in_cell(scores[name]):>28}" for name in SHOWN))
    print(f"\nchallenge files  {challenge}\nstores           {store}, {hidden}\nleak report      {split / run.LEAKS}")
    print(f"generator        {generator}  (figure4a.png: its samples)\naudit            {synthetic / run.REPORT}")
    for folder in runs.values():
        print(f"run              {folder}  (evaluation/, submission/submission.csv, log.txt, tensorboard/)")
    print("\nThe phantom proves nothing about skin. Research software, not a medical device. ", end="")
    print(f"Done in {in_words(time.monotonic() - started)}.")


def score(folder: Path, hidden: Path, challenge: Path, *settings: str | Path) -> None:
    """Train a classifier, score val, test and the challenge's hidden part, write a submission."""
    lesionforge("train", *settings, *TRAINING, "--out", folder)
    lesionforge("predict", "--run", folder)
    lesionforge("predict", "--run", folder, "--store", hidden, "--name", "hidden")
    lesionforge("evaluate", "--run", folder)
    lesionforge(
        "submit", "--predictions", folder / "predictions/hidden.parquet",
        "--sample-submission", challenge / "sample_submission.csv", "--out", folder / "submission",
    )  # fmt: skip


def in_cell(score: dict[str, float | None]) -> str:
    """0.123 (0.101 to 0.140)"""
    if score["low"] is None:
        return f"{score['estimate']:.3f} (no interval)"
    return f"{score['estimate']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything that is made")
    demo(parser.parse_args().out)
