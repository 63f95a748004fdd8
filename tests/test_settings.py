"""Each switch of a training changes what it says, seen in what the run leaves behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import blob

from lesionforge import run, tables
from lesionforge.classifier.settings import TrainConfig
from lesionforge.classifier.train import build_model, train
from lesionforge.data.store import write_store
from lesionforge.engine import inference, model
from lesionforge.engine.checkpoint import load_tensors
from lesionforge.errors import BadInput


def config_of(out: Path, store: Path, split: Path, **changes: Any) -> TrainConfig:
    """One epoch of nine steps; `changes` are sections or values that differ."""
    settings: dict[str, Any] = {
        "out": out,
        "data": {"store": store, "split": split, "image_size": 32, "batch_size": 8},
        "model": {"name": "test_vit", "weights": "random"},
        "optim": {"epochs": 1, "lr": 1e-3},
        "val_every": 0,
        "hardware": {"device": "cpu", "torch_threads": 1, "cache": "memory"},
    }
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) and key in settings else value
    return TrainConfig.model_validate(settings)


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_tensors(out / run.WEIGHTS)


@pytest.fixture(scope="module")
def plain(blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "r"
    train(config_of(out, blobs, blob_split))
    return out


SWITCHES: dict[str, dict[str, Any]] = {
    "layer decay": {"optim": {"layer_decay": 0.5}},
    "head lr": {"optim": {"head_lr": 1e-2}},
    "weight decay": {"optim": {"weight_decay": 0.5}},
    "mixup": {"loss": {"mixup": 0.5}},
    "cutmix": {"loss": {"cutmix": 1.0}},
    "focal": {"loss": {"kind": "focal"}},
    "positive weight": {"loss": {"positive_weight": "balanced"}},
    "label smoothing": {"loss": {"label_smoothing": 0.1}},
    "stochastic depth": {"model": {"drop_path_rate": 0.5}},
    "dropout": {"model": {"drop_rate": 0.5}},
    "average": {"optim": {"ema_decay": 0.9}},
    "average with warm-up": {"optim": {"ema_decay": 0.999, "ema_warmup": True}},
    "fresh benign": {"data": {"sampler": "fresh_benign", "benign_per_malignant": 3}},
    "bf16": {"optim": {"precision": "bf16"}},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_gives_other_weights(name: str, plain: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """The finest test that nothing is ignored; what each does is tested where it is done."""
    train(config_of(tmp_path / "r", blobs, blob_split, **SWITCHES[name]))
    ours, theirs = weights_of(tmp_path / "r"), weights_of(plain)
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(tensor.isfinite().all() for tensor in ours.values())


def test_gradient_checkpointing_changes_memory_and_not_the_weights(
    plain: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "r", blobs, blob_split, model={"grad_checkpointing": True})
    train(config)
    ours, theirs = weights_of(tmp_path / "r"), weights_of(plain)
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 1e-5
    saved = [saved_by(build_model(config)), saved_by(build_model(config_of(tmp_path, blobs, blob_split)))]
    assert saved[0] < 0.5 * saved[1]


def saved_by(built: model.Built) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        built.model.train()(torch.zeros(4, 3, 32, 32))
    return kept


def test_a_model_without_gradient_checkpointing_is_refused(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "r", blobs, blob_split, model={"name": "vgg11", "grad_checkpointing": True})
    with pytest.raises(BadInput, match=r"model\.grad_checkpointing: vgg11.* cannot do it; leave it off"):
        build_model(config)


def test_stochastic_depth_and_dropout_reach_the_model(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    changes = {"drop_path_rate": 0.2, "drop_rate": 0.3}
    built = build_model(config_of(tmp_path / "r", blobs, blob_split, model=changes))
    assert built.model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)  # type: ignore[index,union-attr]
    assert built.model.head_drop.p == 0.3  # type: ignore[union-attr]


def test_frozen_epochs_leave_all_but_the_last_layer(plain: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """Of two epochs the second has a learning rate that ends at zero, so most of the way was gone in the first."""
    distances = []
    for num_frozen in (0, 1):
        config = config_of(
            tmp_path / str(num_frozen), blobs, blob_split, optim={"epochs": 2, "freeze_epochs": num_frozen}
        )
        train(config)
        torch.manual_seed(config.seed)
        first = build_model(config).model.state_dict()["blocks.0.attn.qkv.weight"]
        distances.append(float((weights_of(config.out)["blocks.0.attn.qkv.weight"] - first).norm()))
    assert 0 < distances[1] < 0.6 * distances[0]
    assert "only the last layer learns" in (tmp_path / "1" / run.LOG).read_text()
    with pytest.raises(ValueError, match="freeze_epochs: found 2 of 2 epochs, expected fewer"):
        config_of(tmp_path / "r", blobs, blob_split, optim={"epochs": 2, "freeze_epochs": 2})


def test_the_record_counts_parameters(plain: Path) -> None:
    """All of this network's tensors are parameters: it has no batch norm."""
    done = json.loads((plain / run.DONE).read_text())
    assert done["num_parameters"] == sum(tensor.numel() for tensor in weights_of(plain).values())


