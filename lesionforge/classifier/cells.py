"""Where the cells of a feature map lie in the image, and how a map is enlarged so that they lie there.

The usual enlargement takes every cell for the square of pixels at its place. That is so for models that cut the image
into patches (ViTs, Swin, ConvNeXt, EdgeNeXt). A convolution or pooling of an odd kernel and stride 2, padded on both
sides, looks at the first of its two pixels, and five of them in a row put a cell's view half a cell up and left of its
square; TensorFlow's "same" padding puts it half a cell down and right. At 128 px that is 16 px, more than the radius of
most lesions, and would be taken for looking beside the lesion.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

POOLS_AND_CONVOLUTIONS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class Cells(NamedTuple):
    """One axis of a feature map: cell i looks at pixel first + i * stride, where pixel 0 is the first one's middle."""

    number: int
    first: float
    stride: float


def squares(size: int, number: int) -> Cells:
    """Cells that share `size` pixels evenly."""
    stride = size / number
    return Cells(number, (stride - 1) / 2, stride)


def cells_of(net: nn.Module, layer: nn.Module, size: int) -> Cells:
    """Where a layer's cells look, from the strides and paddings that lead to it; images are `size` x `size`.

    Branches that shrink alike, as a residual block's two, count by their mean. Whatever shrinks a map otherwise is
    taken for a cut into squares.
    """
    steps: dict[
        int, list[tuple[float, int, int]]
    ] = {}  # height before: (middle of the first view, stride, height after)
    reached: list[int] = []

    def note(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        before = inputs[0].shape[-2] if not reached and torch.is_tensor(inputs[0]) and inputs[0].ndim == 4 else 0
        if before and output.ndim == 4 and output.shape[-2] < before:
            kernel, stride, padding, dilation = (
                one_of(getattr(module, name, 1)) for name in ("kernel_size", "stride", "padding", "dilation")
            )
            reach = dilation * (kernel - 1)
            if type(module).__name__.endswith("Same"):  # timm's, which pad by the size of their input
                padding = max((-(-before // stride) - 1) * stride + reach + 1 - before, 0) // 2
            steps.setdefault(before, []).append((reach / 2 - padding, stride, output.shape[-2]))

    hooks = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, POOLS_AND_CONVOLUTIONS)]
    hooks.append(layer.register_forward_hook(lambda _, __, output: reached.append(output.shape[-2])))
    parameter = next(net.parameters())
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()

    height, first, scale = size, 0.0, 1.0
    while height != reached[0] and height in steps:
        first += scale * float(np.mean([middle for middle, _, _ in steps[height]]))
        scale *= steps[height][0][1]
        height = steps[height][0][2]
    rest = squares(height, reached[0])
    return Cells(reached[0], first + scale * rest.first, scale * rest.stride)


def one_of(setting: Any) -> int:
    """A kernel's or stride's height, whether it is given once or for both axes."""
    return int(setting[0] if isinstance(setting, tuple) else setting)


def enlarging(cells: Cells, size: int) -> np.ndarray:
    """(size, number) float64: how much of each cell each pixel of a row has, linear between cells; rows sum to 1."""
    place = np.clip((np.arange(size) - cells.first) / cells.stride, 0, cells.number - 1)
    low = np.minimum(place.astype(int), max(cells.number - 2, 0))
    matrix = np.zeros((size, cells.number))
    matrix[np.arange(size), low] = 1 - (place - low)
    matrix[np.arange(size), np.minimum(low + 1, cells.number - 1)] += place - low
    return matrix


def enlarge(small: np.ndarray, cells: Cells, size: int) -> np.ndarray:
    """(..., number, number) maps at `size` pixels a side, bilinear between cells and level beyond the outer ones."""
    matrix = enlarging(cells, size)
    return np.asarray(matrix @ small @ matrix.T)


def as_cells(mask: np.ndarray, cells: Cells) -> np.ndarray:
    """A mask as a map of these cells would show it: each cell the mask's share of the pixels nearest to it.

    (S, S) bool => (S, S) float64. Its focus is what a perfect map of so few cells reaches.
    """
    size = len(mask)
    middles = cells.first + cells.stride * np.arange(cells.number)
    nearest = np.abs(np.arange(size)[:, None] - middles).argmin(axis=1)
    share = np.eye(cells.number)[nearest].T  # (number, S)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1)
    return enlarge(share @ mask.astype(np.float64) @ share.T, cells, size)
