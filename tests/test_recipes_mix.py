"""The shipped recipes of the study's training distributions: STUDY.md's two tables, drawn to the image."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import lesionforge
from lesionforge.config import MixConfig
from lesionforge.data.mix import draw_mix

RECIPES = Path(lesionforge.__file__).parent / "recipes"

# name: real malignant, synthetic malignant, benign, sampler, augmentation; copied by hand from the study's tables
STUDY = {
    "default": (294, 0, 300_500, "shuffle", "flip"),
    "balanced_aug": (294, 0, 300_500, "balanced", "strong"),
    "balanced_downsampled": (296, 0, 1_803, "balanced", "strong"),
    "super_downsampled": (303, 0, 600, "shuffle", "strong"),
    "synthetic_1_1": (303, 303, 1_800, "shuffle", "strong"),
    "synthetic_1_3": (189, 567, 800, "shuffle", "strong"),
    "synthetic_1_15": (43, 645, 680, "shuffle", "strong"),
    "synthetic_only": (0, 5_971, 6_000, "shuffle", "strong"),
}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def train() -> pl.DataFrame:
    """Training part of five patient-grouped folds of the challenge: 314 malignant, 320,532 benign."""
    number = pl.int_range(320_846, eager=True)
    return pl.DataFrame(
        {"image_id": number.cast(pl.String), "patient_id": (number % 834).cast(pl.String)}
    ).with_columns(target=(number < 314).cast(pl.Int8), source=pl.lit("real"))


@pytest.fixture(scope="module")
def generated() -> pl.DataFrame:
    number = pl.int_range(6_000, eager=True)
    return pl.DataFrame({"image_id": number.cast(pl.String)}).with_columns(
        patient_id=pl.lit(None, pl.String), target=pl.lit(1, pl.Int8), source=pl.lit("synthetic")
    )


@pytest.mark.parametrize("name", STUDY)
def test_a_column_of_the_study(name: str, train: pl.DataFrame, generated: pl.DataFrame) -> None:
    real, synthetic, benign, sampler, preset = STUDY[name]
    recipe = read(name)
    assert recipe["data"]["sampler"] == sampler
    assert recipe["augment"] == {"preset": preset}
    settings = MixConfig.model_validate(recipe["data"]["mix"])
    mix = draw_mix(train, [generated] if synthetic else [], **settings.model_dump())
    assert mix.filter(target=1, source="real").height == real
    assert mix.filter(target=1, source="synthetic").height == synthetic
    assert mix.filter(target=0, source="real").height == benign
    assert mix.height == real + synthetic + benign


@pytest.mark.parametrize("name", STUDY)
def test_the_head_says_what_it_is_and_how_it_is_run(name: str) -> None:
    head = [line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert head[0].startswith("# The study's ")
    assert "Counts as printed in the study's table" in head[1]
    assert head[-1].startswith(f"# lesionforge train --recipe {name} --data.store STORE ")
