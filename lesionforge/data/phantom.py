"""`lesionforge phantom`: a procedural stand-in for SLICE-3D, written in the challenge's own files.

Patients with their own skin, institution and body sites; lesions whose malignant kinds differ in distribution from the
benign ones, with overlap; `tbp_lv_*` columns measured on what was drawn. It trains and scores like the real data, so
that the whole chain can be tried, tested and taught without a download. It proves nothing about real skin.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.progress import progress

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.data.masks import PackedMasks

log = logging.getLogger("lesionforge")

FEWEST, MOST = 300, 401_059  # images; the challenge's train file has 401,059
REAL_MALIGNANT, REAL_PATIENTS = 393, 1_042
CHUNK = 256  # images drawn by a process at a time
SMALL = 1_500  # images: fewer are drawn in this process, as starting others takes longer
JPEG_QUALITY = 75  # of every real crop, by its quantization tables
MOST_MALIGNANT_BY_DEFAULT = 0.10


class PhantomConfig(Config):
    """A procedural stand-in for SLICE-3D in the challenge's own files, to try the whole chain without a download."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("num_workers",)

    out: Path
    """Folder to make."""
    num_images: int = 6_000
    """Images of the train part, 300 to 401,059."""
    num_test_images: int | None = None
    """Images of the test part, of other patients; not given: a tenth of num_images."""
    num_patients: int | None = None
    """Patients of the train part; not given: 1,042 for 401,059 images, and fewer for fewer images (295 for 6,000)."""
    malignant_fraction: float | None = None
    """Share of malignant images in each part; not given: the challenge's 393 of 401,059, and more in smaller sets so
    that they can train a model (240 of 6,000; at most a tenth)."""
    seed: int = 0
    """Same seed, same bytes of every image and table."""
    num_workers: int | None = None
    """Processes that draw; not given: one a core. Changes nothing but the time."""


class Part(NamedTuple):
    """How much of what a part has."""

    num_images: int
    num_patients: int
    num_malignant: int


class Drawn(NamedTuple):
    """A chunk of images as a process returns it."""

    jpegs: list[bytes]
    masks: "PackedMasks"
    measures: "pl.DataFrame"


def phantom(config: PhantomConfig) -> None:
    """Draw the phantom and write it as the challenge's files."""
    parts = plan(config)
    if run.already_done(config.out, config):
        return
    from lesionforge.data import challenge_write as challenge
    from lesionforge.data.masks import MASKS, write_masks
    from lesionforge.data.patients import draw_tables
    from lesionforge.tables import ISIC_ID, TARGET, TEST_COLUMNS, TRAIN_COLUMNS, write_table

    num_workers = config.num_workers or os.cpu_count() or 1
    written = (
        ("train", challenge.TRAIN_IMAGES, challenge.TRAIN_METADATA, TRAIN_COLUMNS),
        ("test", challenge.TEST_IMAGES, challenge.TEST_METADATA, TEST_COLUMNS),
    )
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "phantom", config)
        train, test = draw_tables(parts, config.seed)
        masks: list[PackedMasks] = []
        for stream, (part, rows) in enumerate(zip(written, (train, test), strict=True)):
            name, images, metadata, columns = part
            with (
                challenge.part_files(folder, images, metadata, columns) as writer,
                progress(f"drawing {name}", len(rows)) as advance,
            ):
                for chunk, drawn in draw_all(rows, (config.seed, stream), num_workers):
                    for image_id, jpeg in zip(chunk[ISIC_ID].to_list(), drawn.jpegs, strict=True):
                        writer.images.write(image_id, jpeg)
                    writer.rows.write(chunk.hstack(drawn.measures))
                    masks.append(drawn.masks)
                    advance(len(chunk))
        write_masks(folder / MASKS, [*train[ISIC_ID].to_list(), *test[ISIC_ID].to_list()], masks)
        write_table(folder / challenge.TEST_TRUTH, test.select(ISIC_ID, TARGET))
        challenge.write_sample_submission(folder / challenge.SAMPLE_SUBMISSION, test[ISIC_ID].to_list())
        for (name, *_), counts in zip(written, parts, strict=True):
            words = "%s: %s images, %s of them malignant, of %s patients"
            log.info(words, name, *(f"{counts[i]:,}" for i in (0, 2, 1)))
        run.mark_done(folder, train=parts[0]._asdict(), test=parts[1]._asdict())


