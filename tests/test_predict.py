"""Predictions: one row an image, float64, the same whatever the batch; made once, resumed, never mixed up."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from lesionforge import run, tables
from lesionforge.classifier import predict as predict_module
from lesionforge.classifier.predict import PredictConfig, predict
from lesionforge.classifier.settings import TrainConfig
from lesionforge.classifier.train import train
from lesionforge.data.challenge_write import ImageWriter
from lesionforge.data.store import open_store
from lesionforge.engine import checkpoint
from lesionforge.engine.inference import sigmoid
from lesionforge.errors import BadInput


@pytest.fixture(scope="module")
def trained_once(blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(
        TrainConfig.model_validate(
            {
                "out": out,
                "data": {"store": blobs, "split": blob_split, "image_size": 32, "batch_size": 8},
                "model": {"name": "test_resnet", "weights": "random"},
                "optim": {"epochs": 2, "lr": 2e-3},
                "hardware": {"device": "cpu", "torch_threads": 1},
            }
        )
    )
    return out


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A run of one's own, to alter."""
    return shutil.copytree(trained_once, tmp_path / "run")


def scores_in(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / run.PREDICTIONS / f"{name}.parquet").sort(tables.IMAGE_ID)


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
    with pytest.raises(BadInput, match="made with another precision"):
        predict(PredictConfig(run=trained, parts=("val",), precision="bf16"))
    (trained / run.PREDICTIONS / "old.parquet").write_bytes(path.read_bytes())
    shutil.copy(path.with_suffix(".json"), trained / run.PREDICTIONS / "old.json")
    with pytest.raises(BadInput, match="made with another images"):
        predict(PredictConfig(run=trained, store=blobs, name="old"))


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_other_images_never_take_the_place_of_the_runs_own_part(
    name: str, trained: Path, group: Path, blobs: Path, loose: Path
) -> None:
    """Whether or not that part was scored: evaluate would take them for it."""
    message = rf"name: found {name} for images that are not .*, whose split .* has that part, .*another --name"
    for folder in (trained, group):
        for images in ({"store": blobs}, {"images": loose / "files"}):
            with pytest.raises(BadInput, match=message):
                predict(PredictConfig.model_validate({"run": folder, "name": name, **images}))
            assert not (folder / run.PREDICTIONS / "test.parquet").exists()
    recipe = (trained / run.CONFIG).read_text().splitlines()
    gone = [f"  split: {trained / 'gone.csv'}" if line.startswith("  split:") else line for line in recipe]
    (trained / run.CONFIG).write_text("\n".join(gone))
    with pytest.raises(BadInput, match=r"gone.csv may have that part \(it is not there to be read\)"):
        predict(PredictConfig(run=trained, store=blobs, name=name))


@pytest.mark.parametrize("fold", ["1", "all"])
def test_folds_have_no_test_so_other_images_may_be_called_so(
    fold: str, trained: Path, group: Path, blobs: Path, tmp_path: Path
) -> None:
    """The challenge's test images, as the README scores them."""
    split_into_folds(trained, tmp_path / "folds.csv", fold)
    split_into_folds(group, tmp_path / "folds.csv", fold)
    for folder in (group, *([trained] if fold == "1" else [])):
        predict(PredictConfig(run=folder, store=blobs))
        assert len(scores_in(folder, "test")) == 120
        for name in ("train", "val"):
            with pytest.raises(BadInput, match=f"name: found {name} for images that are not"):
                predict(PredictConfig(run=folder, store=blobs, name=name))


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


