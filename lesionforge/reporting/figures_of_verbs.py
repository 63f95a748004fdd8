"""Figures that other verbs made, taken into the page as JPEG: Figure 1, and how 4a and 5 are shown."""

from pathlib import Path
from typing import TYPE_CHECKING

from lesionforge import run
from lesionforge.data import pixels
from lesionforge.reporting import blocks, pictures
from lesionforge.reporting.blocks import Image, Section

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected

WIDTH_1 = 1400  # pixels


def augmentations(collected: "Collected") -> Section:
    """Figure 1: what training images look like."""
    html = []
    for i, folder in enumerate(collected.previews):
        data = collected.sources.bytes(folder / run.PREVIEW)
        if data is None:
            html.append(
                blocks.missing(f"Figure 1: {folder.name}/{run.PREVIEW} is not there; `lesionforge preview` makes it.")
            )
        else:
            html.append(picture(data, WIDTH_1, "Figure 1 of the study: originals at the left, seeded views of the "
                                "augmentation beside them.", f"figure-1{f'-{i + 1}' if i else ''}"))  # fmt: skip
    if not collected.previews:
        html.append(
            blocks.missing("Figure 1 (augmentations): the study names no preview; `lesionforge preview` makes one.")
        )
    return Section("augmentation", "Augmentation", "".join(html))


def picture(data: bytes, width: int, caption: str, name: str = "") -> str:
    try:
        return blocks.plate(Image(pictures.as_jpeg(data, width), caption), name)
    except pixels.BadImage as error:
        return blocks.missing(f"{caption}: the picture cannot be read ({error}).")


def figure_files(collected: "Collected") -> list[tuple[str, Path]]:
    """Pictures of other verbs that are copied beside the drawings: (name, path)."""
    found = [
        (f"figure-1{f'-{i + 1}' if i else ''}.png", folder / run.PREVIEW) for i, folder in enumerate(collected.previews)
    ]
    for i, generator in enumerate(collected.generators):
        if generator.finetune is not None:
            found.append((f"figure-4a{f'-{i + 1}' if i else ''}.png", generator.finetune / run.FIGURE4A))
    found += [
        (f"figure-5{f'-{i + 1}' if i else ''}.png", folder / run.FIGURE5) for i, folder in enumerate(collected.maps)
    ]
    return [(name, path) for name, path in found if path.is_file()]
