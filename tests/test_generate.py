"""`generate`: every image has its record and its own seed; stopped work goes on to the same bytes; never from val."""

import logging
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from generator_folders import PROMPTS, write_generator
from pydantic import ValidationError

from lesionforge import run, tables
from lesionforge.cli import main
from lesionforge.data import pixels, provenance
from lesionforge.data.parts import read_split
from lesionforge.data.store import Store, open_store
from lesionforge.diffusion import generate as module
from lesionforge.diffusion.generate import GenerateConfig, generate
from lesionforge.diffusion.pipeline import find_base
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_json

FAST = {"num_inference_steps": (2,), "guidance_scale": (3.0,)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def generator(tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators") / "malignant"
    return write_generator(folder, tiny_sd, blobs, blob_split, epochs=(10,))


@pytest.fixture(scope="module")
def of_both(tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators") / "both"
    return write_generator(folder, tiny_sd, blobs, blob_split, targets=(0, 1))


def config_of(generator: Path, out: Path, **changes: Any) -> GenerateConfig:
    settings = {"hardware": {"device": "cpu", "torch_threads": 1}, "batch_size": 3, "num_images": 6}
    return GenerateConfig.model_validate({"generator": generator, "out": out, **settings, **FAST, **changes})


def made(generator: Path, out: Path, **changes: Any) -> Store:
    generate(config_of(generator, out, **changes))
    return open_store(out)


def files_of(folder: Path) -> dict[str, bytes]:
    """What must not depend on when and how often the command was started."""
    names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in names}
    return {name: data for name, data in kept.items() if Path(name).name not in (run.LOG, run.ENVIRONMENT, run.DONE)}


def test_every_image_has_its_record(generator: Path, tmp_path: Path) -> None:
    """A grid of 2 guidances and 2 schedulers: image k has cell k modulo 4; its row says all that made it."""
    out = tmp_path / "out"
    store = made(generator, out, guidance_scale=(2, 5), scheduler=("ddim", "euler_ancestral"), negative_prompt="hair")
    samples = store.samples()
    store.verify()
    assert len(samples) == 6
    assert samples[tables.IMAGE_ID].str.starts_with("SYN_").all()
    assert samples[tables.PATIENT_ID].null_count() == 6
    assert samples[tables.TARGET].to_list() == [1] * 6
    assert samples[tables.SOURCE].to_list() == ["synthetic"] * 6
    assert samples[tables.SCHEDULER].to_list() == ["ddim", "ddim", "euler_ancestral", "euler_ancestral", "ddim", "ddim"]
    assert samples[tables.GUIDANCE_SCALE].to_list() == [2, 5, 2, 5, 2, 5]
    assert samples[tables.SEED].n_unique() == 6
    assert set(samples[tables.PROMPT]) <= set(PROMPTS)
    manifest = read_json(generator / run.GENERATOR)
    constant = {
        tables.GENERATOR: provenance.manifest_id(manifest), tables.GENERATION: "text_to_image",
        tables.NEGATIVE_PROMPT: "hair", tables.NUM_INFERENCE_STEPS: 2, tables.STRENGTH: None,
        tables.SOURCE_IMAGE: None, tables.CHECKPOINT: "last", tables.BASE_SHA256: manifest["base_sha256"],
        tables.ADAPTER_SHA256: manifest["adapter_sha256"], tables.SPLIT_SHA256: manifest["split_sha256"],
    }  # fmt: skip
    assert {name: samples[name].unique().to_list() for name in constant} == {k: [v] for k, v in constant.items()}
    known = provenance.read_provenance(out)
    assert known.manifests[provenance.manifest_id(manifest)] == manifest
    assert set(known.seen[tables.IMAGE_ID]) == set(pl.read_parquet(generator / run.SEEN)[tables.IMAGE_ID])
    assert known.sources.is_empty()
    assert not (out / run.SHARDS).exists()
    assert "safety checker: off" in (out / run.LOG).read_text()


def test_an_image_is_its_seeds_whatever_the_batch_and_the_number(generator: Path, tmp_path: Path) -> None:
    """Raw pixels of the first four of six, made three at a time, and of four, made one at a time."""
    settings = {"scheduler": ("ddpm",)}
    six = made(generator, tmp_path / "six", **settings)
    four = made(generator, tmp_path / "four", **settings, num_images=4, batch_size=1)
    assert four.samples()[tables.IMAGE_ID].to_list() == six.samples()[tables.IMAGE_ID].to_list()[:4]
    raw = [open_store(tmp_path / name / run.RAW) for name in ("six", "four")]
    for row in range(4):
        one, other = (pixels.decode(store.read(row)).astype(int) for store in raw)
        assert np.abs(one - other).max() <= 1  # 1e-4 before rounding
    other_seed = made(generator, tmp_path / "other", **settings, num_images=1, seed=1)
    assert other_seed.read(0).tobytes() != six.read(0).tobytes()


def test_a_stopped_run_goes_on_to_the_same_bytes(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"num_images": 8, "scheduler": ("euler_ancestral", "ddim"), "keep_raw": 5}
    made(generator, whole, **settings)
    real, calls = module.make_batch, []

    def signalled(*arguments: Any) -> np.ndarray:
        calls.append(len(arguments[1]))
        if len(calls) in (2, 3):
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(module, "make_batch", signalled)
    for left in (2, 3):  # batches of 3 and 1 of two schedulers
        with pytest.raises(SystemExit) as stopped:
            made(generator, broken, **settings)
        assert stopped.value.code == 128 + signal.SIGTERM
        assert len(list((broken / run.SHARDS).iterdir())) == left
        assert not (broken / run.DONE).exists()
        assert "the same command goes on" in (broken / run.LOG).read_text()
    made(generator, broken, **settings)
    assert sum(calls) == 8
    assert files_of(whole).keys() == files_of(broken).keys()
    different = [name for name, data in files_of(whole).items() if data != files_of(broken)[name]]
    assert different == [run.CONFIG]  # its `out`
    before = (broken / run.DONE).read_bytes()
    made(generator, broken, **settings)
    assert (broken / run.DONE).read_bytes() == before


def test_candidates_have_the_format_of_the_real_ones(generator: Path, blobs: Path, tmp_path: Path) -> None:
    """Sides are those of malignant images of part train; quality is cv2's 95, with which the blobs were written."""
    samples = made(generator, tmp_path / "out", num_images=12, keep_raw=3).samples()
    seen = pl.read_parquet(generator / run.SEEN)[tables.IMAGE_ID].to_list()
    real = open_store(blobs).samples().filter(pl.col(tables.IMAGE_ID).is_in(seen))
    assert set(samples[tables.WIDTH]) <= set(real[tables.WIDTH])
    assert samples[tables.WIDTH].n_unique() > 3
    assert samples[tables.WIDTH].to_list() == samples[tables.HEIGHT].to_list()
    assert samples[tables.JPEG_QUALITY].to_list() == [95] * 12
    raw = open_store(tmp_path / "out" / run.RAW).samples()
    assert raw[tables.IMAGE_ID].to_list() == samples[tables.IMAGE_ID].to_list()[:3]
    assert raw[tables.FORMAT].to_list() == ["png"] * 3
    assert raw[tables.WIDTH].to_list() == [64] * 3
    assert "JPEG quality 95 at 4:2:0 (100.0%)" in (tmp_path / "out" / run.LOG).read_text()


def test_a_fixed_format_and_none(generator: Path, tmp_path: Path) -> None:
    fixed = made(generator, tmp_path / "a", num_images=1, format={"side": 40, "quality": 60}, keep_raw=0).samples()
    assert fixed.select(tables.WIDTH, tables.JPEG_QUALITY, tables.FORMAT).row(0) == (40, 60, "jpeg")
    assert not (tmp_path / "a" / run.RAW).exists()
    plain = made(generator, tmp_path / "b", num_images=1, format={"match": "none"}, image_size=48).samples()
    assert plain.select(tables.WIDTH, tables.JPEG_QUALITY, tables.FORMAT).row(0) == (48, None, "png")


def test_images_that_must_be_enlarged_are_told(
    generator: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lesionforge"):
        made(generator, tmp_path / "out", num_images=1, image_size=32)  # the blobs have 40 to 63 px
    assert "100% of the formats are larger than the 32 px that images are made at" in caplog.text


def test_checkpoints_are_a_part_of_the_grid(generator: Path, tmp_path: Path) -> None:
    samples = made(generator, tmp_path / "out", num_images=4, checkpoint=("epoch-0010", "last")).samples()
    assert samples[tables.CHECKPOINT].to_list() == ["epoch-0010", "last"] * 2


def test_image_to_image_starts_from_training_lesions_of_the_class(
    generator: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """Two strengths; the sources, each with its patient and hash, are on record."""
    store = made(
        generator, tmp_path / "out", generation="image_to_image", strength=(0.05, 1.0), num_inference_steps=(20,),
        num_images=4, format={"match": "none"}, scheduler=("ddim",), prompt="a mole",
    )  # fmt: skip
    samples = store.samples()
    assert samples[tables.STRENGTH].to_list() == [0.05, 1.0] * 2
    assert samples[tables.GENERATION].unique().to_list() == ["image_to_image"]
    real = open_store(blobs).samples().join(read_split(blob_split), on=tables.IMAGE_ID)
    used = real.filter(pl.col(tables.IMAGE_ID).is_in(samples[tables.SOURCE_IMAGE].implode()))
    assert set(used[tables.PART]) == {"train"}
    assert set(used[tables.TARGET]) == {1}
    sources = provenance.read_provenance(tmp_path / "out").sources
    assert sources.sort(tables.IMAGE_ID).equals(used.select(sources.columns).sort(tables.IMAGE_ID))


def test_inpainting_starts_from_benign_lesions_of_patients_without_malignant_ones(
    generator: Path, tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    for mask in ("estimated", "ellipse"):
        out = tmp_path / mask
        samples = made(generator, out, generation="inpainting", num_images=3, sources={"mask": mask}).samples()
        real = open_store(blobs).samples()
        ill = real.filter(pl.col(tables.TARGET) == 1)
        used = real.filter(pl.col(tables.IMAGE_ID).is_in(samples[tables.SOURCE_IMAGE].implode()))
        assert set(used[tables.TARGET]) == {0}
        in_train = read_split(blob_split).filter(pl.col(tables.PART) == "train")[tables.IMAGE_ID]
        assert used[tables.IMAGE_ID].is_in(in_train.implode()).all()
        ill_in_train = ill.filter(pl.col(tables.IMAGE_ID).is_in(in_train.implode()))
        assert not used[tables.PATIENT_ID].is_in(ill_in_train[tables.PATIENT_ID].implode()).any()
        assert samples[tables.STRENGTH].to_list() == [1.0] * 3
        assert samples[tables.TARGET].to_list() == [1] * 3


def test_benign_ones(
    of_both: Path, generator: Path, tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """From a generator of both classes, or from what scratch was before it specialised."""
    assert made(of_both, tmp_path / "a", num_images=1, target="benign").samples()[tables.TARGET].to_list() == [0]
    with pytest.raises(BadInput, match=r"learned no benign lesions; finetune one with --data\.target benign or both"):
        made(generator, tmp_path / "b", num_images=1, target="benign")
    assert not (tmp_path / "b").exists()
    special = write_generator(tmp_path / "special", tiny_sd, blobs, blob_split, with_prior=True)
    made_of = {"num_images": 1, "target": "benign", "prompt": "Benign skin lesions"}
    assert made(special, tmp_path / "c", **made_of).samples()[tables.CHECKPOINT].to_list() == ["prior"]


def test_a_group_generates_fold_by_fold(tiny_sd: Path, blobs: Path, tmp_path: Path) -> None:
    group, split = tmp_path / "group", tmp_path / "folds.csv"
    folds = pl.DataFrame(
        {tables.IMAGE_ID: [f"ISIC_{i:07d}" for i in range(120)], tables.FOLD: [i // 60 for i in range(120)]}
    )
    tables.write_table(split, folds)
    for fold in (0, 1):
        write_generator(group / run.MEMBERS / f"fold-{fold}", tiny_sd, blobs, split, fold=fold)
    with pytest.raises(BadInput, match="unfinished group"):
        made(group, tmp_path / "early", num_images=1)
    run.mark_done(group, members=["fold-0", "fold-1"])
    generate(config_of(group, tmp_path / "out", num_images=2))
    assert read_json(tmp_path / "out" / run.DONE)["members"] == ["fold-0", "fold-1"]
    for fold in (0, 1):
        known = provenance.read_provenance(tmp_path / "out" / run.MEMBERS / f"fold-{fold}")
        held_out = set(folds.filter(pl.col(tables.FOLD) == fold)[tables.IMAGE_ID])
        assert not held_out & set(known.seen[tables.IMAGE_ID])
    one = made(group, tmp_path / "one", num_images=1, fold=1).samples()
    assert one[tables.GENERATOR][0] == next(iter(known.manifests))
    with pytest.raises(BadInput, match="has no member fold-7; it has fold-0, fold-1"):
        made(group, tmp_path / "no", num_images=1, fold=7)
    with pytest.raises(BadInput, match="trained for fold 1, not 0"):
        made(group / run.MEMBERS / "fold-1", tmp_path / "no", num_images=1, fold=0)


def test_out_of_memory_says_what_fits(generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A UNet that takes two images at most, with guidance twice as many rows."""
    from diffusers import UNet2DConditionModel

    forward = UNet2DConditionModel.forward

    def small(self: Any, latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if len(latents) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(self, latents, *arguments, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", small)
    with pytest.raises(BadInput, match=r"out of memory, 6 images of 64 px .* fit on cpu; 1 do: .*--batch-size 1 goes"):
        made(generator, tmp_path / "out", batch_size=7)
    with pytest.raises(BadInput, match=r"5 images .*; 2 do: the same command with --batch-size 2 goes on"):
        made(generator, tmp_path / "out", batch_size=5)
    assert len(made(generator, tmp_path / "out", batch_size=2)) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "greater than or equal to 1"),
        (
            {"scheduler": ("dpmsolvr",)},
            r"no scheduler dpmsolvr, expected some of ddpm, .*, unipc; did you mean dpmsolver\?",
        ),
        ({"generation": "image_to_image", "strength": (1.2,)}, "less than or equal to 1"),
        ({"generation": "image_to_image", "strength": (0.0,)}, "greater than 0"),
        ({"strength": (0.5,)}, "text_to_image starts from no image"),
        ({"sources": {"image_ids": ("ISIC_0000000",)}}, "text_to_image starts from no image"),
        ({"guidance_scale": ()}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of(Path("generator"), Path("out"), **changes)


def test_one_line_on_the_command_line(generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "--generator", str(generator), "--out", str(tmp_path / "out")]
    assert main([*words, "--scheduler", "eulr"]) == 2
    said = capsys.readouterr().err
    assert "scheduler: no scheduler eulr, expected some of ddpm, ddim, " in said
    assert "unipc; did you mean euler?" in said
    assert main([*words, "--num-images", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 100}, "image_size: 100 px, expected a multiple of 16 for this model; take 96 or 112"),
        ({"checkpoint": ("last", "epoch-0007")}, "has no epoch-0007 of that class; it has last, epoch-0010"),
        ({"generation": "image_to_image", "sources": {"image_ids": ("ISIC_0000072", "ISIC_0000119", "ISIC_x")}},
         r"3 images are not in part train .*: ISIC_0000072 \(val\), ISIC_0000119 \(test\), ISIC_x \(unknown\)"),
        ({"generation": "inpainting", "sources": {"image_ids": ("ISIC_0000000",)}},
         "1 images are no benign lesions of patients without malignant ones: ISIC_0000000"),
        ({"sources": {"store": Path("gone")}}, r"sources\.store: gone is not there, .* name it by --sources\.store"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_the_generator(
    generator: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        made(generator, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_generators_that_are_none(generator: Path, blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder; make it with `lesionforge finetune`"):
        made(tmp_path / "absent", tmp_path / "out")
    unfinished = shutil.copytree(generator, tmp_path / "unfinished")
    (unfinished / run.DONE).unlink()
    with pytest.raises(BadInput, match="unfinished or not made by `lesionforge finetune`"):
        made(unfinished, tmp_path / "out")
    with pytest.raises(BadInput, match="not a generator"):
        made(blobs, tmp_path / "out")
    altered = shutil.copytree(generator, tmp_path / "altered")
    seen = pl.read_parquet(altered / run.SEEN)
    seen.head(3).write_parquet(altered / run.SEEN)
    with pytest.raises(BadInput, match=r"altered, its SHA-256 is not the manifest's seen_sha256"):
        made(altered, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_split_or_store_is_refused(
    generator: Path, blobs: Path, blob_split: Path, tmp_path: Path, real_or_drawn: Path
) -> None:
    part = pl.when(pl.col(tables.IMAGE_ID) == "ISIC_0000072").then(pl.lit("train")).otherwise(tables.PART)
    moved = pl.read_csv(blob_split).with_columns(part.alias(tables.PART))
    tables.write_table(tmp_path / "moved.csv", moved)
    with pytest.raises(BadInput, match=r"not the split that .* learned by, so its part train may hold"):
        made(generator, tmp_path / "out", sources={"split": tmp_path / "moved.csv"})
    with pytest.raises(BadInput, match=r"not the store that .* learned from"):
        made(generator, tmp_path / "out", sources={"store": real_or_drawn})


def test_a_split_of_another_kind_is_refused_by_what_generate_has(
    generator: Path, tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """generate has no --data.fold: the fold is the generator's."""
    folds = tmp_path / "folds.csv"
    ids = [f"ISIC_{i:07d}" for i in range(120)]
    tables.write_table(folds, pl.DataFrame({tables.IMAGE_ID: ids, tables.FOLD: [i // 3 % 2 for i in range(120)]}))
    with pytest.raises(
        BadInput, match=r"sources\.split: .* is a split into folds, .* by one into parts; name that one"
    ):
        made(generator, tmp_path / "out", sources={"split": folds})
    of_fold = write_generator(tmp_path / "of-fold", tiny_sd, blobs, folds, fold=1)
    with pytest.raises(BadInput, match=r"is a split into parts, .* by one into folds, without fold 1; name that one"):
        made(of_fold, tmp_path / "out", sources={"split": blob_split})


@pytest.fixture(scope="module")
def real_or_drawn(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another store than the generator's: one of its own images."""
    out = tmp_path_factory.mktemp("others") / "store"
    made(generator, out, num_images=1)
    return out


def test_a_generator_made_anew_is_not_mixed_in(generator: Path, tmp_path: Path) -> None:
    mine, out = shutil.copytree(generator, tmp_path / "mine"), tmp_path / "out"
    made(mine, out, num_images=1)
    (out / run.DONE).unlink()
    write_json(mine / run.GENERATOR, read_json(mine / run.GENERATOR) | {"negative_prompt": "another"})
    with pytest.raises(BadInput, match="started with another generator"):
        made(mine, out, num_images=1)


def test_a_scheduler_that_cannot_end_in_pure_noise(generator: Path, tmp_path: Path) -> None:
    zero_snr = shutil.copytree(generator, tmp_path / "zero")
    path = zero_snr / run.PIPELINE / "scheduler" / "scheduler_config.json"
    write_json(path, read_json(path) | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    recorded = find_base(str(zero_snr / run.PIPELINE)).sha256
    write_json(zero_snr / run.GENERATOR, read_json(zero_snr / run.GENERATOR) | {"adapter_sha256": recorded})
    with pytest.raises(BadInput, match=r"pndm does not know .* \(zero terminal SNR\).* choose among ddpm, ddim, euler"):
        made(zero_snr, tmp_path / "out", scheduler=("ddim", "pndm"))


def test_prompts_that_are_cut_are_told(generator: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lesionforge"):
        made(generator, tmp_path / "out", num_images=1, prompt="a mole " * 20)
    assert "1 of 1 prompts are longer than the text encoder reads" in caplog.text
    assert cv2.imdecode(np.frombuffer(open_store(tmp_path / "out").read(0), np.uint8), cv2.IMREAD_COLOR) is not None
