"""The schedule's shape, each layer's learning rate, what is not decayed, and an optimizer that goes on after a save."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import timm
import timm.optim
import torch
from torch import nn

from lesionforge.classifier import optim
from lesionforge.engine import optimizer_state, schedule
from lesionforge.errors import BadInput

BETAS = (0.9, 0.999)
SMALL = ("test_vit", "test_convnext", "test_resnet", "test_efficientnet")


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=1)


def settings_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Parameter name: (lr, weight decay); each parameter stands in one group."""
    names = {id(param): name for name, param in model.named_parameters()}
    rows = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in optimizer.param_groups for p in g["params"]]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


# ------------------------------------------------------------------------------------------------------------ schedule


def test_schedule_warms_up_peaks_and_ends_at_the_minimum() -> None:
    rates = [schedule.lr_at(step, 100, 0.1, lr=1e-3, min_lr=1e-5) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)  # a tenth of the peak: the first of ten warm-up steps
    assert rates[9] == rates[10] == 1e-3  # the peak ends the warm-up and begins the cosine
    assert rates[99] == pytest.approx(1e-5)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_schedule_is_torchs_cosine() -> None:
    """Without warm-up it is CosineAnnealingLR, whose last value comes at its T_max."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=19, eta_min=0.01)
    for step in range(20):
        assert schedule.lr_at(step, 20, 0.0, lr=0.1, min_lr=0.01) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_schedule_of_one_step() -> None:
    assert schedule.lr_at(0, 1, 0.05, lr=0.1, min_lr=0.0) == 0.1


# -------------------------------------------------------------------------------------------------------------- groups


def test_biases_and_norms_are_not_decayed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 1))
    decayed, free = optim.build_optimizer(model, 1e-3, None, None, 0.05, BETAS).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert decayed["weight_decay"] == 0.05
    assert [p.ndim for p in free["params"]] == [1, 1, 1, 1]
    assert free["weight_decay"] == 0.0
    assert decayed["lr_scale"] == free["lr_scale"] == 1.0
    assert decayed["lr"] == free["lr"] == 1e-3


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("test_vit", {"cls_token", "pos_embed"}),
        ("swin_tiny_patch4_window7_224", {f"layers.0.blocks.{i}.attn.relative_position_bias_table" for i in (0, 1)}),
    ],
)
def test_position_embeddings_are_not_decayed(name: str, free: set[str]) -> None:
    args = {"embed_dim": 24, "depths": (2,), "num_heads": (2,)} if name.startswith("swin") else {}
    model = timm.create_model(name, num_classes=1, **args)
    settings = settings_of(model, optim.build_optimizer(model, 1e-3, None, None, 0.05, BETAS))
    assert {n for n, p in model.named_parameters() if p.ndim > 1 and settings[n][1] == 0} == free


@pytest.mark.parametrize("name", SMALL)
def test_groups_are_timms(name: str) -> None:
    """timm's own layer decay gives every parameter the same rate and the same weight decay."""
    model = tiny(name)
    optimizer = optim.build_optimizer(model, 1e-3, None, 0.6, 0.05, BETAS)
    undecayed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    groups = timm.optim.param_groups_layer_decay(model, 0.05, undecayed, layer_decay=0.6)
    names = {id(param): n for n, param in model.named_parameters()}
    theirs = {names[id(p)]: (1e-3 * g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    ours = settings_of(model, optimizer)
    assert ours.keys() == theirs.keys()
    for parameter, settings in theirs.items():
        assert ours[parameter] == pytest.approx(settings), parameter


@pytest.mark.parametrize(
    ("name", "distances"),
    [  # layers below the head's
        ("test_vit", {
            "head.weight": 0, "norm.bias": 1, "blocks.5.mlp.fc2.weight": 1, "blocks.0.mlp.fc1.bias": 6, "cls_token": 7,
            "patch_embed.proj.weight": 7,
        }),
        ("test_convnext", {
            "head.fc.weight": 0, "stages.3.blocks.1.conv_dw.weight": 1, "stages.3.blocks.0.conv_dw.weight": 2,
            "stem.0.weight": 10,
        }),
        ("test_resnet", {"fc.weight": 0, "layer4.0.conv1.weight": 1, "layer1.0.conv1.weight": 4, "conv1.0.weight": 5}),
    ],
)  # fmt: skip
def test_a_layer_learns_at_a_share_of_the_rate_of_the_one_above(name: str, distances: dict[str, int]) -> None:
    model = tiny(name)
    optimizer = optim.build_optimizer(model, 1e-3, None, 0.7, 0.05, BETAS)
    settings = settings_of(model, optimizer)
    lowest = min(lr for lr, _ in settings.values())
    assert lowest == pytest.approx(1e-3 * 0.7 ** max(distances.values()))  # the stem is the furthest
    for parameter, distance in distances.items():
        assert settings[parameter][0] == pytest.approx(1e-3 * 0.7**distance), parameter


@pytest.mark.parametrize(("name", "head"), [("test_vit", "head"), ("test_convnext", "head.fc"), ("test_resnet", "fc")])
@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_the_head_has_a_rate_of_its_own(name: str, head: str, layer_decay: float | None) -> None:
    model = tiny(name)
    optimizer = optim.build_optimizer(model, 1e-5, 1e-3, layer_decay, 0.05, BETAS)
    schedule.set_lr(optimizer, 1e-5 / 4)  # a quarter down the schedule: both rates follow
    settings = settings_of(model, optimizer)
    in_head = {n for n, _ in model.named_parameters() if n in (f"{head}.weight", f"{head}.bias")}
    assert {n for n, (lr, _) in settings.items() if lr > 1e-5 / 4} == in_head
    assert [settings[n][0] for n in sorted(in_head)] == pytest.approx([1e-3 / 4, 1e-3 / 4])
    if layer_decay is None:
        assert {lr for n, (lr, _) in settings.items() if n not in in_head} == {1e-5 / 4}


def test_further_heads_come_last_and_learn_at_the_heads_rate() -> None:
    model, second = tiny("test_vit"), nn.Linear(64, 5)
    optimizer = optim.build_optimizer(model, 1e-5, 1e-3, 0.5, 0.05, BETAS, heads=[second, model.get_classifier()])
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len([*model.parameters(), *second.parameters()])
    assert rates[id(second.weight)] == rates[id(second.bias)] == rates[id(model.head.weight)] == pytest.approx(1e-3)
    without = optim.build_optimizer(model, 1e-5, None, 0.5, 0.05, BETAS, heads=[second])
    assert next(g["lr"] for g in without.param_groups if any(p is second.weight for p in g["params"])) == 1e-5


def test_set_lr_keeps_the_shares() -> None:
    model = tiny("test_vit")
    optimizer = optim.build_optimizer(model, 1e-3, None, 0.5, 0.05, BETAS)
    schedule.set_lr(optimizer, 0.1)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.1 * 0.5**depth for depth in range(7, -1, -1)]


def test_what_is_frozen_now_can_learn_later() -> None:
    """One optimizer through the thaw: while frozen nothing moves, not by weight decay either; then everything does."""
    model = tiny("test_resnet").eval()
    for param in model.parameters():
        param.requires_grad_(False)
    for param in model.get_classifier().parameters():
        param.requires_grad_(True)
    optimizer = optim.build_optimizer(model, 1e-2, None, None, 0.5, BETAS)
    first = {name: value.clone() for name, value in model.state_dict().items()}

    def moved() -> set[str]:
        optimizer.zero_grad(set_to_none=True)
        model(torch.ones(2, 3, 32, 32)).sum().backward()
        optimizer.step()
        return {name for name, param in model.named_parameters() if not torch.equal(param, first[name])}

    assert moved() == {"fc.weight", "fc.bias"}
    for param in model.parameters():
        param.requires_grad_(True)
    assert {"conv1.0.weight", "layer4.0.conv1.weight"} <= moved()


def test_refusals() -> None:
    plain = nn.Sequential(nn.Linear(5, 1))
    with pytest.raises(
        BadInput, match=r"optim.layer_decay: Sequential does not say .* \(timm's group_matcher\); leave"
    ):
        optim.build_optimizer(plain, 1e-3, None, 0.5, 0.05, BETAS)
    with pytest.raises(BadInput, match=r"optim.head_lr: Sequential has no last layer with weights"):
        optim.build_optimizer(plain, 1e-3, 1e-2, None, 0.05, BETAS)


# ---------------------------------------------------------------------------------------------------------- checkpoint


def linear() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    return model, optim.build_optimizer(model, 1.0, None, None, 0.05, BETAS)


def many_groups(name: str, fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = tiny(name).to(memory_format=torch.channels_last).eval()
    return model, optim.build_optimizer(model, 1.0, 3.0, 0.7, 0.05, BETAS, fused=fused)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    torch.manual_seed(number)
    shape = (8, 5) if isinstance(model, nn.Linear) else (2, 3, 160, 160)
    optimizer.zero_grad(set_to_none=True)
    model(torch.randn(shape)).square().mean().backward()
    schedule.set_lr(optimizer, 0.01)
    optimizer.step()


@pytest.mark.parametrize(
    "fresh",
    [
        linear,
        lambda: many_groups("test_vit", fused=False),
        lambda: many_groups("test_convnext", fused=True),
        lambda: many_groups("test_resnet", fused=True),
    ],
    ids=["linear", "vit", "convnext-fused", "resnet-fused"],
)
def test_optimizer_goes_on_after_a_save(fresh: Callable[[], tuple[nn.Module, torch.optim.Optimizer]]) -> None:
    """Three steps at once, and two steps, a save into a new optimizer, and the third: the same weights to the bit.

    A file knows no memory order, so what is loaded is contiguous, while the convolutions are channels last.
    """
    whole, whole_optimizer = fresh()
    half, half_optimizer = fresh()
    for number in range(3):
        step(whole, whole_optimizer, number)
    for number in range(2):
        step(half, half_optimizer, number)
    other, other_optimizer = fresh()
    other.load_state_dict(half.state_dict())
    saved = {name: value.contiguous() for name, value in optimizer_state.optimizer_tensors(half_optimizer).items()}
    optimizer_state.load_optimizer_tensors(other_optimizer, saved)
    step(other, other_optimizer, 2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert [g["lr_scale"] for g in other_optimizer.param_groups] == [g["lr_scale"] for g in half_optimizer.param_groups]
    assert all(float(value) == 2 for name, value in saved.items() if name.endswith(".step"))  # not written into


def test_a_save_while_frozen() -> None:
    """What never had a gradient has no state; the loaded optimizer starts it as a new one would."""
    model, optimizer = linear()
    model.weight.requires_grad_(False)
    step(model, optimizer, 0)
    saved = optimizer_state.optimizer_tensors(optimizer)
    assert set(saved) == {"1.step", "1.exp_avg", "1.exp_avg_sq"}
    other, other_optimizer = linear()
    other.load_state_dict(model.state_dict())
    optimizer_state.load_optimizer_tensors(other_optimizer, saved)
    model.weight.requires_grad_(True)
    for m, o in ((model, optimizer), (other, other_optimizer)):
        step(m, o, 1)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_moments_of_other_groups_are_refused() -> None:
    model = tiny("test_vit")
    one, two = (optim.build_optimizer(model, 1e-3, None, decay, 0.05, BETAS) for decay in (None, 0.5))
    model(torch.zeros(1, 3, 160, 160)).sum().backward()
    one.step()
    with pytest.raises(BadInput, match=r"the saved optimizer does not fit: exp_avg of parameter \d+ has the shape \["):
        optimizer_state.load_optimizer_tensors(two, optimizer_state.optimizer_tensors(one))
    _, small = linear()
    with pytest.raises(BadInput, match=r"exp_avg of parameter 7 has the shape \[3\], expected none; .* another --out"):
        optimizer_state.load_optimizer_tensors(small, {"7.step": torch.ones(()), "7.exp_avg": torch.zeros(3)})
