"""From axes to jobs: every setting of every job is known, and refused, before anything runs."""

import re
from pathlib import Path
from typing import Any

import pytest
from study_words import config_of, plan_of, settings_of

from lesionforge import resolve
from lesionforge.errors import BadInput
from lesionforge.recipe import find_recipe, shipped
from lesionforge.study import checks
from lesionforge.study.jobs import ALL
from lesionforge.study.planning import compared_part
from lesionforge.study.settings import StudyConfig

STUDIES = [name for name in shipped() if name.startswith("study_")]
EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "studies").glob("*.yaml"))
HIDDEN = {"data.hidden": "stores/test", "data.sample_submission": "sample_submission.csv"}


def test_each_setting_wins_over_the_one_before_it(tmp_path: Path) -> None:
    """Recipe, its counts times the factor, train, sizes, the model's, the recipe's own; then the seed of the axis."""
    (tmp_path / "mine.yaml").write_text(
        "data: {mix: {malignant: 100, benign: 300}, image_size: 16, batch_size: 4, samples_per_epoch: 90}\n"
        "optim: {epochs: 9, lr: 0.9, weight_decay: 0.9, clip_grad_norm: 0.9}\nseed: 99\nval_every: 9\n"
    )
    layers: dict[str, Any] = {"recipes": {"0x": {"recipe": str(tmp_path / "mine.yaml")}}, "seeds": [5]}

    def found(**more: Any) -> dict[str, Any]:
        return settings_of(plan_of(config_of(tmp_path, layers | more)), "train/net-0x-5")

    settings = found()
    assert (settings["data.mix.malignant"], settings["optim.epochs"], settings["data.batch_size"]) == (100, 9, 4)
    assert settings["seed"] == 5, "an axis, whatever the recipe says"
    sizes = {"counts": 0.5, "epochs": 8, "image_size": 32, "batch_size": 8}
    settings = found(sizes=sizes)
    assert (settings["data.mix.malignant"], settings["data.mix.benign"], settings["data.samples_per_epoch"]) == (
        50, 150, 45,
    )  # fmt: skip
    assert (settings["optim.epochs"], settings["data.image_size"], settings["data.batch_size"]) == (8, 32, 8)
    train = {"optim.epochs": 7, "optim": {"lr": 0.7, "weight_decay": 0.7}, "val_every": 7}
    settings = found(sizes=sizes, train=train)
    assert (settings["optim.epochs"], settings["optim.lr"], settings["val_every"]) == (8, 0.7, 7)
    assert settings["optim.clip_grad_norm"] == 0.9, "what no later one names stays"
    models = {"net": {"optim.lr": 0.6, "optim.weight_decay": 0.6}}
    settings = found(sizes=sizes, train=train, models=models)
    assert (settings["optim.lr"], settings["optim.weight_decay"]) == (0.6, 0.6)
    layers["recipes"]["0x"]["settings"] = {"optim": {"lr": 0.5}, "data.mix.malignant": 3}
    settings = found(sizes=sizes, train=train, models=models)
    assert (settings["optim.lr"], settings["optim.weight_decay"]) == (0.5, 0.6)
    assert settings["data.mix.malignant"] == 3, "a recipe's own setting is taken as it is, whatever the factor"


