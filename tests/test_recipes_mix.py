"""The shipped recipes of the study's training distributions: STUDY.md's two tables, drawn to the image."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import lesionforge
from lesionforge.classifier.settings import TrainConfig
from lesionforge.classifier.training_data import orders_of
from lesionforge.config import AugmentConfig, MixConfig
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


# name: synthetic malignant, sampler; 303 real malignant and 600 benign in all of them
MATCHED_BUDGET = {
    "matched_budget_0x": (0, "shuffle"),
    "matched_budget_1x": (303, "shuffle"),
    "matched_budget_3x": (909, "shuffle"),
    "matched_budget_15x": (4_545, "shuffle"),
    "matched_budget_oversampled": (0, "balanced"),
    "matched_budget_augmented": (0, "shuffle"),
}


def test_the_matched_budget_sweep_differs_in_synthetic_images_only(
    train: pl.DataFrame, generated: pl.DataFrame
) -> None:
    """Same real and benign images, same number of steps, in all arms; the smaller arms' images are the larger ones'."""
    mixes, steps, batches = {}, {}, {}
    for name, (synthetic, sampler) in MATCHED_BUDGET.items():
        settings = TrainConfig.model_validate(
            {**read(name), "out": "r", "data": {**read(name)["data"], "store": "s", "split": "p"}}
        )
        stores = [generated] if synthetic else []
        mix = mixes[name] = draw_mix(train, stores, **settings.data.mix.model_dump())
        assert mix.filter(target=1, source="synthetic").height == synthetic
        assert mix.height == 903 + synthetic
        assert settings.data.sampler == sampler
        data = settings.data
        orders = orders_of(mix["target"].to_numpy(), data.sampler, 1, data.samples_per_epoch, data.batch_size, 0)
        steps[name] = orders.steps_per_epoch * settings.optim.epochs
        batches[name] = data.batch_size
    real = {name: set(mix.filter(source="real")["image_id"]) for name, mix in mixes.items()}
    assert all(ids == real["matched_budget_0x"] for ids in real.values())
    assert len(real["matched_budget_0x"]) == 903
    assert set(steps.values()) == {28 * 30}
    assert set(batches.values()) == {32}
    made = [set(mixes[f"matched_budget_{k}x"].filter(source="synthetic")["image_id"]) for k in (1, 3, 15)]
    assert made[0] < made[1] < made[2]
    assert set(draw_mix(train, [], **MixConfig.model_validate(read("super_downsampled")["data"]["mix"]).model_dump())[
        "image_id"
    ]) == real["matched_budget_0x"]  # fmt: skip


def test_the_augmented_control_varies_more() -> None:
    """Every strength and probability at least that of the other arms, several above."""
    usual = AugmentConfig.model_validate(read("matched_budget_0x")["augment"]).settings()
    more = AugmentConfig.model_validate(read("matched_budget_augmented")["augment"]).settings()
    assert all(more[name] >= usual[name] for name in usual)
    assert sum(more[name] > usual[name] for name in usual) == 8


@pytest.mark.parametrize("name", MATCHED_BUDGET)
def test_a_matched_budget_head_says_how_it_is_run_on_less(name: str) -> None:
    head = [line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert head[0].startswith("# Matched budget, ")
    assert "On a smaller data set give all arms the same fixed counts" in " ".join(head)
    assert "not scale auto" in " ".join(head)
    assert head[-1].startswith(f"# lesionforge train --recipe {name} --data.store STORE ")
    assert ("--data.synthetic SYNTHETIC_STORE" in head[-1]) == (MATCHED_BUDGET[name][0] > 0)


def test_the_sweep_on_less_has_equal_budgets_too(train: pl.DataFrame, generated: pl.DataFrame) -> None:
    """The head's own flags: 100 real malignant, 200 benign, epochs of 300."""
    real = []
    for k in (0, 1, 3, 15):
        counts = {**read(f"matched_budget_{k}x")["data"]["mix"], "malignant": 100, "benign": 200}
        settings = MixConfig.model_validate({**counts, "synthetic_malignant": 100 * k})
        mix = draw_mix(train.head(2_000), [generated] if k else [], **settings.model_dump())
        assert mix.height == 300 + 100 * k
        real.append(set(mix.filter(source="real")["image_id"]))
        assert f"--data.mix.synthetic-malignant {100 * k} " in (RECIPES / f"matched_budget_{k}x.yaml").read_text()
    assert all(ids == real[0] for ids in real)
