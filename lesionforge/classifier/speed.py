"""What makes a model fast without changing what it says, beyond the errors that stand here.

Measured on one core of an AMD EPYC with AVX512-BF16, against timm's defaults (NCHW, float32, eager); benchmarks/
bench_train.py and bench_predict.py repeat it, through the functions below.
"""

import copy
import ctypes
import logging
import sys
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FOLDING_ERROR = 1e-4  # of a logit, relative to the largest; more means that the layers were not what they seemed
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
GROW = 2**28  # bytes that the heap grows by


class Prepared(nn.Module):
    """A model ready to score: normalised float32 images in, float32 logits out, whatever it computes in."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, whole_batches: bool) -> None:
        super().__init__()
        self.net, self.dtype, self.whole_batches = net, dtype, whole_batches
        self.batch_size = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # (B, 3, S, S) float32 => (B, 1) float32
        num = len(images)
        images = images.to(self.dtype, memory_format=torch.channels_last)
        if self.whole_batches:  # compiled code is for one batch size: a smaller batch is filled up, not compiled for
            self.batch_size = max(self.batch_size, num)
            images = nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, self.batch_size - num))
            images = images.contiguous(memory_format=torch.channels_last)
        return self.net(images)[:num].float()


def prepared_for_prediction(
    net: nn.Module, image_size: int, precision: str = "fp32", compile_it: bool = False
) -> nn.Module:
    """A copy of a model that scores faster: batch norms folded, channels last, in bfloat16 or compiled where asked.

    In fp32 logits move by less than 1e-5 of their size. bf16 converts the weights too, all but the last layer's, which
    spares autocast's casts; logits then move by less than three times what autocast moves them (root mean square): a
    hundredth or two of their spread for most families, more for one whose norms have seen little. Compiled, weights are
    constants of the code: give the copy no others.

    Args:
        net: (B, 3, image_size, image_size) float32 => (B, num) logits; stays as it is.
        precision: "fp32" or "bf16".
        compile_it: by torch.compile, for one batch size; takes a minute or two.

    Raises:
        BadInput: asked to compile on a machine that cannot.
    """
    net = folded(copy.deepcopy(net).eval(), image_size)
    if precision == "bf16":
        net = in_bfloat16(net)
    net = net.to(memory_format=torch.channels_last)
    if next(net.parameters()).device.type == "cpu":
        keep_freed_memory()
    if compile_it:
        require_compiler()
        net.compile(dynamic=False, options={"freezing": True})
    return Prepared(net, DTYPES[precision], whole_batches=compile_it)


def prepared_for_training(net: nn.Module, device: torch.device, precision: str, compile_it: bool = False) -> nn.Module:
    """The model itself, laid out for fast steps; the names in its state dict stay as they are.

    On a CPU in bf16, depthwise convolutions stay in float32: oneDNN's backward pass of those that have a stride or are
    larger than 3 x 3 is many times slower in bf16 (docs/log.md). What a step gains stands in docs/benchmarks/train.txt.

    Raises:
        BadInput: asked to compile on a machine that cannot.
    """
    net = net.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        keep_freed_memory()
        if precision == "bf16":
            keep_depthwise_in_float(net)
    if compile_it:
        require_compiler()
        net.compile()
    return net


def folded(net: nn.Module, image_size: int) -> nn.Module:
    """The model, each batch norm that follows a convolution multiplied into its weights. In place, for evaluation.

    Which follows which is seen in a pass of one image: a batch norm whose input is the very tensor that a convolution
    gave. What cannot be folded so (DenseNet's norms before convolutions) stays.
    """
    device = next(net.parameters()).device
    image = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        pairs = conv_norm_pairs(net, image)
        if not pairs:
            return net
        expected, original = net(image), copy.deepcopy(net)
        for conv_name, norm_name in pairs:
            conv, norm = net.get_submodule(conv_name), net.get_submodule(norm_name)
            assert isinstance(conv, nn.Conv2d)  # as the pairs were found
            assert isinstance(norm, nn.BatchNorm2d)
            net.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
            # timm's norms hold their activation
            net.set_submodule(norm_name, getattr(norm, "act", None) or nn.Identity())
        error = float((net(image) - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    if not error < FOLDING_ERROR:
        log.warning("batch norms are not folded: logits would move by %.2g of their size", error)
        return original
    return net


def conv_norm_pairs(net: nn.Module, image: torch.Tensor) -> list[tuple[str, str]]:
    """Names of (convolution, the batch norm right behind it), as a forward pass shows them."""
    outputs: dict[int, tuple[str, torch.Tensor, int]] = {}  # tensors are kept, so that no identity is used twice
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}

    def after_conv(name: str, output: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        outputs[id(output)] = (name, output, output._version)

    def before_norm(name: str, given: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        conv_name, tensor, version = outputs.get(id(given), ("", given, -1))
        if conv_name and tensor is given and version == given._version:
            pairs.append((conv_name, name))

    handles = []
    for name, layer in net.named_modules():
        if type(layer) is nn.Conv2d:  # a subclass may change its weights on the way
            handles.append(layer.register_forward_hook(lambda _, __, output, name=name: after_conv(name, output)))
        elif isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats:
            handles.append(layer.register_forward_pre_hook(lambda _, given, name=name: before_norm(name, given[0])))
    try:
        net(image)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def in_bfloat16(net: nn.Module) -> nn.Module:
    """Weights and activations in bfloat16; batch norms' statistics and a last linear layer keep their digits."""
    get_head: Any = getattr(net, "get_classifier", lambda: None)  # timm's models have it
    head = get_head()
    net = net.bfloat16()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.float()
    if isinstance(head, nn.Linear):
        head.float()
        head.register_forward_pre_hook(lambda _, given: (given[0].float(),))
    return net


class FloatConv2d(nn.Conv2d):
    """A convolution that autocast leaves in float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def keep_depthwise_in_float(net: nn.Module) -> None:
    """In place: the layers stay the same objects with the same weights."""
    for layer in net.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1:
            layer.__class__ = FloatConv2d


def keep_freed_memory() -> None:
    """Make the C library keep freed memory instead of giving it back: its pages need not be cleared again in each step.

    What that is worth depends on the machine; docs/benchmarks/predict.txt has the plain model with and without it. The
    process then holds the most memory that it ever used. Only glibc has the switch.
    """
    if sys.platform != "linux":
        return
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, GROW)


def require_compiler() -> None:
    """Refuse where torch.compile does not work; tried on one small function.

    Raises:
        BadInput: no C++ compiler, no Python headers, no triton, ...
    """
    try:
        torch.compile(lambda x: torch.sin(x) + 1)(torch.ones(8))
    except Exception as error:  # torch's kinds of it differ from release to release
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"hardware.compile: torch.compile does not work here ({reason}); install g++, ninja and Python's headers, "
            "or leave out --hardware.compile"
        ) from error