def test_jobs_and_cells_of_a_small_study(tmp_path: Path) -> None:
    plan = plan_of(config_of(tmp_path, {"seeds": [0, 1], "ensemble": True, "maps": ["net"]}), threads=3)
    assert len(plan.cells) == 2 * 2 * 2 + 2 * 2
    trained = [f"{model}-{arm}-{seed}" for model in ("next", "net") for arm in ("0x", "1x") for seed in (0, 1)]
    assert set(plan.jobs) == {
        "finetune/scratch", "generate/scratch", "audit/scratch", "explain/maps", "preview/preview",
        *(f"train/{name}" for name in trained),
        *(f"ensemble/{arm}-{seed}" for arm in ("0x", "1x") for seed in (0, 1)),
    }  # fmt: skip
    out = tmp_path / "study"
    assert plan.jobs["train/net-1x-0"].needs == (("audit/scratch", "audit"),)
    assert plan.jobs["train/net-0x-0"].needs == ()
    assert plan.jobs["ensemble/1x-1"].needs == (("train/next-1x-1", ALL), ("train/net-1x-1", ALL))
    assert plan.jobs["explain/maps"].needs == (("train/net-0x-0", "train"),)
    steps = plan.jobs["train/net-1x-0"].steps
    assert [(step.verb, str(step.folder.relative_to(out))) for step in steps] == [
        ("train", "runs/net-1x-0"), ("predict", "runs/net-1x-0/predictions"), ("evaluate", "runs/net-1x-0/evaluation"),
    ]  # fmt: skip
    settings = settings_of(plan, "train/net-1x-0")
    assert settings["data.synthetic"] == [str(out / "synthetic" / "scratch")]
    assert (settings["data.store"], settings["data.split"]) == (str(tmp_path / "store"), str(tmp_path / "split"))
    for job in plan.jobs.values():
        for step in job.steps:
            threads = getattr(getattr(step.config, "hardware", None), "torch_threads", 3)
            assert threads == 3, f"{job.key} {step.verb}"
    order = list(plan.jobs)
    assert all(order.index(needed) < order.index(key) for key, job in plan.jobs.items() for needed, _ in job.needs)


def test_a_generator_a_fold_from_that_folds_part_train(tmp_path: Path) -> None:
    changes = {"folds": [0, 3], "ensemble": True, "maps": ["net"], "generators.scratch.features_from": "net/0x"}
    plan = plan_of(config_of(tmp_path, changes, HIDDEN), parts=("val",))
    out = tmp_path / "study"
    for fold in (0, 3):
        name = f"scratch-fold{fold}"
        for verb in ("finetune", "audit"):
            assert settings_of(plan, f"{verb}/{name}", verb)["data.fold"] == fold
        assert settings_of(plan, f"generate/{name}", "generate")["generator"] == str(out / "generators" / name)
        audit = settings_of(plan, f"audit/{name}", "audit")
        assert audit["features.run"] == str(out / "runs" / f"net-0x-fold{fold}-0")
        assert (f"train/net-0x-fold{fold}-0", "train") in plan.jobs[f"audit/{name}"].needs
        train = settings_of(plan, f"train/net-1x-fold{fold}-0")
        assert (train["data.fold"], train["data.synthetic"]) == (fold, [str(out / "synthetic" / name)])
        assert plan.jobs[f"train/net-1x-fold{fold}-0"].needs == ((f"audit/{name}", "audit"),)
    scored_hidden = [key for key, job in plan.jobs.items() if any("hidden" in str(step.folder) for step in job.steps)]
    assert scored_hidden
    assert all("fold0" in key for key in scored_hidden), "hidden images are scored by the first fold's first seed"
    assert [facts["fold"] for facts in plan.generators] == [0, 3]
    assert settings_of(plan, "explain/maps", "explain")["runs"] == [str(out / "runs" / "net-0x-fold0-0")]


