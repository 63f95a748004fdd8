"""Stable Diffusion pipelines: opened, hashed, saved, and every way in which that fails. A door to diffusers."""

import logging
import re
import warnings
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import diffusers
import polars as pl
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from transformers.utils import logging as transformers_logging

from lesionforge import run, tables
from lesionforge.data import provenance
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_bytes, sha256_of_file
from lesionforge.tables import in_short

log = logging.getLogger("lesionforge")

KINDS = {"StableDiffusionPipeline": StableDiffusionPipeline, "StableDiffusionXLPipeline": StableDiffusionXLPipeline}
INDEX = "model_index.json"
CARD = "README.md"
HASHED = (".safetensors", ".json", ".txt", ".bin")
LAST = "last"
LORA_FILE = "pytorch_lora_weights.safetensors"


class Base(NamedTuple):
    """A pipeline's folder and what is known of it."""

    folder: Path
    name: str  # as it was asked for
    licence: str
    files: dict[str, str]  # path in the folder -> SHA-256
    sha256: str  # of all of them
    run: Path | None  # of ours, that it lies in: what that saw, this saw


class Generator(NamedTuple):
    pipe: Any  # on its device, in evaluation mode
    manifest: dict[str, Any]
    manifest_id: str
    image_size: int
    captions: pl.DataFrame  # image_id, target, prompt


def quiet() -> None:
    """diffusers and transformers tell of every file that they open; errors reach us as exceptions."""
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def find_base(name: str) -> Base:
    """A base by its hub name, its diffusers folder, or a generator run of ours that holds a whole pipeline.

    Raises:
        BadInput: nothing there, a single-file checkpoint, a run that holds adapters only, the hub does not answer.
    """
    quiet()
    path = Path(name)
    if path.is_file():
        raise BadInput(
            f"base: {name} is a single file, which does not say how its networks are built; expected a diffusers "
            "folder: convert it once with diffusers' from_single_file(...).save_pretrained(FOLDER)"
        )
    if (path / run.GENERATOR).is_file():
        run.require_done(path, "finetune")
        if not (path / run.PIPELINE).is_dir():
            raise BadInput(f"base: {name} is a run that holds an adapter only; start from the base that it was made on")
        path = path / run.PIPELINE
    elif not path.is_dir():
        path = from_hub(name)
    if not (path / INDEX).is_file():
        raise BadInput(f"base: {name} is no diffusers folder (no {INDEX} in it); name the folder that holds that file")
    index = read_json(path / INDEX)
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind not in KINDS:
        raise BadInput(f"base: {name} holds {kind or 'no pipeline'}; expected one of {', '.join(KINDS)}")
    parts = [part for part, value in index.items() if isinstance(value, list) and value and value[0]]
    skipped = ("safety_checker", "feature_extractor", "image_encoder")
    files = {
        str(file.relative_to(path)): sha256_of_file(file)
        for part in sorted(parts)
        if part not in skipped
        for file in sorted((path / part).rglob("*"))
        if file.suffix in HASHED and file.is_file()
    }
    if missing := [part for part in parts if part not in skipped and not (path / part).is_dir()]:
        raise BadInput(f"base: {name} lacks {in_short(missing)}, which its {INDEX} names; fetch the folder again")
    return Base(path, name, licence_of(path), files, sha256_of_files(files), run_of(path))


def run_of(path: Path) -> Path | None:
    """The generator run that a folder is, or lies in at any depth, finished or not."""
    folders = (path.resolve(), *path.resolve().parents)
    return next((at for at in folders if (at / run.CONFIG).is_file() and run.verb_of(at) == "finetune"), None)


def sha256_of_files(files: dict[str, str]) -> str:
    return sha256_of_bytes("\n".join(f"{name} {sha256}" for name, sha256 in sorted(files.items())).encode())


def from_hub(name: str) -> Path:
    """Folder of a hub's pipeline in the local cache, fetched first where it is not there."""
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise BadInput(f"base: {name} is no folder, and no name as the hub has them (owner/model); check the path")
    log.info("asking the hub, or its local cache, for %s", name)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # five retries, a line each, before our one line
    try:
        folder = Path(DiffusionPipeline.download(name, use_safetensors=True))
        with suppress(Exception):  # the model card, which that leaves out; without one the licence is unknown
            hf_hub_download(name, CARD)
        return folder
    except Exception as error:  # the hub's errors share no class: OSError, ValueError, httpx's own
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"base: {name} cannot be had from the hub ({first_line}); name a diffusers folder on this machine, fetch "
            "it where there is a network, or use --base scratch, which needs none"
        ) from error


def licence_of(folder: Path) -> str:
    """What the model card beside a pipeline says, or the run of ours that it is of, else "unknown"."""
    for file in (folder / CARD, folder.parent / CARD):
        if file.is_file() and (found := re.search(r"^license:\s*(\S+)", file.read_text(errors="replace"), re.M)):
            return found[1]
    own = run_of(folder)
    if own is not None and (own / run.GENERATOR).is_file():
        return str(read_json(own / run.GENERATOR)["base"]["licence"])
    return "unknown"


def load_vae(folder: Path) -> Any:
    """A VAE of our own making, on the CPU, in evaluation mode."""
    quiet()
    return AutoencoderKL.from_pretrained(folder, local_files_only=True).eval()


