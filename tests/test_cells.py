"""Where cells look: against the gradient that reaches the image, and hand-made strides and paddings."""

import numpy as np
import pytest
import torch
from torch import nn

from lesionforge.classifier.cells import Cells, as_cells, cells_of, enlarge, enlarging, squares
from lesionforge.classifier.saliency import architecture_of
from lesionforge.engine import model


@pytest.mark.parametrize(
    ("name", "size", "timm_args"),
    [
        ("test_efficientnet", 320, {}),
        ("test_efficientnet", 320, {"pad_type": "same"}),
        ("densenet:tiny", 320, {}),
        ("test_convnext", 160, {}),
        ("edgenext:tiny", 160, {}),
    ],
)
def test_cells_look_where_their_gradient_comes_from(name: str, size: int, timm_args: dict) -> None:
    """The middle of the squared input gradient of an inner cell; the square at its place is up to 16 px off."""
    torch.manual_seed(0)
    net = model.build_model(name, "random", size, timm_args=timm_args).model.eval()
    layer = architecture_of(net).layer(net)
    cells = cells_of(net, layer, size)
    kept: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, __, output: kept.append(output))
    images = torch.randn(8, 3, size, size, requires_grad=True)
    net(images)
    inner = cells.number // 2
    at_cell = kept[0][:, :, inner, inner]
    gradient = torch.autograd.grad((at_cell * torch.randn_like(at_cell)).sum(), images)[0]
    energy = (gradient**2).sum(dim=(0, 1))
    place = torch.arange(size)
    for axis in (0, 1):
        along = energy.sum(dim=1 - axis)
        seen = float((along * place).sum() / along.sum())
        assert seen == pytest.approx(cells.first + inner * cells.stride, abs=5)


def test_strides_and_paddings_by_hand() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1))
    assert cells_of(conv, conv[2], 64) == Cells(16, 0.0, 4.0)
    patches = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 4, 2, stride=2))
    assert cells_of(patches, patches[1], 64) == squares(64, 8) == Cells(8, 3.5, 8.0)


def test_what_shrinks_by_other_means_is_taken_for_squares() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PixelUnshuffle(4))
    assert cells_of(net, net[1], 32) == squares(32, 8)


def test_squares_are_enlarged_as_torch_does() -> None:
    small = np.random.default_rng(0).normal(size=(2, 5, 5))
    theirs = nn.functional.interpolate(torch.tensor(small)[None], (35, 35), mode="bilinear", align_corners=False)[0]
    assert np.allclose(enlarge(small, squares(35, 5), 35), theirs.numpy(), atol=1e-12)
    assert np.allclose(enlarging(Cells(1, 3.0, 8.0), 8), 1.0)


def test_a_shifted_cell_is_drawn_where_it_looks() -> None:
    small = np.zeros((4, 4))
    small[1, 2] = 1.0
    drawn = enlarge(small, Cells(4, 0.0, 8.0), 32)
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (8, 16)


def test_a_mask_in_its_own_cells_and_in_coarser_ones() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:8, 8:12] = True
    assert np.allclose(as_cells(mask, squares(16, 16)), mask)
    coarse = as_cells(mask, squares(16, 4))
    assert coarse.max() <= 1
    assert 0.2 < coarse[mask].sum() / coarse.sum() < 0.9
