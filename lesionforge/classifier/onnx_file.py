"""A model as one ONNX file that takes bytes: written, checked against PyTorch, opened for scoring. The door to ONNX.

The graph holds the normalisation: `images` uint8 (batch, S, S, 3) RGB in, `logits` float32 (batch,) out. What the
model is stands in the file's metadata.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lesionforge.engine.inference import Normalise, Scorer, torch_scorer
from lesionforge.engine.model import Built
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_file

IMAGES, LOGITS = "images", "logits"
FUSED = "fused_attn"  # what timm calls the switch
NOTICE = "research software, not a medical device"
OPSET = 18  # the oldest that the exporter writes without converting, so the most runtimes read it
CHECKED_BATCH_SIZES = (1, 2, 7)
ROUNDS = 4  # batches of each size that are compared, our choice


class Agreement(NamedTuple):
    """How far the logits of ONNX Runtime lie from PyTorch's, over all images that were checked."""

    difference: float  # the largest
    largest_logit: float  # magnitude, of PyTorch's
    onnx_rounding: float | None = None  # largest distance from the model in float64, where that was needed
    torch_rounding: float | None = None  # PyTorch's in float32, likewise

    @property
    def relative(self) -> float:
        """The difference as a share of the largest logit: what float32 can hold grows with the numbers."""
        return self.difference / max(1.0, self.largest_logit)

    def is_within(self, most_difference: float) -> bool:
        """False too where one of the two is not a number."""
        if self.onnx_rounding is None or self.torch_rounding is None:
            return self.relative <= most_difference
        return self.relative <= most_difference or self.onnx_rounding <= self.torch_rounding < np.inf

    def verdict(self, most_difference: float) -> str:
        """By which of the two it is accepted, with the numbers."""
        if self.relative <= most_difference:
            return f"{self.in_words()}: within the tolerance of {most_difference:g}"
        return f"{self.in_words()}: above the tolerance of {most_difference:g}, but no less exact than PyTorch itself"

    def in_words(self) -> str:
        words = (
            f"the logits of ONNX Runtime and PyTorch differ by at most {self.difference:.2g}, {self.relative:.2g} of "
            f"the largest logit ({max(1.0, self.largest_logit):.3g}; never counted below 1)"
        )
        if self.onnx_rounding is None:
            return words
        return (
            f"{words}; from the model in float64, ONNX Runtime differs by at most {self.onnx_rounding:.2g} and PyTorch "
            f"in float32 by {self.torch_rounding:.2g}"
        )


class Whole(nn.Module):
    """From bytes to logits: what the file holds."""

    def __init__(self, built: Built) -> None:
        super().__init__()
        self.normalise, self.net = Normalise(built.mean, built.std), built.model

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # (B, S, S, 3) uint8 => (B,) float32
        return self.net(self.normalise(images)).squeeze(1)


