"""Which lesions are explained, which of them are drawn, and their images and masks."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.data.lesion_mask import estimate_mask, fit_mask
from lesionforge.data.loader import Images, read_image
from lesionforge.data.masks import open_masks

log = logging.getLogger("lesionforge")


class Lesion(NamedTuple):
    image_id: str
    target: int | None
    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (H, W) bool


def choose(samples: pl.DataFrame, num_images: int, seed: int) -> pl.DataFrame:
    """As many lesions as asked for, drawn at random: malignant ones, then benign ones, then unlabelled ones.

    Half are malignant and half benign. Of whichever class runs out the other gives more, and unlabelled lesions come
    in only where both have run out.
    """
    drawn = pl.Series("drawn", np.random.default_rng(seed).random(len(samples)))
    ordered = samples.with_columns(drawn).sort("drawn").drop("drawn")
    malignant, benign = (ordered.filter(pl.col(tables.TARGET) == target) for target in (1, 0))
    unlabelled = ordered.filter(pl.col(tables.TARGET).is_null())
    half = max(num_images // 2, num_images - len(benign))
    labelled = pl.concat([malignant[:half], benign[: num_images - min(half, len(malignant))]])
    return pl.concat([labelled, unlabelled[: num_images - len(labelled)]])


def choose_shown(targets: list[int | None], num_shown: int) -> list[int]:
    """Positions of the lesions in the figures: half malignant, half others, where there are so many."""
    malignant = [i for i, target in enumerate(targets) if target == 1]
    others = [i for i, target in enumerate(targets) if target != 1]
    num_malignant = min(len(malignant), max(num_shown - num_shown // 2, num_shown - len(others)))
    return malignant[:num_malignant] + others[: num_shown - num_malignant]


def read_lesions(store: Images, chosen: pl.DataFrame, masks: Path | None) -> list[Lesion]:
    """Each chosen lesion with its mask, at its own size; without a file of true masks they are estimated.

    Raises:
        BadInput: an image that cannot be decoded, or a lesion that the file of masks does not know.
    """
    true_masks = None if masks is None else open_masks(masks)
    ids = chosen[tables.IMAGE_ID]
    lesions = []
    for image_id, target, row in zip(ids, chosen[tables.TARGET], store.rows(ids).tolist(), strict=True):
        image = read_image(store, row, image_id)
        mask = fit_mask(true_masks.read(image_id), *image.shape[:2]) if true_masks else estimate_mask(image)
        lesions.append(Lesion(image_id, target, image, mask))
    without = [lesion.image_id for lesion in lesions if not lesion.mask.any()]
    if without:
        what = "lesion has no mask and is" if len(without) == 1 else "lesions have no mask and are"
        log.warning("%d %s not measured: %s", len(without), what, tables.in_short(without))
    return lesions
