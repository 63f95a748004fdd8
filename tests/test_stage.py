"""One step of training: its randomness, gradients and bad days; a stage that goes on is bitwise what it would be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lesionforge.diffusion.stage import Draws, Stage, steps_per_epoch_of
from lesionforge.engine import checkpoint, inference
from lesionforge.errors import BadInput


class LineGoal:
    """A line through points in noise: as small as a goal can be."""

    def __init__(self, num_images: int = 12) -> None:
        points = torch.Generator().manual_seed(3)
        self.num_images = num_images
        self.x = torch.randn(num_images, 3, generator=points)
        self.line = nn.Linear(3, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)
        self.drawn: list[torch.Tensor] = []
        self.shown: list[list[int]] = []
        self.broken: set[int] = set()  # steps whose loss is no number

    def draws(self, positions: np.ndarray, generator: torch.Generator) -> Draws:
        self.drawn.append(torch.randn(len(positions), 3, generator=generator))
        self.shown.append(positions.tolist())
        return {"noise": self.drawn[-1]}

    def losses(self, positions: np.ndarray, draws: Draws) -> torch.Tensor:
        x = self.x[positions]
        losses = (self.line(x + 0.1 * draws["noise"])[:, 0] - x.sum(dim=1)).square()
        return losses * float("nan") if len(self.drawn) - 1 in self.broken else losses

    def held_out_loss(self) -> float | None:
        return None


def stage_of(goal: LineGoal, name: str = "line", seed: int = 0, **changes: Any) -> Stage:
    settings: dict[str, Any] = {
        "num_steps": 12, "batch_size": 4, "steps_per_epoch": 3, "steps_per_row": 3, "lr": 0.1, "schedule": "constant",
        "warmup_steps": 0, "weight_decay": 0.01, "betas": (0.9, 0.999), "clip_grad_norm": 1.0,
        "micro_batch_size": None, "ema_decay": None, "lr_scales": [1.0, 1.0],
    }  # fmt: skip
    named = dict(goal.line.named_parameters())
    return Stage(
        name, goal, inference.build_accelerator("cpu", "fp32"), seed, names=list(named), params=list(named.values()),
        modules=[goal.line], **(settings | changes),
    )  # fmt: skip


def steps(stage: Stage, num: int) -> None:
    for _ in range(num):
        stage.take_step()


def weights(stage: Stage) -> list[torch.Tensor]:
    return [p.detach().clone() for p in stage.trained]


def drawn_by(num: int = 5, **changes: Any) -> torch.Tensor:
    goal = LineGoal()
    steps(stage_of(goal, **changes), num)
    return torch.stack(goal.drawn)


def test_draws_depend_on_seed_stage_and_step_alone() -> None:
    usual = drawn_by()
    assert torch.equal(drawn_by(micro_batch_size=1), usual)
    assert torch.equal(drawn_by(lr=0.5, ema_decay=0.9), usual)
    assert len(torch.unique(usual)) == usual.numel()  # no step sees another's noise
    for changes in ({"seed": 1}, {"name": "prior"}):
        assert not torch.isin(drawn_by(**changes), usual).any()


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_micro_batches_add_up_to_the_batch(micro_batch_size: int) -> None:
    whole, parts = stage_of(LineGoal()), stage_of(LineGoal(), micro_batch_size=micro_batch_size)
    steps(whole, 6)
    steps(parts, 6)
    for one, other in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert parts.mean_loss() == pytest.approx(whole.mean_loss(), rel=1e-5)


def test_a_step_is_adamw_on_the_mean_loss() -> None:
    goal, twin = LineGoal(), LineGoal()
    stage = stage_of(goal, clip_grad_norm=None)
    optimizer = torch.optim.AdamW(twin.line.parameters(), lr=0.1, weight_decay=0.01)
    losses = []
    for _ in range(3):
        stage.take_step()
        optimizer.zero_grad()
        loss = twin.losses(np.array(goal.shown[-1]), {"noise": goal.drawn[-1]}).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    for one, other in zip(weights(stage), twin.line.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert stage.mean_loss() == pytest.approx(np.mean(losses))
    assert stage.row_loss == 0


def test_each_image_comes_once_before_one_comes_again() -> None:
    goal = LineGoal(10)
    steps(stage_of(goal, num_steps=15, steps_per_epoch=steps_per_epoch_of(10, 4)), 15)
    assert [len(batch) for batch in goal.shown] == [4] * 15
    walk = np.array(goal.shown).ravel().reshape(6, 10)
    assert all(sorted(row) == list(range(10)) for row in walk.tolist())
    assert not np.array_equal(walk[0], walk[1])
    assert [steps_per_epoch_of(n, 8) for n in (1, 8, 9)] == [1, 1, 2]


def test_a_bad_step_changes_nothing_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    goal = LineGoal()
    goal.broken = {2, 3}
    stage = stage_of(goal, ema_decay=0.5)
    steps(stage, 2)
    before, average = weights(stage), {name: t.clone() for name, t in stage.average.tensors.items()}  # type: ignore[union-attr]
    steps(stage, 2)
    assert all(torch.equal(one, other) for one, other in zip(weights(stage), before, strict=True))
    assert all(torch.equal(average[name], t) for name, t in stage.average.tensors.items())  # type: ignore[union-attr]
    assert (stage.bad_steps, stage.bad_in_a_row, stage.step) == (2, 2, 4)
    assert np.isfinite(stage.row_loss)
    assert "line: step 2 skipped: loss nan" in caplog.text
    stage.take_step()
    assert (stage.bad_steps, stage.bad_in_a_row) == (2, 0)
    assert not torch.equal(weights(stage)[0], before[0])


def test_five_bad_steps_in_a_row_end_the_run() -> None:
    goal = LineGoal()
    goal.broken = set(range(1, 9))
    stage = stage_of(goal)
    stage.take_step()
    before = weights(stage)
    steps(stage, 4)
    with pytest.raises(BadInput, match=r"line: 5 steps in a row had a loss or gradient that is not finite; what learns "
                       r"is as before\. Lower optim\.lr, or use --optim\.precision fp32"):  # fmt: skip
        stage.take_step()
    assert all(torch.equal(one, other) for one, other in zip(weights(stage), before, strict=True))


def test_learning_rates() -> None:
    constant = stage_of(LineGoal(), warmup_steps=4, lr=1.0)
    assert [constant.lr_of(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert stage_of(LineGoal(), lr=1.0).lr_of(0) == 1.0
    cosine = stage_of(LineGoal(), schedule="cosine", num_steps=12, warmup_steps=2, lr=1.0)
    rates = [cosine.lr_of(step) for step in range(12)]
    assert rates[:2] == [0.5, 1.0]
    by_hand = [0.01 + 0.99 * (1 + np.cos(np.pi * step / 9)) / 2 for step in range(10)]
    assert rates[2:] == pytest.approx(by_hand)


def test_rates_of_their_own() -> None:
    """The bias at a tenth of the rate; a rate of 0 would leave it."""
    stage = stage_of(LineGoal(), lr_scales=[1.0, 0.1], weight_decay=0.0, lr=0.1)
    stage.take_step()
    weight, bias = weights(stage)
    assert float(weight.abs().max()) == pytest.approx(0.1, rel=1e-3)  # Adam's first step is the rate
    assert float(bias.abs()) == pytest.approx(0.01, rel=1e-3)


def test_gone_on_with_it_is_bitwise_what_it_would_have_been(tmp_path: Path) -> None:
    through = stage_of(LineGoal(), ema_decay=0.9, lr_scales=[1.0, 0.1])
    steps(through, 8)
    first = stage_of(LineGoal(), ema_decay=0.9, lr_scales=[1.0, 0.1])
    steps(first, 5)
    checkpoint.save_checkpoint(tmp_path / "line", *first.state())
    second = stage_of(LineGoal(), ema_decay=0.9, lr_scales=[1.0, 0.1])
    found = checkpoint.load_checkpoint(tmp_path / "line")
    assert found is not None
    second.restore(found, tmp_path)
    assert second.step == 5
    steps(second, 3)
    for part in (lambda stage: stage.state()[1], lambda stage: {"row": torch.tensor(stage.row_loss)}):
        one, other = part(through), part(second)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    stage = stage_of(LineGoal())
    stage.take_step()
    checkpoint.save_checkpoint(tmp_path / "line", *stage.state())
    found = checkpoint.load_checkpoint(tmp_path / "line")
    assert found is not None
    other = stage_of(LineGoal())
    other.names = ["a", "b"]
    with pytest.raises(BadInput, match="its checkpoint is of another model; delete the run folder and start anew"):
        other.restore(found, tmp_path)


def test_the_average_is_lent_and_given_back() -> None:
    stage = stage_of(LineGoal(), ema_decay=0.9)
    steps(stage, 4)
    own = weights(stage)
    with stage.averaged():
        inside = weights(stage)
    assert all(torch.equal(one, other) for one, other in zip(weights(stage), own, strict=True))
    assert all(torch.equal(t, stage.average.tensors[str(i)]) for i, t in enumerate(inside))  # type: ignore[union-attr]
    assert not torch.equal(inside[0], own[0])
    stage.settle()
    assert all(torch.equal(one, other) for one, other in zip(weights(stage), inside, strict=True))
    plain = stage_of(LineGoal())
    steps(plain, 2)
    before = weights(plain)
    with plain.averaged():
        assert all(torch.equal(one, other) for one, other in zip(weights(plain), before, strict=True))
    plain.settle()
    assert all(torch.equal(one, other) for one, other in zip(weights(plain), before, strict=True))


class TooLarge(LineGoal):
    def losses(self, positions: np.ndarray, draws: Draws) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("micro_batch_size", "cure"),
    [
        (None, "4 images at once do not fit; try --optim.micro-batch-size 2, --optim.grad-checkpointing, or a smaller"),
        (2, "2 images at once do not fit; try --optim.micro-batch-size 1, --optim.grad-checkpointing, or a smaller"),
        (1, "1 images at once do not fit; try --optim.grad-checkpointing, or a smaller --data"),
    ],
)
def test_out_of_memory_is_one_line_with_the_cure(micro_batch_size: int | None, cure: str) -> None:
    stage = stage_of(TooLarge(), micro_batch_size=micro_batch_size)
    with pytest.raises(BadInput) as caught:
        stage.take_step()
    assert str(caught.value).startswith(f"out of memory: {cure}")
    assert "\n" not in str(caught.value)


def test_what_it_says_of_itself() -> None:
    assert stage_of(LineGoal()).in_words() == "line: 0.00 M parameters learn 12 images, 12 steps of 4"
