"""The objective puts mixing, loss and second head together as the formulas say."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lesionforge.classifier.objective import Objective, Share
from lesionforge.engine.inference import DeviceBatch

ENTROPY = (0, 5, 0)  # seed, step, process


def objective_of(**changes: Any) -> Objective:
    settings: dict[str, Any] = {
        "kind": "bce", "positive_weight": 1.0, "focal_gamma": 2.0, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0,
        "mix_probability": 1.0, "classes": None, "auxiliary_weight": 0.3,
    }  # fmt: skip
    return Objective(**{**settings, **changes})


def batch_of(num: int = 6) -> tuple[torch.Tensor, DeviceBatch]:
    images = torch.rand(num, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0.0, 1.0] * (num // 2))
    return images, DeviceBatch(torch.zeros(num, 8, 8, 3, dtype=torch.uint8), targets, np.arange(num))


def test_without_mixing_the_shares_are_the_batch() -> None:
    images, batch = batch_of()
    shares = list(objective_of().shares(images, batch, 4, ENTROPY))
    assert [len(share.images) for share in shares] == [4, 2]
    assert torch.equal(torch.cat([share.images for share in shares]), images)
    assert torch.equal(torch.cat([share.targets for share in shares]), batch.targets)


def test_mixing_does_not_depend_on_the_micro_batch() -> None:
    """Pairs are made in the whole batch, before it is cut into pieces."""
    images, batch = batch_of()
    objective = objective_of(mixup=1.0)
    whole = next(objective.shares(images, batch, 6, ENTROPY))
    pieces = list(objective.shares(images, batch, 2, ENTROPY))
    assert torch.equal(torch.cat([share.images for share in pieces]), whole.images)
    assert not torch.equal(whole.images, images)
    assert 0 < whole.weight < 1


def test_a_plain_loss_is_torchs() -> None:
    images, batch = batch_of()
    share = next(objective_of(positive_weight=3.0).shares(images, batch, 6, ENTROPY))
    logits = torch.linspace(-2, 2, 6)[:, None]
    expected = binary_cross_entropy_with_logits(
        logits[:, 0], batch.targets, pos_weight=torch.tensor(3.0), reduction="none"
    )
    assert torch.allclose(objective_of(positive_weight=3.0).loss(logits, share), expected)


def test_the_second_heads_loss_is_added_where_the_diagnosis_is_known() -> None:
    images, batch = batch_of()
    classes = np.array([0, 1, 2, -1, -1, 0])
    objective = objective_of(classes=classes, auxiliary_weight=0.5)
    assert objective.num_classes == 3
    share = next(objective.shares(images, batch, 6, ENTROPY))
    logits, auxiliary = torch.zeros(6, 1), torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    first = binary_cross_entropy_with_logits(logits[:, 0], batch.targets, reduction="none")
    second = cross_entropy(auxiliary, torch.from_numpy(classes), ignore_index=-1, reduction="none")
    assert torch.allclose(objective.loss((logits, auxiliary), share), first + 0.5 * second)
    assert second[3] == 0


def test_a_mixed_images_diagnosis_is_both() -> None:
    """weight x its own class's loss + (1 - weight) x its partner's."""
    objective = objective_of(classes=np.array([0, 1]), auxiliary_weight=1.0)
    share = Share(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.tensor([0, 1]), torch.tensor([1, 0]), 0.75)
    auxiliary = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    own = cross_entropy(auxiliary, torch.tensor([0, 1]), reduction="none")
    others = cross_entropy(auxiliary, torch.tensor([1, 0]), reduction="none")
    both = objective.loss((torch.zeros(2, 1), auxiliary), share) - np.log(2)
    assert torch.allclose(both, 0.75 * own + 0.25 * others)


@pytest.mark.parametrize("changes", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_another_step_mixes_other_pairs(changes: dict[str, float]) -> None:
    images, batch = batch_of()
    objective = objective_of(**changes)
    first, second = (next(objective.shares(images, batch, 6, (0, step, 0))).images for step in (1, 2))
    assert not torch.equal(first, second)
