"""The shipped recipes of sampling: the numbers of STUDY.md's two public recipes, resolved for `generate`."""

import pytest

from lesionforge.diffusion.generate import GenerateConfig
from lesionforge.diffusion.generation_plan import cells_of
from lesionforge.recipe import find_recipe, shipped
from lesionforge.resolve import resolve

NAMES = sorted(name for name in shipped() if name.startswith("generate_"))


def resolved(name: str) -> GenerateConfig:
    return resolve(
        GenerateConfig, find_recipe(name), {"--generator": (("generator",), ["x"]), "--out": (("out",), ["x"])}
    )


def test_the_list_is_shipped() -> None:
    assert NAMES == ["generate_derm_t2im", "generate_full_128"]


def test_steps_guidance_and_schedulers() -> None:
    """Copied by hand from the study's section on generators."""
    full, derm = resolved("generate_full_128"), resolved("generate_derm_t2im")
    assert (min(full.num_inference_steps), max(full.num_inference_steps)) == (20, 39)
    assert (min(full.guidance_scale), max(full.guidance_scale)) == (3, 8)
    assert len(set(full.scheduler)) == 2
    assert (min(derm.num_inference_steps), max(derm.num_inference_steps)) == (20, 26)
    assert derm.guidance_scale == (7,)
    for config in (full, derm):
        assert config.num_images == 6000
        assert config.generation == "text_to_image"
        assert config.target == "malignant"
        assert config.format.match == "real"
    cells = cells_of(full.checkpoint, full.scheduler, full.num_inference_steps, full.guidance_scale, full.strengths)
    assert len(cells) == 2 * 20 * 6


@pytest.mark.parametrize("name", NAMES)
def test_the_head_tells_their_numbers_from_ours(name: str) -> None:
    head = [line for line in shipped()[name].splitlines() if line.startswith("#")]
    text = " ".join(line.removeprefix("# ") for line in head)
    assert "Numbers as STUDY.md has them" in text
    assert " ours" in text
    assert head[-1] == f"# lesionforge generate --recipe {name} --generator GENERATOR --out CANDIDATES"
    assert all(len(line) <= 120 for line in head)
