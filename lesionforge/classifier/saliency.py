"""Heat maps: where in an image a model found what its malignant logit says. The door to grad-cam.

    grad_cam     channels weighted by their mean gradient, what is left below 0 cut off (Selvaraju et al. 2017)
    grad_cam_pp  the same with Grad-CAM++'s weights (Chattopadhay et al. 2018), of features cut off at 0
    hirescam     gradient times activation, cell by cell, signed (Draelos and Carin 2020); after a last stage that is
                 only averaged and weighted, as in most CNNs, its cells add up to the logit less the bias
    rollout      attention rollout (Abnar and Zuidema 2020), plain ViTs only: where the information that the head reads
                 came from, whatever the logit says of it

A map is enlarged so that its cells lie where they look (cells.py). Of the library the hooks and formulas are used, not
the finished maps: those are rescaled to begin at 0 and end at 1 in every image, which moves the share in the lesion.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lesionforge.classifier.cells import Cells, cells_of, enlarge, squares
from lesionforge.engine.model import Built, rebuild
from lesionforge.errors import BadInput

METHODS = ("grad_cam", "grad_cam_pp", "hirescam", "rollout")
CNN, TRANSFORMER, OTHER = "CNN", "transformer", "other"
RANDOM_WEIGHTS = 0xADEBA70  # a stream of its own: a run's first weights are seeded by its seed alone


def last_tokens(net: Any) -> nn.Module:
    """A plain ViT's last tokens that the head hears of: where it reads the class token, the patches' last say is the
    input of the last attention; where it averages the patches, what leaves the last block."""
    return net.blocks[-1].norm1 if net.global_pool == "token" else net.blocks[-1]


def channels_first(features: torch.Tensor) -> torch.Tensor:
    """(B, H, W, C) => (B, C, H, W)"""
    return features.permute(0, 3, 1, 2)


class Architecture(NamedTuple):
    """Where a family keeps the last features that still have a place in the image."""

    kind: str  # CNN or transformer, as the study counts them
    layer: Callable[[Any], nn.Module]
    layout: str  # of the layer's output: NCHW, NHWC or tokens (B, N, C)


# By timm's class: the last stage's output, after its normalisation and activation where it has them.
ARCHITECTURES = {
    "VisionTransformer": Architecture(TRANSFORMER, last_tokens,                "tokens"),  # ViT, DeiT III
    "Beit":              Architecture(TRANSFORMER, last_tokens,                "tokens"),  # BEiT v2
    "Eva":               Architecture(TRANSFORMER, last_tokens,                "tokens"),  # EVA-02
    "SwinTransformer":   Architecture(TRANSFORMER, lambda net: net.norm,       "NHWC"),
    "EdgeNeXt":          Architecture(TRANSFORMER, lambda net: net.stages[-1], "NCHW"),
    "ConvNeXt":          Architecture(CNN,         lambda net: net.stages[-1], "NCHW"),
    "ResNet":            Architecture(CNN,         lambda net: net.layer4[-1], "NCHW"),
    "DenseNet":          Architecture(CNN,         lambda net: net.features,   "NCHW"),
    "EfficientNet":      Architecture(CNN,         lambda net: net.bn2,        "NCHW"),  # with MobileNetV2
}  # fmt: skip


class Explained(NamedTuple):
    """Heat maps of a batch, and what the model said."""

    maps: np.ndarray  # (B, S, S) float32, enlarged
    small: np.ndarray  # (B, h, h) float64, as they came
    cells: Cells  # where in the image those lie
    logits: np.ndarray  # (B,) float64


def architecture_of(net: nn.Module) -> Architecture:
    """A row of the table; for a class that it lacks, the last features that timm itself names."""
    known = ARCHITECTURES.get(type(net).__name__)
    if known is not None:
        return known
    named = getattr(net, "feature_info", None)
    last = named[-1].get("module") if named and not hasattr(net, "num_prefix_tokens") else None
    if not last:
        raise BadInput(
            f"{type(net).__name__}: no layer is known whose maps could be drawn; explain models of the ten families"
        )
    return Architecture(OTHER, lambda net: net.get_submodule(last), "NCHW")


def kind_of(net: nn.Module) -> str:
    """ "CNN" or "transformer" as the study counts its families (EdgeNeXt is a transformer there), else "other"."""
    known = ARCHITECTURES.get(type(net).__name__)
    return known.kind if known else OTHER


def can_roll_out(net: nn.Module) -> bool:
    """Whether every block of a model has one attention over all tokens."""
    return type(net).__name__ in ARCHITECTURES and architecture_of(net).layout == "tokens"


def explain_images(built: Built, images: torch.Tensor, method: str) -> Explained:
    """Heat maps of a batch, enlarged bilinearly to where their cells look.

    Args:
        built: in evaluation mode; its parameters get no gradients.
        images: (B, 3, S, S) float32, normalised, on the model's device.
        method: one of METHODS. grad_cam, grad_cam_pp and rollout are 0 or more everywhere, hirescam is signed.

    Raises:
        BadInput: rollout of a model without plain attention, or no layer is known, or grad-cam is not installed.
    """
    compute = rollout if method == "rollout" else class_activation
    small, logits = compute(built, images, method)  # (B, h, h), (B,)
    cells, size = cells_in(built, small.shape[-1]), images.shape[-1]
    whole = small.double().cpu().numpy()
    return Explained(enlarge(whole, cells, size).astype(np.float32), whole, cells, logits.double().cpu().numpy())


def cells_in(built: Built, number: int) -> Cells:
    """Where the cells of a model's maps lie."""
    architecture = architecture_of(built.model)
    if architecture.layout != "NCHW":  # patches
        return squares(built.image_size, number)
    return cells_of(built.model, architecture.layer(built.model), built.image_size)


