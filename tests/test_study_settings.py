"""A study's axes are checked before anything else: names that do not exist, circles, what does not go together."""

from pathlib import Path
from typing import Any

import pytest
from study_words import SMALL, config_of

from lesionforge import run
from lesionforge.config import to_yaml
from lesionforge.errors import BadInput
from lesionforge.recipe import Recipe, read_recipe
from lesionforge.resolve import resolve
from lesionforge.study.settings import StudyConfig


def test_a_study_is_its_own_recipe(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"seeds": [0, 1], "only.seeds": [1]})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert resolve(StudyConfig, read_recipe(tmp_path / "config.yaml"), {}) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}, "seeds": []}, "seeds: found no value, expected one at least; name them in the study's YAML"),
        ({"reference": "Ox"}, "reference: found Ox, expected one of 0x, 1x"),
        ({"reference_model": "nxt"}, "reference_model: found nxt, expected one of next, net; did you mean next"),
        ({"maps": ["nets"]}, "maps: found nets, expected one of next, net; did you mean net"),
        ({"only.models": ["ensemble", "nex"]}, "only.models: found nex, expected one of next, net; did you mean next"),
        ({"only.recipes": ["2x"]}, "only.recipes: found 2x, expected one of 0x, 1x"),
        ({"only.folds": [1]}, "only.folds: found 1, expected one of none: the study has no such axis"),
        ({"only.seeds": [3]}, "only.seeds: found 3, expected one of 0"),
        ({"seeds": [0, 1, 0]}, "seeds: found [0, 1, 0], expected each once"),
        ({"recipes.1x.generator": "scrath"}, "recipes.1x.generator: found scrath, expected one of scratch; did you"),
        ({"recipes.1x.start_from": "1x"}, "recipes.1x.start_from: found 1x, expected one of 0x"),
        ({"recipes.1x.compared_with": "1x"}, "recipes.1x.compared_with: found 1x, expected one of 0x"),
        (
            {"recipes.1x.start_from": "0x", "recipes.0x.start_from": "1x"},
            "recipes.0x.start_from: 0x -> 1x -> 0x is a circle",
        ),
        ({"models.my-net": {}}, "found the name 'my-net', expected letters, digits, _ and ."),
        ({"models.ensemble": {}}, "found the name 'ensemble', expected letters, digits, _ and . ('ensemble' is taken)"),
        ({"generators.scratch.features_from": "net/0y"}, "features_from (MODEL/RECIPE): found 0y, expected one of"),
        ({"generators.scratch.features_from": "net/1x"}, "features_from: 1x has synthetic images itself"),
        ({"generators.scratch.store": "stores/syn"}, "generators.scratch: store is instead of finetune, generate and"),
        ({"data.hidden": "stores/test"}, "hidden and sample_submission make a submission together; give both, or"),
        ({"sizes.counts": 0}, "sizes.counts: found 0, expected a number greater than 0"),
        ({"sizes.epoch": 3}, "unknown key sizes.epoch; did you mean sizes.epochs?"),
        ({"recipies": {}}, "unknown key recipies; did you mean recipes?"),
        ({"part": "train"}, "part: found 'train', expected 'auto', 'val' or 'test'"),
    ],
)
def test_what_is_on_no_axis_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        config_of(tmp_path, changes)
    assert message in str(refused.value)


def test_an_ensemble_needs_two_models(tmp_path: Path) -> None:
    one = {**SMALL, "models": {"net": {}}, "ensemble": True, "out": str(tmp_path), "data": {"store": "s", "split": "s"}}
    with pytest.raises(BadInput, match="ensemble: found one model, expected two or more"):
        resolve(StudyConfig, Recipe("one", one, {}), {})


def test_one_given_store_does_not_do_for_folds(tmp_path: Path) -> None:
    """A generator learns from a fold's part train, so each fold has its own."""
    given = {"generators": {"made": {"store": "stores/syn"}}, "recipes.1x.generator": "made", "folds": [0, 1]}
    with pytest.raises(BadInput, match="found one store for 2 folds, expected a generator a fold; give"):
        config_of(tmp_path, given)
    assert config_of(tmp_path, {**given, "folds": []}).generators["made"].store == Path("stores/syn")


def test_where_and_how_it_runs_is_not_what_it_is(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    other = config_of(tmp_path, {"out": "elsewhere", "cores": 1, "threads": 2, "gpus": 0, "only.models": ["net"]})
    assert run.differing_keys(config.model_dump(mode="json"), other) == []
    changed = config_of(tmp_path, {"title": "Another"})
    assert run.differing_keys(config.model_dump(mode="json"), changed) == [("title", "", "Another")]
