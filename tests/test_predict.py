"""Predictions: one row an image, float64, the same whatever the batch; made once, resumed, never mixed up."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.classifier import predict as predict_module
from lesionforge.classifier.inference import sigmoid
from lesionforge.classifier.predict import PredictConfig, predict
from lesionforge.classifier.train import TrainConfig, train
from lesionforge.errors import BadInput


@pytest.fixture
def trained(blobs: Path, blob_split: Path, tmp_path: Path) -> Path:
    train(
        TrainConfig.model_validate(
            {
                "out": tmp_path / "run",
                "data": {"store": blobs, "split": blob_split, "image_size": 32, "batch_size": 8},
                "model": {"name": "test_resnet", "weights": "random"},
                "optim": {"epochs": 2, "lr": 2e-3},
                "hardware": {"device": "cpu", "torch_threads": 1},
            }
        )
    )
    return tmp_path / "run"


def test_predictions_of_the_runs_own_parts(trained: Path, blob_split: Path, blobs: Path) -> None:
    predict(PredictConfig(run=trained))
    table = pl.read_parquet(trained / run.PREDICTIONS / "val.parquet")
    assert table.columns == [
        tables.IMAGE_ID, tables.PATIENT_ID, tables.PART, tables.TARGET, tables.SCORE, tables.LOGIT,
    ]  # fmt: skip
    assert table.schema[tables.SCORE] == table.schema[tables.LOGIT] == pl.Float64
    expected = pl.read_csv(blob_split).filter(pl.col(tables.PART) == "val")[tables.IMAGE_ID]
    assert table[tables.IMAGE_ID].to_list() == expected.to_list()
    assert (trained / run.PREDICTIONS / "test.parquet").exists()
    # the last line of metrics.jsonl was computed from the same weights and images
    from lesionforge.metrics import pauc

    logged = json.loads((trained / run.METRICS).read_text().splitlines()[-1])["val_pauc"]
    assert pauc(table[tables.TARGET].to_numpy(), table[tables.LOGIT].to_numpy()) == pytest.approx(logged, abs=1e-12)


def test_scores_do_not_depend_on_the_batch(trained: Path) -> None:
    predict(PredictConfig(run=trained, parts=("val",)))
    path = trained / run.PREDICTIONS / "val.parquet"
    first = pl.read_parquet(path)
    path.unlink()
    predict(PredictConfig(run=trained, parts=("val",), batch_size=5))
    assert np.allclose(first[tables.LOGIT], pl.read_parquet(path)[tables.LOGIT], atol=1e-5)


def test_another_store_is_scored_whole(trained: Path, blobs: Path) -> None:
    predict(PredictConfig(run=trained, store=blobs, name="all"))
    assert len(pl.read_parquet(trained / run.PREDICTIONS / "all.parquet")) == 120


def test_predictions_are_made_once_and_never_of_two_things(trained: Path, blobs: Path) -> None:
    predict(PredictConfig(run=trained, parts=("val",)))
    path = trained / run.PREDICTIONS / "val.parquet"
    before = path.stat().st_mtime_ns
    predict(PredictConfig(run=trained, parts=("val",)))
    assert path.stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="made with another images"):
        predict(PredictConfig(run=trained, store=blobs, name="val"))
    with pytest.raises(BadInput, match="made with another precision"):
        predict(PredictConfig(run=trained, parts=("val",), precision="bf16"))


def test_an_unfinished_part_goes_on_where_it_was(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept shards are not scored again: one that was altered shows up in the result."""
    monkeypatch.setattr(predict_module, "SHARD", 10)
    predict(PredictConfig(run=trained, parts=("val",)))
    path = trained / run.PREDICTIONS / "val.parquet"
    whole = pl.read_parquet(path)
    assert len(whole) == 24
    made_from = {
        key: value for key, value in json.loads(path.with_suffix(".json").read_text()).items() if key != "made"
    }
    path.unlink()
    folder = predict_module.shards_folder(path, made_from)
    marked = whole[:10].with_columns(pl.lit(9.0).alias(tables.LOGIT))
    marked.write_parquet(folder / "00000000.parquet")
    predict(PredictConfig(run=trained, parts=("val",)))
    again = pl.read_parquet(path)
    assert again[:10].equals(marked)
    assert again[10:].equals(whole[10:])
    assert not folder.exists()


def test_an_unfinished_run_is_refused(trained: Path) -> None:
    (trained / run.DONE).unlink()
    with pytest.raises(BadInput, match="unfinished or not made by `lesionforge train`"):
        predict(PredictConfig(run=trained))


def test_damaged_weights_are_refused(trained: Path) -> None:
    data = bytearray((trained / run.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (trained / run.WEIGHTS).write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        predict(PredictConfig(run=trained))


@pytest.mark.parametrize("name", ["../x", "", "a/b"])
def test_a_name_that_is_a_path_is_refused(trained: Path, blobs: Path, name: str) -> None:
    with pytest.raises(BadInput, match="expected a plain file name"):
        predict(PredictConfig(run=trained, store=blobs, name=name))


def test_sigmoid_at_the_ends() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
    x = np.linspace(-20, 20, 101)
    assert np.allclose(sigmoid(x), 1 / (1 + np.exp(-x)), rtol=1e-13)


def test_a_folder_of_another_verb_is_refused(blobs: Path) -> None:
    with pytest.raises(BadInput, match=r"not a training run .*make one with `lesionforge train`"):
        predict(PredictConfig(run=blobs))


def test_a_split_into_folds_has_no_test_and_val_is_scored(trained: Path, blobs: Path, tmp_path: Path) -> None:
    """The default parts are val and test; folds know val only."""
    folds = tmp_path / "folds.csv"
    ids = [f"ISIC_{i:07d}" for i in range(120)]
    tables.write_table(folds, pl.DataFrame({tables.IMAGE_ID: ids, tables.FOLD: [i // 40 for i in range(120)]}))
    recipe = (trained / run.CONFIG).read_text().splitlines()
    recipe = [f"  split: {folds}" if line.startswith("  split:") else line for line in recipe]
    recipe = ["  fold: 2" if line.startswith("  fold:") else line for line in recipe]
    (trained / run.CONFIG).write_text("\n".join(recipe))
    predict(PredictConfig(run=trained))
    assert [path.name for path in (trained / run.PREDICTIONS).glob("*.parquet")] == ["val.parquet"]
    assert pl.read_parquet(trained / run.PREDICTIONS / "val.parquet")[tables.IMAGE_ID].to_list() == ids[80:]
    with pytest.raises(BadInput, match="has none of test"):
        predict(PredictConfig(run=trained, parts=("test",)))
