"""What a prediction is charged for: a loss for each image, which the training step sums. All in float32."""

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from lesionforge.errors import BadInput

UNKNOWN = -1  # class of an image without a diagnosis


def binary_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    kind: str,
    positive_weight: float,
    focal_gamma: float,
    label_smoothing: float,
) -> torch.Tensor:
    """Binary cross-entropy or focal loss of each image. (b,) float32

    With p = sigmoid(logit) and t the smoothed target, focal is

        - positive_weight t (1 - p)^gamma log p - (1 - t) p^gamma log(1 - p)

    Lin et al. 2017, equation 4, where t is 0 or 1; between them, as after mixup, the mean of its two ends by t. Their
    alpha is left to `positive_weight`. Binary cross-entropy is the same with gamma 0.

    Args:
        logits: (b,) any float type.
        targets: (b,) in [0, 1].
        kind: "bce" or "focal".
        positive_weight: of a malignant image; torch's `pos_weight`.
        label_smoothing: targets go to target * (1 - s) + s / 2, as in torch and timm for two classes.
    """
    logits, targets = logits.float(), targets.float() * (1 - label_smoothing) + label_smoothing / 2
    if kind == "bce":
        weight = logits.new_full((), positive_weight)  # made on the device: nothing waits for a copy
        return binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    log_p, log_not_p = logsigmoid(logits), logsigmoid(-logits)  # of powers and products only the logs stay finite
    malignant = (focal_gamma * log_not_p).exp() * log_p
    benign = (focal_gamma * log_p).exp() * log_not_p
    return -(positive_weight * targets * malignant + (1 - targets) * benign)


def positive_weight_of(setting: float | str, targets: np.ndarray) -> float:
    """The weight of a malignant image: the number given, or for "balanced" benign / malignant images.

    Args:
        targets: 0 and 1 as an epoch shows them, so that a balanced sampler leaves the weight at 1.

    Raises:
        BadInput: "balanced" for an epoch without one of the classes.
    """
    if setting != "balanced":
        return float(setting)
    num_malignant, num_benign = int((targets == 1).sum()), int((targets == 0).sum())
    if not num_malignant or not num_benign:
        raise BadInput(
            f"loss.positive_weight: balanced needs both classes; an epoch holds {num_malignant:,} malignant and "
            f"{num_benign:,} benign; give a number"
        )
    return num_benign / num_malignant


def auxiliary_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the diagnosis for each image, 0 where it is unknown. (b,) float32

    Args:
        logits: (b, C) any float type.
        classes: (b,) int64 in 0..C-1, or UNKNOWN.
    """
    return cross_entropy(logits.float(), classes, ignore_index=UNKNOWN, reduction="none")
