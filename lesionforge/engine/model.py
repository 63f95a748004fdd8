"""How a timm model with one logit is built, and what may go wrong. The door to timm."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

from lesionforge import run
from lesionforge.engine.families import FAMILIES, Family
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_file, write_json

log = logging.getLogger("lesionforge")

HUB, RANDOM = "hub", "random"  # what model.weights may say besides a file


class Built(NamedTuple):
    """A model and what its images must look like."""

    model: nn.Module  # (B, 3, image_size, image_size) float32, normalised => (B, 1) logits
    name: str  # timm's, with the weights tag
    image_size: int  # pixels
    mean: tuple[float, ...]  # per RGB channel, of values in [0, 1]
    std: tuple[float, ...]
    weights: str  # where the first ones came from, for the record
    timm_args: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """What `rebuild` needs, for a JSON record."""
        return {name: value for name, value in self._asdict().items() if name != "model"}


def rebuild(facts: Mapping[str, Any]) -> Built:
    """The model of a record, with random weights."""
    wanted = {name: facts[name] for name in ("name", "image_size", "mean", "std", "timm_args")}
    return build_model(weights=RANDOM, **wanted)


def build_model(
    name: str,
    weights: str,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    timm_args: Mapping[str, Any] | None = None,
) -> Built:
    """Create a timm model with one output.

    Args:
        name: a short name of `families.FAMILIES`, or any name that timm knows, with or without a weights tag.
        weights: "hub", "random", or the path of a weights file for this architecture (safetensors, or a state dict
            that `torch.load(weights_only=True)` reads).
        image_size: pixels; None takes what the weights were trained at.
        mean, std: normalisation; None takes what the weights were trained with.
        timm_args: further keyword arguments of the model's constructor, e.g. {"pad_type": "same"}.

    Raises:
        BadInput: unknown name or argument, weights that cannot be had or do not fit, image size that does not fit.
    """
    short_name = name
    family = FAMILIES.get(name, Family(name, 0, "", 0.0, "", {}))
    name = family.timm_name
    refuse_unknown(name)
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")) or "none"
        raise BadInput(f"model.name: {name!r} has an unknown weights tag; timm has {tags}") from error
    assert config is not None  # allow_unregistered=False
    size = image_size or family.pixels or config.input_size[-1]
    timm_args = {**family.timm_args, **(timm_args or {})}
    arguments: dict[str, Any] = {"num_classes": 1, **timm_args}
    if config.fixed_input_size and size != config.input_size[-1]:
        arguments["img_size"] = size
    if weights == HUB:
        log.info("asking the hub, or its local cache, for the weights of %s", name)
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # five retries, a line each, before our one line
    try:
        model = timm.create_model(name, **arguments, **weights_arguments(short_name, weights, config, family))
    except Exception as error:
        raise cannot_build(error, short_name, weights, size) from error
    refuse_cut_patches(model, short_name, size)
    data = timm.data.resolve_model_data_config(model)
    if weights not in (HUB, RANDOM):
        weights = f"file {Path(weights).name}"
    mean, std = tuple(mean or data["mean"]), tuple(std or data["std"])
    return Built(model, name, size, mean, std, weights, timm_args)


def refuse_unknown(name: str) -> None:
    """Refuse what is neither a short name nor one of timm's."""
    if name not in FAMILIES and not timm.is_model(name.split(".")[0]):
        raise BadInput(f"model.name: timm {timm.__version__} has no model {name!r}{did_you_mean(name)}")


def weights_arguments(name: str, weights: str, config: Any, family: Family) -> dict[str, Any]:
    """The part of timm's arguments that says where pretrained weights come from."""
    if weights == RANDOM:
        return {"pretrained": False}
    if weights == HUB:
        if family.timm_args or not (config.hf_hub_id or config.url or config.file):
            raise BadInput(
                f"model.weights: there are no pretrained weights for {name!r}; "
                "give a file with --model.weights FILE, or ask for random ones with --model.weights random"
            )
        return {"pretrained": True}
    if not Path(weights).is_file():
        raise BadInput(f"model.weights: no such file {weights}; give a weights file, or the word hub or random")
    # num_classes: anything but 1, so that timm makes the head anew, whatever classes the file has
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": weights, "num_classes": -1}}


def cannot_build(error: Exception, name: str, weights: str, size: int) -> BadInput:
    """What went wrong in `timm.create_model`, in one line with the cure."""
    if isinstance(error, BadInput):
        return error
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    cure = "give a file with --model.weights FILE, or ask for random ones with --model.weights random"
    if isinstance(error, TypeError):
        return BadInput(f"model.timm_args, drop_path_rate, drop_rate: {name} does not take them ({first_line})")
    if weights == HUB:
        return BadInput(
            f"model.weights: the pretrained weights of {name} cannot be had from the hub ({first_line}); {cure}"
        )
    if "weights_only" in str(error):  # torch then advises to run the file's code
        return BadInput(f"model.weights: {weights} holds something else than tensors, and is not loaded; {cure}")
    if weights != RANDOM:
        return BadInput(f"model.weights: {weights} does not fit {name} ({first_line}); {cure}")
    return BadInput(f"model {name} cannot be built at {size} px ({first_line}); choose another data.image_size")


