"""Decoding, augmentation and batches beside what notebooks use: PIL, albumentations, torch's DataLoader, timm's.

    python benchmarks/bench_pixels.py [--lesions FOLDER] [--num-images 512] [--write]

FOLDER holds the challenge's train-image.hdf5 and a ground-truth.csv; where it is absent, a phantom is drawn.
Our batches, and timm's before its prefetcher, are uint8: both normalise on the device. The notebook's Dataset does so
on the CPU; the rows "+ normalising" make ours do that too, for a training without a GPU. Anchors need extra `bench`.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import anchor  # first: it pins the threads

# isort: split
import albumentations as A
import cv2
import h5py
import numpy as np
import polars as pl
import timm.data
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lesionforge.config import AugmentConfig
from lesionforge.data import augment, pixels
from lesionforge.data.loader import load_batches
from lesionforge.data.phantom import PhantomConfig, phantom
from lesionforge.data.prepare import PrepareConfig, prepare
from lesionforge.data.store import Store, open_store

SIZE, BATCH, SEED = 224, 32, 0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TARGETS = {
    "decode": 2.5,
    "strong augmentation to 224": 2.5,
    "training batch / notebook": 3.0,
    "training batch / timm": 4.0,
    "evaluation batch / notebook": 6.0,
}
PACKAGES = ("numpy", "opencv-python-headless", "torch", "torchvision", "pillow", "albumentations", "timm", "h5py")


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    arguments.add_argument("--lesions", type=Path, default=anchor.REAL_LESIONS)
    arguments.add_argument("--num-images", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        hdf5, store = lesions(given.lesions, work)
        ids = store.image_ids.sample(given.num_images, seed=SEED, shuffle=True)
        rows = measure(hdf5, store, ids, work, given.rounds)
    what = "real lesions (SLICE-3D permissive)" if given.lesions.is_dir() else "phantom"
    head = f"{anchor.header(PACKAGES, SEED)}\n# data      {given.num_images} {what}, batches of {BATCH}"
    anchor.show(f"{head}\n\n{anchor.table(rows, TARGETS)}", "pixels", given.write)


def lesions(folder: Path, work: Path) -> tuple[Path, Store]:
    """The challenge's HDF5 file and a store made of it."""
    if folder.is_dir():
        hdf5 = folder / "train-image.hdf5"
        prepare(PrepareConfig(out=work / "store", images=hdf5, ground_truth=folder / "ground-truth.csv"))
    else:
        phantom(PhantomConfig(out=work / "phantom", num_images=2_000))
        hdf5 = work / "phantom" / "train-image.hdf5"
        metadata = work / "phantom" / "train-metadata.csv"
        prepare(PrepareConfig(out=work / "store", images=hdf5, metadata=metadata))
    return hdf5, open_store(work / "store")


