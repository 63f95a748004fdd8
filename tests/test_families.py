"""The table of families is what timm says: names, tags, sizes, normalisation, parameters, licences."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import timm
import torch

from lesionforge import run, tables
from lesionforge.classifier.explain import ExplainConfig, explain
from lesionforge.classifier.predict import PredictConfig, predict
from lesionforge.classifier.settings import TrainConfig
from lesionforge.classifier.train import train
from lesionforge.engine import families, model
from lesionforge.engine.families import FAMILIES, NO_WEIGHTS, NORMALISATIONS
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_file

TEN = ("vit", "swin", "eva02", "edgenext", "deit3", "beitv2", "convnext", "resnet", "densenet", "efficientnet")
TINY = [f"{name}:tiny" for name in TEN]


def test_ten_families_in_three_sizes() -> None:
    assert {f"{name}{size}" for name in TEN for size in ("", ":small", ":tiny")} <= FAMILIES.keys()


@pytest.mark.parametrize("short_name", FAMILIES)
def test_a_row_is_timms(short_name: str) -> None:
    """The tag exists, and size, normalisation and licence are those of its weights."""
    row = FAMILIES[short_name]
    theirs = timm.get_pretrained_cfg(row.timm_name)
    assert theirs is not None
    assert row.pixels == theirs.input_size[-1]
    assert NORMALISATIONS[row.normalisation] == (theirs.mean, theirs.std)
    if row.timm_args:
        assert row.licence == NO_WEIGHTS
    else:
        assert theirs.hf_hub_id
        assert row.timm_name.partition(".")[2], "weights without a tag change with timm's version"
        assert row.licence == theirs.license


@pytest.mark.parametrize("short_name", TINY)
def test_tiny_is_small_and_takes_any_size_of_its_patches(short_name: str) -> None:
    size = 70 if short_name.startswith("eva02") else 64  # EVA-02 has patches of 14 px
    built = model.build_model(short_name, "random", size)
    millions = sum(p.numel() for p in built.model.parameters()) / 1e6
    assert millions == pytest.approx(FAMILIES[short_name].parameters, abs=0.12)  # position embeddings shrink
    assert millions < 6.1
    with torch.no_grad():
        assert built.model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 1)


@pytest.mark.slow  # builds 900 M parameters
@pytest.mark.parametrize("short_name", [name for name in FAMILIES if name not in TINY])
def test_larger_ones_have_the_parameters_that_the_table_says(short_name: str) -> None:
    built = model.build_model(short_name, "random")
    assert sum(p.numel() for p in built.model.parameters()) / 1e6 == pytest.approx(
        FAMILIES[short_name].parameters, abs=0.006
    )
    assert (built.mean, built.std) == NORMALISATIONS[FAMILIES[short_name].normalisation]


def test_a_narrowed_family_has_no_weights_on_the_hub() -> None:
    with pytest.raises(
        BadInput, match=r"no pretrained weights for 'beitv2:tiny'; give a file .* --model.weights random"
    ):
        model.build_model("beitv2:tiny", "hub")


def test_the_printed_table_is_aligned_and_whole() -> None:
    lines = families.as_text().splitlines()
    table = lines[: len(FAMILIES) + 1]
    start = table[0].index("timm architecture")
    for line, name in zip(table[1:], FAMILIES, strict=True):
        assert line.startswith(name)
        assert line[start - 1] == " " != line[start]


@pytest.mark.parametrize("short_name", FAMILIES)
def test_each_is_a_transformer_or_a_cnn(short_name: str) -> None:
    """As the study counts them: EdgeNeXt, which has both, with the transformers."""
    transformers = ("vit", "swin", "eva02", "edgenext", "deit3", "beitv2")
    expected = "transformer" if short_name.partition(":")[0] in transformers else "CNN"
    assert families.kind_of(short_name) == expected
    assert families.kind_of(FAMILIES[short_name].timm_name) == expected


def test_of_other_architectures_nothing_is_said() -> None:
    assert families.kind_of("mobilenetv2_100.ra_in1k") == "CNN"
    for name in ("pit_ti_224", "nonsense", "tf_efficientnet_b0", ""):
        assert families.kind_of(name) is None
    assert families.timm_name_of("vit:tiny") == "vit_tiny_patch16_224"
    assert families.timm_name_of("resnet18.a1_in1k") == families.timm_name_of("resnet18") == "resnet18"


def config_of(out: Path, short_name: str, store: Path, split: Path) -> TrainConfig:
    """Four steps at the smallest size that the deepest of them can halve five times."""
    size = 42 if short_name.startswith("eva02") else 32
    return TrainConfig.model_validate(
        {
            "out": out,
            "data": {"store": store, "split": split, "image_size": size, "batch_size": 8, "samples_per_epoch": 16},
            "model": {"name": short_name, "weights": "random"},
            "optim": {"epochs": 2, "lr": 1e-3},
            "hardware": {"device": "cpu", "torch_threads": 1, "checkpoint_minutes": 0},
        }
    )


@pytest.mark.slow  # 3 to 8 s each
@pytest.mark.parametrize("short_name", TINY)
def test_each_family_trains_saves_resumes_predicts_and_explains(
    short_name: str, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """Stopped after its first checkpoint and resumed, a run ends with the bits of one that nothing disturbed."""
    train(config_of(tmp_path / "whole", short_name, blobs, blob_split))
    config = config_of(tmp_path / "r", short_name, blobs, blob_split)

    def stop_after_a_step() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not list((config.out / run.CHECKPOINTS).glob("step-*.json")):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=stop_after_a_step)
    sender.start()
    with pytest.raises(SystemExit):
        train(config)
    sender.join()
    train(config)
    assert sha256_of_file(config.out / run.WEIGHTS) == sha256_of_file(tmp_path / "whole" / run.WEIGHTS)

    predict(PredictConfig(run=config.out))
    scores = tables.read_table(config.out / run.PREDICTIONS / "val.parquet")[tables.SCORE]
    assert len(scores) == 24
    assert scores.n_unique() > 1

    explain(ExplainConfig(runs=(config.out,), out=tmp_path / "maps", num_images=4, num_shown=2, num_random=1))
    measured = tables.read_table(tmp_path / "maps" / run.FOCUS_LESIONS)
    shares = measured["focus"].drop_nans().drop_nulls()  # NaN: all evidence is against malignancy, no positive map
    assert measured.height >= 4
    assert shares.is_between(0, 1).all()
    assert (tmp_path / "maps" / run.FIGURE5).exists()
