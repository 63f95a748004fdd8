"""Pipelines and generators are opened, hashed, or refused in one line that names the cure."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DConditionModel
from generator_folders import write_generator

from lesionforge import run
from lesionforge.diffusion import methods, pipeline
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_file, write_json


@pytest.fixture
def own(tiny_sd: Path, tmp_path: Path) -> Path:
    """A copy that may be harmed."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd"))


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def opened(folder: Path | str) -> Any:
    return pipeline.load_pipeline(pipeline.find_base(str(folder)))


def test_a_base_is_known_by_its_files(own: Path) -> None:
    base = pipeline.find_base(str(own))
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert base.files[unet] == sha256_of_file(own / unet)
    assert {name.split("/")[0] for name in base.files} == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert (base.folder, base.name, base.licence, base.run) == (own, str(own), "unknown", None)
    copy = Path(shutil.copytree(own, own.parent / "copy"))
    assert pipeline.find_base(str(copy)).sha256 == base.sha256  # of what it holds, not of where it lies
    (copy / "README.md").write_text("# A model\n")
    assert pipeline.find_base(str(copy)).sha256 == base.sha256
    config = read_json(copy / "scheduler/scheduler_config.json")
    write_json(copy / "scheduler/scheduler_config.json", config | {"prediction_type": "v_prediction"})
    assert pipeline.find_base(str(copy)).sha256 != base.sha256


@pytest.mark.parametrize("name", ["README.md", "../README.md"])
def test_the_licence_is_read_from_the_model_card(own: Path, name: str) -> None:
    (own / name).write_text("---\nlanguage: en\nlicense: creativeml-openrail-m\ntags: [x]\n---\n# Stable Diffusion\n")
    assert pipeline.find_base(str(own)).licence == "creativeml-openrail-m"


