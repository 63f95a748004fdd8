"""The shipped recipes of the challenge's strong entrants: the numbers of STUDY.md's list, resolved for `train`."""

import pytest

from lesionforge.classifier.settings import TrainConfig
from lesionforge.recipe import find_recipe, shipped
from lesionforge.resolve import resolve

ENTRANTS = sorted(name for name in shipped() if name.startswith("entrant_"))


def resolved(name: str) -> TrainConfig:
    paths = {f"--{'.'.join(key)}": (key, ["x"]) for key in (("out",), ("data", "store"), ("data", "split"))}
    return resolve(TrainConfig, find_recipe(name), paths)


def test_the_list_is_shipped() -> None:
    assert ENTRANTS == ["entrant_fresh_benign", "entrant_mixup_ema", "entrant_two_rates"]


@pytest.mark.parametrize("name", ENTRANTS)
def test_common_practice(name: str) -> None:
    """Copied by hand from the study's list: what all of them share, and the ranges in which our choices lie."""
    config = resolved(name)
    assert config.data.fold == "all"
    assert config.data.sampler == "fresh_benign"
    assert 1 <= config.data.benign_per_malignant <= 5
    assert 128 <= (config.data.image_size or 0) <= 384
    assert 32 <= config.data.batch_size <= 512
    assert 30 <= config.optim.epochs <= 80
    assert config.optim.warmup_fraction == 0.05
    assert config.optim.precision == "bf16"
    assert config.select == "last"
    assert config.augment.preset == "strong"
    assert config.data.mix.malignant == config.data.mix.benign == "all"


def test_what_each_is_named_for() -> None:
    fresh, two, average = (resolved(f"entrant_{name}") for name in ("fresh_benign", "two_rates", "mixup_ema"))
    assert (fresh.optim.lr, fresh.optim.head_lr, fresh.loss.mixup, fresh.optim.ema_decay) == (1e-4, None, 0, None)
    assert two.optim.head_lr == 1e-3
    assert two.optim.lr == two.optim.head_lr / 100
    assert two.optim.min_lr / two.optim.lr == pytest.approx(fresh.optim.min_lr / fresh.optim.lr)
    assert (average.loss.mixup, average.loss.mix_probability, average.optim.ema_decay) == (0.5, 1.0, 0.995)


@pytest.mark.parametrize("name", ENTRANTS)
def test_the_head_tells_their_numbers_from_ours(name: str) -> None:
    head = [line for line in shipped()[name].splitlines() if line.startswith("#")]
    text = " ".join(line.removeprefix("# ") for line in head)
    assert head[0].startswith("# A strong entrant's recipe: ")
    assert "From the study's list of what strong entrants do" in text
    assert "ur reading" in text or "Ours: " in text
    assert "lesionforge split --store STORE --out SPLIT" in text
    assert head[-1] == f"# lesionforge train --recipe {name} --data.store STORE --data.split SPLIT --out RUN"
    assert all(len(line) <= 120 for line in head)
