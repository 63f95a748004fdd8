"""Settings over settings, counts times a factor, jobs in the order in which they need each other."""

from pathlib import Path

import pytest

from lesionforge.errors import BadInput
from lesionforge.recipe import find_recipe
from lesionforge.study import jobs
from lesionforge.study.jobs import Job, counts_times, over


def test_later_settings_win_and_keys_may_be_dotted() -> None:
    assert over({"optim": {"lr": 1, "epochs": 2}}, {"optim.lr": 3}, {"optim": {"betas": [0, 1]}}) == {
        "optim": {"lr": 3, "epochs": 2, "betas": [0, 1]}
    }
    assert over({"data.mix": {"malignant": 5}}, {"data": {"mix.benign": 7}}) == {
        "data": {"mix": {"malignant": 5, "benign": 7}}
    }
    assert over({"betas": [0.9, 0.99]}, {"betas": [0.5]}) == {"betas": [0.5]}, "lists are replaced, not joined"


def test_a_part_of_settings_does_not_change_what_it_was_taken_from() -> None:
    first = {"data": {"mix": {"malignant": 5}}}
    over(first, {"data.mix.malignant": 1})
    assert first == {"data": {"mix": {"malignant": 5}}}


@pytest.mark.parametrize("factor", [1.0, 0.783, 0.5, 0.01, 0.0001, 2.0])
def test_arms_stay_matched(factor: float) -> None:
    """Each count of each arm is rounded down by the same factor, so equal counts stay equal, and none becomes 0."""
    arms = ("0x", "1x", "3x", "15x", "oversampled", "augmented")
    found = [counts_times(find_recipe(f"matched_budget_{arm}").settings, factor)["data"] for arm in arms]
    for kind, asked in (("malignant", 303), ("benign", 600)):
        assert {data["mix"][kind] for data in found} == {max(1, int(asked * factor))}
    assert {data["samples_per_epoch"] for data in found} == {max(1, int(903 * factor))}
    synthetic = [data["mix"]["synthetic_malignant"] for data in found]
    assert synthetic == [max(1, int(num * factor)) if num else 0 for num in (0, 303, 909, 4545, 0, 0)]


def test_what_is_no_count_stays() -> None:
    mix = {"malignant": "all", "benign": 0, "synthetic_malignant": 10, "seed": 7, "scale": "auto"}
    assert counts_times({"data": {"mix": mix, "batch_size": 32}, "seed": 3}, 0.5) == {
        "data": {"mix": {**mix, "synthetic_malignant": 5}, "batch_size": 32},
        "seed": 3,
    }
    assert jobs.times(100, 0.29) == 29, "0.29 * 100 is a little less than 29"
    assert jobs.times(True, 0.5) is True


def test_a_recipe_under_settings() -> None:
    found = jobs.with_recipe({"recipe": "matched_budget_0x", "data.mix.malignant": 3}, "here")
    assert found["data"]["mix"] == {**find_recipe("matched_budget_0x").settings["data"]["mix"], "malignant": 3}
    with pytest.raises(BadInput, match=r"here: recipe: found 3, expected the name of a recipe or a YAML file"):
        jobs.with_recipe({"recipe": 3}, "here")
    with pytest.raises(BadInput, match=r"here: unknown recipe 'matched_budget_2x';.*did you mean matched_budget_"):
        jobs.with_recipe({"recipe": "matched_budget_2x"}, "here")


def test_a_step_is_resolved_as_its_command_would(tmp_path: Path) -> None:
    made = jobs.step(tmp_path, "ensemble", {"runs": ["a", "b"], "out": "c"}, tmp_path / "c", "ensemble/c", "ensemble")
    assert made.config.model_dump(mode="json")["runs"] == ["a", "b"]
    assert made.recipe == tmp_path / "recipes" / "ensemble-c.ensemble.yaml"
    with pytest.raises(
        BadInput, match=r"models.net, settings of train: unknown key optim.learning_rate; did you mean optim"
    ):
        jobs.step(tmp_path, "train", {"out": "r", "optim": {"learning_rate": 1}}, tmp_path, "train/r", "models.net")
    with pytest.raises(BadInput, match=r"models.net, settings of train: missing --data.split"):
        jobs.step(tmp_path, "train", {"out": "r", "data": {"store": "s"}}, tmp_path, "train/r", "models.net")


def test_needed_jobs_come_first() -> None:
    made = [Job("train", "b", (), (("audit/x", "audit"),)), Job("audit", "x", (), (("train/a", "train"),))]
    made.append(Job("train", "a", ()))
    assert list(jobs.in_order(made)) == ["train/a", "audit/x", "train/b"]
    made[2] = Job("train", "a", (), (("train/b", "train"),))
    with pytest.raises(
        BadInput, match="train/b, audit/x, train/a wait for each other; look at features_from and start"
    ):
        jobs.in_order(made)


def test_names() -> None:
    assert jobs.named("net", "0x", jobs.fold_name(1), 0) == "net-0x-fold1-0"
    assert jobs.named("net", "0x", jobs.fold_name(None), 2) == "net-0x-2"
