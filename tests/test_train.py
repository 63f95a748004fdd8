"""Training as a user sees it: a folder that the same command makes, goes on with, or leaves alone, always the same."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic_stores import write_synthetic_store

from lesionforge import run, tables
from lesionforge.classifier.train import TrainConfig, train
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_file
from lesionforge.recipe import read_recipe


def config_of(out: Path, blobs: Path, blob_split: Path, **changes: Any) -> TrainConfig:
    """Four epochs of nine steps on the blobs; `changes` are sections or values that differ."""
    settings: dict[str, Any] = {
        "out": out,
        "data": {"store": blobs, "split": blob_split, "image_size": 32, "batch_size": 8},
        "augment": {"preset": "strong"},
        "model": {"name": "test_resnet", "weights": "random"},
        "optim": {"epochs": 4, "lr": 2e-3},
        "hardware": {"device": "cpu", "torch_threads": 1},
    }
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) and key in settings else value
    return TrainConfig.model_validate(settings)


def files_of(out: Path) -> tuple[str, str]:
    """What must be equal to the bit: weights and metrics."""
    return sha256_of_file(out / run.WEIGHTS), (out / run.METRICS).read_text()


@pytest.fixture(scope="module")
def whole(blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(config_of(out, blobs, blob_split))
    return out


def test_a_run_holds_what_it_should(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {
        run.CONFIG, run.ENVIRONMENT, run.LOG, run.INPUTS, run.MIX, run.METRICS, run.TENSORBOARD, run.WEIGHTS, run.DONE,
    }  # fmt: skip
    rows = [json.loads(line) for line in (whole / run.METRICS).read_text().splitlines()]
    assert [row["step"] for row in rows] == [9, 18, 27, 36]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert 0 <= rows[-1]["val_pauc"] <= 0.2
    done = json.loads((whole / run.DONE).read_text())
    assert done["weights_sha256"] == sha256_of_file(whole / run.WEIGHTS)
    assert (done["benign_seen"], done["benign"]) == (54, 54)
    assert "saw 54 of 54 distinct benign images" in (whole / run.LOG).read_text()


def test_the_mix_holds_training_images_only(whole: Path, blob_split: Path) -> None:
    mix = pl.read_parquet(whole / run.MIX)
    parts = mix.join(pl.read_csv(blob_split), on=tables.IMAGE_ID)[tables.PART]
    assert set(parts) == {tables.TRAIN}
    assert "asked 18/54, drew 18/54" in (whole / run.LOG).read_text()


def test_a_finished_run_is_left_alone(whole: Path, blobs: Path, blob_split: Path) -> None:
    before = (whole / run.DONE).stat().st_mtime_ns
    train(config_of(whole, blobs, blob_split))
    assert (whole / run.DONE).stat().st_mtime_ns == before


def test_another_config_in_the_folder_is_refused_with_the_keys_that_differ(
    whole: Path, blobs: Path, blob_split: Path
) -> None:
    with pytest.raises(BadInput, match=r"another config \(optim\.lr: 0\.002 there, 0\.003 now\)"):
        train(config_of(whole, blobs, blob_split, optim={"lr": 3e-3}))


def test_same_seed_same_weights_whatever_the_threads(
    whole: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    train(config_of(tmp_path / "r", blobs, blob_split, hardware={"loader_threads": 3}))
    assert files_of(tmp_path / "r") == files_of(whole)


def test_another_seed_gives_other_weights(whole: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    train(config_of(tmp_path / "r", blobs, blob_split, seed=1))
    assert files_of(tmp_path / "r")[0] != files_of(whole)[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_mid_epoch_and_resumed_equals_uninterrupted(
    whole: Path, blobs: Path, blob_split: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Stopped twice, resumed with another number of loader threads: the same bits, weights and metrics."""
    config = config_of(tmp_path / "r", blobs, blob_split, hardware={"checkpoint_minutes": 0})
    for after in (5, 14):
        with pytest.raises(SystemExit) as stopped:
            interrupted(config, number, after)
        assert stopped.value.code == 128 + number
        assert not (tmp_path / "r" / run.DONE).exists()
        config = config_of(tmp_path / "r", blobs, blob_split, hardware={"checkpoint_minutes": 0, "loader_threads": 1})
    train(config)
    assert "going on at step" in (tmp_path / "r" / run.LOG).read_text()
    assert files_of(tmp_path / "r") == files_of(whole)


def interrupted(config: TrainConfig, number: signal.Signals, after_step: int) -> None:
    """Train, with a signal to this process once the checkpoint of `after_step` or a later one is there."""

    def send() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            steps = [int(path.stem.split("-")[1]) for path in (config.out / run.CHECKPOINTS).glob("step-*.json")]
            if steps and max(steps) >= after_step:
                os.kill(os.getpid(), number)
                return
            time.sleep(0.002)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        train(config)
    finally:
        sender.join()


