"""What of a pipeline learns, by method, and how that is saved. A door to diffusers and peft.

lora               adapters in the UNet's attention
full               the UNet and the text encoders, at rates of their own
textual_inversion  a few new rows of the text encoders' embeddings
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from lesionforge import run, tables
from lesionforge.diffusion import pipeline
from lesionforge.diffusion.denoising import text_encoders, tokenizers
from lesionforge.engine.checkpoint import save_tensors
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_folder_whole

LORA_TARGETS = ("to_k", "to_q", "to_v", "to_out.0")  # diffusers' own training scripts


class Trained(NamedTuple):
    """Parameters that learn."""

    method: str  # lora, full or textual_inversion
    names: list[str]
    params: list[nn.Parameter]
    lr_scales: list[float]  # of the learning rate
    modules: list[nn.Module]  # whose training mode is on in a step
    trains_text: bool  # then prompts are encoded anew at each step


def train_lora(pipe: Any, rank: int, alpha: int | None) -> Trained:
    """Adapters in the UNet's attention (Hu et al. 2021, arXiv 2106.09685); at first they change nothing."""
    pipe.unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha or rank, init_lora_weights="gaussian", target_modules=list(LORA_TARGETS))
    )
    named = [(name, p) for name, p in pipe.unet.named_parameters() if p.requires_grad]
    for _, p in named:
        p.data = p.data.float()
    names, params = [name for name, _ in named], [p for _, p in named]
    return Trained("lora", names, params, [1.0] * len(params), [pipe.unet], False)


def train_full(pipe: Any, text_encoder_scale: float) -> Trained:
    """All of the UNet, and the text encoders at `text_encoder_scale` of its rate; 0 leaves them as they are."""
    names, params, scales = [], [], []
    modules = [(pipe.unet, "unet", 1.0)]
    modules += [(each, f"text_encoder_{n}", text_encoder_scale) for n, each in enumerate(text_encoders(pipe), 1)]
    modules = [(module, name, scale) for module, name, scale in modules if scale]
    for module, where, scale in modules:
        module.requires_grad_(True)
        for name, p in module.named_parameters():
            names.append(f"{where}.{name}")
            params.append(p)
            scales.append(scale)
    return Trained("full", names, params, scales, [module for module, _, _ in modules], bool(text_encoder_scale))


class WithNewWords(nn.Module):
    """An embedding whose last rows alone learn."""

    known: nn.Embedding

    def __init__(self, known: nn.Embedding, rows: torch.Tensor) -> None:
        super().__init__()
        self.known = known
        self.rows = nn.Parameter(rows.clone())

    @property
    def weight(self) -> torch.Tensor:  # transformers asks for its type
        return self.known.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (B, tokens) => (B, tokens, width)
        num_known = self.known.num_embeddings
        new = functional.embedding((ids - num_known).clamp(min=0), self.rows)
        return torch.where((ids >= num_known)[..., None], new, self.known(ids.clamp(max=num_known - 1)))


def train_words(pipe: Any, token: str, initializer: str, num_vectors: int) -> Trained:
    """A new word of `num_vectors` embeddings in each text encoder (Gal et al. 2022, arXiv 2208.01618).

    Raises:
        BadInput: the word is known already, the initializer is empty, or the tokenizer is not the encoder's.
    """
    names, params = [], []
    words = [token, *(f"{token}_{n}" for n in range(1, num_vectors))]
    for number, (tokenizer, encoder) in enumerate(zip(tokenizers(pipe), text_encoders(pipe), strict=True), 1):
        start = tokenizer(initializer, add_special_tokens=False).input_ids
        if not start:
            raise BadInput(f"textual_inversion.initializer: {initializer!r} is no word; choose one that the base knows")
        embedding = encoder.get_input_embeddings()
        if len(tokenizer) != embedding.num_embeddings:
            raise BadInput(
                f"base: its tokenizer has {len(tokenizer):,} tokens and its text encoder {embedding.num_embeddings:,} "
                "embeddings; a new word needs as many of both: use another base, or another method"
            )
        is_known = len(tokenizer(token, add_special_tokens=False).input_ids) == 1
        if is_known or tokenizer.add_tokens(words) < num_vectors:
            raise BadInput(f"textual_inversion.token: {token} is a word that the base knows; choose another")
        rows = embedding.weight[start].mean(dim=0, keepdim=True).expand(num_vectors, -1).detach().float()
        with_new = WithNewWords(embedding, rows)
        encoder.set_input_embeddings(with_new)
        names.append(f"text_encoder_{number}.rows")
        params.append(with_new.rows)
    return Trained("textual_inversion", names, params, [1.0] * len(params), [], True)


def save(pipe: Any, trained: Trained, folder: Path, token: str, seen: pl.DataFrame | None) -> None:
    """Write the whole pipeline, or the adapter alone, under `folder`."""
    if trained.method == "full":
        save_whole(pipe, folder / run.PIPELINE, seen)
        return
    with write_folder_whole(folder / run.ADAPTER) as partial, system_errors():
        if trained.method == "lora":
            layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
            config = pipe.unet.peft_config["default"]
            # without these, alpha is read back as the rank
            facts = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": list(LORA_TARGETS)}
            text = json.dumps({f"unet.{name}": value for name, value in facts.items()})

            def write(tensors: dict[str, torch.Tensor], path: str) -> None:
                # one entry only: safetensors writes several in any order, and the file's hash must not change
                save_file(tensors, path, metadata={LORA_ADAPTER_METADATA_KEY: text})

            type(pipe).save_lora_weights(partial, unet_lora_layers=layers, save_function=write)
        else:
            for number, rows in enumerate(trained.params):
                suffix = "" if number == 0 else f"_{number + 1}"
                save_tensors(partial / f"learned_embeds{suffix}.safetensors", {token: rows})


def save_whole(model: Any, folder: Path, seen: pl.DataFrame | None = None) -> None:
    """Write a pipeline or network of diffusers as a folder, all of it or nothing.

    Args:
        seen: what it learned from, which lies in the folder too, so that a copy of it is known by it.
    """
    pipeline.quiet()
    with write_folder_whole(folder) as partial, system_errors():
        model.save_pretrained(partial, safe_serialization=True)
        for file in partial.rglob("*.json"):
            forget_path(file)
        if seen is not None:
            tables.write_table(partial / run.SEEN, seen)


def forget_path(file: Path) -> None:
    """Take out of a config where it was loaded from: the same network has the same hash in every folder."""
    config = read_json(file)
    if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def system_errors() -> Iterator[None]:
    """safetensors tells of a full disk by an error of its own, with the system's number in its text."""
    try:
        yield
    except SafetensorError as error:
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def is_saved(folder: Path) -> bool:
    """Whether `save` has been here; it writes its one folder whole."""
    return (folder / run.PIPELINE).is_dir() or (folder / run.ADAPTER).is_dir()


def saved_sha256(folder: Path) -> str:
    """SHA-256 of what `save` wrote there."""
    if (folder / run.PIPELINE).is_dir():
        return pipeline.find_base(str(folder / run.PIPELINE)).sha256
    return pipeline.sha256_of_files(pipeline.adapter_files(folder / run.ADAPTER))


def words_in(token: str, prompts: Sequence[str]) -> None:
    """Refuse prompts that never speak of the new word."""
    if missing := [prompt for prompt in prompts if token not in prompt]:
        raise BadInput(
            f"prompts.template: {missing[0]!r} does not hold the new word {token}; write it into the template, "
            'as in "a photo of {token}"'
        )
