"""`lesionforge prepare`: the users' images and tables into a store.

lesionforge prepare --images train-image.hdf5 --metadata train-metadata.csv --out stores/real
lesionforge prepare --images train-image.hdf5 --metadata train-metadata.csv --out stores/real --in-place
lesionforge prepare --images ISIC-images/ --ground-truth ground-truth.csv --metadata metadata.csv --out stores/isic
lesionforge prepare --images HAM10000/ --metadata HAM10000_metadata.csv --patient-column lesion_id
    --target-column dx --malignant-values mel bcc akiec --out stores/ham
"""

import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.data.challenge_read import Hdf5Images
    from lesionforge.data.sources import FolderImages
    from lesionforge.data.store import Place

log = logging.getLogger("lesionforge")


class PrepareConfig(Config):
    """Bring images and their tables into a store."""

    out: Path
    """Folder of the new store."""
    images: Path
    """The challenge's HDF5 file, or a folder of JPEG and PNG files."""
    metadata: Path | None = None
    """Table with a row per image (the challenge's train or test metadata, or any other), CSV or Parquet."""
    ground_truth: Path | None = None
    """Table of image ids and targets, as the ISIC site gives it; metadata may then cover only some of the images."""
    in_place: bool = False
    """Read the images from the HDF5 file, which must stay where it is, and copy none."""
    allow_missing: bool = False
    """Drop, and count, images without a row and rows without an image, instead of refusing them."""
    image_column: str | None = None
    """Column of the image ids; without it isic_id, image_id, image, img_id or image_name."""
    target_column: str | None = None
    """Column of the target; without it target or malignant."""
    patient_column: str | None = None
    """Column of the patient; without it patient_id."""
    malignant_values: tuple[str, ...] = ()
    """Values of the target column that mean malignant (HAM10000: mel bcc akiec); all others mean benign."""
    unlabelled: bool = False
    """The images have no target, as new images to predict on; the tables may be left out."""
    source: Literal["real", "synthetic"] = "real"
    """Whether these lesions were photographed or generated; a mix draws synthetic ones into training only."""
    trained_on: Path | None = None
    """For source synthetic: table (CSV or Parquet) of every real image that the generator learned from, with image_id
    and, where known, patient_id and sha256. Without it `train` refuses the store."""
    check: Literal["header", "decode"] = "header"
    """Look at each image's header and end, or decode each image too (slower; finds damage within)."""


def prepare(config: PrepareConfig) -> None:
    """Read the tables, match them with the images, check every image, write the store.

    Raises:
        BadInput: anything wrong with a table, an id, an image or the disk; then no store is left behind.
    """
    import polars as pl

    from lesionforge.data.sources import open_images
    from lesionforge.data.store import write_store
    from lesionforge.tables import IMAGE_ID, SOURCE

    if run.already_done(config.out, config):
        return
    if config.metadata is None and config.ground_truth is None and not config.unlabelled:
        raise BadInput("no table was named; name one by --metadata or --ground-truth, or say --unlabelled")
    if config.source == "synthetic" and config.unlabelled:
        raise BadInput("--source synthetic: a synthetic lesion is malignant or benign; leave --unlabelled away")
    if config.source == "real" and config.trained_on is not None:
        raise BadInput("--trained-on says what a generator learned from; say --source synthetic too, or leave it away")
    if not config.images.exists():
        raise BadInput(f"{config.images}: no such file or folder; name the challenge's HDF5 file or a folder of images")
    started = time.monotonic()
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "prepare", config)
        samples = read_tables(config)
        with closing(open_images(config.images)) as images:
            samples, keys = matched(samples, images, config)
            samples = samples.with_columns(pl.lit(config.source).alias(SOURCE))
            samples, hashes = declared(folder, samples, config)
            if config.in_place:
                place = place_in_hdf5(images, keys)
            else:
                place = None
                require_space(folder, images, keys)
            encoded = ((image_id, images.read(key)) for image_id, key in zip(samples[IMAGE_ID], keys, strict=True))
            write_store(folder, encoded, samples, place=place, check=config.check)
        facts = counts(folder)
        if hashes:
            hashes["store_sha256"] = files.read_json(folder / run.STORE)["samples_sha256"]
        run.mark_done(folder, **facts, **hashes, seconds=round(time.monotonic() - started, 1))
    for name, value in facts.items():
        print(f"{name.removeprefix('num_').replace('_', ' '):24s}{value:>13,}")
    print(f"{'store':24s}  {config.out}")


def read_tables(config: PrepareConfig) -> "pl.DataFrame | None":
    from lesionforge.data.samples import read_samples

    if config.metadata is None and config.ground_truth is None:
        return None
    return read_samples(
        config.metadata,
        config.ground_truth,
        image_column=config.image_column,
        target_column=config.target_column,
        patient_column=config.patient_column,
        malignant_values=config.malignant_values,
        unlabelled=config.unlabelled,
    )


