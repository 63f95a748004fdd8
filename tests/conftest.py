"""Small real things that several tests need: a store of drawn blobs, its split, the real lesions where they are."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub: tests never reach out
os.environ["WANDB_MODE"] = "offline"

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.data.store import write_store

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first: several processes then end at about the same time."""

    def length(item: pytest.Item) -> float:
        limit = item.get_closest_marker("timeout")
        return limit.args[0] if limit else 1 if item.get_closest_marker("slow") else 0

    longest: dict[Path, float] = {}
    for item in items:
        longest[item.path] = max(longest.get(item.path, 0), length(item))
    items.sort(key=lambda item: -longest[item.path])


@pytest.fixture(scope="session")
def real_lesions() -> Path:
    """Folder of the 8,980 real ISIC 2024 lesions; the test is skipped where it is absent."""
    folder = SHARED / "data" / "slice3d-permissive"
    if not folder.is_dir():
        pytest.skip(f"no real lesions at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """ImageNet weights of MobileNetV2; the test is skipped where they are absent."""
    file = SHARED / "weights" / "mobilenetv2_100_imagenet.safetensors"
    if not file.is_file():
        pytest.skip(f"no real weights at {file}")
    return file


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 120 drawn blobs of 40 patients, 30 malignant: those are larger and darker, with overlap."""
    folder = tmp_path_factory.mktemp("data") / "blobs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    targets = np.arange(120) % 4 == 0
    ids = [f"ISIC_{i:07d}" for i in range(120)]
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: [f"IP_{i // 3:07d}" for i in range(120)],
            tables.TARGET: pl.Series(targets.astype(np.int8)),
            tables.SOURCE: [tables.REAL] * 120,
        }
    )
    images = [(image_id, blob(rng, bool(target))) for image_id, target in zip(ids, targets, strict=True)]
    write_store(folder, images, samples)
    run.mark_done(folder)
    return folder


def blob(rng: np.random.Generator, malignant: bool) -> bytes:
    """One JPEG of 40 to 63 px: skin with a disc on it."""
    size = int(rng.integers(40, 64))
    image = np.clip(rng.normal((225, 180, 160), 6, (size, size, 3)), 0, 255).astype(np.uint8)
    radius = int(rng.normal(13 if malignant else 9, 2))
    cv2.circle(
        image, (size // 2, size // 2), max(radius, 3), [int(v) for v in rng.normal(90 if malignant else 120, 20, 3)], -1
    )
    return cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()


@pytest.fixture(scope="session")
def blob_split(blobs: Path) -> Path:
    """Patients 0-23 train, 24-31 val, 32-39 test, as a table file."""
    path = blobs.parent / "split.csv"
    parts = ["train"] * 72 + ["val"] * 24 + ["test"] * 24
    tables.write_table(path, pl.DataFrame({tables.IMAGE_ID: [f"ISIC_{i:07d}" for i in range(120)], tables.PART: parts}))
    return path


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Stable Diffusion 1.x pipeline with random weights, about 1 M parameters, for images of 64 px."""
    from tiny_pipelines import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an SDXL pipeline with random weights, for images of 64 px."""
    from tiny_pipelines import write_tiny_sdxl

    return write_tiny_sdxl(tmp_path_factory.mktemp("pipelines") / "sdxl")
