"""ONNX files: bytes in, PyTorch's logits out in batches of any size, and nothing in them that names a machine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lesionforge.classifier import onnx_file
from lesionforge.engine import model
from lesionforge.engine.families import FAMILIES
from lesionforge.engine.inference import Normalise, torch_scorer
from lesionforge.errors import BadInput

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
TINY = [name for name in FAMILIES if name.endswith(":tiny")]
SHA256 = "0" * 64


def built_as_if_trained(name: str, image_size: int) -> model.Built:
    """A model whose every layer matters, with logits as large as float32 knows them to 1e-6.

    From random weights alone there is nothing to compare: some families start with layer scales of 1e-6, and their
    logits differ by less than the tolerance. So the weights are moved, and the last layer is scaled.
    """
    torch.manual_seed(0)
    built = model.build_model(name, "random", image_size)
    built.model.eval()
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    images = [onnx_file.check_images(np.random.default_rng(1), 16, image_size, noise=noise) for noise in (False, True)]
    cpu = torch.device("cpu")
    expected = torch_scorer(built.model, normalise_of(built), cpu)
    rounding = onnx_file.largest_difference(expected, onnx_file.exact_scorer(built), images)
    with torch.no_grad():
        for parameter in built.model.get_classifier().parameters():
            parameter *= 1e-6 / rounding
    return built


def normalise_of(built: model.Built) -> Normalise:
    return Normalise(built.mean, built.std)


def test_ten_families_are_tried() -> None:
    assert len(TINY) == 10


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("test_vit", 160),
        *(
            pytest.param(name, 56 if "eva" in name else 64, marks=[pytest.mark.slow] if name != "resnet:tiny" else [])
            for name in TINY
        ),
    ],
)
def test_the_file_gives_pytorchs_logits(name: str, image_size: int, tmp_path: Path) -> None:
    built, path = built_as_if_trained(name, image_size), tmp_path / "model.onnx"
    assert onnx_file.write_onnx(path, built, SHA256, 1e-5).relative <= 1e-5
    scorer, facts = onnx_file.onnx_scorer(path, num_threads=1)
    expected = torch_scorer(built.model, normalise_of(built), torch.device("cpu"))
    for batch_size in (1, 3, 10):  # others than the file was made and checked with
        images = onnx_file.check_images(np.random.default_rng(batch_size), batch_size, image_size, noise=False)
        assert scorer(images).dtype == np.float64
        assert scorer(images).shape == (batch_size,)
        assert np.abs(scorer(images) - expected(images)).max() <= 1e-5
    assert np.ptp(expected(images)) > 5e-4  # fifty times what may differ
    assert facts["name"] == built.name
    assert facts["image_size"] == image_size
    assert facts["weights_sha256"] == SHA256
    assert facts["notice"] == "research software, not a medical device"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx_file.write_onnx(path, built_as_if_trained("test_resnet", 32), SHA256, 1e-5)
    return path


def test_the_file_is_sound_and_names_no_machine(written: Path) -> None:
    graph = onnx.load(str(written))
    onnx.checker.check_model(graph, full_check=True)
    assert [each.version for each in graph.opset_import if each.domain == ""] == [onnx_file.OPSET]
    dims = graph.graph.input[0].type.tensor_type.shape.dim
    assert [each.dim_param or each.dim_value for each in dims] == ["batch", 32, 32, 3]
    data = written.read_bytes()
    assert b"site-packages" not in data
    assert str(Path(__file__).parents[1]).encode() not in data


def test_export_leaves_the_model_as_it_was() -> None:
    built = built_as_if_trained("test_vit", 160)
    with pytest.raises(RuntimeError, match="stop"), onnx_file.plain_attention(built.model):
        raise RuntimeError("stop")
    assert all(module.fused_attn for module in built.model.modules() if hasattr(module, "fused_attn"))


def test_a_file_that_differs_is_refused_with_the_numbers(written: Path) -> None:
    """Against another model."""
    other = built_as_if_trained("test_resnet", 32)
    with torch.no_grad():
        other.model.get_classifier().bias += 0.25
    message = (
        r"ONNX Runtime and PyTorch differ by at most 0\.25, .* of the largest logit .*; from the model in float64, "
        r"ONNX Runtime differs by at most 0\.25 and PyTorch in float32 by \d(\.\d+)?e-0\d; expected at most 1e-05 of "
        r"the largest logit, .*; accept it with --onnx-tolerance 0\.\d, or export without --onnx"
    )
    with pytest.raises(BadInput, match=message):
        onnx_file.check_onnx(written, other, 1e-5)
    onnx_file.check_onnx(written, other, 0.5)
    with torch.no_grad():
        other.model.get_classifier().bias *= torch.nan
    with pytest.raises(BadInput, match=r"differ by at most nan, .* than PyTorch; export without --onnx"):
        onnx_file.check_onnx(written, other, 0.5)


BATCHES = [np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4, 3), np.uint8)]


def agreement(onnx_error: float, torch_error: float, logit: float) -> onnx_file.Agreement:
    """Of two scorers whose second logit is that far off; the first is right in both."""

    def scorer(error: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: np.full(len(images), logit + (error if images.any() else 0))

    return onnx_file.compare(scorer(onnx_error), scorer(torch_error), lambda: scorer(0), BATCHES, 1e-5)


def test_what_is_accepted_grows_with_the_logits_and_with_pytorchs_own_rounding() -> None:
    assert agreement(5e-5, -4e-5, logit=10).is_within(1e-5)
    assert not agreement(5e-5, -4e-5, logit=8).is_within(1e-5)
    assert agreement(4e-5, -5e-5, logit=8).is_within(1e-5)
    assert not agreement(2e-5, 0, logit=0.1).is_within(1e-5)  # never of less than 1
    assert not agreement(np.nan, 0, logit=1).is_within(1e-5)
    assert not agreement(0, np.nan, logit=1).is_within(1e-5)
    assert not agreement(np.inf, np.inf, logit=1).is_within(1e-5)
    assert agreement(5e-6, 0, logit=1).verdict(1e-5) == (
        "the logits of ONNX Runtime and PyTorch differ by at most 5e-06, 5e-06 of the largest logit (1; never counted "
        "below 1): within the tolerance of 1e-05"
    )
    assert agreement(4e-5, -5e-5, logit=8).verdict(1e-5) == (
        "the logits of ONNX Runtime and PyTorch differ by at most 9e-05, 1.1e-05 of the largest logit (8; never "
        "counted below 1); from the model in float64, ONNX Runtime differs by at most 4e-05 and PyTorch in float32 by "
        "5e-05: above the tolerance of 1e-05, but no less exact than PyTorch itself"
    )


def test_float64_is_exact_to_its_last_digits() -> None:
    """A model as plain as a sum: numpy's own float64."""
    built = built_as_if_trained("test_resnet", 32)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 1))
    images = onnx_file.check_images(np.random.default_rng(0), 3, 32, noise=True)
    found = onnx_file.exact_scorer(built._replace(model=net))(images)
    pixels = (images.astype(np.float64) / 255 - built.mean) / built.std
    weights, bias = (each.detach().double().numpy() for each in net[1].parameters())
    expected = (pixels.transpose(0, 3, 1, 2).reshape(3, -1) @ weights.T + bias)[:, 0]
    assert np.abs(found - expected).max() < 1e-6  # mean and std are float32 in both
    assert next(net.parameters()).dtype == torch.float32


