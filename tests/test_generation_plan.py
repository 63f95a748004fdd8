"""What each image is to be: drawn from the seed and its number alone; masks and sources that fit."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from lesionforge import tables
from lesionforge.diffusion import generation_plan, output_format
from lesionforge.diffusion.generation_plan import Cell, cells_of, plan
from lesionforge.errors import BadInput

FORMATS = output_format.Format(
    [output_format.ImageFormat(side, side, 75, "420") for side in range(100, 110)], np.full(10, 0.1), 10, 0
)
CELLS = cells_of(["last"], ["ddim", "unipc"], [20, 30], [3.0, 5.0], [None])
PROMPTS = ["a", "b", "c"]


def test_image_k_is_the_same_in_every_plan() -> None:
    short = plan(10, 7, CELLS, PROMPTS, ["x", "y"], FORMATS)
    long = plan(1000, 7, CELLS, PROMPTS, ["x", "y"], FORMATS)
    assert long[:10] == short
    other = plan(10, 8, CELLS, PROMPTS, ["x", "y"], FORMATS)
    assert all(one.seed != two.seed for one, two in zip(short, other, strict=True))


def test_streams_do_not_touch_each_other() -> None:
    """More prompts or no sources change nothing else of an image."""
    plain = plan(50, 0, CELLS, ["one"], [], FORMATS)
    rich = plan(50, 0, CELLS, PROMPTS, ["x", "y"], FORMATS)
    assert [(p.seed, p.format) for p in plain] == [(p.seed, p.format) for p in rich]
    assert {p.source_image for p in plain} == {None}


def test_draws_are_even_and_cells_take_turns() -> None:
    images = plan(3000, 0, CELLS, PROMPTS, ["x", "y"], FORMATS)
    assert len({image.seed for image in images}) == 3000
    assert all(0 <= image.seed < 2**63 for image in images)
    assert [image.cell for image in images[:9]] == [*CELLS, CELLS[0]]
    assert Counter(image.cell for image in images) == dict.fromkeys(CELLS, 375)
    for values, number in (("prompt", 3), ("source_image", 2), ("format", 10)):
        counts = Counter(getattr(image, values) for image in images)
        assert len(counts) == number
        assert max(counts.values()) / min(counts.values()) < 1.4


def test_cells_are_all_combinations() -> None:
    assert len(CELLS) == 8
    assert CELLS[0] == Cell("last", "ddim", 20, 3.0, None)
    assert CELLS[1] == Cell("last", "ddim", 20, 5.0, None)
    assert CELLS[-1] == Cell("last", "unipc", 30, 5.0, None)


def test_batches_hold_what_can_be_made_together() -> None:
    """Images of one checkpoint, scheduler, number of steps and strength; guidance may differ; nothing is lost."""
    cells = cells_of(["last", "epoch-0010"], ["ddim", "unipc"], [20], [1.0, 3.0, 5.0], [None])
    images = plan(100, 0, cells, PROMPTS, [], FORMATS)
    batches = generation_plan.batches_of(images, 8)
    assert sorted(image.number for batch in batches for image in batch) == list(range(100))
    assert max(map(len, batches)) == 8
    for batch in batches:
        assert len({image.cell.batch_key() for image in batch}) == 1
    checkpoints = [batch[0].cell.checkpoint for batch in batches]
    assert checkpoints == sorted(checkpoints)  # each is loaded once
    assert len({image.cell.guidance_scale for batch in batches for image in batch if len(batch) == 8}) == 3


@pytest.fixture
def train() -> pl.DataFrame:
    """Patient 1 has a malignant lesion and a benign one; 2 a benign one; two benign ones are of nobody known."""
    return pl.DataFrame(
        {
            tables.IMAGE_ID: ["m1", "b1", "b2", "b3", "b4"],
            tables.PATIENT_ID: ["1", "1", "2", None, None],
            tables.TARGET: [1, 0, 0, 0, 0],
        }
    )


def parts_of(train: pl.DataFrame) -> pl.DataFrame:
    held_out = pl.DataFrame({tables.IMAGE_ID: ["v1"], tables.PART: ["val"]})
    return pl.concat([train.select(tables.IMAGE_ID, pl.lit("train").alias(tables.PART)), held_out])


def test_sources_that_fit(train: pl.DataFrame) -> None:
    def eligible(generation: str, target: int, *asked: str) -> list[str]:
        return generation_plan.eligible_sources(train, generation, target, asked, parts_of(train))

    assert eligible("text_to_image", 1) == []
    assert eligible("image_to_image", 1) == ["m1"]
    assert eligible("image_to_image", 0) == ["b1", "b2", "b3", "b4"]
    assert eligible("image_to_image", 1, "b2") == ["b2"]  # asked for by name: another class's lesion may be a start
    assert eligible("inpainting", 1) == ["b2", "b3", "b4"]  # not b1: its patient has a malignant lesion
    assert eligible("inpainting", 1, "b3") == ["b3"]
    with pytest.raises(BadInput, match="1 images are no benign lesions of patients without malignant ones: b1"):
        eligible("inpainting", 1, "b1", "b2")
    with pytest.raises(BadInput, match=r"not in part train of the generator's split: v1 \(val\), w \(unknown\)"):
        eligible("image_to_image", 1, "v1", "w", "m1")
    with pytest.raises(BadInput, match="part train has no benign lesions of patients without malignant ones"):
        generation_plan.eligible_sources(train[:2], "inpainting", 1, (), parts_of(train[:2]))


def test_ellipses_lie_in_the_middle_and_vary() -> None:
    masks = [generation_plan.ellipse(64, np.random.default_rng(seed)) for seed in range(20)]
    assert all(mask[31:33, 31:33].all() for mask in masks)
    assert not any(mask[0].any() or mask[:, 0].any() for mask in masks)
    assert len({int(mask.sum()) for mask in masks}) > 10
    assert all(np.array_equal(mask, mask[::-1, ::-1]) for mask in masks)


def test_masks_grow_to_whole_latent_pixels() -> None:
    mask = np.zeros((16, 16), bool)
    mask[7, 3] = mask[8, 15] = True
    grown = generation_plan.grown(mask, 8)
    assert grown[:8, :8].all()
    assert grown[8:, 8:].all()
    assert grown.sum() == 128
