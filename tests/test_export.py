"""What is exported: timm makes the same model of it, it scores as the run does, and its card says what it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
import yaml

from lesionforge import run, tables
from lesionforge.classifier.export import ExportConfig, export
from lesionforge.classifier.predict import PredictConfig, predict, shards_folder
from lesionforge.classifier.settings import TrainConfig
from lesionforge.data.mix import draw_mix
from lesionforge.data.parts import part_of, read_split
from lesionforge.data.store import open_store
from lesionforge.engine import checkpoint, model, trained
from lesionforge.engine.inference import Normalise
from lesionforge.errors import BadInput
from lesionforge.evaluation.evaluate import EvaluateConfig, evaluate
from lesionforge.evaluation.submit import SubmitConfig, submit
from lesionforge.files import sha256_of_file, write_json


def write_run(out: Path, blobs: Path, blob_split: Path, settings: dict[str, Any], **changes: Any) -> Path:
    """A run folder as `train` leaves it, with random weights."""
    data = {"store": blobs, "split": blob_split, "image_size": 32, **settings.pop("data", {})}
    config = TrainConfig.model_validate({"out": out, "data": data, **settings, **changes})
    out.mkdir(parents=True)
    run.record(out, "train", config)
    torch.manual_seed(0)
    built = model.build_model(
        config.model.name, "random", config.data.image_size, config.model.mean, config.model.std, config.model.timm_args
    )
    store, split = open_store(blobs), read_split(blob_split)
    mix = draw_mix(part_of(store.samples(), split, "train"), **config.data.mix.model_dump())
    tables.write_table(out / run.MIX, mix)
    write_json(out / run.INPUTS, {"stores": [store.digest], "split": "0" * 64, "split_name": "given file split.csv"})
    sha256 = checkpoint.save_tensors(out / run.WEIGHTS, built.model.state_dict())
    run.mark_done(out, weights_sha256=sha256, weights_epoch=3, model=built.facts(), num_steps=1200)
    return out


@pytest.fixture(scope="module")
def runs(blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "plain", blobs, blob_split, {"model": {"name": "test_resnet", "weights": "random"}})
    predict(PredictConfig(run=folder / "plain", parts=("val", "test")))
    evaluate(EvaluateConfig(run=folder / "plain", num_replicates=100))
    return folder


@pytest.fixture(scope="module")
def exported(runs: Path) -> Path:
    """With ONNX, which is waited for once."""
    pytest.importorskip("onnx", reason="the extra export is not installed")
    export(ExportConfig(run=runs / "plain", out=runs / "exported", onnx=True))
    return runs / "exported"


@pytest.mark.parametrize(
    ("name", "image_size", "timm_args"),
    [
        ("test_resnet", 48, {}),
        ("test_vit", 96, {"class_token": False, "global_pool": "avg"}),
        ("swin:tiny", 64, {}),
        ("densenet:tiny", 64, {"drop_rate": 0.1}),
    ],
)
def test_timm_makes_the_same_model_of_the_folder(
    name: str, image_size: int, timm_args: dict[str, Any], blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """The folder alone tells timm the size, the narrowed architecture and the normalisation."""
    settings = {
        "data": {"image_size": image_size},
        "model": {"name": name, "weights": "random", "mean": (0.7, 0.5, 0.4), "timm_args": timm_args},
    }
    folder = write_run(tmp_path / "run", blobs, blob_split, settings)
    export(ExportConfig(run=folder, out=tmp_path / "out"))
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    built = trained.load_run(folder)
    images = torch.rand(2, 3, image_size, image_size)
    with torch.inference_mode():
        assert torch.equal(loaded(images), built.model(images))
        assert loaded(images).shape == (2, 1)
    data = timm.data.resolve_model_data_config(loaded)
    assert tuple(data["input_size"]) == (3, image_size, image_size)
    assert tuple(data["mean"]) == (0.7, 0.5, 0.4)
    assert tuple(data["std"]) == tuple(built.std)
    config = json.loads((tmp_path / "out" / run.MODEL_CONFIG).read_text())
    assert config["num_classes"] == config["model_args"]["num_classes"] == 1
    assert config["pretrained_cfg"]["license"] == "other"
    assert built.timm_args.items() <= config["model_args"].items()
    assert (tmp_path / "out" / run.MODEL_WEIGHTS).stat().st_mode == (tmp_path / "out" / run.CARD).stat().st_mode
    again, sha256 = trained.load_exported(tmp_path / "out")
    assert sha256 == sha256_of_file(tmp_path / "out" / run.MODEL_WEIGHTS)
    with torch.inference_mode():
        assert torch.equal(again.model(images), built.model(images))


def test_run_folder_and_onnx_agree(runs: Path, exported: Path, blobs: Path) -> None:
    predict(PredictConfig(run=runs / "plain", store=blobs, name="all"))
    expected = pl.read_parquet(runs / "plain" / run.PREDICTIONS / "all.parquet")
    for name, path in {"folder": exported, "onnx": exported / run.ONNX}.items():
        predict(PredictConfig(model=path, out=runs / "scored" / name, store=blobs, name="all"))
        found = pl.read_parquet(runs / "scored" / name / run.PREDICTIONS / "all.parquet")
        assert found.drop(tables.SCORE, tables.LOGIT).equals(expected.drop(tables.SCORE, tables.LOGIT))
        assert (found[tables.LOGIT] - expected[tables.LOGIT]).abs().max() <= 1e-5
    assert expected[tables.LOGIT].std() > 1e-4


def test_the_cards_code_gives_the_runs_scores(runs: Path, exported: Path, blobs: Path) -> None:
    """What a stranger does by the card: timm, stretched images, its normalisation."""
    import cv2

    store = open_store(blobs)
    loaded = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(loaded)
    image = cv2.imdecode(np.frombuffer(store.read(72), np.uint8), cv2.IMREAD_COLOR_RGB)
    stretched = cv2.resize(image, (32, 32), interpolation=cv2.INTER_LINEAR)
    with torch.inference_mode():
        logit = loaded(Normalise(data["mean"], data["std"])(torch.from_numpy(stretched)[None])).item()
    val = pl.read_parquet(runs / "plain" / run.PREDICTIONS / "val.parquet")
    assert val[tables.IMAGE_ID][0] == store.image_ids[72]
    assert logit == pytest.approx(val[tables.LOGIT][0], abs=2e-4)  # where we halve a large image first


def test_predictions_of_an_exported_model_can_be_submitted(runs: Path, exported: Path, blobs: Path) -> None:
    config = PredictConfig(model=exported, out=runs / "for_kaggle", store=blobs)
    predict(config)
    path = runs / "for_kaggle" / run.PREDICTIONS / "test.parquet"
    before = path.stat().st_mtime_ns
    predict(config)
    assert path.stat().st_mtime_ns == before
    assert json.loads((runs / "for_kaggle" / run.DONE).read_text())["num_images"] == 120
    with pytest.raises(BadInput, match=r"for_kaggle holds a run of another config \(name: test there, other now\)"):
        predict(config.model_copy(update={"name": "other"}))
    sample = runs / "sample_submission.csv"
    ids = open_store(blobs).image_ids
    tables.write_table(sample, pl.DataFrame({tables.ISIC_ID: ids, tables.TARGET: [0.3] * 120}))
    submit(SubmitConfig(sample_submission=sample, predictions=path, out=runs / "submission"))
    assert len(pl.read_csv(runs / "submission" / run.SUBMISSION)) == 120


def test_unfinished_predictions_of_an_exported_model_go_on(runs: Path, exported: Path, blobs: Path) -> None:
    """As a kill leaves them: a shard and no done.json; the same command keeps the shard."""
    config = PredictConfig(model=exported, out=runs / "killed", store=blobs)
    predict(config)
    path = runs / "killed" / run.PREDICTIONS / "test.parquet"
    whole, record = pl.read_parquet(path), json.loads(path.with_suffix(".json").read_text())
    for gone in (path, path.with_suffix(".json"), runs / "killed" / run.DONE):
        gone.unlink()
    shards = shards_folder(path, {key: value for key, value in record.items() if key != "made"})
    whole.with_columns(pl.lit(9.0).alias(tables.LOGIT)).write_parquet(shards / "00000000.parquet")
    predict(config)
    assert pl.read_parquet(path)[tables.LOGIT].unique().to_list() == [9.0]
    assert (runs / "killed" / run.DONE).is_file()


def test_an_out_folder_is_not_left_where_nothing_could_be_scored(runs: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder; give an image"):
        predict(PredictConfig(model=exported, out=tmp_path / "out", images=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_what_an_onnx_file_cannot_do(exported: Path, blobs: Path, tmp_path: Path) -> None:
    for settings in ({"precision": "bf16"}, {"hardware": {"device": "cuda"}}, {"hardware": {"compile": True}}):
        config = {"model": exported / run.ONNX, "out": tmp_path / "o", "store": blobs, **settings}
        with pytest.raises(BadInput, match="an ONNX file is scored as it is, on the CPU and in fp32"):
            predict(PredictConfig.model_validate(config))


def test_the_card(runs: Path, exported: Path, blobs: Path) -> None:
    card = (exported / run.CARD).read_text()
    config = TrainConfig.model_validate(trained.read_config(runs / "plain"))
    epochs = config.optim.epochs
    _, front, body = card.split("---\n", 2)
    meta = yaml.safe_load(front)
    assert (meta["license"], meta["library_name"], meta["pipeline_tag"]) == ("other", "timm", "image-classification")
    assert {"timm", "image-classification"} <= set(meta["tags"])
    assert "base_model" not in meta  # random weights
    scores = json.loads((runs / "plain" / run.EVALUATION / run.SCORES).read_text())["parts"]["val"]["scores"]["pauc"]
    for said in (
        "research software, not a medical device",
        "one data set",
        "skin tone",
        "val chose none of them",
        open_store(blobs).digest,
        "Split: given file split.csv",
        f"1,200 steps of {config.data.batch_size} images, {epochs} of {epochs} epochs; the weights",
        "54 real benign, 18 real malignant (72 in all)",
        sha256_of_file(exported / run.MODEL_WEIGHTS),
        "mean (0.5, 0.5, 0.5), standard deviation (0.5, 0.5, 0.5)",
        'timm.create_model("local-dir:',
        "`images` uint8 (batch, 32, 32, 3)",
        "Checked: the logits of ONNX Runtime and PyTorch differ by at most ",
        "of the largest logit (1; never counted below 1): within the tolerance of 1e-05.",
        f"| pauc | {scores['estimate']:.4f} | {scores['low']:.4f} to {scores['high']:.4f} |",
        "### test",
        "  store: blobs\n",  # not where it lies on this machine
    ):
        assert said.lower() in body.lower(), said
    assert str(runs) not in card
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert TrainConfig.model_validate(recipe).model.name == "test_resnet"


def test_the_card_says_how_long_it_trained(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    settings = {
        "data": {"batch_size": 16},
        "model": {"name": "test_resnet", "weights": "random"},
        "optim": {"epochs": 8, "patience": 2},
    }
    folder = write_run(tmp_path / "run", blobs, blob_split, settings, select="best_val")
    with pytest.raises(BadInput, match=r"metrics.jsonl: missing or empty, so nothing says when training stopped"):
        export(ExportConfig(run=folder, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    rows = [{"step": 240 * epoch, "epoch": epoch} for epoch in range(1, 9)]
    for num, words in {5: "5 of 8 epochs, stopped early;", 8: "8 of 8 epochs;"}.items():
        (folder / run.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows[:num]))
        export(ExportConfig(run=folder, out=tmp_path / words[:1]))
        card = (tmp_path / words[:1] / run.CARD).read_text()
        assert f"1,200 steps of 16 images, {words} the weights are those of epoch 3." in card


def test_the_card_of_a_run_without_scores(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    settings = {"model": {"name": "test_resnet", "weights": "random"}}
    folder = write_run(tmp_path / "run", blobs, blob_split, settings, select="best_val")
    export(ExportConfig(run=folder, out=tmp_path / "out", license="cc-by-nc-4.0"))
    card = (tmp_path / "out" / run.CARD).read_text()
    assert "## Scores\n\nNot evaluated.\n" in card
    assert "epoch 3, chosen by the pAUC on val, so the scores on val flatter" in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-nc-4.0"
    # scores of other predictions than the run holds are not repeated
    predict(PredictConfig(run=folder))
    evaluate(EvaluateConfig(run=folder, num_replicates=100))
    (folder / run.PREDICTIONS / "val.parquet").unlink()
    export(ExportConfig(run=folder, out=tmp_path / "later"))
    assert (
        "Not evaluated: the scores in the run are of other predictions of val"
        in (tmp_path / "later" / run.CARD).read_text()
    )


def test_an_export_is_made_once_and_of_one_runs_weights(runs: Path, exported: Path, tmp_path: Path) -> None:
    before = (exported / run.CARD).stat().st_mtime_ns
    export(ExportConfig(run=runs / "plain", out=exported, onnx=True))
    assert (exported / run.CARD).stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="holds a run of another config"):
        export(ExportConfig(run=runs / "plain", out=exported))
    with pytest.raises(BadInput, match=r"plain was made by `lesionforge train`, not by export; name another folder"):
        export(ExportConfig(run=runs / "plain", out=runs / "plain"))


def test_a_run_that_cannot_be_exported(runs: Path, blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder; make it with `lesionforge train`"):
        export(ExportConfig(run=tmp_path / "none", out=tmp_path / "out"))
    with pytest.raises(BadInput, match=r"not a training run \(no weights.safetensors\)"):
        export(ExportConfig(run=blobs, out=tmp_path / "out"))
    group = tmp_path / "group"
    group.mkdir()
    write_json(group / run.DONE, {"members": ["fold-0-seed-0", "fold-1-seed-0"]})
    with pytest.raises(BadInput, match=r"a group of 2 models, expected one; name .*members/fold-0-seed-0"):
        export(ExportConfig(run=group, out=tmp_path / "out"))


def test_folders_that_are_no_exported_model(runs: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    def scored_by(folder: Path) -> None:
        predict(PredictConfig(model=folder, out=tmp_path / "scored", store=blobs))

    with pytest.raises(BadInput, match=r"no such file; make one with `lesionforge export"):
        scored_by(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"not an exported model \(no config.json\); .*or name a run with --run"):
        scored_by(runs / "plain")
    export(ExportConfig(run=runs / "plain", out=tmp_path / "out"))
    path, weights = tmp_path / "out" / run.MODEL_CONFIG, tmp_path / "out" / run.MODEL_WEIGHTS
    config = json.loads(path.read_text())
    write_json(path, {**config, "pretrained_cfg": {**config["pretrained_cfg"], "input_size": [3, 64, 64]}})
    with pytest.raises(BadInput, match=r"input_size \[3, 64, 64\], expected \[3, 32, 32\] as the model was exported"):
        scored_by(tmp_path / "out")
    write_json(path, {**config, "lesionforge": {"weights_sha256": "0"}})
    with pytest.raises(BadInput, match=r"config.json: damaged \(KeyError\('model'\)\); export the run again"):
        scored_by(tmp_path / "out")
    write_json(path, {key: value for key, value in config.items() if key != "lesionforge"})
    with pytest.raises(BadInput, match=r"not written by `lesionforge export` \(it has no entry lesionforge\)"):
        scored_by(tmp_path / "out")
    write_json(path, config)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match=r"model.safetensors: damaged, its SHA-256 is not the recorded one"):
        scored_by(tmp_path / "out")
