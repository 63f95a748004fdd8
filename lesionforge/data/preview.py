"""preview: what the augmentation does, as one picture: originals beside seeded views (Figure 1 of the study)."""

import logging
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lesionforge import files, run
from lesionforge.config import AugmentConfig, Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lesionforge.data.draws import Parameters
    from lesionforge.data.store import Store

log = logging.getLogger("lesionforge")

CELL = 1.5  # inches a picture, our choice: eight columns fill the width of a page
DOTS_PER_INCH = 170


class PreviewConfig(Config):
    """Draw originals beside augmented views."""

    store: Path
    """Store whose images are shown."""
    out: Path
    """Folder to make; the picture in it is preview.png."""
    augment: AugmentConfig = AugmentConfig()
    num_images: int = Field(6, ge=1, le=50)
    """Rows: images drawn at random, half of them malignant where the store has both classes."""
    num_views: int = Field(7, ge=1, le=20)
    """Augmented views beside each original."""
    image_size: int = Field(224, ge=16, le=1024)
    """Side of the views, pixels, as the model would get them."""
    image_ids: tuple[str, ...] = ()
    """Show these images instead of random ones."""
    only: Literal["malignant", "benign"] | None = None
    """Draw images of one class only."""
    seed: int = Field(0, ge=0)
    """Another seed, other images and other views."""


def preview(config: PreviewConfig) -> None:
    """Write the picture into a run folder.

    Raises:
        BadInput: an unknown id, no image of the class asked for, or a preset that changes nothing.
    """
    from lesionforge import tables
    from lesionforge.data import augment
    from lesionforge.data.store import open_store

    if run.already_done(config.out, config):
        return
    settings = augment.build_augmentation(config.augment)
    if settings is None:
        raise BadInput(
            "augment: every probability is 0, so no view would differ; choose --augment.preset flip or strong"
        )
    store = open_store(config.store)
    chosen = choose(store, config)
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "preview", config)
        draw_figure(folder / run.PREVIEW, store, chosen, settings, config)
        run.mark_done(folder, image_ids=chosen[tables.IMAGE_ID].to_list())
    log.info("%s", config.out / run.PREVIEW)


def choose(store: "Store", config: PreviewConfig) -> "pl.DataFrame":
    """The rows of the figure: row number, image_id, target."""
    import polars as pl

    from lesionforge.tables import IMAGE_ID, TARGET

    samples = store.samples([IMAGE_ID, TARGET]).with_row_index("row")
    if config.image_ids:
        return samples[store.rows(list(config.image_ids))]
    malignant, benign = (samples.filter(pl.col(TARGET) == target) for target in (1, 0))
    if config.only is not None:
        kept = malignant if config.only == "malignant" else benign
        if kept.height == 0:
            raise BadInput(f"{store.path} holds no {config.only} image; leave out --only")
        return kept.sample(min(config.num_images, kept.height), seed=config.seed, shuffle=True)
    if malignant.height and benign.height:
        num_malignant = min(-(-config.num_images // 2), malignant.height)
        num_benign = min(config.num_images - num_malignant, benign.height)
        halves = (malignant.sample(num_malignant, seed=config.seed), benign.sample(num_benign, seed=config.seed))
        return pl.concat(halves)
    return samples.sample(min(config.num_images, samples.height), seed=config.seed, shuffle=True)


def draw_figure(
    path: Path, store: "Store", chosen: "pl.DataFrame", settings: dict[str, float], config: PreviewConfig
) -> None:
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from lesionforge.data import augment, pixels

    rows, columns = chosen.height, config.num_views + 1
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03)
    figure = Figure(figsize=(CELL * columns, (CELL + 0.42) * rows + 0.5), dpi=DOTS_PER_INCH, layout=layout)
    figure.suptitle(
        f"Originals (left) and augmented views: preset {config.augment.preset}, "
        f"{config.image_size} x {config.image_size} px, seed {config.seed}",
        fontsize=9,
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, (row, image_id, target) in enumerate(chosen.iter_rows()):
        try:
            image = pixels.decode(store.read(row))
        except pixels.BadImage as error:
            raise BadInput(f"{image_id} in {store.path}: {error}; prepare the store again from sound images") from error
        drawn = augment.draw(config.seed, 0, np.arange(i * config.num_views, (i + 1) * config.num_views), **settings)
        class_name = {1: "malignant", 0: "benign"}.get(target, "unlabelled")
        show(axes[i, 0], image, f"{image_id}\n{class_name}, {image.shape[1]} x {image.shape[0]} px", bold=True)
        for view in range(config.num_views):
            out = np.empty((config.image_size, config.image_size, 3), np.uint8)
            augment.apply(image, drawn, view, out)
            show(axes[i, view + 1], out, textwrap.fill(", ".join(effects(drawn, view)) or "unchanged", 27))
    with files.write_whole(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def show(axis, image: "np.ndarray", label: str, bold: bool = False) -> None:  # type: ignore[no-untyped-def]
    axis.imshow(image, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(1.2 if bold else 0.3)
    axis.set_xlabel(label, fontsize=5.5, fontweight="bold" if bold else "normal", labelpad=2)


def effects(parameters: "Parameters", i: int) -> list[str]:
    """What a view went through, in words."""
    import numpy as np

    p = parameters
    (a, b, x), (c, d, y) = p.geometry[i].tolist()
    angle = float(np.degrees(np.arctan2(min(abs(a), abs(b)), max(abs(a), abs(b)))))
    happened = {
        "transpose": abs(b) > abs(a),
        "flip": (b if abs(b) > abs(a) else a) < 0,
        "upside down": (c if abs(b) > abs(a) else d) < 0,
        f"turn {angle:.0f}°, shift": angle > 0 or x != 0 or y != 0,
        "distortion": p.distorted[i],
        "colour": p.recoloured[i],
        "CLAHE": p.clahe[i] > 0,
        "blur": p.blurred[i],
        "median": p.median[i] > 0,
        "noise": p.noise[i] > 0,
        "cutout": p.cutout[i, 2] > p.cutout[i, 0],
    }
    return [effect for effect, yes in happened.items() if yes]
