"""Small things laid where the pages of the docs say that they lie: the challenge's files, stores, splits, runs, tables.

Each is made once, by our own commands, in one folder that the pages' sandboxes copy from.
"""

import csv
import re
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import polars as pl
from documented import changes, value_of, with_options

from lesionforge.cli import main
from lesionforge.data.store import open_store

CPU = "--hardware.device cpu --hardware.torch-threads 1 --hardware.loader-threads 1"
PHANTOM = changes("--num-images 300 --num-test-images 60 --malignant-fraction 0.2 --num-workers 1")
TRAIN = changes(
    f"""{CPU} --hardware.cache - --data.image-size 32 --data.batch-size 8 --optim.epochs 1 --optim.precision fp32
    --model.weights random"""
)
SAMPLES = "24"  # images of a training's only epoch


def run_command(words: list[str]) -> None:
    assert main(words) == 0, " ".join(words)


def tiny_training(words: list[str]) -> list[str]:
    """A `train` command made small: its model the tiny one of its family, its epoch one of few images."""
    change = dict(TRAIN)
    name = value_of(words, "--model.name") or "edgenext"
    change["--model.name"] = [name if name == "mobilenetv2_100" else f"{re.split('[:_]', name)[0]}:tiny"]
    recipe, weights = value_of(words, "--recipe"), value_of(words, "--model.weights")
    if "--model.init-from" in words or weights not in (None, "hub"):
        change["--model.weights"] = [weights] if weights else None
    if value_of(words, "--data.sampler") != "fresh_benign" and "entrant" not in (recipe or ""):
        change["--data.samples-per-epoch"] = [SAMPLES]
    if recipe is not None and value_of(words, "--data.mix.malignant") != "all":
        change["--data.mix.scale"] = ["auto"]
    return with_options(words, change)


# ------------------------------------------------------------------------------------------------- what pages rely on


def challenge(out: Path) -> None:
    run_command(with_options(["phantom", "--out", str(out)], PHANTOM))


def real_store(out: Path) -> None:
    files = "data/isic-2024/train-image.hdf5 --metadata data/isic-2024/train-metadata.csv"
    run_command(["prepare", "--images", *files.split(), "--out", str(out)])


def larger_challenge(out: Path) -> None:
    """As many benign lesions as the smoke study asks for."""
    larger = {**PHANTOM, "--num-images": ["1100"], "--malignant-fraction": ["0.08"]}
    run_command(with_options(["phantom", "--out", str(out)], larger))


def larger_store(out: Path) -> None:
    files = "data/phantom/train-image.hdf5 --metadata data/phantom/train-metadata.csv"
    run_command(["prepare", "--images", *files.split(), "--out", str(out)])


def larger_split(out: Path) -> None:
    run_command(["split", "--store", "stores/phantom", "--fractions", "0.6", "0.2", "0.2", "--out", str(out)])


def patient_split(out: Path) -> None:
    run_command(["split", "--store", "stores/real", "--folds", "3", "--out", str(out)])


def run_of(model: str, *further: str, seed: str = "0") -> Callable[[Path], None]:
    def train(out: Path) -> None:
        words = [
            "train",
            "--recipe",
            "super_downsampled",
            "--data.store",
            "stores/real",
            "--data.split",
            "splits/patient",
        ]
        words += ["--data.fold", "0", "--model.name", model, "--seed", seed, "--out", str(out)]
        run_command(tiny_training(words))
        for verb in further:
            run_command(
                [verb, "--run", str(out), *("--num-replicates", "100")]
                if verb == "evaluate"
                else [verb, "--run", str(out)]
            )

    return train


