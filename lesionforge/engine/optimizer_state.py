"""An optimizer's state as named tensors, for checkpoints."""

from collections.abc import Mapping

import torch

from lesionforge.errors import BadInput


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
