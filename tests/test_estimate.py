"""How long a study will take: measured where it has run, timed where asked, else roughly guessed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from study_words import config_of, plan_of

from lesionforge import engine
from lesionforge.files import write_json
from lesionforge.study import estimate
from lesionforge.study.estimate import Estimate, as_text, estimate_jobs, images_seen
from lesionforge.study.outdated import marker_of
from lesionforge.study.planning import Plan
from lesionforge.study.workflow import Machine

COUNTS = {"malignant": 310, "benign": 9000}
ONE_CORE = Machine(1, 1, 0)


def estimates_of(folder: Path, plan: Plan, machine: Machine = ONE_CORE, timed: bool = False) -> dict[str, Estimate]:
    return estimate_jobs(folder / "study", plan, COUNTS, 1000, machine, timed)


def took(folder: Path, key: str, seconds: float) -> None:
    write_json(marker_of(folder / "study", key), {"seconds": seconds})


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, 30 * 903),  # matched_budget_0x draws 903 images an epoch, whatever the mix
        ({"optim.epochs": 2, "data.samples_per_epoch": 50}, 100),
        ({"optim.epochs": 2, "data.samples_per_epoch": None}, 2 * 903),
        ({"optim.epochs": 1, "data": {"samples_per_epoch": None, "mix": {"malignant": "all", "benign": "all"}}}, 9310),
        (
            {
                "optim.epochs": 1,
                "data": {"samples_per_epoch": None, "sampler": "fresh_benign", "benign_per_malignant": 3},
            },
            303 * 4,
        ),
        ({"optim.epochs": 1, "data": {"samples_per_epoch": None, "mix.synthetic_malignant": 97}}, 1000),
    ],
)
def test_images_that_a_training_shows(tmp_path: Path, settings: dict[str, Any], seen: int) -> None:
    plan = plan_of(config_of(tmp_path, {"recipes.0x.settings": settings}))
    assert images_seen(plan.jobs["train/net-0x-0"], COUNTS) == seen


def test_what_has_run_tells_how_long_its_likes_take(tmp_path: Path) -> None:
    """Seconds an image, of the same model and size; another model's stay a guess."""
    plan = plan_of(config_of(tmp_path, {"seeds": [0, 1], "recipes.1x.settings.optim.epochs": 60}))
    took(tmp_path, "train/net-0x-0", estimate.START_SECONDS + 90)
    found = estimates_of(tmp_path, plan)
    assert found["train/net-0x-0"][::2] == (estimate.START_SECONDS + 90, "measured")
    assert found["train/net-0x-1"][::2] == (pytest.approx(estimate.START_SECONDS + 90), "measured")
    assert found["train/net-1x-0"][::2] == (pytest.approx(estimate.START_SECONDS + 180), "measured")
    assert found["train/next-0x-0"].basis == "rough"
    took(tmp_path, "train/net-0x-1", estimate.START_SECONDS + 30)
    assert estimates_of(tmp_path, plan)["train/net-1x-0"].seconds == pytest.approx(estimate.START_SECONDS + 120)


def test_each_model_and_size_is_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def speed_of(*what: Any) -> SimpleNamespace:
        asked.append(what)
        return SimpleNamespace(training_seconds=0.01, scoring_seconds=0.002, num_parameters=5_000_000)

    monkeypatch.setattr(engine, "timing", SimpleNamespace(speed_of=speed_of), raising=False)  # without loading torch
    plan = plan_of(config_of(tmp_path, {"seeds": [0, 1, 2], "sizes.image_size": 64}))
    found = estimates_of(tmp_path, plan, Machine(4, 2, 0), timed=True)
    assert asked == [("edgenext:tiny", 64, 32, "fp32", {}, 2), ("resnet:tiny", 64, 32, "fp32", {}, 2)]
    seconds = estimate.START_SECONDS + 30 * 903 * 0.01 + 1000 * 0.002
    assert found["train/net-1x-2"][::2] == (pytest.approx(seconds), "timed")
    assert found["train/net-1x-2"].num_bytes > 4 * 5_000_000, "its weights"


def test_guesses_grow_with_the_work(tmp_path: Path) -> None:
    def found(*changes: dict[str, Any], machine: Machine = ONE_CORE) -> dict[str, Estimate]:
        return estimates_of(tmp_path, plan_of(config_of(tmp_path, *changes)), machine)

    first = found()
    assert {each.basis for each in first.values()} == {"rough"}
    assert all(each.seconds > 0 and each.num_bytes > 0 for each in first.values())
    longer = found({"generators.scratch.finetune.optim.epochs": 1000, "generators.scratch.generate.num_images": 4000})
    assert longer["finetune/scratch"].seconds > first["finetune/scratch"].seconds
    start = estimate.START_SECONDS
    assert longer["generate/scratch"].seconds - start == pytest.approx(10 * (first["generate/scratch"].seconds - start))
    large = found({"sizes.image_size": 128})["train/net-0x-0"].seconds - start
    assert large == pytest.approx(4 * (found({"sizes.image_size": 64})["train/net-0x-0"].seconds - start))
    with_gpu = found(machine=Machine(4, 4, 1))
    assert with_gpu["finetune/scratch"].seconds < first["finetune/scratch"].seconds


def test_the_table_of_a_dry_run(tmp_path: Path) -> None:
    plan = plan_of(config_of(tmp_path))
    found = {key: Estimate(60.0, 5e8, "timed" if key.startswith("train") else "rough") for key in plan.jobs}
    text = as_text(plan, found, 2, {"train/net-0x-0", "preview/preview"})
    rows = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert rows["train"].split() == ["train", "4", "3", "3", "min", "00", "s", "1.5", "GB", "timed"]
    assert rows["preview"].split() == ["preview", "1", "0", "0", "s", "0", "MB", "-"]
    assert rows["together"].endswith("about 3 min 00 s with 2 at once")
    assert len({line.index(" min ") for line in text.splitlines() if line.startswith(("train", "together"))}) == 1
