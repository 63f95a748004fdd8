"""Heat maps: every family's, against autograd's own formulas, and a model that is known to look at one corner."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lesionforge.classifier import saliency
from lesionforge.classifier.saliency import CNN, OTHER, TRANSFORMER, explain_images, with_random_weights
from lesionforge.engine import model
from lesionforge.errors import BadInput

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytorch_grad_cam") is None, reason="pip install 'lesionforge[explain]'"
)

KINDS = {
    "vit": TRANSFORMER, "swin": TRANSFORMER, "eva02": TRANSFORMER, "edgenext": TRANSFORMER, "deit3": TRANSFORMER,
    "beitv2": TRANSFORMER, "convnext": CNN, "resnet": CNN, "densenet": CNN, "efficientnet": CNN,
}  # fmt: skip
PLAIN_VITS = ("vit", "deit3", "beitv2", "eva02")


def built_model(name: str, size: int = 64, seed: int = 0) -> model.Built:
    torch.manual_seed(seed)
    built = model.build_model(name, "random", size)
    built.model.eval()
    return built


def random_images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", KINDS)
def test_every_family_has_maps(family: str) -> None:
    size = 70 if family == "eva02" else 64
    built, images = built_model(f"{family}:tiny", size), random_images(3, size)
    assert saliency.kind_of(built.model) == KINDS[family]
    signed = explain_images(built, images, "hirescam")
    methods = [method for method in saliency.METHODS if method != "rollout" or family in PLAIN_VITS]
    with torch.no_grad():
        logits = built.model(images)[:, 0].double().numpy()
    for method in methods:
        found = explain_images(built, images, method)
        assert found.maps.shape == (3, size, size)
        assert found.maps.dtype == np.float32
        assert np.isfinite(found.maps).all()
        assert np.allclose(found.logits, logits, atol=1e-5)
        assert np.array_equal(found.maps, explain_images(built, images, method).maps)
        if method != "hirescam":
            assert found.maps.min() >= 0
        if method == "hirescam" or (found.maps > 0).any():  # all of a random CNN's evidence may be against malignant
            assert (found.small.std(axis=(1, 2)) > 0).any()
    assert (signed.maps.std(axis=(1, 2)) > 0).all()
    if family not in PLAIN_VITS:
        with pytest.raises(BadInput, match=r"^rollout: .* has no plain attention .*; use grad_cam$"):
            explain_images(built, images, "rollout")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_signed_cells_add_up_to_the_logit(name: str) -> None:
    """After the last features these CNNs average and weigh only, so HiResCAM shares out the logit less the bias."""
    built = built_model(name)
    found = explain_images(built, random_images(4, 64), "hirescam")
    bias = float(built.model.get_classifier().bias)  # type: ignore[operator]
    assert np.allclose(found.small.sum(axis=(1, 2)), found.logits - bias, atol=1e-5)


def by_autograd(built: model.Built, images: torch.Tensor, layer: nn.Module, method: str) -> np.ndarray:
    """The papers' formulas, one image at a time."""
    maps = []
    for image in images:
        kept: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
        logit = built.model(image[None].requires_grad_())[0, 0]
        hook.remove()
        features = kept[0]
        gradient = torch.autograd.grad(logit, features)[0][0].detach()  # (C, h, w)
        activation = features[0].detach()
        if method == "grad_cam":
            heat = (gradient.mean(dim=(1, 2), keepdim=True) * activation).sum(dim=0).clamp(min=0)
        elif method == "hirescam":
            heat = (gradient * activation).sum(dim=0)
        else:  # equations 7 and 19 of Grad-CAM++; A is 0 or more here, and where the gradient is 0 so is the product
            g, total = gradient.double(), activation.double().sum(dim=(1, 2), keepdim=True)
            alpha = torch.where(g == 0, 0.0, g**2 / (2 * g**2 + total * g**3))
            weight = (g.clamp(min=0) * alpha).sum(dim=(1, 2), keepdim=True)
            heat = (weight * activation).sum(dim=0).clamp(min=0)
        maps.append(heat.double().numpy())
    return np.array(maps)


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_pp", "hirescam"])
def test_maps_are_the_papers(method: str) -> None:
    built, images = built_model("test_resnet"), random_images(3, 64)
    if by_autograd(built, images, built.model.layer4[-1], "grad_cam").max() == 0:  # type: ignore[index, arg-type]
        with torch.no_grad():
            built.model.get_classifier().weight.neg_()  # type: ignore[operator]
    expected = by_autograd(built, images, built.model.layer4[-1], method)  # type: ignore[index, arg-type]
    assert np.abs(expected).max() > 0
    assert np.allclose(explain_images(built, images, method).small, expected, rtol=1e-4, atol=1e-7)