def class_activation(built: Built, images: torch.Tensor, method: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, h, w) maps of the last features that have a place, and (B,) logits."""
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise BadInput(
            f"{method}: needs the package grad-cam; install it with pip install 'lesionforge[explain]', "
            "or ask plain ViTs for --methods rollout"
        ) from error
    library = {
        "grad_cam": pytorch_grad_cam.GradCAM,
        "grad_cam_pp": pytorch_grad_cam.GradCAM,  # its hooks; the weights are our own
        "hirescam": pytorch_grad_cam.HiResCAM,
    }[method]
    net = built.model
    architecture = architecture_of(net)
    layer = architecture.layer(net)
    cam = library(net, [layer], reshape_transform=as_grid(net, architecture.layout))
    hooks = cam.activations_and_grads
    net.requires_grad_(False)
    try:
        with torch.enable_grad():
            logits = hooks(images.detach().clone().requires_grad_())[:, 0]
            logits.sum().backward()  # an image's logit depends on no other image
        activations, gradients = (kept[0].float().numpy() for kept in (hooks.activations, hooks.gradients))
        if activations.ndim != 4:
            raise BadInput(f"{built.name}: its last features have no place in the image (shape {activations.shape})")
        if method == "grad_cam_pp":
            small = plus_plus(activations, gradients)
        else:
            small = cam.get_cam_image(images, layer, None, activations, gradients, False)
    finally:
        hooks.release()
    return torch.from_numpy(small if method == "hirescam" else np.maximum(small, 0.0)), logits.detach()


def plus_plus(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Grad-CAM++'s map: features (B, C, h, w) and the logit's gradients => (B, h, w), 0 or more.

    Equation 19 of Chattopadhay et al. 2018, g^2 / (2 g^2 + sum(A) g^3), times g where g > 0, is g / (2 + sum(A) g): no
    division by 0, whatever the scale of g. The paper's features A come out of a ReLU. Tokens do not: a signed sum gives
    supporting channels endless weights or weights below 0, and channels that are below 0 all over outweigh the rest;
    whole maps end up empty. So features are cut off at 0 here, as in the paper.
    """
    features, supporting = np.maximum(activations, 0.0), np.maximum(gradients, 0.0)
    total = features.sum(axis=(2, 3), keepdims=True)
    weights = (supporting / (2.0 + total * supporting)).sum(axis=(2, 3), keepdims=True)
    return np.asarray((weights * features).sum(axis=1))


def as_grid(net: nn.Module, layout: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What turns a layer's output into (B, C, H, W)."""
    if layout == "NHWC":
        return channels_first
    if layout == "NCHW":
        return None
    num_prefix = int(net.num_prefix_tokens)  # type: ignore[arg-type]

    def patches_only(tokens: torch.Tensor) -> torch.Tensor:  # (B, N, C)
        patches = tokens[:, num_prefix:]
        side = side_of(patches.shape[1])
        return channels_first(patches.reshape(len(tokens), side, side, -1))

    return patches_only


def side_of(num_patches: int) -> int:
    return round(num_patches**0.5)


def rollout(built: Built, images: torch.Tensor, method: str = "rollout") -> tuple[torch.Tensor, torch.Tensor]:
    """(B, h, w) shares of the head's input that come from each patch, and (B,) logits."""
    net = built.model
    if not can_roll_out(net):
        raise BadInput(
            f"rollout: {built.name} has no plain attention over all patches; only ViT, DeiT III, BEiT v2 and EVA-02 "
            "do; use grad_cam"
        )
    attentions, logits = attention_of(net, images)
    flow: torch.Tensor | None = None
    for attention in attentions:  # from the first block to the last
        mean = attention.mean(dim=1)  # (B, N, N), over heads
        with_skip = 0.5 * (mean + torch.eye(mean.shape[-1], device=mean.device))
        flow = with_skip if flow is None else with_skip @ flow
    assert flow is not None
    num_prefix = int(net.num_prefix_tokens)  # type: ignore[arg-type]
    reads_class_token = net.global_pool == "token"
    read = flow[:, 0] if reads_class_token else flow[:, num_prefix:].mean(dim=1)  # (B, N)
    patches = read[:, num_prefix:]
    side = side_of(patches.shape[1])
    return patches.reshape(len(images), side, side), logits


def attention_of(net: nn.Module, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each block's attention, (B, heads, N, N) with rows that sum to 1, and (B,) logits."""
    attentions: list[torch.Tensor] = []
    layers: list[Any] = [block.attn for block in net.blocks]  # type: ignore[union-attr]
    fused = [layer.fused_attn for layer in layers]
    hooks = [
        layer.attn_drop.register_forward_hook(lambda _, inputs, __: attentions.append(inputs[0].detach().float()))
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.fused_attn = False  # the fused kernel never makes the matrix
        with torch.no_grad():
            logits = net(images)[:, 0]
    finally:
        for layer, was_fused, hook in zip(layers, fused, hooks, strict=True):
            layer.fused_attn = was_fused
            hook.remove()
    return attentions, logits


def with_random_weights(built: Built, seed: int, number: int) -> Built:
    """The same architecture, all of it freshly initialised (Adebayo et al. 2018), in evaluation mode.

    Each seed and number (from 0) has weights of its own, and none has those that a training of any seed begins with.
    """
    entropy = np.random.SeedSequence((RANDOM_WEIGHTS, seed, number))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(entropy.generate_state(1, np.uint64).item()))
        random = rebuild(built.facts())
    random.model.eval()
    return random
