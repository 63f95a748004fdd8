"""The exponential moving average of a model's weights."""

import torch
from torch import nn


class Average:
    """Weights and running statistics averaged over the steps; counters (integers) are copied."""

    def __init__(self, model: nn.Module, decay: float, warmup: bool) -> None:
        """warmup: the decay rises as (1 + n) / (10 + n) after n steps, so that the first weights are soon forgotten."""
        self.model, self.decay, self.warmup = model, decay, warmup
        self.num_steps = 0
        self.tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def update(self) -> None:
        """Take in the model's present weights."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.num_steps) / (10 + self.num_steps))
        self.num_steps += 1
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)

    def restore(self, tensors: dict[str, torch.Tensor], num_steps: int) -> None:
        """Go back to a checkpoint."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
        self.num_steps = num_steps
