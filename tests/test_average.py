"""The moving average against its formula."""

import torch
from torch import nn

from lesionforge.engine.average import Average


def averaged(decay: float, warmup: bool, values: list[float]) -> float:
    """The average of one weight that takes the values in turn."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = Average(model, decay, warmup)
    for value in values:
        model.weight.data.fill_(value)
        average.update()
    return float(average.tensors["weight"])


def test_without_warm_up_the_first_weights_linger() -> None:
    """0.99 of zero and 0.01 of one."""
    assert abs(averaged(0.99, False, [1.0]) - 0.01) < 1e-7


def test_warm_up_forgets_them() -> None:
    """Decays 1/10, 2/11, 3/12: (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage with num_updates."""
    expected = 0.0
    for n, value in enumerate([1.0, 2.0, 3.0]):
        decay = (1 + n) / (10 + n)
        expected = decay * expected + (1 - decay) * value
    assert abs(averaged(0.99, True, [1.0, 2.0, 3.0]) - expected) < 1e-6


def test_warm_up_ends_at_the_decay() -> None:
    """After 1,000 steps (1 + n) / (10 + n) is above 0.9, so one step more moves by 0.1 of the way."""
    before, after = averaged(0.9, True, [1.0] * 1000), averaged(0.9, True, [1.0] * 1000 + [2.0])
    assert abs((after - before) - 0.1) < 1e-5


def test_counters_are_copied() -> None:
    model = nn.BatchNorm1d(2)
    average = Average(model, 0.9, False)
    model(torch.ones(4, 2))
    average.update()
    assert int(average.tensors["num_batches_tracked"]) == 1