def matched(
    samples: "pl.DataFrame | None", images: "Hdf5Images | FolderImages", config: PrepareConfig
) -> "tuple[pl.DataFrame, list[str]]":
    """The rows that have an image, and the name under which each image is found; ids are compared both ways."""
    import polars as pl

    from lesionforge.data.samples import samples_of_ids
    from lesionforge.data.sources import without_extension
    from lesionforge.tables import IMAGE_ID, in_short

    if samples is None:
        return samples_of_ids(images.image_ids), images.image_ids
    known = set(images.image_ids)
    ids = samples[IMAGE_ID].to_list()
    keys = [image_id if image_id in known else without_extension(image_id) for image_id in ids]
    used = set(keys)
    if len(used) < len(keys):
        raise BadInput(
            f"{config.metadata or config.ground_truth}: some ids differ only in their extension; keep one each"
        )
    without_image = [image_id for image_id, key in zip(ids, keys, strict=True) if key not in known]
    without_row = [key for key in images.image_ids if key not in used]
    problems = []
    if without_image:
        problems.append(f"{len(without_image):,} of {len(ids):,} rows have no image: {in_short(without_image)}")
    if without_row:
        problems.append(f"{len(without_row):,} of {len(known):,} images have no row: {in_short(without_row)}")
    if len(without_image) == len(ids):
        raise BadInput(
            f"{images.path}: no id of the table has an image ({'; '.join(problems)}); are these of one data set?"
        )
    if problems and not config.allow_missing:
        raise BadInput(f"{images.path}: {'; '.join(problems)}; mend that, or drop them with --allow-missing")
    for problem in problems:
        log.warning("%s: %s; dropped", images.path, problem)
    if without_image:
        kept = pl.Series([key in known for key in keys])
        samples, keys = samples.filter(kept), [key for key in keys if key in known]
    return samples, keys


def declared(folder: Path, samples: "pl.DataFrame", config: PrepareConfig) -> "tuple[pl.DataFrame, dict[str, Any]]":
    """The rows with the id of their generator, where it is declared; its provenance is written, for done.json told."""
    import polars as pl

    from lesionforge.data.manifests import manifest_id, read_declared
    from lesionforge.data.provenance import write_provenance
    from lesionforge.tables import GENERATION, GENERATOR, IMAGE_ID, PATIENT_ID, SHA256, SOURCE_IMAGE, in_short

    if config.source == "real":
        return samples, {}
    if config.trained_on is None:
        log.warning(
            "what the generator of these images learned from is not declared (--trained-on TABLE): train will not take "
            "them"
        )
        return samples, {}
    manifest, seen = read_declared(config.trained_on)
    log.info(
        "%s: the generator learned from %s real images; %s without a patient_id, %s without a sha256: train looks for "
        "these in its real store, and knows nothing of an image that is not there",
        config.trained_on, f"{seen[IMAGE_ID].n_unique():,}", f"{seen[PATIENT_ID].null_count():,}",
        f"{seen[SHA256].null_count():,}",
    )  # fmt: skip
    samples = samples.rename({name: f"{name}_in_table" for name in (GENERATOR, GENERATION) if name in samples.columns})
    samples = samples.with_columns(pl.lit(manifest_id(manifest)).alias(GENERATOR))
    sources = None
    if SOURCE_IMAGE in samples.columns:
        samples = samples.cast({SOURCE_IMAGE: pl.String})
        started = samples[SOURCE_IMAGE].drop_nulls().unique().sort()
        if len(unlisted := started.filter(~started.is_in(seen[IMAGE_ID].implode()))):
            raise BadInput(
                f"{config.trained_on}: {len(unlisted):,} images of column {SOURCE_IMAGE} are not in it: "
                f"{in_short(unlisted.to_list())}; add the images that generated ones started from"
            )
        sources = seen.filter(pl.col(IMAGE_ID).is_in(started.implode()))
    return samples, {"provenance_sha256": write_provenance(folder, [(manifest, seen)], sources)}


def place_in_hdf5(images: "Hdf5Images | FolderImages", keys: Sequence[str]) -> "Place":
    """Where in the HDF5 file the bytes of each row lie."""
    import numpy as np

    from lesionforge.data.challenge_read import NOT_CONTIGUOUS, Hdf5Images
    from lesionforge.data.store import Place
    from lesionforge.tables import in_short

    if not isinstance(images, Hdf5Images):
        raise BadInput(
            f"{images.path}: a folder, and --in-place reads an HDF5 file; leave out --in-place to copy the images"
        )
    rows = np.array([images.row[key] for key in keys], np.int64)
    scattered = [
        key for key, offset in zip(keys, images.offset[rows].tolist(), strict=True) if offset == NOT_CONTIGUOUS
    ]
    if scattered:
        raise BadInput(
            f"{images.path}: {len(scattered):,} of {len(keys):,} images are chunked, compressed or compact, which "
            f"cannot be read in place: {in_short(scattered)}; leave out --in-place to copy them"
        )
    return Place(images.path, images.offset[rows], images.size[rows])


def require_space(folder: Path, images: "Hdf5Images | FolderImages", keys: Sequence[str]) -> None:
    """Refuse before copying what the disk cannot hold."""
    size_of = dict(zip(images.image_ids, images.size.tolist(), strict=True))
    needed, free = sum(size_of[key] for key in keys), shutil.disk_usage(folder).free
    if needed > free:
        cure = "make room or use --in-place" if images.path.is_file() else "make room"
        raise BadInput(
            f"{folder.parent}: the images need {needed / 2**20:,.0f} MiB, the disk has {free / 2**20:,.0f} MiB free; "
            f"{cure}"
        )


def counts(folder: Path) -> dict[str, int]:
    """What a reader wants to know of a new store at a glance."""
    import polars as pl

    from lesionforge.tables import PATIENT_ID, SHA256, SIZE, TARGET

    samples = pl.read_parquet(folder / run.SAMPLES, columns=[PATIENT_ID, TARGET, SHA256, SIZE])
    return {
        "num_images": samples.height,
        "num_malignant": int((samples[TARGET] == 1).sum()),
        "num_benign": int((samples[TARGET] == 0).sum()),
        "num_without_target": samples[TARGET].null_count(),
        "num_patients": samples[PATIENT_ID].drop_nulls().n_unique(),
        "num_without_patient": samples[PATIENT_ID].null_count(),
        "num_identical_to_another": int(samples[SHA256].is_duplicated().sum()),
        "num_bytes": int(samples[SIZE].sum()),
    }
