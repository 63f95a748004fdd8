"""One step: what it changes, and what a step that must not count leaves alone."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from lesionforge.classifier.learner import MAX_BAD_STEPS, Learner
from lesionforge.classifier.objective import Objective
from lesionforge.engine import inference, model
from lesionforge.engine.inference import DeviceBatch
from lesionforge.engine.optimizer_state import optimizer_tensors
from lesionforge.errors import BadInput

SIZE = 32
IDS = pl.Series([f"ISIC_{i:07d}" for i in range(8)])


def objective_of(**changes: Any) -> Objective:
    settings: dict[str, Any] = {
        "kind": "bce", "positive_weight": 1.0, "focal_gamma": 2.0, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0,
        "mix_probability": 1.0, "classes": None, "auxiliary_weight": 0.3,
    }  # fmt: skip
    return Objective(**{**settings, **changes})


def learner_of(name: str, precision: str = "fp32", objective: Objective | None = None, **changes: Any) -> Learner:
    torch.manual_seed(0)
    built = model.build_model(name, "random", SIZE)
    accelerator = inference.build_accelerator("cpu", precision)
    settings: dict[str, Any] = {
        "lr": 1e-3, "head_lr": None, "layer_decay": None, "weight_decay": 0.05, "betas": (0.9, 0.999),
        "clip_grad_norm": 1.0, "micro_batch_size": None, "ema_decay": None, "ema_warmup": False,
        "freeze_batch_norm": False, "compile": False, "halve_micro_batch": False,
    }  # fmt: skip
    return Learner(built, accelerator, objective or objective_of(), 0, **{**settings, **changes})


def batch_of(seed: int = 0) -> DeviceBatch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    return DeviceBatch(torch.from_numpy(images), torch.tensor([0.0, 1.0] * 4), np.arange(8))


def spoil(learner: Learner) -> None:
    """One weight that is not a number: loss and gradients follow."""
    with torch.no_grad():
        learner.params[0][0, 0, 0, 0] = float("nan")


def copy_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.raw.state_dict().items()}


def average_of(learner: Learner) -> dict[str, torch.Tensor]:
    return learner.average.tensors if learner.average else {}


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


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
    before, average = copy_of(learner), copies(average_of(learner))
    learner.take_step(batch_of(1), 1e-3, IDS)
    assert learner.bad_steps == 1
    for name, tensor in learner.raw.state_dict().items():
        assert torch.equal(tensor, before[name]) or tensor.isnan().any(), name
    for name, tensor in average_of(learner).items():
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
    assert torch.allclose(average_of(learner)[name], expected, atol=1e-6)
    assert torch.equal(learner.weights()[name], average_of(learner)[name])


def test_the_average_is_lent_and_taken_back() -> None:
    learner = learner_of("test_resnet", ema_decay=0.5)
    learner.take_step(batch_of(), 1e-2, IDS)
    own, name = copy_of(learner), "conv1.0.weight"
    with learner.lent(average_of(learner)):
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


def test_only_the_last_layer_learns_while_the_rest_is_frozen() -> None:
    learner = learner_of("test_resnet")
    learner.freeze(True)
    before = copy_of(learner)
    learner.take_step(batch_of(), 1e-3, IDS)
    changed = {name for name, tensor in learner.raw.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    learner.freeze(False)
    before = copy_of(learner)
    learner.take_step(batch_of(), 1e-3, IDS)
    changed = {name for name, tensor in learner.raw.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"conv1.0.weight", "conv1.1.running_mean", "fc.weight"} <= changed


def test_a_second_head_changes_what_is_learned_and_is_no_part_of_the_weights() -> None:
    classes = np.array([0, 1, 2, 0, 1, 2, -1, -1])
    plain, both = learner_of("test_vit"), learner_of("test_vit", objective=objective_of(classes=classes))
    assert plain.weights().keys() == both.weights().keys()
    both.raw.load_state_dict(plain.raw.state_dict())
    plain.take_step(batch_of(), 1e-3, IDS)
    both.take_step(batch_of(), 1e-3, IDS)
    assert not torch.equal(plain.weights()["blocks.0.attn.qkv.weight"], both.weights()["blocks.0.attn.qkv.weight"])
    assert any(name.startswith("auxiliary.") for name in both.state()[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "focal"}, {"positive_weight": 3.0}, {"label_smoothing": 0.1}, {"mixup": 0.5}, {"cutmix": 1.0},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_each_part_of_the_objective_changes_the_step(changes: dict[str, Any]) -> None:
    plain, other = learner_of("test_vit"), learner_of("test_vit", objective=objective_of(**changes))
    plain.take_step(batch_of(), 1e-3, IDS)
    other.take_step(batch_of(), 1e-3, IDS)
    assert other.epoch_loss != pytest.approx(plain.epoch_loss, rel=1e-3)


def tight(learner: Learner, most: int) -> Learner:
    """A device with room for `most` images at once: what it raises is what torch raises, its cause is planted."""

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    learner.raw.register_forward_pre_hook(refuse)
    return learner


def test_out_of_memory_says_what_would_have_fitted() -> None:
    learner = tight(learner_of("test_vit"), 3)
    before = copy_of(learner)
    with pytest.raises(
        BadInput, match=r"8 images of 32 px at once do not fit; 2 do: --optim.micro-batch-size 2, or --h"
    ):
        learner.take_step(batch_of(), 1e-3, IDS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.raw.state_dict().items())


def test_out_of_memory_halves_when_asked_and_makes_the_same_step(caplog: pytest.LogCaptureFixture) -> None:
    whole, halved = learner_of("test_vit"), tight(learner_of("test_vit", halve_micro_batch=True), 3)
    whole.take_step(batch_of(), 1e-4, IDS)
    halved.take_step(batch_of(), 1e-4, IDS)
    assert "going on with micro-batches of 2 images" in caplog.text
    assert halved.epoch_loss == pytest.approx(whole.epoch_loss, abs=1e-6)
    assert halved.micro_batch_size == 2


def test_one_image_that_does_not_fit_has_another_cure() -> None:
    with pytest.raises(BadInput, match="1 images of 32 px at once do not fit; close other programs"):
        tight(learner_of("test_vit", halve_micro_batch=True), 0).take_step(batch_of(), 1e-3, IDS)
