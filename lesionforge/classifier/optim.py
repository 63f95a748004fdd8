"""The optimizer with a learning rate for each layer. A door to timm."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch

import torch
from timm.models import group_parameters
from torch import nn

from lesionforge.errors import BadInput


def build_optimizer(
    model: nn.Module,
    lr: float,
    head_lr: float | None,
    layer_decay: float | None,
    weight_decay: float,
    betas: tuple[float, float],
    heads: Sequence[nn.Module] = (),
    fused: bool = False,
) -> torch.optim.AdamW:
    """AdamW whose groups keep their share of the scheduled rate as `lr_scale`; `set_lr` sets the rates of a step.

    Biases, norm scales (one-dimensional) and what `model.no_weight_decay()` names (position embeddings, class tokens,
    relative position tables) are not decayed, as in timm. Parameters that are frozen now are in the groups all the
    same: AdamW passes over them while they have no gradient, so thawing them later needs no new optimizer. For that,
    gradients are to be cleared with `zero_grad(set_to_none=True)`.

    Args:
        lr: peak rate of the layers below the head.
        head_lr: peak rate of `model.get_classifier()` and of `heads`; None takes `lr`.
        layer_decay: a layer learns at this share of the rate of the layer above it, `layer_decay ** depth` below the
            top, in timm's grouping of layers (`timm.optim.param_groups_layer_decay`, after BEiT); None or 1 is none.
        heads: further modules at the top; their parameters come last if they are no part of the model.
        fused: torch's fused kernel, on the CPU too; another rounding.

    Raises:
        BadInput: `layer_decay` for a model whose layers timm cannot put in order, `head_lr` for one without a head.
    """
    scales = {} if layer_decay is None else layer_scales(model, layer_decay)
    head_scale = 1.0 if head_lr is None else head_lr / lr
    of_model = [*head_parameters(model)]
    if head_lr is not None and not of_model:
        raise BadInput(
            f"optim.head_lr: {type(model).__name__} has no last layer with weights (timm's get_classifier); "
            "leave optim.head_lr out"
        )
    in_head = {id(param) for param in of_model} | {id(param) for head in heads for param in head.parameters()}
    undecayed: Iterable[str] = getattr(model, "no_weight_decay", tuple)()  # names, or patterns

    named = {id(param): (name, param) for name, param in model.named_parameters()}
    named |= {id(param): ("", param) for head in heads for param in head.parameters() if id(param) not in named}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for key, (name, param) in named.items():
        lr_scale = head_scale if key in in_head else scales.get(name, 1.0)
        is_decayed = param.ndim > 1 and not any(fnmatch(name, pattern) for pattern in undecayed)
        groups.setdefault((lr_scale, weight_decay if is_decayed else 0.0), []).append(param)
    rows = [
        {"params": groups[lr_scale, decay], "lr": lr * lr_scale, "lr_scale": lr_scale, "weight_decay": decay}
        for lr_scale, decay in sorted(groups, key=lambda group: (group[0], -group[1]))
    ]
    return torch.optim.AdamW(rows, betas=betas, fused=fused)


def head_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Those of the last layer, by timm's `get_classifier`; none for a model that has no such method."""
    found: nn.Module | tuple[nn.Module, ...] = getattr(model, "get_classifier", tuple)()
    for layer in found if isinstance(found, tuple) else (found,):  # distilled models have two
        yield from layer.parameters()


def layer_scales(model: nn.Module, layer_decay: float) -> Mapping[str, float]:
    """Each parameter's share of the learning rate, by name: 1 for the top layer."""
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise BadInput(
            f"optim.layer_decay: {type(model).__name__} does not say how its layers follow each other (timm's "
            "group_matcher); leave optim.layer_decay out, or take another model.name"
        )
    depths = group_parameters(model, matcher(coarse=False), reverse=True)  # name: 0 for the stem, and up
    top = max(depths.values())
    return {name: layer_decay ** (top - depth) for name, depth in depths.items()}