def split_into_folds(folder: Path, split: Path, fold: str) -> list[str]:
    """Make it a run of one of three folds, 40 images each; all ids."""
    ids = [f"ISIC_{i:07d}" for i in range(120)]
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.FOLD: [i // 40 for i in range(120)]}))
    recipe = (folder / run.CONFIG).read_text().splitlines()
    recipe = [f"  split: {split}" if line.startswith("  split:") else line for line in recipe]
    recipe = [f"  fold: {fold}" if line.startswith("  fold:") else line for line in recipe]
    (folder / run.CONFIG).write_text("\n".join(recipe))
    return ids


def test_a_split_into_folds_has_no_test_and_val_is_scored(trained: Path, blobs: Path, tmp_path: Path) -> None:
    """The default parts are val and test; folds know val only."""
    ids = split_into_folds(trained, tmp_path / "folds.csv", "2")
    predict(PredictConfig(run=trained))
    assert [path.name for path in (trained / run.PREDICTIONS).glob("*.parquet")] == ["val.parquet"]
    assert pl.read_parquet(trained / run.PREDICTIONS / "val.parquet")[tables.IMAGE_ID].to_list() == ids[80:]
    with pytest.raises(BadInput, match="has none of test"):
        predict(PredictConfig(run=trained, parts=("test",)))


# ------------------------------------------------------------------------------------------ images that are in no store


@pytest.fixture(scope="module")
def loose(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 30 blobs as files of a folder, and as the challenge's HDF5."""
    folder, store = tmp_path_factory.mktemp("loose"), open_store(blobs)
    (folder / "files").mkdir()
    writer = ImageWriter(folder / "test-image.hdf5")
    for row, image_id in enumerate(store.image_ids[:30]):
        (folder / "files" / f"{image_id}.jpg").write_bytes(store.read(row))
        writer.write(image_id, bytes(store.read(row)))
    writer.close()
    return folder


def test_store_folder_file_and_hdf5_agree(
    trained: Path, blobs: Path, loose: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    predict(PredictConfig(run=trained, store=blobs, name="store"))
    expected = scores_in(trained, "store")[:30]
    for name, path in {"files": loose / "files", "hdf5": loose / "test-image.hdf5"}.items():
        predict(PredictConfig(run=trained, images=path, name=name))
        found = scores_in(trained, name)
        assert found.columns == expected.columns
        assert found[tables.IMAGE_ID].to_list() == expected[tables.IMAGE_ID].to_list()
        assert np.abs(found[tables.LOGIT] - expected[tables.LOGIT]).max() < 1e-6
        assert found[tables.PATIENT_ID].null_count() == found[tables.TARGET].null_count() == 30
        assert found.schema == expected.schema
    capsys.readouterr()
    caplog.clear()
    predict(PredictConfig(run=trained, images=loose / "files" / "ISIC_0000007.jpg", name="one"))
    assert "one.parquet: 1 image scored" in caplog.text
    only = scores_in(trained, "one").row(0, named=True)
    assert only[tables.LOGIT] == pytest.approx(expected[tables.LOGIT][7], abs=1e-6)
    printed = f"ISIC_0000007: score {only[tables.SCORE]:.6f}; research software, not a medical device\n"
    assert capsys.readouterr().out == printed


def test_predictions_of_other_images_are_refused(trained: Path, loose: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(loose / "files", tmp_path / "files")
    predict(PredictConfig(run=trained, images=folder, name="files"))
    (folder / "ISIC_0000001.jpg").write_bytes((folder / "ISIC_0000002.jpg").read_bytes())
    with pytest.raises(BadInput, match="made with another store; give these another --name"):
        predict(PredictConfig(run=trained, images=folder, name="files"))


def test_images_that_no_decoder_reads_are_all_named(trained: Path, loose: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(loose / "files", tmp_path / "files")
    for name in ("one", "two"):
        png = bytearray(cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))[1])
        png[60:2000] = bytes(1940)
        (folder / f"{name}.png").write_bytes(png)
    with pytest.raises(BadInput, match=r"(?s)2 of 32 images cannot be read.*one: damaged PNG.*two: damaged PNG"):
        predict(PredictConfig(run=trained, images=folder, name="files"))


# ------------------------------------------------------------------------------------------- test-time augmentation


def test_views_change_scores_but_not_those_of_a_symmetric_image(trained: Path, loose: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(loose / "files", tmp_path / "files")
    y, x = np.mgrid[-15.5:15.6, -15.5:15.6]  # 32 px, the model's size: nothing is resized
    rings = (127 + 120 * np.cos(np.hypot(x, y))).astype(np.uint8)[..., None].repeat(3, 2)
    cv2.imwrite(str(folder / "rings.png"), rings)
    found = {}
    for tta in ("none", "flips", "flips_and_transposes"):
        predict(PredictConfig(run=trained, images=folder, name=tta, tta=tta))
        found[tta] = scores_in(trained, tta)
    symmetric = found["none"][tables.IMAGE_ID] == "rings"
    plain = found["none"][tables.LOGIT]
    for tta in ("flips", "flips_and_transposes"):
        change = (found[tta][tables.LOGIT] - plain).abs()
        assert change.filter(symmetric).max() < 1e-5
        assert change.filter(~symmetric).min() > 1e-5
    with pytest.raises(BadInput, match="made with another tta"):
        predict(PredictConfig(run=trained, images=folder, name="none", tta="flips"))


# ----------------------------------------------------------------------------------------------------------- groups


@pytest.fixture
def group(trained: Path, tmp_path: Path) -> Path:
    """Two models of one split, as `train` leaves the seeds of a group; the second one's last layer is turned round."""
    folder = tmp_path / "group"
    for name in ("seed-0", "seed-1"):
        shutil.copytree(trained, folder / run.MEMBERS / name)
    other = folder / run.MEMBERS / "seed-1"
    tensors = checkpoint.load_tensors(other / run.WEIGHTS)
    tensors["fc.weight"] = -tensors["fc.weight"]
    done = json.loads((other / run.DONE).read_text())
    done["weights_sha256"] = checkpoint.save_tensors(other / run.WEIGHTS, tensors)
    (other / run.DONE).write_text(json.dumps(done))
    shutil.copy(trained / run.CONFIG, folder / run.CONFIG)
    (folder / run.DONE).write_text(json.dumps({"members": ["seed-0", "seed-1"]}))
    (folder / run.PREDICTIONS).mkdir()
    (folder / run.PREDICTIONS / "val.parquet").write_bytes(b"made in training")
    return folder


def test_a_group_scores_by_the_mean_of_its_models(group: Path, loose: Path) -> None:
    predict(PredictConfig(run=group, images=loose / "files", name="files", tta="flips"))
    for name in ("seed-0", "seed-1"):
        predict(PredictConfig(run=group / run.MEMBERS / name, images=loose / "files", name="files", tta="flips"))
    members = [scores_in(group / run.MEMBERS / name, "files") for name in ("seed-0", "seed-1")]
    assert (members[0][tables.SCORE] - members[1][tables.SCORE]).abs().max() > 0.01
    found = scores_in(group, "files")
    mean = (members[0][tables.SCORE] + members[1][tables.SCORE]) / 2
    assert np.allclose(found[tables.SCORE], mean, atol=1e-12)
    assert np.allclose(found[tables.LOGIT], np.log(mean / (1 - mean)), atol=1e-9)


def test_what_training_scored_of_a_group_is_left_alone(group: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict(PredictConfig(run=group))
    assert (group / run.PREDICTIONS / "val.parquet").read_bytes() == b"made in training"
    assert "val was scored by the training of the group; left as it is" in caplog.text
    assert len(scores_in(group, "test")) == 24


def test_seeds_of_one_fold_have_val_only(group: Path, tmp_path: Path) -> None:
    """With the default parts, val and test, there is nothing to do and nothing wrong."""
    split_into_folds(group, tmp_path / "folds.csv", "0")
    predict(PredictConfig(run=group))
    predict(PredictConfig(run=group, parts=("val",)))
    assert [path.name for path in (group / run.PREDICTIONS).iterdir()] == ["val.parquet"]
    assert (group / run.PREDICTIONS / "val.parquet").read_bytes() == b"made in training"
    with pytest.raises(BadInput, match=r"folds.csv has none of test"):
        predict(PredictConfig(run=group, parts=("test",)))


def test_a_group_of_all_folds_has_val_only(group: Path) -> None:
    recipe = (group / run.CONFIG).read_text()
    (group / run.CONFIG).write_text(recipe.replace("  fold: null", "  fold: all"))
    predict(PredictConfig(run=group))
    assert [path.name for path in (group / run.PREDICTIONS).iterdir()] == ["val.parquet"]
    with pytest.raises(BadInput, match=r"group of all folds, .* it has val only"):
        predict(PredictConfig(run=group, parts=("test",)))


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give --run FOLDER or --model FOLDER_OR_FILE, one of the two"),
        ({"run": "a", "model": "b", "out": "c", "store": "d"}, "one of the two"),
        ({"run": "a", "store": "b", "images": "c"}, "give --store or --images, not both"),
        ({"model": "a", "out": "b"}, "say what it scores by --store or --images"),
        ({"model": "a", "images": "b"}, "--out FOLDER goes with --model, and is needed there"),
        ({"run": "a", "out": "b"}, "a run keeps its predictions itself"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PredictConfig.model_validate(settings)
