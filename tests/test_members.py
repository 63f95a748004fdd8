"""Folds and seeds as one group: each a run of its own, and one table of predictions by models that did not see them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.classifier.members import member_configs
from lesionforge.classifier.settings import TrainConfig
from lesionforge.classifier.train import train
from lesionforge.errors import BadInput
from lesionforge.evaluation.evaluate import EvaluateConfig, evaluate


@pytest.fixture(scope="module")
def folds(blobs: Path) -> Path:
    """Three folds of the blobs by patient; each patient has three images."""
    path = blobs.parent / "folds.csv"
    ids = [f"ISIC_{i:07d}" for i in range(120)]
    tables.write_table(path, pl.DataFrame({tables.IMAGE_ID: ids, tables.FOLD: [i // 3 % 3 for i in range(120)]}))
    return path


def config_of(out: Path, store: Path, split: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "out": out,
            "data": {"store": store, "split": split, "image_size": 32, "batch_size": 8, "fold": "all"},
            "model": {"name": "test_resnet", "weights": "random"},
            "optim": {"epochs": 1, "lr": 2e-3},
            "val_every": 0,
            "hardware": {"device": "cpu", "torch_threads": 1, "cache": "memory"},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def group(blobs: Path, folds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds by two seeds."""
    out = tmp_path_factory.mktemp("group") / "g"
    train(config_of(out, blobs, folds, num_seeds=2))
    return out


def test_every_lesion_is_scored_by_models_that_did_not_see_it(group: Path) -> None:
    table = tables.read_table(group / run.PREDICTIONS / "val.parquet")
    assert sorted(table[tables.IMAGE_ID]) == [f"ISIC_{i:07d}" for i in range(120)]
    names = json.loads((group / run.DONE).read_text())["members"]
    assert names == [f"fold-{fold}-seed-{seed}" for fold in range(3) for seed in range(2)]
    for name in names:
        member = group / run.MEMBERS / name
        assert json.loads((member / run.DONE).read_text())["num_steps"] in (9, 10)  # 78 or 81 lesions
        seen = set(tables.read_table(member / run.MIX)[tables.IMAGE_ID])
        assert all(int(image_id[-7:]) // 3 % 3 != int(name[5]) for image_id in seen)


def test_a_score_is_the_mean_of_the_seeds(group: Path) -> None:
    """Against the members' own predictions, made by the verb."""
    from lesionforge.classifier.predict import PredictConfig, predict

    probabilities = []
    for seed in range(2):
        member = group / run.MEMBERS / f"fold-1-seed-{seed}"
        predict(PredictConfig(run=member, parts=("val",)))
        probabilities.append(tables.read_table(member / run.PREDICTIONS / "val.parquet").sort(tables.IMAGE_ID))
    table = tables.read_table(group / run.PREDICTIONS / "val.parquet").sort(tables.IMAGE_ID)
    fold = table.filter(pl.col(tables.IMAGE_ID).is_in(probabilities[0][tables.IMAGE_ID].implode()))
    mean = sum(rows[tables.SCORE].to_numpy() for rows in probabilities) / 2
    assert np.allclose(fold[tables.SCORE], mean, atol=1e-6)
    assert np.allclose(1 / (1 + np.exp(-fold[tables.LOGIT])), fold[tables.SCORE], atol=1e-12)


def test_a_group_is_evaluated_like_a_run_and_left_alone_when_finished(group: Path, blobs: Path, folds: Path) -> None:
    evaluate(EvaluateConfig(run=group, num_replicates=100))
    assert (group / run.EVALUATION / run.SCORES).exists()
    before = (group / run.DONE).stat().st_mtime_ns
    train(config_of(group, blobs, folds, num_seeds=2))
    assert (group / run.DONE).stat().st_mtime_ns == before


def test_seeds_of_one_split_are_a_group_too(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "g", blobs, blob_split, num_seeds=2, seed=5)
    config = config.model_copy(update={"data": config.data.model_copy(update={"fold": None})})
    train(config)
    assert {path.name for path in (tmp_path / "g" / run.MEMBERS).iterdir()} == {"seed-5", "seed-6"}
    assert len(tables.read_table(tmp_path / "g" / run.PREDICTIONS / "val.parquet")) == 24


def test_all_folds_of_a_split_into_parts_are_refused(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"all folds are asked for, but .*split\.csv holds parts"):
        train(config_of(tmp_path / "g", blobs, blob_split))
    assert not (tmp_path / "g").exists()


def test_a_member_starts_from_the_like_named_one(group: Path, blobs: Path, folds: Path, tmp_path: Path) -> None:
    """Fold 0 goes on from fold 0, which saw none of its val; a group without that fold and seed is refused."""
    model = {"name": "test_resnet", "weights": "random", "init_from": group}
    configs = member_configs(config_of(tmp_path / "g", blobs, folds, model=model))
    assert configs["fold-2-seed-0"].model.init_from == group / run.MEMBERS / "fold-2-seed-0"
    with pytest.raises(BadInput, match="has no member fold-0-seed-7"):
        member_configs(config_of(tmp_path / "g", blobs, folds, model=model, seed=7))


def test_a_start_that_suits_one_fold_only_is_refused_before_any_training(
    group: Path, blobs: Path, folds: Path, tmp_path: Path
) -> None:
    model = {"name": "test_resnet", "weights": "random", "init_from": group / run.MEMBERS / "fold-0-seed-0"}
    with pytest.raises(BadInput, match=r"fold-1-seed-0: model\.init_from: .* has learned from images"):
        train(config_of(tmp_path / "g", blobs, folds, model=model))
    assert not (tmp_path / "g").exists()