def test_ema_bf16_balance_and_micro_batches_resume_too(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """Everything that has a state of its own at once."""
    changes: dict[str, Any] = {
        "data": {"sampler": "balanced", "samples_per_epoch": 48},
        "optim": {"ema_decay": 0.9, "precision": "bf16", "micro_batch_size": 4, "epochs": 3},
        "select": "best_val",
    }
    train(config_of(tmp_path / "whole", blobs, blob_split, **changes))
    config = config_of(
        tmp_path / "r",
        blobs,
        blob_split,
        **changes,
        hardware={"checkpoint_minutes": 0, "device": "cpu", "torch_threads": 1},
    )
    with pytest.raises(SystemExit):
        interrupted(config, signal.SIGTERM, 8)
    train(config)
    assert files_of(tmp_path / "r") == files_of(tmp_path / "whole")


def test_best_val_takes_the_best_epoch(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    train(config_of(tmp_path / "r", blobs, blob_split, select="best_val", optim={"epochs": 5}))
    rows = [json.loads(line) for line in (tmp_path / "r" / run.METRICS).read_text().splitlines()]
    best = max(rows, key=lambda row: row["val_pauc"])  # the first of equals
    assert json.loads((tmp_path / "r" / run.DONE).read_text())["weights_epoch"] == best["epoch"]


def test_best_val_without_val_is_refused(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set val_every to 1 or more"):
        train(config_of(tmp_path / "r", blobs, blob_split, select="best_val", val_every=0))


def test_a_mix_that_cannot_be_drawn_leaves_nothing_behind(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """So the mended command finds its folder free."""
    data = {"mix": {"malignant": 303, "benign": 50}}
    with pytest.raises(BadInput, match=r"asked 303 malignant, the train part holds 18; .*scale auto"):
        train(config_of(tmp_path / "r", blobs, blob_split, data=data))
    assert not (tmp_path / "r").exists()
    data["mix"]["scale"] = "auto"  # type: ignore[assignment]
    train(config_of(tmp_path / "r", blobs, blob_split, data={**data, "batch_size": 4}, optim={"epochs": 1}))
    assert "asked 303/50, drew 18/2" in (tmp_path / "r" / run.LOG).read_text()


def test_a_batch_larger_than_the_mix_is_refused(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data\.batch_size: 100 is more than the 72 images of the mix"):
        train(config_of(tmp_path / "r", blobs, blob_split, data={"batch_size": 100}))


def test_an_odd_batch_leaves_nothing_behind(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the batch size must be even, found 7"):
        train(config_of(tmp_path / "r", blobs, blob_split, data={"batch_size": 7, "sampler": "balanced"}))
    assert not (tmp_path / "r").exists()


def test_altered_data_are_refused_on_resume(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.csv"
    split.write_text(blob_split.read_text())
    config = config_of(tmp_path / "r", blobs, split, hardware={"checkpoint_minutes": 0})
    with pytest.raises(SystemExit):
        interrupted(config, signal.SIGTERM, 3)
    table = pl.read_csv(split)
    tables.write_table(split, table.with_columns(pl.col(tables.PART).replace({"test": "val"})))
    with pytest.raises(BadInput, match="started on other data"):
        train(config)


def test_a_damaged_last_checkpoint_costs_only_its_steps(
    whole: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "r", blobs, blob_split, hardware={"checkpoint_minutes": 0})
    with pytest.raises(SystemExit):
        interrupted(config, signal.SIGTERM, 6)
    last = max((tmp_path / "r" / run.CHECKPOINTS).glob("*.safetensors"))
    data = bytearray(last.read_bytes())
    data[-5] ^= 64
    last.write_bytes(data)
    train(config)
    assert "damaged" in (tmp_path / "r" / run.LOG).read_text()
    assert files_of(tmp_path / "r") == files_of(whole)


def test_the_resolved_config_is_a_recipe(whole: Path, blobs: Path, blob_split: Path) -> None:
    assert TrainConfig.model_validate(read_recipe(whole / run.CONFIG).settings) == config_of(whole, blobs, blob_split)


@pytest.mark.slow  # starts the wandb service
def test_wandb_stays_on_the_machine(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    train(config_of(tmp_path / "r", blobs, blob_split, track={"wandb": "offline"}, optim={"epochs": 1}))
    assert list((tmp_path / "r" / "wandb").glob("offline-run-*"))


def test_synthetic_lesions_join_the_mix_by_the_path_of_their_store(
    blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """They come from another store, are drawn as asked, and val knows none of them."""
    seen = pl.read_parquet(blobs / run.SAMPLES).head(3).select(tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256)
    synthetic = write_synthetic_store(tmp_path / "synthetic", seen)
    data = {"synthetic": [synthetic], "mix": {"malignant": 5, "benign": 20, "synthetic_malignant": 5}}
    train(config_of(tmp_path / "r", blobs, blob_split, data=data, optim={"epochs": 1}))
    mix = pl.read_parquet(tmp_path / "r" / run.MIX)
    drawn = mix.filter(pl.col(tables.SOURCE) == tables.SYNTHETIC)
    assert (len(mix), len(drawn), set(drawn[tables.STORE])) == (30, 5, {1})
    assert "drew 5+5 synthetic/20" in (tmp_path / "r" / run.LOG).read_text()
    assert "split: given file split.csv" in (tmp_path / "r" / run.LOG).read_text()
    assert "their generator saw 3 real images, none of val or test" in (tmp_path / "r" / run.LOG).read_text()
    assert set(pl.read_parquet(tmp_path / "r" / run.SEEN)[tables.IMAGE_ID]) == set(seen[tables.IMAGE_ID])
