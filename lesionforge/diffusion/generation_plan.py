"""What each image of a generation is to be, before any is made: drawn from the seed and the image's number alone.

Image k takes cell k modulo the number of cells, a cell being one combination of checkpoint, scheduler, steps, guidance
and strength. Its noise, prompt, source, mask and format each have a stream of random numbers of their own.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.data import pixels
from lesionforge.data.lesion_mask import estimate_mask
from lesionforge.data.store import Store
from lesionforge.diffusion.generate_settings import INPAINTING, TEXT_TO_IMAGE
from lesionforge.diffusion.output_format import Format, ImageFormat, resized
from lesionforge.diffusion.sampling import Request
from lesionforge.errors import BadInput

# Streams of random numbers of an image. Never renumber: every image would be another.
NOISE, PROMPT, SOURCE, MASK, FORMAT = range(5)
ELLIPSE = (0.15, 0.35)  # of the side, our choice: semi-axes of an inpainted ellipse
MOST_MASKED = 0.8  # of the crop, our choice: a larger estimate took skin for lesion


class Cell(NamedTuple):
    checkpoint: str
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    strength: float | None

    def batch_key(self) -> tuple:
        """What images that are made together agree in."""
        return self.checkpoint, self.scheduler, self.num_inference_steps, self.strength, self.guidance_scale > 1


class Planned(NamedTuple):
    number: int
    cell: Cell
    seed: int
    prompt: str
    source_image: str | None
    format: ImageFormat


def cells_of(
    checkpoint: Sequence[str],
    scheduler: Sequence[str],
    num_inference_steps: Sequence[int],
    guidance_scale: Sequence[float],
    strength: Sequence[float | None],
) -> list[Cell]:
    """All combinations, the last list changing fastest."""
    lists = checkpoint, scheduler, num_inference_steps, guidance_scale, strength
    return [Cell(*values) for values in itertools.product(*lists)]


def plan(
    num_images: int,
    seed: int,
    cells: Sequence[Cell],
    prompts: Sequence[str],
    source_ids: Sequence[str],
    formats: Format,
) -> list[Planned]:
    """Every image by its number; prompts, and source_ids where there are any, are drawn from evenly."""
    images = []
    for k in range(num_images):
        noise = int(np.random.SeedSequence(seed, spawn_key=(k, NOISE)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        prompt = prompts[int(stream(seed, k, PROMPT).integers(len(prompts)))]
        source = source_ids[int(stream(seed, k, SOURCE).integers(len(source_ids)))] if source_ids else None
        images.append(Planned(k, cells[k % len(cells)], noise, prompt, source, formats.draw(stream(seed, k, FORMAT))))
    return images


def stream(seed: int, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, purpose)))


def batches_of(images: Sequence[Planned], batch_size: int) -> list[list[Planned]]:
    """Images that are made together; those of one checkpoint stand together."""
    groups: dict[tuple, list[Planned]] = {}
    for image in images:
        groups.setdefault(image.cell.batch_key(), []).append(image)
    return [
        group[i : i + batch_size]
        for _, group in sorted(groups.items(), key=lambda item: item[1][0].cell.checkpoint)
        for i in range(0, len(group), batch_size)
    ]


def eligible_sources(
    train: pl.DataFrame, generation: str, target: int, asked: Sequence[str], parts: pl.DataFrame
) -> list[str]:
    """Ids of the real images of part train that images may start from, sorted; none for text-to-image.

    Args:
        train: samples of part train.
        asked: the only ones that are wanted; empty for all that fit.
        parts: the split, image_id and part.

    Raises:
        BadInput: an image asked for is not of part train, or does not fit; or none fits.
    """
    if generation == TEXT_TO_IMAGE:
        return []
    fitting = train
    if generation == INPAINTING:
        ill = train.filter(pl.col(tables.TARGET) == 1)[tables.PATIENT_ID].drop_nulls()
        of_others = pl.col(tables.PATIENT_ID).is_null() | ~pl.col(tables.PATIENT_ID).is_in(ill.implode())
        fitting = train.filter((pl.col(tables.TARGET) == 0) & of_others)
    elif not asked:
        fitting = train.filter(pl.col(tables.TARGET) == target)
    what = "benign lesions of patients without malignant ones" if generation == INPAINTING else "lesions of that class"
    refuse_unfit(asked, train, fitting, parts, what)
    chosen = fitting.filter(pl.col(tables.IMAGE_ID).is_in(list(asked))) if asked else fitting
    if chosen.is_empty():
        raise BadInput(f"sources: part train has no {what} to start from; choose another --generation")
    return sorted(chosen[tables.IMAGE_ID])


def refuse_unfit(
    asked: Sequence[str], train: pl.DataFrame, fitting: pl.DataFrame, parts: pl.DataFrame, what: str
) -> None:
    part_of = dict(zip(parts[tables.IMAGE_ID], parts[tables.PART], strict=True))
    in_train, fits = set(train[tables.IMAGE_ID]), set(fitting[tables.IMAGE_ID])
    if elsewhere := [f"{name} ({part_of.get(name, 'unknown')})" for name in asked if name not in in_train]:
        raise BadInput(
            f"sources.image_ids: {len(elsewhere):,} images are not in part train of the generator's split: "
            f"{tables.in_short(elsewhere)}; images start from training lesions only, take these out"
        )
    if unfit := [name for name in asked if name not in fits]:
        raise BadInput(
            f"sources.image_ids: {len(unfit):,} images are no {what}: {tables.in_short(unfit)}; take them out"
        )


def request_of(
    image: Planned,
    generation: str,
    negative_prompt: str | None,
    image_size: int,
    latent_factor: int,
    store: Store | None,
    mask: str,
    seed: int,
) -> Request:
    """What the sampler is asked for, the source image read and brought to size.

    Args:
        latent_factor: pixels of a latent one, to whose grid masks grow.
        mask: "estimated" or "ellipse".
        seed: of the generation, from which the ellipse is drawn.

    Raises:
        BadInput: the source cannot be decoded.
    """
    source = made_anew = None
    if image.source_image is not None and store is not None:
        try:
            pixels_there = pixels.decode(store.read(int(store.rows([image.source_image])[0])))
        except pixels.BadImage as error:
            raise BadInput(f"{image.source_image} in {store.path}: {error}; prepare the store again") from error
        source = resized(pixels_there, image_size, image_size)
        if generation == INPAINTING:
            found = estimate_mask(source) if mask == "estimated" else np.zeros(source.shape[:2], bool)
            if not 0 < found.mean() <= MOST_MASKED:
                found = ellipse(image_size, stream(seed, image.number, MASK))
            made_anew = grown(found, latent_factor)
    cell = image.cell
    return Request(
        image.prompt, negative_prompt, image.seed, cell.guidance_scale, cell.num_inference_steps, cell.scheduler,
        generation, cell.strength, source, made_anew,
    )  # fmt: skip


def ellipse(side: int, rng: np.random.Generator) -> np.ndarray:
    """An ellipse in the middle, of drawn axes and direction: (side, side) bool."""
    long, short = rng.uniform(*ELLIPSE, size=2) * side
    angle = rng.uniform(0, np.pi)
    down, across = np.mgrid[:side, :side] - (side - 1) / 2
    along, beside = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    return (along / long) ** 2 + (beside / short) ** 2 <= 1


def grown(mask: np.ndarray, factor: int) -> np.ndarray:
    """Every square of `factor` px that the mask touches, whole: what is left of it has no rim of the old lesion."""
    side = len(mask)
    touched = mask.reshape(side // factor, factor, side // factor, factor).any(axis=(1, 3))
    return np.repeat(np.repeat(touched, factor, axis=0), factor, axis=1)
