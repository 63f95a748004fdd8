"""What a study finds before it runs: lesions of each fold, the jobs to run now; what study.json tells its readers."""

from pathlib import Path

import polars as pl
import pytest
from study_words import config_of, plan_of

from lesionforge import tables
from lesionforge.files import read_json, write_json
from lesionforge.study import checks
from lesionforge.study.checks import Data

GIVEN = Data(("val", "test"), {"malignant": 310, "benign": 9000}, 1000)


def test_lesions_of_a_split_with_parts(tmp_path: Path, blobs: Path, blob_split: Path) -> None:
    config = config_of(tmp_path, {"data": {"store": str(blobs), "split": str(blob_split)}})
    assert checks.read_data(config) == Data(("val", "test"), {"malignant": 18, "benign": 54}, 48)


def test_of_folds_the_poorest_counts(tmp_path: Path, blobs: Path) -> None:
    """30 of 120 blobs are malignant; fold 0 holds out 18 of them in 72, fold 1 six in 24; the others are always in."""
    folds = pl.DataFrame(
        {tables.IMAGE_ID: [f"ISIC_{i:07d}" for i in range(120)], tables.FOLD: [0] * 72 + [1] * 24 + [-1] * 24}
    )
    tables.write_table(tmp_path / "folds.csv", folds)
    config = config_of(tmp_path, {"data": {"store": str(blobs), "split": str(tmp_path / "folds.csv")}, "folds": [0, 1]})
    assert checks.read_data(config) == Data(("val",), {"malignant": 12, "benign": 36}, 72)


@pytest.mark.parametrize(
    ("only", "targets"),
    [
        ({"models": ["net"]}, {"train/net-0x-0", "train/net-0x-1", "train/net-1x-0", "train/net-1x-1"}),
        ({"models": ["net"], "recipes": ["1x"], "seeds": [1]}, {"train/net-1x-1"}),
        ({"models": ["ensemble"], "seeds": [0]}, {"ensemble/0x-0", "ensemble/1x-0"}),
        ({"recipes": ["0x"], "seeds": [0]}, {"train/next-0x-0", "train/net-0x-0", "ensemble/0x-0"}),
    ],
)
def test_a_part_of_the_study(tmp_path: Path, only: dict[str, list[object]], targets: set[str]) -> None:
    config = config_of(tmp_path, {"seeds": [0, 1], "ensemble": True, "only": only})
    found = checks.targets_of(config, plan_of(config))
    assert set(found) == targets
    assert len(found) == len(targets)


def test_without_only_every_job_is_run(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"maps": ["net"]})
    plan = plan_of(config)
    assert checks.targets_of(config, plan) == list(plan.jobs)


def test_an_arm_whose_counts_fit_themselves_is_not_refused(tmp_path: Path) -> None:
    fits = {"recipes.0x.settings": {"data.mix": {"malignant": 5000, "scale": "auto"}}}
    config = config_of(tmp_path, fits)
    checks.refuse_unfillable(config, plan_of(config), GIVEN)
    for mix in ({"malignant": "all", "benign": "all"}, {"benign": 90_000, "benign_source": "synthetic"}):
        config = config_of(tmp_path, {"recipes.0x.settings": {"data.mix": mix}})
        checks.refuse_unfillable(config, plan_of(config), GIVEN)


def test_what_study_json_tells(tmp_path: Path) -> None:
    hidden = {"data.hidden": "stores/test", "data.sample_submission": "sample_submission.csv"}
    more = {"recipes.pre": {"recipe": "matched_budget_0x", "start_from": "1x", "compared_with": "1x"}}
    own = {"models.own.model": {"name": "pit_ti_224", "weights": "random"}}
    config = config_of(tmp_path, {"ensemble": True, "maps": ["net"], "reference_model": "net"}, hidden, more, own)
    write_json(tmp_path / "facts.json", checks.study_facts(config, plan_of(config), GIVEN))
    facts = read_json(tmp_path / "facts.json")
    assert (facts["name"], facts["title"], facts["part"], facts["reference"]) == ("study", "study", "test", "0x")
    assert facts["data"] == {"store": str(tmp_path / "store"), "split": str(tmp_path / "split")}
    assert facts["models"] == {
        "next": {"timm_name": "edgenext_xx_small", "kind": "transformer", "parameters": 1.16},
        "net": {"timm_name": "resnet10t", "kind": "CNN", "parameters": 4.92},
        "own": {"timm_name": "pit_ti_224", "kind": None, "parameters": None},
        "ensemble": {"timm_name": None, "kind": "ensemble", "parameters": None},
    }
    assert facts["arms"]["1x"] == {
        "recipe": "matched_budget_1x",
        "about": "Matched budget, 1x: one synthetic malignant image for each of 303 real ones. "
        "Synthetic lesions from the generator scratch.",
        "generator": "scratch",
        "start_from": None,
        "compared_with": "0x",
        "asked": {"malignant": 303, "benign": 600, "synthetic_malignant": 303},
    }
    smaller = {"sizes.counts": 0.5, "recipes.pre.settings": {"data.mix.malignant": 0}}
    changed = config_of(tmp_path / "changed", more, smaller)
    about = checks.study_facts(changed, plan_of(changed), GIVEN)["arms"]["pre"]["about"]
    assert about.endswith(
        " Starts from the weights of 1x. Here with data.mix.malignant 0. The recipe's counts times 0.5."
    )
    assert [facts["arms"][arm]["compared_with"] for arm in ("0x", "pre")] == [None, "1x"]
    assert {"run": "runs/net-pre-0", "model": "net", "arm": "pre", "fold": None, "seed": 0} in facts["cells"]
    assert {"run": "ensembles/1x-0", "model": "ensemble", "arm": "1x", "fold": None, "seed": 0} in facts["cells"]
    assert len(facts["cells"]) == 3 * 3 + 3
    (generator,) = facts["generators"]
    assert generator == {
        "name": "scratch", "fold": None, "finetune": "generators/scratch", "candidates": "candidates/scratch",
        "synthetic": "synthetic/scratch",
    }  # fmt: skip
    assert (facts["maps"], facts["previews"], len(facts["submissions"])) == (["maps"], ["preview"], 12)
    assert (facts["compare"], facts["subgroups"], facts["report"]) == ("compare", "subgroups", "report")
