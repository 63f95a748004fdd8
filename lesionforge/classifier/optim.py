"""The optimizer with a learning rate for each layer, and the schedule as a function of the step. A door to timm."""

import math
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


def lr_at(step: int, num_steps: int, warmup_fraction: float, lr: float, min_lr: float) -> float:
    """Linear warm-up to `lr`, then half a cosine down to `min_lr` at the last step. `step` counts from 0."""
    num_warmup_steps = round(warmup_fraction * num_steps)
    if step < num_warmup_steps:
        return lr * (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - 1 - num_warmup_steps)  # 0..1
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group learns at its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as flat named tensors: `12.exp_avg` is parameter 12's first moment.

    Parameters count through the groups; one that had no gradient yet has no state, and no tensors here.
    """
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, row in state.items() for name, value in row.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Go on with a saved state; the optimizer must have been built as the saved one was.

    Raises:
        BadInput: a moment that fits no parameter, as after other groups, or one that is missing.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        if name == "step":
            state.setdefault(int(index), {})[name] = value.clone()
            continue
        expected = params[int(index)].shape if int(index) < len(params) else None
        if value.shape != expected:
            raise BadInput(
                f"the saved optimizer does not fit: {name} of parameter {index} has the shape {list(value.shape)}, "
                f"expected {'none' if expected is None else list(expected)}; the model or its optimizer settings "
                "were others; start anew in another --out"
            )
        # In the parameter's memory order: the fused kernel walks memory, and a file knows no channels_last.
        state.setdefault(int(index), {})[name] = torch.empty_like(params[int(index)]).copy_(value)
    names = set().union(*state.values())
    for number, row in state.items():
        if row.keys() != names:
            raise BadInput(
                f"the saved optimizer is incomplete: parameter {number} lacks {', '.join(sorted(names - row.keys()))}; "
                "start anew in another --out"
            )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