def did_you_mean(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name.split(".")[0], [*FAMILIES, *timm.list_models()], n=3)
    return f"; did you mean {' or '.join(close)}?" if close else "; `timm.list_models()` lists all"


def refuse_cut_patches(model: nn.Module, name: str, size: int) -> None:
    """timm would leave the last pixels of each row and column unseen, without a word."""
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    patch = patch_size[0] if isinstance(patch_size, tuple) else patch_size
    if isinstance(patch, int) and size % patch:
        below = size - size % patch
        raise BadInput(
            f"data.image_size: {name} sees patches of {patch} px, and {size} is no multiple of it; "
            f"use {below} or {below + patch}"
        )


def check_forward(built: Built) -> None:
    """Fail now, not in the first training step, where the architecture cannot take this image size."""
    training = built.model.training
    try:
        with torch.no_grad():
            built.model.eval()(torch.zeros(1, 3, built.image_size, built.image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"data.image_size: {built.name} cannot take {built.image_size} px images ({reason}); choose another size"
        ) from error
    finally:
        built.model.train(training)


def checkpoint_gradients(built: Built) -> None:
    """Compute activations twice instead of keeping them."""
    try:
        built.model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AssertionError, AttributeError, NotImplementedError) as error:
        raise BadInput(
            f"model.grad_checkpointing: {built.name} cannot do it; leave it off, and lower optim.micro_batch_size"
        ) from error


class WithAuxiliary(nn.Module):
    """A timm model with a second head on the same pooled features, for training only: it is no part of the weights."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.auxiliary = nn.Linear(last_layer(model).in_features, num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.forward_features(images)  # type: ignore[operator]
        pooled = self.model.forward_head(features, pre_logits=True)  # type: ignore[operator]  # (B, F)
        return last_layer(self.model)(pooled), self.auxiliary(pooled)  # (B, 1), (B, num_classes)


def last_layer(model: nn.Module) -> nn.Linear:
    layer = model.get_classifier()  # type: ignore[operator]
    if not isinstance(layer, nn.Linear):
        raise BadInput(f"{type(model).__name__} has no last layer of its own, which a head of its own needs")
    return layer


def batch_norms(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def is_folded(model: nn.Module) -> bool:
    """Whether every batch norm is the identity, as in weights dequantised from a deployed model.

    Training such a model as usual ruins it: the batch's own statistics take the place of none.
    """
    layers = [layer.state_dict() for layer in batch_norms(model)]
    return bool(layers) and all(
        torch.all(layer["running_mean"] == 0) and torch.allclose(layer["running_var"], torch.ones(()), atol=1e-4)
        for layer in layers
    )


def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Fill a model from a state dict; every key must be there."""
    with contextlib.suppress(RuntimeError):
        model.load_state_dict(dict(tensors), strict=True)
        return
    expected = model.state_dict()
    unlike = [key for key in expected if key not in tensors or tensors[key].shape != expected[key].shape]
    raise BadInput(f"{path}: these weights are of another model (first difference: {(unlike or list(tensors))[0]})")


def save_timm_folder(built: Built, folder: Path, licence: str) -> str:
    """Write config.json and model.safetensors as timm's `local-dir:` and the hub want them; the weights' SHA-256.

    config.json tells timm the image size, the normalisation and the constructor's arguments; under "lesionforge" it
    holds what `rebuild` needs.

    Raises:
        BadInput: timm makes another model of the folder than this one.
    """
    arguments: dict[str, Any] = {"num_classes": 1, **built.timm_args}
    if built.model.pretrained_cfg.get("fixed_input_size"):  # type: ignore[union-attr, operator]
        arguments["img_size"] = built.image_size
    timm.models.save_for_hf(built.model, str(folder), model_args=arguments, safe_serialization=True)
    (folder / run.MODEL_WEIGHTS).chmod((folder / run.MODEL_CONFIG).stat().st_mode)  # safetensors shuts others out
    sha256 = sha256_of_file(folder / run.MODEL_WEIGHTS)

    config = read_json(folder / run.MODEL_CONFIG)
    of_the_first_weights = ("tag", "description", "origin_url", "paper_name", "paper_ids", "test_input_size")
    pretrained_cfg = {key: value for key, value in config["pretrained_cfg"].items() if key not in of_the_first_weights}
    pretrained_cfg |= {
        "input_size": [3, built.image_size, built.image_size], "mean": built.mean, "std": built.std, "num_classes": 1,
        "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash", "license": licence,
    }  # fmt: skip
    ours = {"model": built.facts(), "weights_sha256": sha256}
    config |= {"model_args": arguments, "pretrained_cfg": pretrained_cfg, "lesionforge": ours}
    write_json(folder / run.MODEL_CONFIG, config)

    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(2, 3, built.image_size, built.image_size)
    with torch.inference_mode():
        difference = float((loaded(images) - built.model(images)).abs().max())
    if difference != 0:
        raise BadInput(
            f"{built.name}: timm {timm.__version__} makes another model of the exported folder (logits differ by "
            f"{difference:.3g}); write that to the authors of lesionforge"
        )
    return sha256
