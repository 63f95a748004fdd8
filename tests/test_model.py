"""Every architecture of the study can be built; what cannot be had is refused with its cure."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from lesionforge.engine import model
from lesionforge.engine.checkpoint import load_tensors
from lesionforge.errors import BadInput

TINY = "efficientnet_lite0"


def test_a_model_is_rebuilt_from_its_record() -> None:
    built = model.build_model(TINY, "random", 64, mean=(0.1, 0.2, 0.3), timm_args={"drop_path_rate": 0.1})
    again = model.rebuild(built.facts())
    assert again.facts() == built.facts()
    model.load_weights(again.model, built.model.state_dict(), Path("w"))


def test_weights_from_a_file(tmp_path: Path) -> None:
    """A file with 1,000 classes: the backbone is taken, the head is made anew."""
    torch.manual_seed(0)
    source = timm.create_model(TINY, num_classes=1000)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    built = model.build_model(TINY, str(tmp_path / "w.safetensors"))
    assert torch.equal(built.model.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])
    assert built.model.state_dict()["classifier.weight"].shape == (1, 1280)
    assert built.weights == "file w.safetensors"


def test_one_class_in_the_file_is_no_reason_to_keep_its_head(tmp_path: Path) -> None:
    save_file(timm.create_model(TINY, num_classes=1).state_dict(), tmp_path / "w.safetensors")
    assert model.build_model(TINY, str(tmp_path / "w.safetensors")).model.num_classes == 1


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=r"w\.safetensors does not fit efficientnet_lite0 .*--model\.weights random"):
        model.build_model(TINY, str(tmp_path / "w.safetensors"))


def test_without_the_hub_it_stops_and_says_how_to_go_on() -> None:
    """Never random weights in silence."""
    with pytest.raises(BadInput, match=r"cannot be had from the hub.*--model\.weights FILE.*--model\.weights random"):
        model.build_model("edgenext_xx_small", "hub")


def test_a_model_without_pretrained_weights() -> None:
    with pytest.raises(BadInput, match="there are no pretrained weights for 'densenet264d'"):
        model.build_model("densenet264d", "hub")


def test_missing_weights_file() -> None:
    with pytest.raises(BadInput, match=r"no such file nowhere\.safetensors"):
        model.build_model(TINY, "nowhere.safetensors")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("edgenxt", "did you mean edgenext"),
        ("efficientnet_b0.imagenet", "unknown weights tag; timm has efficientnet_b0"),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        model.build_model(name, "random")


def test_an_image_size_that_cuts_patches() -> None:
    """timm takes 130 px and never looks at the last four rows and columns."""
    with pytest.raises(BadInput, match=r"patches of 14 px, and 130 is no multiple of it; use 126 or 140"):
        model.build_model("eva02_tiny_patch14_336", "random", 130)


def test_an_image_size_that_does_not_fit() -> None:
    with pytest.raises(BadInput, match=r"data\.image_size: .*densenet121.* cannot take 16 px"):
        model.check_forward(model.build_model("densenet121", "random", 16))


def test_arguments_that_timm_does_not_know() -> None:
    with pytest.raises(BadInput, match=r"model\.timm_args, .*no_such_thing"):
        model.build_model(TINY, "random", timm_args={"no_such_thing": 1})


def test_weights_with_another_shape_name_the_first_difference() -> None:
    built = model.build_model(TINY, "random")
    tensors = dict(built.model.state_dict())
    tensors["bn1.weight"] = torch.zeros(3)
    with pytest.raises(BadInput, match=r"first difference: bn1\.weight"):
        model.load_weights(built.model, tensors, Path("w"))


@pytest.mark.real
def test_real_imagenet_weights(real_weights: Path) -> None:
    """1,001 classes and other padding than timm's default: both are the recipe's to say."""
    half = (0.5, 0.5, 0.5)
    built = model.build_model("mobilenetv2_100", str(real_weights), 128, half, half, {"pad_type": "same"})
    real = load_tensors(real_weights)
    assert torch.equal(built.model.state_dict()["conv_stem.weight"], real["conv_stem.weight"])
    assert built.mean == half