def test_a_run_that_starts_from_another_arms(tmp_path: Path) -> None:
    changes = {
        "recipes.pre": {"recipe": "matched_budget_0x", "start_from": "1x"},
        "models.net.model": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    plan = plan_of(config_of(tmp_path, changes))
    assert plan.jobs["train/net-pre-0"].needs == (("train/net-1x-0", "train"),)
    settings = settings_of(plan, "train/net-pre-0")
    assert settings["model.init_from"] == str(tmp_path / "study/runs/net-1x-0")
    assert settings["model.mean"] is None, "its normalisation is that run's"
    assert settings_of(plan, "train/net-1x-0")["model.mean"] == [0.5, 0.5, 0.5]


def test_submissions_and_the_ensembles_hidden_scores(tmp_path: Path) -> None:
    plan = plan_of(config_of(tmp_path, {"seeds": [0, 1], "ensemble": True}, HIDDEN))
    assert {facts["folder"] for facts in plan.submissions} == {
        f"submissions/{model}-{arm}-0" for model in ("next", "net", "ensemble") for arm in ("0x", "1x")
    }
    assert plan.jobs["submit/ensemble-0x-0"].needs == (("ensemble/0x-0", ALL),)
    assert settings_of(plan, "submit/net-0x-0", "submit")["sample_submission"].startswith("/"), "absolute"
    assert [step.verb for step in plan.jobs["train/net-0x-0"].steps] == ["train", "predict", "evaluate", "predict"]
    assert [step.verb for step in plan.jobs["train/net-0x-1"].steps] == ["train", "predict", "evaluate"]


def test_a_store_made_before_needs_no_generator_jobs(tmp_path: Path) -> None:
    given = {"generators": {"made": {"store": str(tmp_path / "syn")}}, "recipes.1x.generator": "made"}
    plan = plan_of(config_of(tmp_path, given))
    assert "finetune/made" not in plan.jobs
    assert plan.jobs["train/net-1x-0"].needs == ()
    assert settings_of(plan, "train/net-1x-0")["data.synthetic"] == [str(tmp_path / "syn")]
    facts = next(facts for facts in plan.generators if facts["name"] == "made")
    assert (facts["finetune"], facts["synthetic"]) == (None, str(tmp_path / "syn"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models.net": {"optim.learning_rate": 1}},
            "models.net with recipes.0x, settings of train: unknown key optim",
        ),
        ({"train": {"optim.lr": "fast"}}, "settings of train: optim.lr: found 'fast', expected a number"),
        (
            {"recipes.0x.settings": {"loss.gamma": 1}},
            "models.next with recipes.0x, settings of train: unknown key loss",
        ),
        ({"recipes.0x.recipe": "matched_0x"}, "recipes.0x: unknown recipe 'matched_0x'; expected a path that ends in"),
        ({"recipes.0x.recipe": "nowhere/mine.yaml"}, "recipes.0x: recipe nowhere/mine.yaml: no such file"),
        ({"recipes.0x.recipe": "generator_scratch_64"}, "recipes.0x, settings of train has 6 problems:"),
        ({"generators.scratch.finetune.epoch": 1}, "generators.scratch, settings of finetune: unknown key epoch"),
        (
            {"generators.scratch.audit": {"copies": {"n": 1}}},
            "generators.scratch, settings of audit: unknown key copies",
        ),
        ({"evaluate": {"num_replicate": 3}}, "evaluate, settings of evaluate: unknown key num_replicate; did you mean"),
        ({"train": {"optim": {"epochs": 2, "freeze_epochs": 3}}}, "freeze_epochs: found 3 of 2 epochs, expected fewer"),
    ],
)
def test_a_wrong_setting_says_where_it_was_given(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        plan_of(config_of(tmp_path, changes))
    assert message in str(refused.value)


def test_the_part_that_is_compared(tmp_path: Path) -> None:
    folds = {"folds": [0]}
    for parts, changes, part in (
        (("val", "test"), {}, "test"), (("val",), {}, "val"), (("val", "test"), {"part": "val"}, "val"),
        (("val",), folds, "val"),
    ):  # fmt: skip
        assert compared_part(config_of(tmp_path, changes), parts) == part
    with pytest.raises(BadInput, match="part: found test, but the split has the parts train, val; leave part to auto"):
        plan_of(config_of(tmp_path, {"part": "test"}), parts=("val",))
    with pytest.raises(BadInput, match="part: found test, but the split has folds, each held out as val; leave part"):
        plan_of(config_of(tmp_path, {"part": "test"}, folds), parts=("val",))


@pytest.mark.parametrize("recipe", [*STUDIES, *map(str, EXAMPLES)])
def test_shipped_studies_become_plans_on_data_that_fit(tmp_path: Path, recipe: str) -> None:
    """Every setting of every job resolves, every arm can be filled from 310 malignant and 310,000 benign lesions."""
    given = {
        "--out": (("out",), [str(tmp_path / "study")]),
        "--data.store": (("data", "store"), ["store"]),
        "--data.split": (("data", "split"), ["split"]),
    }
    config = resolve.resolve(StudyConfig, find_recipe(recipe), given)
    parts = ("val",) if config.folds else ("val", "test")
    plan = plan_of(config, parts)
    data = checks.Data(parts, {"malignant": 310, "benign": 310_000}, 80_000)
    checks.refuse_unfillable(config, plan, data)
    facts = checks.study_facts(config, plan, data)
    assert len(facts["cells"]) == len(plan.cells)
    assert all(re.match(r"[A-Z].*[.:]$|[a-z_]+\.yaml$", arm["about"]) for arm in facts["arms"].values())
    assert config.title
    assert config.question.strip().endswith((".", "?"))