def measure(hdf5: Path, store: Store, ids: pl.Series, work: Path, rounds: int) -> list[anchor.Comparison]:
    table = pl.DataFrame({"image_id": ids, "target": np.zeros(len(ids), np.int8)})
    encoded = [bytes(store.read(row)) for row in store.rows(ids)]
    images = [pixels.decode(data) for data in encoded]
    different = sum(not np.array_equal(pil(data), image) for data, image in zip(encoded, images, strict=True))
    if different:
        raise SystemExit(f"{different} of {len(images)} images decode to other pixels than PIL's")

    num, rows = len(ids), []
    strong = augment.build_augmentation(AugmentConfig(preset="strong"))
    assert strong is not None
    rows.append(anchor.compare("decode", lambda: each(pixels.decode, encoded), lambda: each(pil, encoded), num, rounds))

    theirs = A.Compose(winner())
    rows.append(
        anchor.compare(
            "strong augmentation to 224",
            lambda: augment_ours(images, strong),
            lambda: each(lambda image: theirs(image=image), images),
            num,
            rounds,
        )
    )

    order = np.arange(num)

    def ours(augmentation: dict[str, float] | None, function: Callable = len) -> None:
        batches = load_batches([store], table, order, BATCH, SIZE, augmentation, SEED, 0, num_threads=1)
        each(lambda batch: function(batch.images), batches)

    full = A.Compose([*winner(), A.Normalize(MEAN, STD), A.pytorch.ToTensorV2()])
    notebook = DataLoader(Notebook(hdf5, ids, lambda image: full(image=np.array(image))["image"]), batch_size=BATCH)
    rows.append(
        anchor.compare("training batch / notebook", lambda: ours(strong), lambda: each(len, notebook), num, rounds)
    )
    what, ours_too = "training + normalising / notebook", lambda: ours(strong, normalised)
    rows.append(anchor.compare(what, ours_too, lambda: each(len, notebook), num, rounds))

    for image_id, data in zip(ids, encoded, strict=True):
        path = work / "files" / "benign" / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    prefetcher = timm.data.create_loader(
        timm.data.create_dataset("", root=str(work / "files")), (3, SIZE, SIZE), BATCH, is_training=True,
        num_workers=0, persistent_workers=False, device=torch.device("cpu"),
    )  # fmt: skip
    loader = prefetcher.loader
    rows.append(anchor.compare("training batch / timm", lambda: ours(strong), lambda: each(len, loader), num, rounds))

    steps = [
        torchvision.transforms.Resize((SIZE, SIZE)),
        torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize(MEAN, STD),
    ]
    notebook = DataLoader(Notebook(hdf5, ids, torchvision.transforms.Compose(steps)), batch_size=BATCH)
    rows.append(
        anchor.compare("evaluation batch / notebook", lambda: ours(None), lambda: each(len, notebook), num, rounds)
    )
    what, ours_too = "evaluation + normalising / notebook", lambda: ours(None, normalised)
    rows.append(anchor.compare(what, ours_too, lambda: each(len, notebook), num, rounds))
    return rows


def winner() -> list[A.BasicTransform | A.BaseCompose]:
    """The winner's list in albumentations 2; strengths where they differ from ours change no cost."""
    return [
        A.Transpose(p=0.5),
        A.VerticalFlip(p=0.5),
        A.HorizontalFlip(p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0, p=0.75),
        A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.2, p=0.75),
        A.OneOf(
            [
                A.MotionBlur(blur_limit=5),
                A.MedianBlur(blur_limit=5),
                A.GaussianBlur(blur_limit=5),
                A.GaussNoise(std_range=(2.2 / 255, 5.5 / 255)),
            ],
            p=0.7,
        ),
        A.OneOf(
            [
                A.OpticalDistortion(distort_limit=1.0),
                A.GridDistortion(num_steps=5, distort_limit=0.3),
                A.ElasticTransform(alpha=3),
            ],
            p=0.7,
        ),
        A.CLAHE(clip_limit=4.0, p=0.7),
        A.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=20, val_shift_limit=10, p=0.5),
        A.ShiftScaleRotate(shift_limit=0.1, scale_limit=0.1, rotate_limit=15, border_mode=cv2.BORDER_REFLECT, p=0.85),
        A.Resize(SIZE, SIZE),
        A.CoarseDropout(
            num_holes_range=(1, 1), hole_height_range=(0.375, 0.375), hole_width_range=(0.375, 0.375), p=0.7
        ),
    ]


class Notebook(Dataset):
    """The usual Dataset of the challenge's notebooks: one h5py key, PIL, transforms."""

    def __init__(self, hdf5: Path, ids: pl.Series, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.file, self.ids, self.transform = h5py.File(hdf5), ids.to_list(), transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(io.BytesIO(self.file[self.ids[index]][()])).convert("RGB")
        return self.transform(image), 0


def each(function: Callable, items: object) -> None:
    for item in items:  # type: ignore[attr-defined]
        function(item)


def pil(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def augment_ours(images: list[np.ndarray], settings: dict[str, float]) -> None:
    out = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(images), BATCH):
        drawn = augment.draw(SEED, 0, np.arange(start, start + BATCH), **settings)
        for i, image in enumerate(images[start : start + BATCH]):
            augment.apply(image, drawn, i, out[i])


def normalised(images: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) float32."""
    scale = 1 / (255 * torch.tensor(STD))
    return (
        torch.from_numpy(images)
        .permute(0, 3, 1, 2)
        .float()
        .mul_(scale[:, None, None])
        .sub_((torch.tensor(MEAN) / torch.tensor(STD))[:, None, None])
    )


if __name__ == "__main__":
    main()
