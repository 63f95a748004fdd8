"""The whole verb on two tiny runs: figures, tables, words; and what it refuses."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.classifier.explain import ExplainConfig, explain, names_of
from lesionforge.classifier.predict import PredictConfig, predict
from lesionforge.classifier.train import TrainConfig, train
from lesionforge.data.masks import pack, write_masks
from lesionforge.errors import BadInput

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytorch_grad_cam") is None, reason="pip install 'lesionforge[explain]'"
)

CPU = {"device": "cpu", "torch_threads": 1}


def train_one(out: Path, name: str, store: Path, split: Path) -> Path:
    settings = {
        "out": out,
        "data": {"store": store, "split": split, "image_size": 64, "batch_size": 16},
        "model": {"name": name, "weights": "random"},
        "optim": {"epochs": 1, "lr": 2e-3},
        "hardware": CPU,
    }
    train(TrainConfig.model_validate(settings))
    return out


@pytest.fixture(scope="module")
def two_runs(blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    cnn, transformer = (train_one(folder / name, name, blobs, blob_split) for name in ("test_resnet", "test_vit"))
    return cnn, transformer


def config(runs: tuple[Path, ...], out: Path, **settings: object) -> ExplainConfig:
    few = {"num_images": 12, "num_shown": 3, "num_random": 2, "num_replicates": 200, "hardware": CPU}
    return ExplainConfig.model_validate({"runs": runs, "out": out, **few, **settings})


def test_two_runs_from_end_to_end(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "explained"
    settings = config(two_runs, out, methods=("hirescam", "rollout"))
    explain(settings)
    said = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "figure5.png", "sheet-test_resnet.png", "sheet-test_vit.png", "focus.csv", "focus-pairs.csv", "focus.json",
        "focus-lesions.parquet", "config.yaml", "environment.json", "log.txt", "done.json",
    }  # fmt: skip

    lesions = pl.read_parquet(out / run.FOCUS_LESIONS)
    asked = [("test_resnet", "hirescam"), ("test_vit", "hirescam"), ("test_vit", "rollout")]
    found = lesions.group_by(tables.RUN, tables.METHOD).len().sort(tables.RUN, tables.METHOD)
    assert found.rows() == [(*pair, 12) for pair in asked]
    assert lesions[tables.IMAGE_ID].n_unique() == 12
    assert lesions.filter(pl.col(tables.METHOD) == "rollout")[tables.CELLS].unique().to_list() == [4]
    shares = lesions.select(tables.FOCUS, tables.AREA_SHARE, tables.PERFECT_FOCUS, tables.RANDOM_FOCUS)
    assert all(0 <= value <= 1 for row in shares.fill_nan(None).drop_nulls().rows() for value in row)

    # scores are those of predict
    predict(PredictConfig(run=two_runs[0], parts=("val",), hardware=CPU))  # type: ignore[arg-type]
    predicted = pl.read_parquet(two_runs[0] / run.PREDICTIONS / "val.parquet").select(tables.IMAGE_ID, tables.SCORE)
    own = lesions.filter(pl.col(tables.RUN) == "test_resnet")
    joined = own.join(predicted, on=tables.IMAGE_ID, suffix="_predicted")
    assert len(joined) == 12
    assert np.allclose(joined[tables.SCORE], joined["score_predicted"], atol=1e-5)

    summary = pl.read_csv(out / run.FOCUS_TABLE)
    assert summary[tables.KIND].to_list() == ["CNN", "transformer", "transformer"]
    assert summary[tables.MASK].unique().to_list() == ["estimated"]
    mean = own[tables.FOCUS].fill_nan(None).mean()
    assert summary[tables.FOCUS][0] == pytest.approx(mean)
    pairs = pl.read_csv(out / run.FOCUS_PAIRS)
    assert pairs.select(tables.RUN, tables.OTHER_RUN).row(0) == ("test_resnet", "test_vit")
    assert json.loads((out / run.FOCUS).read_text())["text"] in said
    assert "hirescam: share of the map inside the lesion, mean of 12 lesions" in said
    assert said.strip().endswith("research software, not a medical device")
    for name in ("figure5.png", "sheet-test_resnet.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")

    explain(settings)  # a finished one is told again, not made again
    assert capsys.readouterr().out == said


def test_the_same_command_gives_the_same_numbers(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    for name, batch_size in (("one", 16), ("two", 5)):
        explain(config(two_runs[:1], tmp_path / name, batch_size=batch_size))
    one, two = (pl.read_csv(tmp_path / name / run.FOCUS_TABLE) for name in ("one", "two"))
    numbers = [name for name, kind in one.schema.items() if kind.is_numeric()]
    assert np.allclose(one.select(numbers).to_numpy(), two.select(numbers).to_numpy(), atol=1e-4, equal_nan=True)


def test_a_run_trained_anew_is_not_told_from_old_maps(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(two_runs[1], own)
    explain(config((own,), tmp_path / "out", num_random=0))
    done = json.loads((own / run.DONE).read_text())
    (own / run.DONE).write_text(json.dumps({**done, "weights_sha256": "0" * 64}))
    with pytest.raises(BadInput, match=r"out: made from other weights of run; delete it, or name another --out"):
        explain(config((own,), tmp_path / "out", num_random=0))


def test_another_store_with_true_masks(two_runs: tuple[Path, Path], blobs: Path, tmp_path: Path) -> None:
    """Masks that cover the whole crop hold the whole map."""
    ids = [f"ISIC_{i:07d}" for i in range(120)]
    write_masks(tmp_path / "masks.npz", ids, [pack([np.ones((60, 60), bool)] * 120)])
    masks = tmp_path / "masks.npz"
    settings = {"store": blobs, "masks": masks, "num_random": 0, "methods": ("hirescam",), "num_images": 40}
    explain(config(two_runs[1:], tmp_path / "out", **settings))
    row = pl.read_csv(tmp_path / "out" / run.FOCUS_TABLE).row(0, named=True)
    assert row[tables.MASK] == "ground-truth"
    assert (row[tables.NUM_MALIGNANT], row[tables.NUM_BENIGN]) == (20, 20)
    assert row[tables.AREA_SHARE] == 1
    assert row[tables.FOCUS] == pytest.approx(1)
    assert row[tables.RANDOM_FOCUS] is None


def test_runs_of_other_lesions_are_refused(
    two_runs: tuple[Path, Path], blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    split = tmp_path / "other.csv"
    table = pl.read_csv(blob_split).with_row_index("i")
    moved = pl.when(pl.col("i") == 72).then(pl.lit("test")).otherwise(tables.PART).alias(tables.PART)
    tables.write_table(split, table.with_columns(moved).drop("i"))
    other = train_one(tmp_path / "other", "test_resnet", blobs, split)
    with pytest.raises(
        BadInput, match=r"test_resnet and other have other lesions in part val, 1 of them .*ISIC_0000072"
    ):
        explain(config((two_runs[0], other), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rollout_of_cnns_alone_is_refused(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"rollout is for ViT.*no run is one; use grad_cam"):
        explain(config(two_runs[:1], tmp_path / "out", methods=("rollout",)))


def test_a_folder_that_is_no_run_is_refused(blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a training run"):
        explain(config((blobs,), tmp_path / "out"))


def test_runs_are_called_by_as_much_of_their_path_as_it_takes() -> None:
    assert names_of((Path("/a/x"), Path("/a/y"))) == ["x", "y"]
    assert names_of((Path("/a/x/seed-0"), Path("/a/y/seed-0"))) == ["x-seed-0", "y-seed-0"]
    with pytest.raises(BadInput, match="a run is named twice"):
        names_of((Path("/a/x"), Path("/a/../a/x")))