def require_onnx() -> None:
    """Refuse where the extra is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"ONNX files need the packages onnx, onnxruntime and onnxscript, and {error.name} is not installed; "
            "pip install 'lesionforge[export]'"
        ) from error
    onnxruntime.disable_telemetry_events()


def write_onnx(path: Path, built: Built, weights_sha256: str, most_difference: float) -> Agreement:
    """Write the model, then compare it with PyTorch, as `check_onnx` does.

    Raises:
        BadInput: the architecture cannot be exported, or ONNX Runtime's logits differ too much.
    """
    require_onnx()
    size = built.image_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with plain_attention(built.model), quiet():
            program = torch.onnx.export(
                Whole(built).eval(), (example,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=[IMAGES], output_names=[LOGITS],
                dynamic_shapes={IMAGES: {0: torch.export.Dim("batch")}},
            )  # fmt: skip
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"{built.name} cannot be exported to ONNX by torch {torch.__version__} ({reason}); export it without --onnx"
        ) from error
    assert program is not None  # dynamo=True
    written = program.model
    for node in written.graph.all_nodes():  # stack traces with this machine's paths
        node.metadata_props.clear()
    written.metadata_props.update(
        name=built.name, image_size=str(size), weights_sha256=weights_sha256, notice=NOTICE, producer="lesionforge"
    )
    program.save(path)
    return check_onnx(path, built, most_difference)


@contextlib.contextmanager
def plain_attention(net: nn.Module) -> Iterator[None]:
    """Attention written out: the exporter stumbles over the fused one of BEiT, which adds a bias."""
    fused = [module for module in net.modules() if getattr(module, FUSED, False)]
    try:
        for module in fused:
            setattr(module, FUSED, False)
        yield
    finally:
        for module in fused:
            setattr(module, FUSED, True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints and logs its steps."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_onnx(path: Path, built: Built, most_difference: float) -> Agreement:
    """Compare ONNX Runtime with PyTorch on noise and on drawn skin, in batches of several sizes.

    Accepted is a difference of at most `most_difference` times the largest logit (at least 1), or logits that lie no
    farther from the model in float64 than PyTorch's own in float32 do.

    Raises:
        BadInput: neither holds, or the file is none of ours.
    """
    scorer, _ = onnx_scorer(path)
    expected = torch_scorer(built.model, Normalise(built.mean, built.std), torch.device("cpu"))
    rng = np.random.default_rng(0)
    batches = [
        check_images(rng, batch_size, built.image_size, noise=number % 2 == 0)
        for batch_size in CHECKED_BATCH_SIZES
        for number in range(ROUNDS)
    ]
    found = compare(scorer, expected, lambda: exact_scorer(built), batches, most_difference)
    if not found.is_within(most_difference):
        tolerance = f"accept it with --onnx-tolerance {2 * found.relative:.1g}, or " if found.relative < np.inf else ""
        raise BadInput(
            f"{built.name}: {found.in_words()}; expected at most {most_difference:g} of the largest logit, or no more "
            f"from float64 than PyTorch; {tolerance}export without --onnx, which writes the timm folder alone"
        )
    return found


def compare(
    scorer: Scorer,
    expected: Scorer,
    exact: Callable[[], Scorer],
    batches: Sequence[np.ndarray],
    most_difference: float,
) -> Agreement:
    """The agreement of two scorers; that in float64, which is slow, is made only where they differ by more."""
    largest_logit = largest([expected(images) for images in batches])
    found = Agreement(largest_difference(scorer, expected, batches), largest_logit)
    if found.is_within(most_difference):
        return found
    in_float64 = exact()
    return found._replace(
        onnx_rounding=largest_difference(scorer, in_float64, batches),
        torch_rounding=largest_difference(expected, in_float64, batches),
    )


def largest_difference(scorer: Scorer, other: Scorer, batches: Sequence[np.ndarray]) -> float:
    with np.errstate(invalid="ignore"):  # two infinite logits
        return largest([scorer(images) - other(images) for images in batches])


def largest(logits: Sequence[np.ndarray]) -> float:
    """The largest magnitude; nan where any is nan."""
    return float(np.abs(np.concatenate(logits)).max())


def exact_scorer(built: Built) -> Scorer:
    """The same model in double precision, from bytes."""
    normalise = Normalise(built.mean, built.std).double()
    net = copy.deepcopy(built.model).double().eval()

    @torch.inference_mode()
    def score(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double()
        logits: np.ndarray = net((pixels - normalise.mean) / normalise.std).squeeze(1).numpy()  # (B,) float64
        return logits

    return score


def check_images(rng: np.random.Generator, num: int, size: int, noise: bool) -> np.ndarray:
    """(num, size, size, 3) uint8: uniform noise, or smooth skin with a darker disc."""
    if noise:
        return rng.integers(0, 256, (num, size, size, 3), dtype=np.uint8)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    centre, radius = rng.uniform(-0.3, 0.3, (2, num, 1, 1)), rng.uniform(0.2, 0.6, (num, 1, 1))
    disc = 1 / (1 + np.exp(20 * (np.hypot(x - centre[0], y - centre[1]) - radius)))  # (num, size, size)
    skin, lesion = rng.normal((225, 180, 160), 15, (num, 1, 1, 3)), rng.normal((-90, -95, -85), 25, (num, 1, 1, 3))
    return np.clip(skin + lesion * disc[..., None] + rng.normal(0, 4, (num, size, size, 3)), 0, 255).astype(np.uint8)


def onnx_scorer(path: Path, num_threads: int | None = None) -> tuple[Scorer, dict[str, Any]]:
    """The scorer of an exported ONNX file on the CPU, and its facts: name, image_size, file_sha256, ...

    Raises:
        BadInput: no ONNX file, or not one that `lesionforge export` wrote.
    """
    require_onnx()
    import onnxruntime

    if not path.is_file():
        raise BadInput(f"{path}: no such file; make one with `lesionforge export --onnx true`")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0  # 0 is its own choice
    options.log_severity_level = 4  # what is wrong comes as an exception
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's are direct children of Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path}: not an ONNX file that can be opened ({reason}); export it again") from error
    facts = {**session.get_modelmeta().custom_metadata_map, "file_sha256": sha256_of_file(path)}
    refuse_foreign(path, session, facts)

    def score(images: np.ndarray) -> np.ndarray:
        logits = session.run([LOGITS], {IMAGES: images})[0]  # (B,) float32
        return np.asarray(logits, np.float64)

    return score, {**facts, "image_size": int(facts["image_size"])}


def refuse_foreign(path: Path, session: Any, facts: Mapping[str, Any]) -> None:
    """Refuse a graph whose input or output is not what its metadata and this module say."""
    missing = [name for name in ("name", "image_size", "weights_sha256") if name not in facts]
    if missing or not facts["image_size"].isdecimal():
        raise BadInput(
            f"{path}: not written by `lesionforge export` (its metadata lack {', '.join(missing) or 'a size'}), so "
            "nothing says how its images must look; export the run again"
        )
    size = int(facts["image_size"])
    found = [(each.name, each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())]
    expected = [(IMAGES, "tensor(uint8)", [size, size, 3]), (LOGITS, "tensor(float)", [])]
    if [(name, kind, shape[1:]) for name, kind, shape in found] != expected:
        listed = "; ".join(f"{name} {kind} {shape}" for name, kind, shape in found)
        raise BadInput(
            f"{path}: found {listed}; expected {IMAGES} uint8 (batch, {size}, {size}, 3) and {LOGITS} float (batch,), "
            "as `lesionforge export` writes them; export the run again"
        )
