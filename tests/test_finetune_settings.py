"""Settings of a generator: what would do nothing is refused; the shipped presets hold the published numbers."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from lesionforge.config import to_yaml
from lesionforge.diffusion.settings import STUDY_PROMPT, FinetuneConfig
from lesionforge.recipe import find_recipe, shipped
from lesionforge.resolve import resolve

NEEDED: dict[str, Any] = {"out": "o", "data": {"store": "s", "split": "p"}}
PRESETS = sorted(name for name in shipped() if name.startswith("generator_"))
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def config_of(**changes: Any) -> FinetuneConfig:
    data = {**NEEDED["data"], **changes.pop("data", {})}
    return FinetuneConfig.model_validate({**NEEDED, **changes, "data": data})


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        config_of(**changes)
    return str(caught.value)


SECTIONS = {
    "lora": {"rank": 4}, "dreambooth": {"class_prompt": "skin"}, "textual_inversion": {"token": "<x>"},
    "scratch": {"vae_steps": 7},
}  # fmt: skip
USED = {
    "lora": {"lora"}, "full": set(), "dreambooth": {"lora", "dreambooth"}, "textual_inversion": {"textual_inversion"}
}  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("method", USED)
def test_a_section_of_another_method_is_refused(method: str, section: str) -> None:
    if section in USED[method]:
        assert config_of(method=method, **{section: SECTIONS[section]}).method == method
    else:
        message = f"{section}: base {SD15} with method {method} does not use these settings"
        assert message in refusal(method=method, **{section: SECTIONS[section]})


def test_adapters_do_not_count_where_dreambooth_learns_in_full() -> None:
    assert "lora: base" in refusal(method="dreambooth", dreambooth={"train": "full"}, lora={"rank": 4})


def test_base_scratch_has_settings_of_its_own() -> None:
    assert config_of(base="scratch", scratch=SECTIONS["scratch"]).scratch.vae_steps == 7
    assert "lora: base scratch" in refusal(base="scratch", lora={"rank": 4})
    for prompts in ({"template": "a mole"}, {"dropout": 0.1}, {"benign_template": "skin"}):
        assert "prompts: base scratch has words of its own: scratch.conditions" in refusal(
            base="scratch", prompts=prompts
        )
    for method in ("dreambooth", "textual_inversion"):
        assert f"method: base scratch learns in full, leave {method} away" in refusal(base="scratch", method=method)
    assert config_of(base="scratch", method="full").base == "scratch"


def test_the_diagnosis_needs_permission() -> None:
    message = "scratch.conditions: the test file lacks the diagnosis; add --prompts.train-only-columns to use it"
    assert message in refusal(base="scratch", scratch={"conditions": ["site", "diagnosis"]})
    allowed = config_of(base="scratch", scratch={"conditions": ["diagnosis"]}, prompts={"train_only_columns": True})
    assert allowed.scratch.conditions == ("diagnosis",)
    assert config_of(base="scratch", scratch={"conditions": ["site", "age"]}).scratch.conditions == ("site", "age")


def test_sizes_that_cannot_be_halved() -> None:
    assert "data.image_size: 100 px, expected a multiple of 8; take 96 or 104" in refusal(data={"image_size": 100})
    assert config_of(data={"image_size": 104}).data.image_size == 104
    message = "data.image_size: 72 px, expected a multiple of 16; take 64 or 80"
    assert message in refusal(base="scratch", data={"image_size": 72})
    assert "data.image_size: 64 px, expected a multiple of 128; take 128 or 256" in refusal(
        base="scratch", scratch={"vae_factor": 8, "unet_levels": 5}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "loras"}, {"optim": {"lr": 0}}, {"prompts": {"dropout": 1.0}}, {"data": {"target": "all"}},
        {"scratch": {"vae_factor": 3}}, {"unknown": 1}, {"data": {"fold": "every"}}, {"samples": {"epochs": [-1]}},
    ],
)  # fmt: skip
def test_values_that_cannot_be(changes: dict[str, Any]) -> None:
    refusal(**changes)


def resolved(name: str) -> FinetuneConfig:
    paths = {f"--{'.'.join(key)}": (key, ["x"]) for key in (("out",), ("data", "store"), ("data", "split"))}
    return resolve(FinetuneConfig, find_recipe(name), paths)


def test_presets_are_shipped() -> None:
    assert PRESETS == [
        "generator_derm_t2im", "generator_full_128", "generator_scratch_128", "generator_scratch_64", "generator_study"
    ]  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_and_their_yaml_reads_back(name: str) -> None:
    config = resolved(name)
    assert FinetuneConfig.model_validate(yaml.safe_load(to_yaml(config))) == config
    assert set(config.samples.epochs) >= {0, 10, 25, 50}
    head = [line for line in shipped()[name].splitlines() if line.startswith("#")]
    assert head[-1].startswith(f"# lesionforge finetune --recipe {name} --data.store STORE --data.split SPLIT --out ")
    assert all(len(line) <= 120 for line in head)
    text = " ".join(line.removeprefix("# ") for line in head)
    assert ("not run by us" in text) == (name != "generator_scratch_64")
    assert any(words in text for words in ("hoices are ours", "our reading", "so ours: "))


def test_the_study() -> None:
    """STUDY.md, Generator: Stable Diffusion, 50 epochs, the prompt; Figure 4a's epochs."""
    config = resolved("generator_study")
    assert "stable-diffusion" in config.base
    assert config.optim.epochs == 50
    assert config.prompts.template == STUDY_PROMPT == "Malignant skin lesions"
    assert config.samples.epochs == (0, 10, 25, 50)
    assert config.data.target == "malignant"


def test_the_first_public_recipe() -> None:
    config = resolved("generator_full_128")
    assert (config.base, config.method) == (SD15, "full")
    assert (config.data.image_size, config.data.batch_size, config.data.fold) == (128, 8, "all")
    assert (config.optim.lr, config.optim.text_encoder_lr, config.optim.epochs) == (3e-5, 5e-6, 50)
    assert (config.loss.min_snr_gamma, config.loss.noise_offset, config.optim.warmup_steps) == (5, 0.05, 200)
    assert config.prompts.template == "a photo of a malignant mole"
    assert 20 <= config.samples.num_inference_steps <= 39
    assert 3 <= config.samples.guidance_scale <= 8
    assert "SPLIT has folds" in shipped()["generator_full_128"]


def test_the_second_public_recipe() -> None:
    config = resolved("generator_derm_t2im")
    assert (config.method, config.dreambooth.train) == ("dreambooth", "lora")
    assert (config.data.image_size, config.data.batch_size) == (512, 2)
    assert (config.optim.lr, config.optim.epochs) == (1e-4, 120)
    assert config.samples.guidance_scale == 7
    assert 20 <= config.samples.num_inference_steps <= 26
    assert "2e-6, has no place" in " ".join(shipped()["generator_derm_t2im"].split())


def test_our_own_larger_one() -> None:
    small, large = resolved("generator_scratch_64"), resolved("generator_scratch_128")
    assert (large.base, large.data.image_size, large.scratch.prior_steps) == ("scratch", 128, 20_000)
    assert large.scratch.unet_width > small.scratch.unet_width
    assert large.scratch.vae_width > small.scratch.vae_width
