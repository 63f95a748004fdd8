"""A few real steps on noise say how fast a classifier is here."""

import pytest
import torch

from lesionforge.engine import timing
from lesionforge.errors import BadInput


def test_a_larger_image_takes_longer_and_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    small = timing.speed_of("efficientnet:tiny", 32, 4, "fp32", {}, 1)
    large = timing.speed_of("efficientnet:tiny", 192, 4, "fp32", {}, 1)
    assert torch.get_num_threads() == before
    assert 0 < small.scoring_seconds < large.scoring_seconds
    assert small.training_seconds < large.training_seconds
    assert (small.image_size, large.image_size) == (32, 192)
    assert small.num_parameters == large.num_parameters == pytest.approx(0.76e6, rel=0.01)


def test_the_weights_own_size_and_mixed_precision() -> None:
    found = timing.speed_of("efficientnet:tiny", None, 2, "bf16", {}, 1)
    assert found.image_size == 106
    assert found.training_seconds > 0


def test_an_unknown_model_is_refused_as_a_training_would() -> None:
    with pytest.raises(BadInput, match=r"model.name: timm .* has no model 'edgnext'; did you mean edgenext"):
        timing.speed_of("edgnext", 32, 2, "fp32", {}, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_no_gpu_is_counted_where_there_is_none() -> None:
    assert timing.num_gpus() == 0
