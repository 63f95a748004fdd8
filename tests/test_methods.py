"""What learns, by method; and that what is saved, put back on its base, draws the very same images."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lesionforge import run
from lesionforge.diffusion import denoising, methods, pipeline
from lesionforge.diffusion.methods import Trained
from lesionforge.engine.average import Average
from lesionforge.errors import BadInput

TOKEN = "<malignant-lesion>"


def opened(folder: Path) -> Any:
    return pipeline.load_pipeline(pipeline.find_base(str(folder)))


def image_of(pipe: Any, prompt: str = "Malignant skin lesions") -> np.ndarray:
    with torch.no_grad():
        return pipe(
            prompt, num_inference_steps=3, guidance_scale=4.0, height=64, width=64, output_type="np",
            generator=torch.Generator().manual_seed(0),
        ).images[0]  # fmt: skip


def learn(pipe: Any, trained: Trained, prompt: str = "Malignant skin lesions", steps: int = 2) -> float:
    """A few steps on fixed latents with large rates; returns the last loss."""
    optimizer = torch.optim.AdamW(trained.params, lr=0.02)
    draw = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 4, 8, 8, generator=draw)
    for _ in range(steps):
        optimizer.zero_grad()
        told = denoising.encode_prompts(pipe, [prompt] * 2)
        loss = denoising.noise_loss(
            pipe, pipe.unet, pipe.scheduler, latents, noise, torch.tensor([200, 700]), told, 64
        ).mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


FAMILIES = pytest.mark.parametrize("family", ["tiny_sd", "tiny_sdxl"])


@FAMILIES
def test_adapters_change_nothing_at_first_and_come_back_bitwise(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base = request.getfixturevalue(family)
    pipe = opened(base)
    before = image_of(pipe)
    frozen = {name: p.clone() for name, p in pipe.unet.named_parameters()}
    trained = methods.train_lora(pipe, rank=4, alpha=None)
    assert np.array_equal(image_of(pipe), before)
    assert not trained.trains_text
    assert all("lora" in name for name in trained.names)
    learn(pipe, trained)
    after = image_of(pipe)
    assert not np.array_equal(after, before)
    now = {name.replace(".base_layer", ""): p for name, p in pipe.unet.named_parameters()}
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())

    methods.save(pipe, trained, tmp_path, TOKEN, None)
    files = pipeline.adapter_files(tmp_path / run.ADAPTER)
    assert list(files) == [pipeline.LORA_FILE]
    assert methods.saved_sha256(tmp_path) == pipeline.sha256_of_files(files)
    again = opened(base)
    pipeline.load_adapter(again, tmp_path / run.ADAPTER)
    assert np.array_equal(image_of(again), after)


def test_the_scale_of_adapters_is_alpha_over_rank_after_reloading_too(tiny_sd: Path, tmp_path: Path) -> None:
    pipe = opened(tiny_sd)
    trained = methods.train_lora(pipe, rank=4, alpha=12)
    learn(pipe, trained)
    assert next(m for m in pipe.unet.modules() if hasattr(m, "scaling")).scaling["default"] == 3
    methods.save(pipe, trained, tmp_path, TOKEN, None)
    again = opened(tiny_sd)
    pipeline.load_adapter(again, tmp_path / run.ADAPTER)
    assert np.array_equal(image_of(again), image_of(pipe))


@FAMILIES
def test_a_pipeline_that_learned_in_full_comes_back_bitwise(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base = request.getfixturevalue(family)
    pipe = opened(base)
    before = image_of(pipe)
    trained = methods.train_full(pipe, 0.5)
    assert trained.trains_text
    num_encoders = len(denoising.text_encoders(pipe))
    assert {name.split(".")[0] for name in trained.names} == {
        "unet", *(f"text_encoder_{n}" for n in range(1, num_encoders + 1))
    }  # fmt: skip
    assert {scale for name, scale in zip(trained.names, trained.lr_scales, strict=True) if name[0] == "u"} == {1.0}
    assert {scale for name, scale in zip(trained.names, trained.lr_scales, strict=True) if name[0] == "t"} == {0.5}
    learn(pipe, trained)
    after = image_of(pipe)
    assert not np.array_equal(after, before)
    methods.save(pipe, trained, tmp_path, TOKEN, None)
    assert np.array_equal(image_of(opened(tmp_path / run.PIPELINE)), after)
    assert methods.saved_sha256(tmp_path) == pipeline.find_base(str(tmp_path / run.PIPELINE)).sha256


def test_the_text_encoder_may_stay_as_it_is(tiny_sd: Path) -> None:
    pipe = opened(tiny_sd)
    trained = methods.train_full(pipe, 0.0)
    assert not trained.trains_text
    assert all(name.startswith("unet.") for name in trained.names)
    assert not any(p.requires_grad for p in pipe.text_encoder.parameters())
    assert not any(p.requires_grad for p in pipe.vae.parameters())


@FAMILIES
@pytest.mark.parametrize("num_vectors", [1, 3])
def test_a_new_word_comes_back_bitwise_and_leaves_the_others_alone(
    family: str, num_vectors: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base = request.getfixturevalue(family)
    pipe = opened(base)
    known = [encoder.get_input_embeddings().weight.clone() for encoder in denoising.text_encoders(pipe)]
    other = image_of(pipe)  # its prompt does not hold the word
    trained = methods.train_words(pipe, TOKEN, "lesion", num_vectors)
    prompt = f"a photo of {TOKEN}"
    start = [p.detach().clone() for p in trained.params]
    for encoder, tokenizer, rows in zip(
        denoising.text_encoders(opened(base)), denoising.tokenizers(opened(base)), start, strict=True
    ):
        letters = tokenizer("lesion", add_special_tokens=False).input_ids
        mean = encoder.get_input_embeddings().weight[letters].mean(dim=0)
        torch.testing.assert_close(rows, mean.expand(num_vectors, -1))
    learn(pipe, trained, prompt)
    assert all(not torch.equal(p, was) for p, was in zip(trained.params, start, strict=True))
    assert np.array_equal(image_of(pipe), other)
    after = image_of(pipe, prompt)
    methods.save(pipe, trained, tmp_path, TOKEN, None)
    again = opened(base)
    pipeline.load_adapter(again, tmp_path / run.ADAPTER)
    assert np.array_equal(image_of(again, prompt), after)
    for encoder, was, rows in zip(denoising.text_encoders(again), known, trained.params, strict=True):
        weight = encoder.get_input_embeddings().weight
        assert torch.equal(weight[: len(was)], was)
        assert torch.equal(weight[len(was) :], rows)


def test_words_that_cannot_be_new(tiny_sd: Path) -> None:
    with pytest.raises(BadInput, match=r"textual_inversion\.token: q is a word that the base knows; choose another"):
        methods.train_words(opened(tiny_sd), "q", "lesion", 1)
    with pytest.raises(BadInput, match=r"textual_inversion\.initializer: '' is no word; choose one that the base"):
        methods.train_words(opened(tiny_sd), TOKEN, "", 1)
    pipe = opened(tiny_sd)
    pipe.tokenizer.add_tokens(["<stray>"])
    with pytest.raises(BadInput, match="its tokenizer has 515 tokens and its text encoder 514 embeddings"):
        methods.train_words(pipe, TOKEN, "lesion", 1)
    with pytest.raises(BadInput, match=r"'a mole' does not hold the new word <malignant-lesion>; write it into the"):
        methods.words_in(TOKEN, [f"a {TOKEN}", "a mole"])


def lora(pipe: Any) -> Trained:
    return methods.train_lora(pipe, 4, None)


def full(pipe: Any) -> Trained:
    return methods.train_full(pipe, 1.0)


def words(pipe: Any) -> Trained:
    return methods.train_words(pipe, TOKEN, "lesion", 2)


@pytest.mark.parametrize("build", [lora, full, words])
def test_the_average_is_what_is_saved_inside_its_block(
    build: Callable[[Any], Trained], tiny_sd: Path, tmp_path: Path
) -> None:
    """An average over the parameters of any method, swapped in, saved and swapped out, as a stage does it."""
    pipe = opened(tiny_sd)
    trained = build(pipe)
    kept = torch.nn.ParameterList(trained.params)
    average = Average(kept, 0.5, warmup=False)
    start = [p.detach().clone() for p in trained.params]
    prompt = f"a photo of {TOKEN}"
    learn(pipe, trained, prompt, steps=1)
    average.update()
    own = [p.detach().clone() for p in trained.params]
    kept.load_state_dict(average.tensors)
    for p, first, last in zip(trained.params, start, own, strict=True):
        torch.testing.assert_close(p.detach(), (first + last) / 2)
    averaged = image_of(pipe, prompt)
    methods.save(pipe, trained, tmp_path, TOKEN, None)
    if trained.method == "full":
        again = opened(tmp_path / run.PIPELINE)
    else:
        again = opened(tiny_sd)
        pipeline.load_adapter(again, tmp_path / run.ADAPTER)
    assert np.array_equal(image_of(again, prompt), averaged)


def test_a_save_is_whole_or_not_there(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = opened(tiny_sd)
    trained = methods.train_lora(pipe, 4, None)
    monkeypatch.setattr(type(pipe), "save_lora_weights", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        methods.save(pipe, trained, tmp_path, TOKEN, None)
    assert not (tmp_path / run.ADAPTER).exists()
    shutil.rmtree(tmp_path)