def test_plus_plus_is_equation_19_of_features_cut_off_at_0() -> None:
    rng = np.random.default_rng(0)
    gradients, signed = rng.normal(0, 0.5, (2, 5, 4, 4)), rng.normal(-0.5, 1, (2, 5, 4, 4))
    found = saliency.plus_plus(signed, gradients)
    for b in range(2):
        expected = np.zeros((4, 4))
        for g, features in zip(gradients[b], np.maximum(signed[b], 0), strict=True):
            alpha = g**2 / (2 * g**2 + features.sum() * g**3)
            expected += (alpha * np.maximum(g, 0)).sum() * features
        assert np.allclose(found[b], expected)
    tiny = saliency.plus_plus(signed, 1e-9 * gradients)  # no epsilon outweighs small gradients
    weights = 0.5e-9 * np.maximum(gradients, 0).sum(axis=(2, 3), keepdims=True)
    assert np.allclose(tiny, (weights * np.maximum(signed, 0)).sum(axis=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("spread", [0, 3])
def test_plus_plus_has_maps_of_tokens_below_0(spread: int) -> None:
    """With signed features in the denominator all maps of the second model are empty."""
    built, images = built_model("vit:tiny"), random_images(8, 64)
    bias = built.model.blocks[-1].norm1.bias  # type: ignore[index, union-attr]
    with torch.no_grad():
        bias.add_(spread * torch.randn(bias.shape, generator=torch.Generator().manual_seed(2)))  # type: ignore
        built.model.get_classifier().weight.mul_(30)  # type: ignore[operator]
    assert (explain_images(built, images, "grad_cam_pp").maps.max(axis=(1, 2)) > 0).all()


class Corner(nn.Module):
    """Looks at the red of the upper left quarter, by construction: brighter there, more malignant."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = [{"module": "features"}]
        self.features = nn.Conv2d(3, 1, 4, stride=4, bias=False)
        with torch.no_grad():
            self.features.weight.zero_()[0, 0] = 1 / 16
        self.window = nn.Parameter(torch.zeros(1, 1, 16, 16))
        with torch.no_grad():
            self.window[..., :8, :8] = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.features(images) * self.window).sum(dim=(1, 2, 3))[:, None]


def test_a_model_that_looks_at_a_corner_is_seen_to() -> None:
    built = model.Built(Corner().eval(), "corner", 64, (0.5,) * 3, (0.5,) * 3, "random", {})
    assert saliency.kind_of(built.model) == OTHER
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    heat = explain_images(built, images, "hirescam").maps
    assert heat[:, :32, :32].sum() / heat.sum() > 0.93  # the rest is the enlarged edge
    assert heat[:, 40:, 40:].max() == 0


@pytest.mark.parametrize("name", ["vit:tiny", "beitv2:tiny", "eva02:tiny"])
def test_attention_rows_sum_to_one_and_leave_the_score_alone(name: str) -> None:
    size = 70 if name.startswith("eva02") else 64
    built, images = built_model(name, size), random_images(2, size)
    with torch.no_grad():
        fused = built.model(images)[:, 0]
    attentions, logits = saliency.attention_of(built.model, images)
    num_tokens = (size // (14 if name.startswith("eva02") else 16)) ** 2 + 1
    assert len(attentions) == len(built.model.blocks)  # type: ignore[arg-type]
    for attention in attentions:
        assert attention.shape[2:] == (num_tokens, num_tokens)
        assert torch.allclose(attention.sum(dim=-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(logits, fused, atol=1e-5)
    assert all(block.attn.fused_attn for block in built.model.blocks)  # type: ignore[union-attr]


def test_rollout_is_the_product_over_blocks() -> None:
    """Abnar and Zuidema's recursion written out for the class token of a ViT, one image, in numpy."""
    built, images = built_model("vit:tiny"), random_images(1, 64)
    attentions, _ = saliency.attention_of(built.model, images)
    flow = np.eye(17)
    for attention in attentions:
        flow = (0.5 * attention[0].mean(dim=0).numpy() + 0.5 * np.eye(17)) @ flow
    assert np.allclose(explain_images(built, images, "rollout").small[0].ravel(), flow[0, 1:], atol=1e-6)


def test_random_weights_are_other_weights_and_repeat() -> None:
    built = built_model("test_vit")
    drawn = ((1, 0), (1, 0), (1, 1), (2, 0))
    random = [with_random_weights(built, seed, number).model.state_dict() for seed, number in drawn]
    key = "blocks.0.attn.qkv.weight"
    assert torch.equal(random[0][key], random[1][key])
    assert not torch.equal(random[0][key], random[2][key])
    assert not torch.equal(random[0][key], random[3][key])
    assert not torch.equal(random[0][key], built.model.state_dict()[key])


def test_random_weights_are_no_runs_first_weights() -> None:
    """A training seeds torch with its seed before it builds; a model held against it must not be that one."""
    key = "blocks.0.attn.qkv.weight"
    first = [built_model("test_vit", seed=seed) for seed in range(6)]
    random = [with_random_weights(first[0], seed, number) for seed in range(6) for number in range(3)]
    weights = [one.model.state_dict()[key].numpy().tobytes() for one in (*first, *random)]
    assert len(set(weights)) == len(weights)


def test_models_whose_features_have_no_place_are_refused() -> None:
    with pytest.raises(BadInput, match=r"no layer is known|have no place in the image"):
        explain_images(built_model("mixer_s32_224", 224), random_images(1, 224), "grad_cam")


def test_without_the_library_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)  # as if it were not installed
    built, images = built_model("test_vit"), random_images(1, 64)
    with pytest.raises(BadInput, match=r"grad_cam: needs the package grad-cam; .*lesionforge\[explain\].* rollout"):
        explain_images(built, images, "grad_cam")
    assert explain_images(built, images, "rollout").maps.shape == (1, 64, 64)