def plan(config: PhantomConfig) -> tuple[Part, Part]:
    """What the train and the test part will hold.

    Raises:
        BadInput: a number out of range, or a part that would lack a class.
    """
    if config.seed < 0:
        raise BadInput(f"seed is {config.seed}, expected 0 or more")
    if config.num_workers is not None and config.num_workers < 1:
        raise BadInput(f"num_workers is {config.num_workers}, expected 1 or more (or none: one a core)")
    if not FEWEST <= config.num_images <= MOST:
        raise BadInput(f"num_images is {config.num_images:,}, expected {FEWEST:,} to {MOST:,}")
    num_test = config.num_images // 10 if config.num_test_images is None else config.num_test_images
    if not 10 <= num_test <= MOST:
        raise BadInput(f"num_test_images is {num_test:,}, expected 10 to {MOST:,}")
    fraction = config.malignant_fraction
    if fraction is None:
        fraction = default_malignant_fraction(config.num_images)
    if not 0 < fraction < 1:
        raise BadInput(f"malignant_fraction is {fraction}, expected a share between 0 and 1 (the challenge: 0.00098)")
    parts = []
    for name, number in (("train", config.num_images), ("test", num_test)):
        num_patients = default_patients(number)
        if name == "train" and config.num_patients is not None:
            num_patients = config.num_patients
        if not 2 <= num_patients <= number:
            raise BadInput(f"num_patients is {num_patients:,}, expected 2 to the number of images, {number:,}")
        num_malignant = round(fraction * number)
        if not 0 < num_malignant < number:
            which = "malignant" if num_malignant == 0 else "benign"
            raise BadInput(
                f"malignant_fraction {fraction:g} of {number:,} images leaves the {name} part without a {which} one; "
                f"choose a share between {1 / number:.2g} and {1 - 1 / number:.2g}, or more images"
            )
        parts.append(Part(number, num_patients, num_malignant))
    return parts[0], parts[1]


def default_malignant_fraction(num_images: int) -> float:
    """393 of 401,059 as in the challenge, falling slowly with size to 240 of 6,000; never more than a tenth."""
    return min(REAL_MALIGNANT * (num_images / MOST) ** 0.1173 / num_images, MOST_MALIGNANT_BY_DEFAULT)


def default_patients(num_images: int) -> int:
    """1,042 for 401,059 images; 295 for 6,000; never more than a third of the images."""
    return max(min(round(REAL_PATIENTS * (num_images / MOST) ** 0.3), num_images // 3), 2)


def draw_all(rows: "pl.DataFrame", seed: tuple[int, int], num_workers: int) -> Iterator[tuple["pl.DataFrame", Drawn]]:
    """Draw all images of `rows` in order, a chunk at a time, in this process or in a pool of others."""
    chunks = [(first, rows[first : first + CHUNK]) for first in range(0, len(rows), CHUNK)]
    if num_workers == 1 or len(rows) < SMALL:
        for first, chunk in chunks:
            yield chunk, draw_chunk(chunk, first, seed)
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[tuple[pl.DataFrame, Future[Drawn]]] = deque()
        for first, chunk in chunks:
            waiting.append((chunk, pool.submit(draw_chunk, chunk, first, seed)))
            if len(waiting) > 3 * num_workers:  # enough to keep all busy, and no more in memory
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def draw_chunk(rows: "pl.DataFrame", first: int, seed: tuple[int, int]) -> Drawn:
    """Draw, measure and encode the images of `rows`; the generator of each is made of the seed and its row number."""
    from dataclasses import fields

    import numpy as np
    import polars as pl

    from lesionforge.data import lesion_measures, lesions, masks, pixels

    skins = [lesions.Skin(**row) for row in rows.select(f.name for f in fields(lesions.Skin)).to_dicts()]
    moles = [lesions.Lesion(**row) for row in rows.select(f.name for f in fields(lesions.Lesion)).to_dicts()]
    jpegs, shapes, measures = [], [], []
    with lesions.one_thread():
        for row, (skin, lesion) in enumerate(zip(skins, moles, strict=True), start=first):
            image, mask = lesions.draw_crop(skin, lesion, np.random.default_rng([*seed, row]))
            jpegs.append(pixels.encode_jpeg(image, JPEG_QUALITY))
            shapes.append(mask)
            measures.append(lesion_measures.measure(image, mask, lesions.FIELD_OF_VIEW_MM))
    schema = dict.fromkeys(lesion_measures.MEASURED, pl.Float64)
    return Drawn(jpegs, masks.pack(shapes), pl.DataFrame(measures, schema=schema))
