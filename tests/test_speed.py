"""Models made fast: the same logits as before, within the error that is declared."""

import pytest
import torch
from torch import nn

from lesionforge.classifier import speed
from lesionforge.engine.families import FAMILIES
from lesionforge.engine.model import batch_norms, build_model
from lesionforge.errors import BadInput

TINY = [name for name in FAMILIES if name.endswith(":tiny")]
SIZES = {"eva02:tiny": 56}  # patches of 14 px; all others take 64


@pytest.fixture(scope="module")
def a_trained_model():
    """By name: a model after five steps, so that its batch norms have seen something and its logits differ."""
    made = {}

    def get(name: str) -> tuple[nn.Module, torch.Tensor]:
        if name not in made:
            torch.manual_seed(0)
            size = SIZES.get(name, 64)
            net = build_model(name, "random", size).model.train()
            for layer in batch_norms(net):
                layer.momentum = 0.5  # statistics settle within the few steps
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
            for _ in range(5):
                images = pictures(8, size)
                loss = (net(images) - images.mean((1, 2, 3))[:, None]).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            made[name] = net.eval(), pictures(32, size)
        return made[name]

    return get


def pictures(num: int, size: int) -> torch.Tensor:
    """Noise of differing contrast on differing colours."""
    return torch.randn(num, 3, size, size) * (torch.rand(num, 1, 1, 1) + 0.5) + torch.randn(num, 3, 1, 1)


@torch.inference_mode()
def logits(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return net(images)


@pytest.mark.parametrize("name", TINY)
def test_prediction_moves_logits_by_less_than_declared(a_trained_model, name):
    net, images = a_trained_model(name)
    expected = logits(net, images)
    size, largest = images.shape[-1], max(1.0, float(expected.abs().max()))
    assert expected.std() > 0.01
    assert (logits(speed.prepared_for_prediction(net, size), images) - expected).abs().max() < 1e-5 * largest

    in_bf16 = logits(speed.prepared_for_prediction(net, size, "bf16"), images)
    assert in_bf16.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        by_autocast = logits(net, images).float()
    ours, usual = ((found - expected).square().mean().sqrt() for found in (in_bf16, by_autocast))
    print(f"{name}: root mean square error {ours:.2g}, autocast's {usual:.2g}, spread {expected.std():.2g}")
    assert ours < 3 * usual
    assert torch.equal(logits(net, images), expected)  # the model itself is as it was


@pytest.mark.parametrize(("name", "left"), [("efficientnet:tiny", 0), ("resnet:tiny", 0), ("densenet:tiny", 36)])
def test_batch_norms_behind_convolutions_are_folded(a_trained_model, name, left):
    """DenseNet keeps those before its convolutions: one a layer (32), one a transition (3), and the last."""
    net, images = a_trained_model(name)
    prepared = speed.prepared_for_prediction(net, images.shape[-1])
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules()) > left
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in prepared.modules()) == left


class Shares(nn.Module):
    """A convolution whose output is used beside its norm too: not to be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 1, 3), nn.BatchNorm2d(1)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (self.norm(x) + x).mean((2, 3))


def test_what_cannot_be_folded_stays_and_is_told(caplog):
    net, images = Shares().eval(), pictures(4, 16)
    prepared = speed.prepared_for_prediction(net, 16)
    assert (logits(prepared, images) - logits(net, images)).abs().max() < 1e-5
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in prepared.modules())
    assert "batch norms are not folded" in caplog.text


def gradients(net: nn.Module, images: torch.Tensor, bf16: bool) -> dict[str, torch.Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        net(images).float().mean().backward()
    return {name: tensor.grad.clone() for name, tensor in net.named_parameters()}


def a_learning_model() -> tuple[nn.Module, torch.Tensor]:
    """With depthwise convolutions, and batch norms that take the batch's own statistics, as in training."""
    torch.manual_seed(0)
    return build_model("test_efficientnet", "random", 64).model.train(), pictures(16, 64)


def test_training_keeps_names_and_gradients():
    net, images = a_learning_model()
    before, names = gradients(net, images, bf16=False), list(net.state_dict())
    prepared = speed.prepared_for_training(net, torch.device("cpu"), "fp32")
    assert prepared is net
    assert list(net.state_dict()) == names
    for name, gradient in gradients(net, images, bf16=False).items():
        torch.testing.assert_close(gradient, before[name], rtol=1e-3, atol=1e-4)


def test_training_in_bf16_leaves_depthwise_convolutions_in_float():
    net, images = a_learning_model()
    seen = set()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, _, out: seen.add((layer.groups > 1, out.dtype)))
    names, exact = list(net.state_dict()), gradients(net, images, bf16=False)
    seen.clear()
    speed.prepared_for_training(net, torch.device("cpu"), "bf16")
    found = gradients(net, images, bf16=True)
    assert seen == {(True, torch.float32), (False, torch.bfloat16)}
    assert list(net.state_dict()) == names
    whole = torch.cat([g.flatten() for g in exact.values()])
    difference = torch.cat([found[name].flatten() for name in exact]) - whole
    assert difference.norm() < 0.1 * whole.norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler's own parts
def test_compiled_says_the_same_at_any_batch_size(a_trained_model):
    net, images = a_trained_model("test_resnet")
    prepared = speed.prepared_for_prediction(net, 64, compile_it=True)
    for num in (8, 3):
        assert (logits(prepared, images[:num]) - logits(net, images[:num])).abs().max() < 1e-5


@pytest.mark.filterwarnings("default")
def test_without_a_compiler_one_line_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    from torch._inductor import config, cpp_builder

    monkeypatch.setattr(config.cpp, "cxx", ("/nowhere/g++",))
    cpp_builder.get_cpp_compiler.cache_clear() if hasattr(cpp_builder.get_cpp_compiler, "cache_clear") else None
    torch._dynamo.reset()
    with pytest.raises(BadInput, match=r"hardware\.compile: torch\.compile does not work here .*leave out"):
        speed.require_compiler()
