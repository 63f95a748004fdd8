"""Losses against torch, torchvision, scikit-learn and their formulas; gradients where logits are large."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from lesionforge.classifier.losses import UNKNOWN, auxiliary_loss, binary_loss, positive_weight_of
from lesionforge.errors import BadInput

LOGITS = torch.linspace(-6, 6, 25)
HARD = (torch.arange(25) % 3 == 0).float()
SOFT = torch.linspace(0, 1, 25)[torch.randperm(25, generator=torch.Generator().manual_seed(0))]


def loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    kind: str = "bce",
    weight: float = 1.0,
    gamma: float = 2.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    return binary_loss(logits, targets, kind, weight, gamma, smoothing)


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("weight", [1.0, 7.5])
def test_bce_is_torchs(targets: torch.Tensor, weight: float) -> None:
    theirs = functional.binary_cross_entropy_with_logits(
        LOGITS, targets, pos_weight=torch.tensor(weight), reduction="none"
    )
    assert torch.equal(loss(LOGITS, targets, weight=weight), theirs)


def test_focal_is_torchvisions() -> None:
    theirs = sigmoid_focal_loss(LOGITS, HARD, alpha=-1, gamma=1.5)
    assert torch.allclose(loss(LOGITS, HARD, "focal", gamma=1.5), theirs, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_formula_with_soft_targets_and_a_weight(gamma: float) -> None:
    p, t = 1 / (1 + np.exp(-LOGITS.double().numpy())), SOFT.double().numpy()
    expected = -(3 * t * (1 - p) ** gamma * np.log(p) + (1 - t) * p**gamma * np.log(1 - p))
    assert loss(LOGITS, SOFT, "focal", 3.0, gamma).numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_focal_without_gamma_is_bce(targets: torch.Tensor) -> None:
    bce = loss(LOGITS, targets, weight=4.0, smoothing=0.1)
    assert torch.allclose(loss(LOGITS, targets, "focal", 4.0, 0.0, 0.1), bce, atol=1e-6)


def test_focal_counts_easy_images_less() -> None:
    easy, hard = torch.tensor([3.0]), torch.tensor([-3.0])
    malignant = torch.ones(1)
    assert loss(easy, malignant, "focal") / loss(easy, malignant) < 0.01
    assert loss(hard, malignant, "focal") / loss(hard, malignant) > 0.9


def test_label_smoothing_is_torchs_of_two_classes() -> None:
    """Two logits (0, x) and cross-entropy: the smoothed one is least at p = 1 - s / 2, not at the end."""
    two = torch.stack([torch.zeros(25), LOGITS], dim=1)
    theirs = functional.cross_entropy(two, HARD.long(), label_smoothing=0.2, reduction="none")
    assert torch.allclose(loss(LOGITS, HARD, smoothing=0.2), theirs, atol=1e-6)
    xs = torch.linspace(0, 6, 6001)
    best = xs[loss(xs, torch.ones(6001), smoothing=0.2).argmin()]
    assert float(torch.sigmoid(best)) == pytest.approx(0.9, abs=1e-3)


def test_loss_of_a_mixed_image_is_the_mix_of_two_losses() -> None:
    """What makes mixup of targets and of losses the same; focal too."""
    for kind in ("bce", "focal"):
        mixed = loss(LOGITS, torch.full((25,), 0.3), kind, 2.0)
        two = 0.3 * loss(LOGITS, torch.ones(25), kind, 2.0) + 0.7 * loss(LOGITS, torch.zeros(25), kind, 2.0)
        assert torch.allclose(mixed, two, atol=1e-5)


@pytest.mark.parametrize("kind", ["bce", "focal"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_stay_finite(kind: str, gamma: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], dtype=dtype).repeat(3).requires_grad_(True)
    targets = torch.tensor([0.0, 1.0, 0.4]).repeat_interleave(5)
    losses = loss(logits, targets, kind, 5.0, gamma)
    assert losses.dtype == torch.float32
    assert torch.isfinite(losses).all()
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert float(losses[5].detach()) == pytest.approx(5e4, rel=0.01)  # malignant at -1e4: still charged in full
    assert float(logits.grad[5]) == pytest.approx(-5.0, rel=0.01)
    assert losses[0] == losses[9] == 0  # benign at -1e4, malignant at 1e4


def test_focal_gradient_is_the_derivative() -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float32).requires_grad_(True)
    targets = torch.linspace(0, 1, 9)
    loss(logits, targets, "focal", 2.0, 1.5).sum().backward()
    x, t, d = logits.detach().double().numpy(), targets.double().numpy(), 1e-6

    def formula(x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-x))
        return -(2 * t * (1 - p) ** 1.5 * np.log(p) + (1 - t) * p**1.5 * np.log(1 - p))

    assert logits.grad is not None
    assert logits.grad.numpy() == pytest.approx((formula(x + d) - formula(x - d)) / (2 * d), rel=1e-4, abs=1e-5)


def test_what_is_not_finite_is_not_hidden() -> None:
    """The training step counts and skips it, so it must come through."""
    for kind in ("bce", "focal"):
        assert torch.isnan(loss(torch.tensor([float("nan")]), torch.ones(1), kind)).all()


def test_balanced_weight_gives_both_classes_the_same_sum() -> None:
    targets = np.array([1] * 7 + [0] * 93)
    weight = positive_weight_of("balanced", targets)
    at_half = loss(torch.zeros(100), torch.from_numpy(targets).float(), weight=weight)
    assert float(at_half[:7].sum()) == pytest.approx(float(at_half[7:].sum()))
    benign, malignant = compute_class_weight("balanced", classes=np.array([0, 1]), y=targets)
    assert weight == pytest.approx(malignant / benign)
    assert positive_weight_of(2, targets) == 2.0


def test_balanced_weight_needs_both_classes() -> None:
    with pytest.raises(BadInput, match="needs both classes; an epoch holds 0 malignant and 1,200 benign; give"):
        positive_weight_of("balanced", np.zeros(1200))
    assert positive_weight_of(3.0, np.zeros(5)) == 3.0


def test_auxiliary_loss_passes_over_unknown_diagnoses() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    losses = auxiliary_loss(logits, torch.tensor([2, UNKNOWN, 0, UNKNOWN]))
    log_p = logits.detach().double() - torch.logsumexp(logits.detach().double(), dim=1, keepdim=True)
    assert losses.tolist() == pytest.approx([-float(log_p[0, 2]), 0, -float(log_p[2, 0]), 0], abs=1e-6)
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=1).gt(0).tolist() == [True, False, True, False]
    nothing_known = auxiliary_loss(logits.detach().bfloat16(), torch.full((4,), UNKNOWN))
    assert nothing_known.tolist() == [0, 0, 0, 0]
    assert nothing_known.dtype == torch.float32
