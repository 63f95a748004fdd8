"""What a batch's predictions are charged for: mixing of images, the loss, and the second head's loss."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from lesionforge.classifier import blend, losses
from lesionforge.engine.inference import DeviceBatch

Outputs = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Share(NamedTuple):
    """The images that pass through the model at once."""

    images: torch.Tensor  # (b, 3, S, S) float32, normalised
    targets: torch.Tensor  # (b,) float32 in [0, 1]
    classes: torch.Tensor | None  # (b,) int64, -1 unknown: of the second head
    partner_classes: torch.Tensor | None  # (b,) of the images that were mixed in
    weight: float  # of the image itself, 1 where nothing was mixed in


class Objective:
    """The loss of a training, by the settings of its section `loss`."""

    def __init__(
        self,
        *,
        kind: str, positive_weight: float, focal_gamma: float, label_smoothing: float, mixup: float, cutmix: float,
        mix_probability: float, classes: np.ndarray | None, auxiliary_weight: float,
    ) -> None:  # fmt: skip
        """classes: (N,) int64, the second head's class of each image of the mix, -1 unknown; None without that head."""
        self.kind, self.positive_weight, self.focal_gamma = kind, positive_weight, focal_gamma
        self.label_smoothing = label_smoothing
        self.mixup, self.cutmix, self.mix_probability = mixup, cutmix, mix_probability
        self.classes = classes
        self.num_classes = 0 if classes is None else int(classes.max()) + 1
        self.auxiliary_weight = auxiliary_weight

    def shares(
        self, images: torch.Tensor, batch: DeviceBatch, micro_size: int, entropy: tuple[int, int, int]
    ) -> Iterator[Share]:
        """The batch, mixed where this step mixes, in pieces of `micro_size`; entropy: seed, step, process."""
        seed, step, process = entropy
        targets, weight = batch.targets, 1.0
        classes: torch.Tensor | None = None
        partners: torch.Tensor | None = None
        if self.classes is not None:
            classes = torch.from_numpy(self.classes[batch.positions]).to(targets.device)
        drawn = blend.draw_blend(
            seed, step, len(targets), images.shape[-1], self.mixup, self.cutmix, self.mix_probability, process
        )
        if drawn is not None:
            images, targets = blend.blend(images, targets, drawn)
            partners, weight = None if classes is None else blend.partners(classes, drawn), drawn.lam
        for first in range(0, len(targets), micro_size):
            part = slice(first, first + micro_size)
            yield Share(
                images[part],
                targets[part],
                None if classes is None else classes[part],
                None if partners is None else partners[part],
                weight,
            )

    def loss(self, outputs: Outputs, share: Share) -> torch.Tensor:
        """(b,) float32"""
        logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
        loss = losses.binary_loss(
            logits.float().squeeze(1), share.targets, self.kind, self.positive_weight, self.focal_gamma,
            self.label_smoothing,
        )  # fmt: skip
        if auxiliary is None or share.classes is None:
            return loss
        second = share.weight * losses.auxiliary_loss(auxiliary.float(), share.classes)
        if share.partner_classes is not None:
            second = second + (1 - share.weight) * losses.auxiliary_loss(auxiliary.float(), share.partner_classes)
        return loss + self.auxiliary_weight * second