def test_an_architecture_that_cannot_be_exported() -> None:
    class Cutting(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[images > 0].median().reshape(1, 1) if images.sum().item() > 0 else images.mean().view(1, 1)

    built = built_as_if_trained("test_resnet", 32)._replace(model=Cutting())
    with pytest.raises(BadInput, match=r"test_resnet.* cannot be exported to ONNX by torch .*; export it without"):
        onnx_file.write_onnx(Path("unwritten.onnx"), built, SHA256, 1e-5)
    assert not Path("unwritten.onnx").exists()


def changed(written: Path, path: Path, **metadata: str) -> Path:
    """The file with other metadata; an empty value takes an entry out."""
    graph = onnx.load(str(written))
    kept = {each.key: each.value for each in graph.metadata_props} | metadata
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {key: value for key, value in kept.items() if value})
    onnx.save(graph, str(path))
    return path


def test_files_that_are_none_of_ours(written: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file; make one with `lesionforge export --onnx true`"):
        onnx_file.onnx_scorer(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(BadInput, match=r"text.onnx: not an ONNX file that can be opened"):
        onnx_file.onnx_scorer(tmp_path / "text.onnx")
    foreign = changed(written, tmp_path / "foreign.onnx", name="", image_size="")
    with pytest.raises(BadInput, match=r"not written by `lesionforge export` \(its metadata lack name, image_size\)"):
        onnx_file.onnx_scorer(foreign)
    with pytest.raises(BadInput, match=r"metadata lack a size"):
        onnx_file.onnx_scorer(changed(written, tmp_path / "words.onnx", image_size="big"))
    with pytest.raises(BadInput, match=r"\['batch', 32, 32, 3\].*expected images uint8 \(batch, 64, 64, 3\)"):
        onnx_file.onnx_scorer(changed(written, tmp_path / "size.onnx", image_size="64"))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(written.read_bytes()[:-1000])
    with pytest.raises(BadInput, match=r"cut.onnx: not an ONNX file that can be opened"):
        onnx_file.onnx_scorer(cut)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)  # what Python keeps of a failed import
    with pytest.raises(BadInput, match=r"onnxruntime is not installed; pip install 'lesionforge\[export\]'"):
        onnx_file.require_onnx()