def test_the_licence_of_a_run_of_ours_is_in_its_manifest(
    tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    base = {"name": "scratch", "licence": "the user's own", "files": {}}
    folder = write_generator(tmp_path / "own", tiny_sd, blobs, blob_split, with_prior=True, base=base)
    for name in ("", run.PIPELINE, run.PRIOR):
        assert pipeline.find_base(str(folder / name)).licence == "the user's own"


def test_pipelines_are_ready_and_frozen(tiny_sd: Path, tiny_sdxl: Path) -> None:
    for folder in (tiny_sd, tiny_sdxl):
        pipe = opened(folder)
        assert getattr(pipe, "safety_checker", None) is None
        for module in (pipe.unet, pipe.vae, pipe.text_encoder):
            assert not module.training
            assert not any(p.requires_grad for p in module.parameters())


def truncated(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def garbled(folder: Path) -> None:
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 500)


def without_weights(folder: Path) -> None:
    (folder / "text_encoder/model.safetensors").unlink()


def other_width(folder: Path) -> None:
    path = folder / "unet/config.json"
    write_json(path, read_json(path) | {"block_out_channels": [64, 64]})


@pytest.mark.parametrize("harm", [truncated, garbled, without_weights, other_width])
def test_damaged_parts(own: Path, harm: Callable[[Path], None]) -> None:
    harm(own)
    message = refusal(lambda: opened(own))
    assert message.startswith(f"base: {own} cannot be opened (")
    assert message.endswith("; fetch its folder again")


def test_what_is_no_pipeline_folder(own: Path, tmp_path: Path) -> None:
    assert refusal(lambda: opened(tmp_path / "none")) == (
        f"base: {tmp_path / 'none'} is no folder, and no name as the hub has them (owner/model); check the path"
    )
    for name in ("./nofolder", "../nofolder", "~/nofolder", "/nofolder", "a/b/c", "nofolder"):  # never asked of the hub
        assert refusal(lambda name=name: opened(name)) == (  # type: ignore[misc]
            f"base: {name} is no folder, and no name as the hub has them (owner/model); check the path"
        )
    (tmp_path / "empty").mkdir()
    assert "is no diffusers folder (no model_index.json in it); name the folder that holds" in refusal(
        lambda: opened(tmp_path / "empty")
    )
    single = tmp_path / "v1-5-pruned.safetensors"
    single.write_bytes(b"x")
    assert "is a single file, which does not say how its networks are built; expected a diffusers folder" in refusal(
        lambda: opened(single)
    )
    shutil.rmtree(own / "vae")
    assert f"base: {own} lacks vae, which its model_index.json names; fetch the folder again" == refusal(
        lambda: opened(own)
    )


@pytest.mark.parametrize("text", ["[]", "{}", '{"_class_name": "FluxPipeline", "unet": []}', '"x"'])
def test_an_index_of_something_else(own: Path, text: str) -> None:
    (own / "model_index.json").write_text(text)
    assert "expected one of StableDiffusionPipeline, StableDiffusionXLPipeline" in refusal(lambda: opened(own))


def test_a_damaged_index(own: Path) -> None:
    (own / "model_index.json").write_text("{")
    assert "model_index.json: not JSON" in refusal(lambda: opened(own))


def test_a_pipeline_of_another_kind(tiny_sd: Path, tmp_path: Path) -> None:
    unet = opened(tiny_sd).unet
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    assert "holds DDPMPipeline; expected one of StableDiffusionPipeline, " in refusal(lambda: opened(tmp_path / "ddpm"))


def test_a_unet_for_inpainting(own: Path) -> None:
    settings = {**opened(own).unet.config, "in_channels": 9}
    UNet2DConditionModel.from_config(settings).save_pretrained(own / "unet")
    assert "takes 9 channels, expected 4: it is one for inpainting or editing; name a text-to-image model" in refusal(
        lambda: opened(own)
    )


@pytest.mark.parametrize("name", ["stable-diffusion-v1-5/stable-diffusion-v1-5", "nobody/nothing"])
def test_the_hub_out_of_reach(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(lambda: opened(name))
    assert message.startswith(f"base: {name} cannot be had from the hub (")
    assert "name a diffusers folder on this machine" in message
    assert message.endswith("or use --base scratch, which needs none")


def test_a_base_of_the_hub_that_was_fetched_before(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own cache as it lies on disk; its model card says the licence."""
    repo = tmp_path / "hub" / "models--somebody--skin"
    shutil.copytree(tiny_sd, repo / "snapshots" / "abc")
    (repo / "snapshots" / "abc" / "README.md").write_text("---\nlicense: openrail++\n---\n")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    base = pipeline.find_base("somebody/skin")
    assert (base.name, base.licence) == ("somebody/skin", "openrail++")
    assert base.sha256 == pipeline.find_base(str(tiny_sd)).sha256
    assert pipeline.load_pipeline(base).unet.config.in_channels == 4


def test_sizes(tiny_sd: Path) -> None:
    """The tiny VAE halves three times, its UNet once more."""
    pipe = opened(tiny_sd)
    assert pipeline.image_size_of(pipe, None) == 64
    assert pipeline.image_size_of(pipe, 128) == 128
    assert refusal(lambda: pipeline.image_size_of(pipe, 72)) == (
        "data.image_size: 72 px, expected a multiple of 16 for this model; take 64 or 80"
    )
    assert "take 16 or 32" in refusal(lambda: pipeline.image_size_of(pipe, 24))
    assert "multiple of 16 for this model; take 16 or 32" in refusal(lambda: pipeline.image_size_of(pipe, 8))


# ------------------------------------------------------------------------------------------------ generators


@pytest.fixture
def generator(tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> Path:
    return write_generator(tmp_path / "gen", tiny_sd, blobs, blob_split, epochs=(1,))


def with_adapter(generator: Path, base: Path) -> Path:
    """The same run as one that holds LoRA weights only."""
    shutil.rmtree(generator / run.PIPELINE)
    shutil.rmtree(generator / run.EPOCHS)
    pipe = opened(base)
    trained = methods.train_lora(pipe, 4, None)
    torch.nn.init.normal_(trained.params[-1], generator=torch.Generator().manual_seed(0))
    methods.save(pipe, trained, generator, "<x>", None)
    found = pipeline.find_base(str(base))
    write_json(
        generator / run.GENERATOR,
        read_json(generator / run.GENERATOR) | {
            "method": "lora", "adapter_sha256": methods.saved_sha256(generator), "base_sha256": found.sha256,
            "base": {"name": str(base), "licence": "unknown", "files": found.files}, "epochs": {},
        },
    )  # fmt: skip
    return generator


def test_a_generator_is_opened_with_what_is_known_of_it(generator: Path) -> None:
    opened = pipeline.load_generator(generator)
    assert opened.image_size == 64
    assert opened.manifest == read_json(generator / run.GENERATOR)
    assert len(opened.captions) == opened.manifest["num_seen"]
    assert pipeline.load_generator(generator, "epoch-0001").manifest_id == opened.manifest_id
    low = pipeline.load_generator(generator, precision="bf16").pipe
    assert low.unet.dtype == low.vae.dtype == low.text_encoder.dtype == torch.bfloat16


def test_checkpoints_and_classes_that_are_not_there(generator: Path) -> None:
    assert refusal(lambda: pipeline.load_generator(generator, "epoch-0009")) == (
        f"{generator}: no checkpoint epoch-0009; it has last, epoch-0001"
    )
    assert refusal(lambda: pipeline.load_generator(generator, target=0)) == (
        f"{generator}: it learned no benign lesions; finetune one with --data.target benign or both"
    )


def test_benign_lesions_of_a_prior(tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    folder = write_generator(tmp_path / "own", tiny_sd, blobs, blob_split, epochs=(1,), with_prior=True)
    assert pipeline.load_generator(folder, target=0).image_size == 64
    assert "epoch-0001 was kept while it learned malignant lesions only; take last" in refusal(
        lambda: pipeline.load_generator(folder, "epoch-0001", target=0)
    )


def test_altered_generators(generator: Path, tiny_sd: Path) -> None:
    with open(generator / run.EPOCHS / "epoch-0001" / run.PIPELINE / "scheduler/scheduler_config.json", "a") as file:
        file.write("\n")
    assert "missing or damaged, its SHA-256 is not the recorded one" in refusal(
        lambda: pipeline.load_generator(generator, "epoch-0001")
    )
    pipeline.load_generator(generator)
    shutil.rmtree(generator / run.PIPELINE)
    assert "missing or damaged" in refusal(lambda: pipeline.load_generator(generator))
    (generator / run.DONE).unlink()
    assert "unfinished or not made by `lesionforge finetune`" in refusal(lambda: pipeline.load_generator(generator))
    assert "not a generator (no generator.json)" in refusal(lambda: pipeline.load_generator(done(tiny_sd)))


def done(folder: Path) -> Path:
    copy = Path(shutil.copytree(folder, folder.parent / "done", dirs_exist_ok=True))
    run.mark_done(copy)
    return copy


def test_adapters_and_their_base(generator: Path, own: Path, tiny_sdxl: Path) -> None:
    with_adapter(generator, own)
    pipeline.load_generator(generator)
    assert "is a run that holds an adapter only; start from the base that it was made on" in refusal(
        lambda: pipeline.find_base(str(generator))
    )
    adapter = generator / run.ADAPTER
    first_line = refusal(lambda: pipeline.load_adapter(opened(tiny_sdxl), adapter))
    assert "the adapter does not fit its base (" in first_line
    assert first_line.endswith("; it is of another one")
    config = read_json(own / "scheduler/scheduler_config.json")
    write_json(own / "scheduler/scheduler_config.json", config | {"beta_end": 0.013})
    assert "its adapter was made for another" in refusal(lambda: pipeline.load_generator(generator))
    shutil.rmtree(own)
    assert f"base: {own} is no folder" in refusal(lambda: pipeline.load_generator(generator))
    (adapter / pipeline.LORA_FILE).write_bytes((adapter / pipeline.LORA_FILE).read_bytes()[:-10])
    assert "missing or damaged" in refusal(lambda: pipeline.load_generator(generator))


def test_embeddings_of_another_width(tiny_sd: Path, tmp_path: Path) -> None:
    methods.save_tensors(tmp_path / "learned_embeds.safetensors", {"<x>": torch.zeros(1, 24)})
    message = refusal(lambda: pipeline.load_adapter(opened(tiny_sd), tmp_path))
    assert "the adapter does not fit its base (" in message


def test_a_base_inside_a_run_of_ours_is_known_as_such(generator: Path, tmp_path: Path) -> None:
    """However deep: what that run saw, a generator that starts there saw too."""
    for where in (generator, generator / run.PIPELINE, generator / run.EPOCHS / "epoch-0001" / run.PIPELINE):
        assert pipeline.find_base(str(where)).run == generator.resolve()
    (tmp_path / "link").symlink_to(generator / run.PIPELINE)
    assert pipeline.find_base(str(tmp_path / "link")).run == generator.resolve()