def load_pipeline(base: Base) -> Any:
    """The pipeline of a base, on the CPU in float32, in evaluation mode. The safety checker is off.

    Raises:
        BadInput: files that are damaged or do not fit each other, a UNet for something else than plain generation.
    """
    quiet()
    kind = read_json(base.folder / INDEX)["_class_name"]
    off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside other people's configs
            pipe = KINDS[kind].from_pretrained(
                base.folder, torch_dtype=torch.float32, local_files_only=True,
                **(off if kind == "StableDiffusionPipeline" else {}),
            )  # fmt: skip
    except Exception as error:  # diffusers', safetensors' and torch's errors share no class
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"base: {base.name} cannot be opened ({first_line}); fetch its folder again") from error
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise BadInput(
            f"base: the UNet of {base.name} takes {pipe.unet.config.in_channels} channels, expected "
            f"{pipe.vae.config.latent_channels}: it is one for inpainting or editing; name a text-to-image model"
        )
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
        if module is not None:
            module.eval().requires_grad_(False)
    return pipe


def image_size_of(pipe: Any, asked: int | None) -> int:
    """Pixels to work at.

    Raises:
        BadInput: no multiple of what the VAE and UNet shrink by.
    """
    size = asked or pipe.unet.config.sample_size * pipe.vae_scale_factor
    multiple = max(8, pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1))
    if size % multiple:
        below = max(size // multiple, 1) * multiple
        raise BadInput(
            f"data.image_size: {size} px, expected a multiple of {multiple} for this model; take {below} or "
            f"{below + multiple}"
        )
    return size


def load_generator(
    folder: Path, checkpoint: str = LAST, target: int = 1, device: str | torch.device = "cpu", precision: str = "fp32"
) -> Generator:
    """A finished generator, ready to generate.

    Args:
        checkpoint: "last", or "epoch-0010" for one that was kept on the way.
        target: 0 takes what base scratch was before it specialised on malignant lesions, where it did.

    Raises:
        BadInput: unfinished, damaged, no such checkpoint, its base is gone or another one, it knows no benign lesions.
    """
    run.require_done(folder, "finetune")
    if not (folder / run.GENERATOR).is_file():
        raise BadInput(f"{folder}: not a generator (no {run.GENERATOR}); make one with `lesionforge finetune`")
    manifest = read_json(folder / run.GENERATOR)
    where = folder if checkpoint == LAST else folder / run.EPOCHS / checkpoint
    if target not in manifest["targets"] and (folder / run.PRIOR).is_dir():
        if checkpoint != LAST:
            raise BadInput(f"{folder}: {checkpoint} was kept while it learned malignant lesions only; take last")
        source, where = folder / run.PRIOR, folder / run.PRIOR
    elif target not in manifest["targets"]:
        raise BadInput(
            f"{folder}: it learned no {'malignant' if target else 'benign'} lesions; finetune one with "
            f"--data.target {'malignant' if target else 'benign'} or both"
        )
    elif not where.is_dir():
        kept = sorted(path.name for path in (folder / run.EPOCHS).glob("epoch-*"))
        raise BadInput(f"{folder}: no checkpoint {checkpoint}; it has {in_short([LAST, *kept])}")
    else:
        source = where / run.PIPELINE
    recorded = manifest["prior_sha256"] if source == folder / run.PRIOR else manifest["adapter_sha256"]
    if source.is_dir():
        found = find_base(str(source))
        require_hash(source, found.sha256, manifest["epochs"].get(checkpoint, recorded))
        pipe = load_pipeline(found)
    else:
        files = adapter_files(where / run.ADAPTER)
        require_hash(where / run.ADAPTER, sha256_of_files(files), manifest["epochs"].get(checkpoint, recorded))
        base = find_base(manifest["base"]["name"])
        if base.sha256 != manifest["base_sha256"]:
            raise BadInput(
                f"{folder}: its adapter was made for another {base.name}: the files there have changed; put those back"
            )
        pipe = load_pipeline(base)
        load_adapter(pipe, where / run.ADAPTER)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pipe.to(device, dtype)
    captions = tables.read_table(folder / run.CAPTIONS)
    return Generator(pipe, manifest, provenance.manifest_id(manifest), manifest["image_size"], captions)


def require_hash(folder: Path, found: str, recorded: str) -> None:
    if found != recorded:
        raise BadInput(
            f"{folder}: missing or damaged, its SHA-256 is not the recorded one; restore it, or finetune again"
        )


def adapter_files(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in sorted(folder.glob("*.safetensors"))}


def load_adapter(pipe: Any, folder: Path) -> None:
    """Put a saved adapter on its base.

    Raises:
        BadInput: made for another architecture.
    """
    try:
        if (folder / LORA_FILE).is_file():
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # peft's for layers that only one of the two has
                pipe.load_lora_weights(folder, weight_name=LORA_FILE)
        else:
            load_embeddings(pipe, folder)
    except (ValueError, RuntimeError, KeyError, RuntimeWarning) as error:
        first_line = shorten(str(error), 200, placeholder=" ...")
        raise BadInput(f"{folder}: the adapter does not fit its base ({first_line}); it is of another one") from error


def load_embeddings(pipe: Any, folder: Path) -> None:
    """Embeddings of textual inversion, one file a text encoder."""
    for number, file in enumerate(sorted(folder.glob("learned_embeds*.safetensors"))):
        which = "" if number == 0 else f"_{number + 1}"
        pipe.load_textual_inversion(
            str(file), tokenizer=getattr(pipe, f"tokenizer{which}"), text_encoder=getattr(pipe, f"text_encoder{which}")
        )


def versions() -> dict[str, str]:
    return {"diffusers": diffusers.__version__, "torch": torch.__version__}