def weights_file(out: Path) -> None:
    """Weights of a MobileNetV2 of ImageNet's 1,000 classes, drawn at random."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("mobilenetv2_100").state_dict(), out)


def photographs(out: Path, num: int | None = None, extension: str = ".jpg") -> list[dict[str, object]]:
    """A folder of the store's images as files; their rows."""
    store = open_store(Path("stores/real"))
    rows = store.samples(["image_id", "patient_id", "target", "sha256"]).to_dicts()[:num]
    out.mkdir(parents=True)
    for number, row in enumerate(rows):
        data = store.read(number)
        if extension == ".png":
            import cv2
            import numpy as np

            data = cv2.imencode(".png", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
        (out / f"{row['image_id']}{extension}").write_bytes(data)
    return rows


def table(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def isic_folder(out: Path) -> None:
    rows = photographs(out)
    table(out.parent / "ground-truth.csv", [{"isic_id": r["image_id"], "malignant": r["target"]} for r in rows])
    some = [{"isic_id": r["image_id"], "patient_id": r["patient_id"]} for r in rows[:200]]
    table(out.parent / "metadata.csv", some)


def diagnoses(rows: list[dict[str, object]], malignant: tuple[str, ...], benign: str) -> list[str]:
    return [malignant[i % len(malignant)] if row["target"] else benign for i, row in enumerate(rows)]


def ham10000(out: Path) -> None:
    rows = photographs(out)
    dx = diagnoses(rows, ("mel", "bcc", "akiec"), "nv")
    lesions = [{"lesion_id": f"HAM_{i // 2:07d}", "image_id": r["image_id"], "dx": dx[i]} for i, r in enumerate(rows)]
    table(out.parent / "HAM10000_metadata.csv", lesions)


def pad_ufes(out: Path) -> None:
    rows = photographs(out / "images", extension=".png")
    dx = diagnoses(rows, ("MEL", "BCC", "SCC"), "NEV")
    table(
        out / "metadata.csv",
        [
            {"patient_id": r["patient_id"], "img_id": f"{r['image_id']}.png", "diagnostic": dx[i]}
            for i, r in enumerate(rows)
        ],
    )


def new_photographs(out: Path) -> None:
    photographs(out, 5)


def generated_elsewhere(out: Path) -> None:
    """Images that are no lesion's, and the table of what their generator learned from: part train of fold 0."""
    import numpy as np
    from conftest import blob

    rng = np.random.default_rng(0)
    out.mkdir()
    names = [f"made-{number:03d}" for number in range(60)]
    for name in names:
        (out / f"{name}.jpg").write_bytes(blob(rng, True))
    table(out.parent / "generated.csv", [{"image_id": name, "target": 1} for name in names])
    fold = pl.read_parquet("splits/patient/split.parquet").filter(pl.col("fold") != 0)
    samples = open_store(Path("stores/real")).samples(["image_id", "patient_id", "sha256", "target"])
    seen = samples.join(fold, on="image_id").filter(pl.col("target") == 1)
    table(out.parent / "learned-from.csv", seen.select("image_id", "patient_id", "sha256").to_dicts())


def own_split(out: Path) -> None:
    split = pl.read_parquet("splits/patient/split.parquet")
    split.write_csv(out)


ARMS = ("balanced", "shuffled")

MAKERS: dict[str, Callable[[Path], None]] = {
    "data/isic-2024": challenge,
    "stores/real": real_store,
    "splits/patient": patient_split,
    "data/phantom": larger_challenge,
    "stores/phantom": larger_store,
    "splits/phantom": larger_split,
    "runs/edgenext-super-0": run_of("edgenext", "predict"),
    "runs/vit": run_of("vit", "predict", "evaluate"),
    "runs/edgenext": run_of("edgenext", "predict", "evaluate"),
    "runs/efficientnet": run_of("efficientnet", "predict"),
    **{f"runs/{arm}-{seed}": run_of("resnet", "predict", "evaluate", seed=seed) for arm in ARMS for seed in "01"},
    "weights/mobilenetv2_100.safetensors": weights_file,
    "my-split.csv": own_split,
    "ISIC_2024_Permissive_Training_Input": isic_folder,
    "HAM10000_images": ham10000,
    "pad-ufes": pad_ufes,
    "new": new_photographs,
    "generated": generated_elsewhere,
}
# What comes with a thing, and what has to be there before it.
BESIDE = {
    "ISIC_2024_Permissive_Training_Input": ("ground-truth.csv", "metadata.csv"),
    "HAM10000_images": ("HAM10000_metadata.csv",),
    "generated": ("generated.csv", "learned-from.csv"),
}
BEFORE: dict[str, tuple[str, ...]] = {
    "data/isic-2024": (),
    "stores/real": ("data/isic-2024",),
    "splits/patient": ("stores/real",),
    "data/phantom": (),
    "stores/phantom": ("data/phantom",),
    "splits/phantom": ("stores/phantom",),
    "weights/mobilenetv2_100.safetensors": (),
}


class World:
    """The folder that holds each thing once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def made(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            for before in BEFORE.get(name, ("splits/patient",)):
                self.made(before)
            path.parent.mkdir(parents=True, exist_ok=True)
            with chdir(self.folder):
                MAKERS[name](Path(name))
        return path

    def lay(self, names: list[str], sandbox: Path) -> None:
        """Copy things to the places that a page names."""
        for name in names:
            source, _, place = name.partition(" as ")
            made = self.made(source)
            copy(made, sandbox / (place or source))
            for beside in BESIDE.get(source, ()):
                copy(made.parent / beside, sandbox / beside)


def copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True)
    else:
        shutil.copy(source, place)