def test_patience_stops_early_with_the_best_weights(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """At a learning rate of next to nothing nothing gets better, so the second of 30 epochs is the last."""
    optim = {"epochs": 30, "patience": 1, "lr": 1e-12, "min_lr": 0.0}
    train(config_of(tmp_path / "r", blobs, blob_split, optim=optim, select="best_val", val_every=1))
    done = json.loads((tmp_path / "r" / run.DONE).read_text())
    assert (done["num_steps"], done["weights_epoch"]) == (18, 1)
    assert "stopping early" in (tmp_path / "r" / run.LOG).read_text()
    with pytest.raises(ValueError, match="set select to best_val"):
        config_of(tmp_path / "r", blobs, blob_split, optim={"patience": 3})


def test_a_run_starts_from_another(plain: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    """At a learning rate of next to nothing it ends where the other one ended."""
    changes: dict[str, Any] = {"optim": {"lr": 1e-12, "min_lr": 0.0, "weight_decay": 0.0}}
    train(config_of(tmp_path / "r", blobs, blob_split, model={"init_from": plain}, **changes))
    ours, theirs = weights_of(tmp_path / "r"), weights_of(plain)
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 1e-6
    assert json.loads((tmp_path / "r" / run.DONE).read_text())["model"]["weights"] == "run r"


def test_a_start_that_has_seen_val_leaves_nothing_behind(plain: Path, blobs: Path, tmp_path: Path) -> None:
    split = tmp_path / "other.csv"
    ids = [f"ISIC_{i:07d}" for i in range(120)]
    parts = ["val"] * 24 + ["train"] * 96
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.PART: parts}))
    with pytest.raises(BadInput, match="has learned from images of this run's val or test, 24 of them"):
        train(config_of(tmp_path / "r", blobs, split, model={"init_from": plain}))
    assert not (tmp_path / "r").exists()


def test_a_second_head_learns_a_diagnosis_column(blob_split: Path, tmp_path: Path) -> None:
    """Its loss shows in the log; the weights have no trace of it."""
    store = tmp_path / "store"
    store.mkdir()
    rng = np.random.default_rng(0)
    ids, targets = [f"ISIC_{i:07d}" for i in range(120)], [int(i % 4 == 0) for i in range(120)]
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: ids,
            tables.TARGET: pl.Series(targets, dtype=pl.Int8),
            tables.SOURCE: [tables.REAL] * 120,
            "iddx_3": ["Melanoma" if target else "Nevus" for target in targets],
        }
    )
    write_store(store, [(name, blob(rng, bool(t))) for name, t in zip(ids, targets, strict=True)], samples)
    run.mark_done(store)
    train(config_of(tmp_path / "r", store, blob_split, loss={"auxiliary": "iddx_3"}))
    assert "second head: 2 classes of iddx_3, known for 72 of 72 images" in (tmp_path / "r" / run.LOG).read_text()
    assert weights_of(tmp_path / "r").keys() == model.build_model("test_vit", "random", 32).model.state_dict().keys()


def test_a_length_for_fresh_epochs_is_refused(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the sampler fresh_benign has a length of its own"):
        config_of(tmp_path, blobs, blob_split, data={"sampler": "fresh_benign", "samples_per_epoch": 64})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"focal_gamma": 5.0}}, "focal_gamma: nothing uses it here; set kind to focal"),
        ({"loss": {"mix_probability": 0.1}}, "mix_probability: nothing uses it here"),
        ({"loss": {"auxiliary_weight": 2.0}}, "auxiliary_weight: nothing uses it here"),
        ({"data": {"benign_per_malignant": 9}}, "benign_per_malignant: sampler shuffle does not use it"),
        ({"optim": {"ema_warmup": True}}, "ema_warmup: there is no average to warm up"),
        ({"optim": {"betas": [0.9, 1.5]}}, "less than 1"),
        ({"model": {"std": [0.0, 0.0, 0.0]}}, "greater than 0"),
        ({"model": {"mean": [0.5, 0.5, 0.5], "init_from": "r"}}, "with init_from they are those of that run"),
    ],
)
def test_what_would_do_nothing_or_cannot_be_is_refused(
    changes: dict[str, Any], message: str, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, blobs, blob_split, **changes)


@pytest.mark.slow  # the compiler works for half a minute
def test_a_compiled_model_learns_the_same(plain: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    train(config_of(tmp_path / "r", blobs, blob_split, hardware={"compile": True}))
    ours, theirs = weights_of(tmp_path / "r"), weights_of(plain)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 2e-3  # nine steps of lr 1e-3


def test_the_cache_of_the_device_trains_on_the_same_images(
    plain: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """Decoded and augmented there: within a level of 255, so the loss is the same to the second digit."""
    train(config_of(tmp_path / "r", blobs, blob_split, hardware={"cache": "device"}))
    ours, theirs = (json.loads((out / run.METRICS).read_text())["train_loss"] for out in (tmp_path / "r", plain))
    assert ours == pytest.approx(theirs, abs=0.02)


def test_views_are_the_eight_of_the_square() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert [len(list(inference.views(images, tta))) for tta in ("none", "flips", "flips_and_transposes")] == [1, 4, 8]
    eight = {view.tobytes() for view in inference.views(images, "flips_and_transposes")}
    turned = {np.rot90(flipped, k, (1, 2)).tobytes() for flipped in (images, images[:, ::-1]) for k in range(4)}
    assert eight == turned
