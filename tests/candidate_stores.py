"""Stores of candidates as `generate` writes them, made of any images, with a generator of any history."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.data import pixels
from lesionforge.data.parts import read_split
from lesionforge.data.provenance import manifest_id, write_provenance
from lesionforge.data.store import open_store, write_store
from lesionforge.files import read_json, sha256_of_file


def image_of(store_path: Path, image_id: str) -> np.ndarray:
    store = open_store(store_path)
    return pixels.decode(store.read(int(store.rows([image_id])[0])))


def write_candidates(
    folder: Path,
    images: Sequence[np.ndarray],
    real: Path,
    split: Path,
    targets: Sequence[int] | None = None,
    fold: int | None = None,
    seen: pl.DataFrame | None = None,
    sources: pl.DataFrame | None = None,
    source_images: Sequence[str | None] | None = None,
    prompts: Sequence[str] | None = None,
    raw_size: int | None = None,
) -> list[str]:
    """Write the store; the generator saw the malignant images of part train unless `seen` says otherwise.

    source_images: ids that inpainted candidates were painted on, None for the others. raw_size: write `raw` too.

    Returns:
        The candidates' ids.
    """
    folder.mkdir(parents=True)
    samples = open_store(real).samples()
    parts = read_split(split, fold)
    if seen is None:
        seen = samples.join(parts, on=tables.IMAGE_ID).filter(
            (pl.col(tables.PART) == "train") & (pl.col("target") == 1)
        )
    seen_file = folder / "seen.parquet"
    seen.select(tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256).write_parquet(seen_file)
    manifest = {
        "version": 1, "kind": "scratch", "method": "scratch", "image_size": 64, "targets": [1],
        "base": {"name": "scratch", "licence": "none", "files": {}}, "base_sha256": "ab" * 32, "adapter_sha256": None,
        "split_sha256": tables.digest(parts), "split_name": "blobs", "store_sha256": open_store(real).digest,
        "fold": fold, "num_seen": len(seen), "seen_sha256": sha256_of_file(seen_file), "epochs": [1],
        "prediction_type": "v_prediction", "negative_prompt": "",
    }  # fmt: skip
    ids = [f"SYN_0123abcd_{i:06d}" for i in range(len(images))]
    painted_on = source_images or [None] * len(images)
    table = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: pl.Series([None] * len(ids), dtype=pl.String),
            tables.TARGET: pl.Series(targets or [1] * len(ids), dtype=pl.Int8),
            tables.SOURCE: [tables.SYNTHETIC] * len(ids),
            tables.GENERATOR: [manifest_id(manifest)] * len(ids),
            tables.GENERATION: ["text_to_image" if one is None else "inpainting" for one in painted_on],
            tables.PROMPT: prompts or ["Malignant skin lesions"] * len(ids),
            tables.SEED: pl.Series(range(len(ids)), dtype=pl.Int64),
            tables.SOURCE_IMAGE: pl.Series(painted_on, dtype=pl.String),
        }
    )
    encoded = [pixels.encode_jpeg(image, 90) for image in images]
    write_store(folder, zip(ids, encoded, strict=True), table)
    if raw_size is not None:
        (folder / run.RAW).mkdir()
        small = [cv2.resize(image, (raw_size, raw_size), interpolation=cv2.INTER_AREA) for image in images]
        as_png = [cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes() for image in small]
        write_store(folder / run.RAW, zip(ids, as_png, strict=True), table)
        run.mark_done(folder / run.RAW, num_images=len(ids))
    provenance_sha256 = write_provenance(folder, [(manifest, seen_file)], sources)
    seen_file.unlink()
    digest = read_json(folder / run.STORE)["samples_sha256"]
    run.mark_done(folder, store_sha256=digest, provenance_sha256=provenance_sha256)
    return ids


def spotted(rng: np.random.Generator, size: int = 72) -> np.ndarray:
    """Skin with a lesion of several soft spots that no other image has; (S, S, 3) uint8."""
    image = np.ones((size, size, 3)) * rng.normal((215, 170, 150), 10)
    for _ in range(int(rng.integers(5, 9))):
        disc = np.zeros((size, size), np.float32)
        centre = rng.normal(0.5, 0.17, 2) * size
        cv2.circle(disc, (int(centre[0]), int(centre[1])), int(rng.uniform(0.03, 0.12) * size), 1.0, -1)
        image -= cv2.GaussianBlur(disc, (0, 0), rng.uniform(1.0, 2.5))[..., None] * rng.uniform(20, 60, 3)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def write_real(folder: Path, num_images: int = 120, part_of_val: str = "val") -> tuple[Path, Path]:
    """A real store of spotted lesions, two of a patient, every third malignant; and its split: half of it train, then
    val, the last tenth test. Returns (store, split file)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f"ISIC_{i:07d}" for i in range(num_images)]
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: [f"IP_{i // 2:07d}" for i in range(num_images)],
            tables.TARGET: pl.Series([int(i % 3 == 0) for i in range(num_images)], dtype=pl.Int8),
            tables.SOURCE: [tables.REAL] * num_images,
            tables.IDDX[3]: ["Melanoma Invasive" if i % 2 else "Basal cell carcinoma" for i in range(num_images)],
            tables.LICENSE: ["CC-BY"] * num_images,
            tables.ATTRIBUTION: ["A hospital <of ours>"] * num_images,
        }
    )
    write_store(folder, ((one, pixels.encode_jpeg(spotted(rng), 92)) for one in ids), samples)
    run.mark_done(folder)
    half, tenth = num_images // 2, num_images // 10
    parts = ["train"] * half + [part_of_val] * (num_images - half - tenth) + ["test"] * tenth
    split = folder.parent / f"{folder.name}-split.csv"
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.PART: parts}))
    return folder, split
