"""The table of families is what timm says: names, tags, sizes, normalisation, parameters, licences."""

import pytest
import timm
import torch

from lesionforge.classifier import families, model
from lesionforge.classifier.families import FAMILIES, NO_WEIGHTS, NORMALISATIONS
from lesionforge.errors import BadInput

TEN = ("vit", "swin", "eva02", "edgenext", "deit3", "beitv2", "convnext", "resnet", "densenet", "efficientnet")
TINY = [f"{name}:tiny" for name in TEN]


def test_ten_families_in_three_sizes() -> None:
    assert {f"{name}{size}" for name in TEN for size in ("", ":small", ":tiny")} <= FAMILIES.keys()


@pytest.mark.parametrize("short_name", FAMILIES)
def test_a_row_is_timms(short_name: str) -> None:
    """The tag exists, and size, normalisation and licence are those of its weights."""
    row = FAMILIES[short_name]
    theirs = timm.get_pretrained_cfg(row.timm_name)
    assert theirs is not None
    assert row.pixels == theirs.input_size[-1]
    assert NORMALISATIONS[row.normalisation] == (theirs.mean, theirs.std)
    if row.timm_args:
        assert row.licence == NO_WEIGHTS
    else:
        assert theirs.hf_hub_id
        assert row.timm_name.partition(".")[2], "weights without a tag change with timm's version"
        assert row.licence == theirs.license


@pytest.mark.parametrize("short_name", TINY)
def test_tiny_is_small_and_takes_any_size_of_its_patches(short_name: str) -> None:
    size = 70 if short_name.startswith("eva02") else 64  # EVA-02 has patches of 14 px
    built = model.build_model(short_name, "random", size)
    millions = sum(p.numel() for p in built.model.parameters()) / 1e6
    assert millions == pytest.approx(FAMILIES[short_name].parameters, abs=0.12)  # position embeddings shrink
    assert millions < 6.1
    with torch.no_grad():
        assert built.model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 1)


@pytest.mark.slow  # builds 900 M parameters
@pytest.mark.parametrize("short_name", [name for name in FAMILIES if name not in TINY])
def test_larger_ones_have_the_parameters_that_the_table_says(short_name: str) -> None:
    built = model.build_model(short_name, "random")
    assert sum(p.numel() for p in built.model.parameters()) / 1e6 == pytest.approx(
        FAMILIES[short_name].parameters, abs=0.006
    )
    assert (built.mean, built.std) == NORMALISATIONS[FAMILIES[short_name].normalisation]


def test_a_narrowed_family_has_no_weights_on_the_hub() -> None:
    with pytest.raises(
        BadInput, match=r"no pretrained weights for 'beitv2:tiny'; give a file .* --model.weights random"
    ):
        model.build_model("beitv2:tiny", "hub")


def test_the_printed_table_is_aligned_and_whole() -> None:
    lines = families.as_text().splitlines()
    table = lines[: len(FAMILIES) + 1]
    start = table[0].index("timm architecture")
    for line, name in zip(table[1:], FAMILIES, strict=True):
        assert line.startswith(name)
        assert line[start - 1] == " " != line[start]
