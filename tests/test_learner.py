"""One step: what it changes, and what a step that must not count leaves alone."""

import numpy as np
import polars as pl
import pytest
import torch

from lesionforge.classifier import inference, model
from lesionforge.classifier.learner import MAX_BAD_STEPS, Learner
from lesionforge.classifier.optim import optimizer_tensors
from lesionforge.data.loader import Batch
from lesionforge.errors import BadInput

SIZE = 32
IDS = pl.Series([f"ISIC_{i:07d}" for i in range(8)])


def learner_of(
    name: str,
    micro_batch_size: int | None = None,
    ema_decay: float | None = None,
    precision: str = "fp32",
    freeze_batch_norm: bool = False,
) -> Learner:
    torch.manual_seed(0)
    built = model.build_model(name, "random", SIZE)
    accelerator = inference.build_accelerator("cpu", precision)
    return Learner(built, accelerator, 0, 0.05, (0.9, 0.999), 1.0, micro_batch_size, ema_decay, freeze_batch_norm)


def batch_of(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    return Batch(images, np.array([0, 1] * 4, np.float32), np.arange(8))


def spoil(learner: Learner) -> None:
    """One weight that is not a number: loss and gradients follow."""
    with torch.no_grad():
        learner.params[0][0, 0, 0, 0] = float("nan")


def copy_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.raw.state_dict().items()}


def test_the_loss_falls() -> None:
    learner = learner_of("test_resnet")
    for _ in range(12):
        learner.take_step(batch_of(), 1e-3, IDS)
    late = learner.mean_loss(12)
    for _ in range(12):
        learner.take_step(batch_of(), 1e-3, IDS)
    assert learner.mean_loss(12) < 0.5 * late


def test_accumulated_gradients_are_the_whole_batchs() -> None:
    """Without batch norm, four times two images are one time eight. Compared in AdamW's first moment, a tenth of the
    gradient of norm 1: the weights themselves move by its sign, which rounding turns where it is all but zero."""
    whole, pieces = learner_of("test_vit"), learner_of("test_vit", micro_batch_size=2)
    whole.take_step(batch_of(), 1e-4, IDS)
    pieces.take_step(batch_of(), 1e-4, IDS)
    assert pieces.epoch_loss == pytest.approx(whole.epoch_loss, abs=1e-6)
    ours, theirs = optimizer_tensors(whole.optimizer), optimizer_tensors(pieces.optimizer)
    for name in (name for name in ours if name.endswith("exp_avg")):
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_step_that_is_not_finite_changes_nothing(ema_decay: float | None) -> None:
    """Weights, running statistics of batch norm, average and moments stay; AdamW would have poisoned all of them."""
    learner = learner_of("test_resnet", ema_decay=ema_decay)
    learner.take_step(batch_of(), 1e-3, IDS)
    good = learner.params[0].detach().clone()
    spoil(learner)
    before, average = copy_of(learner), {name: tensor.clone() for name, tensor in learner.ema.items()}
    learner.take_step(batch_of(1), 1e-3, IDS)
    assert learner.bad_steps == 1
    for name, tensor in learner.raw.state_dict().items():
        assert torch.equal(tensor, before[name]) or tensor.isnan().any(), name
    for name, tensor in learner.ema.items():
        assert torch.equal(tensor, average[name])
    with torch.no_grad():  # the cause goes away, and learning goes on
        learner.params[0].copy_(good)
    learner.take_step(batch_of(), 1e-3, IDS)
    assert learner.bad_in_a_row == 0
    assert all(p.isfinite().all() for p in learner.params)


def test_five_bad_steps_in_a_row_stop_and_name_the_images() -> None:
    learner = learner_of("test_resnet")
    spoil(learner)
    for _ in range(MAX_BAD_STEPS - 1):
        learner.take_step(batch_of(), 1e-3, IDS)
    with pytest.raises(BadInput, match=r"5 steps in a row .* ISIC_0000000, ISIC_0000001"):
        learner.take_step(batch_of(), 1e-3, IDS)


def test_the_average_is_the_formulas() -> None:
    """After two steps: 0.9 (0.9 w0 + 0.1 w1) + 0.1 w2."""
    learner = learner_of("test_resnet", ema_decay=0.9)
    weights = [learner.params[0].detach().clone()]
    for seed in range(2):
        learner.take_step(batch_of(seed), 1e-2, IDS)
        weights.append(learner.params[0].detach().clone())
    expected = 0.81 * weights[0] + 0.09 * weights[1] + 0.1 * weights[2]
    name = next(iter(dict(learner.raw.named_parameters())))
    assert torch.allclose(learner.ema[name], expected, atol=1e-6)
    assert torch.equal(learner.weights()[name], learner.ema[name])


def test_the_average_is_lent_and_taken_back() -> None:
    learner = learner_of("test_resnet", ema_decay=0.5)
    learner.take_step(batch_of(), 1e-2, IDS)
    own, name = copy_of(learner), "conv1.0.weight"
    with learner.averaged_weights():
        assert not torch.equal(learner.raw.state_dict()[name], own[name])
    assert all(torch.equal(tensor, own[name]) for name, tensor in learner.raw.state_dict().items())


def test_bf16_keeps_float32_weights() -> None:
    learner = learner_of("test_resnet", precision="bf16")
    learner.take_step(batch_of(), 1e-3, IDS)
    assert {p.dtype for p in learner.params} == {torch.float32}
    exact = learner_of("test_resnet")
    exact.take_step(batch_of(), 1e-3, IDS)
    assert learner.epoch_loss == pytest.approx(exact.epoch_loss, rel=0.02)  # bf16 has 8 bits
    assert learner.epoch_loss != exact.epoch_loss


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale() -> None:
    learner = learner_of("test_resnet", freeze_batch_norm=True)
    before = copy_of(learner)
    learner.take_step(batch_of(), 1e-3, IDS)
    after = learner.raw.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if "running" in name)
    assert not torch.equal(after["conv1.1.weight"], before["conv1.1.weight"])


def test_folded_batch_norm_is_seen() -> None:
    """A fresh model has zero means and unit variances too; one step of training, and it has its own."""
    learner = learner_of("test_resnet")
    assert model.is_folded(learner.raw)
    learner.take_step(batch_of(), 1e-3, IDS)
    assert not model.is_folded(learner.raw)
    assert not model.is_folded(learner_of("test_vit").raw)
