"""The filters of `augment.apply` that work at an image's own size, for many images of several sizes at once.

(N, H, W, 3) uint8 in and out, each image in the upper left corner; what lies beyond it is arbitrary and changes no
pixel of the image. Sizes and borders come as indices, made on the host, where such small work is cheaper than starting
it on a device. Values are rounded where OpenCV rounds them.
"""

import functools

import torch
from torch.nn import functional

from lesionforge.data import augment

GREY, GREY_BITS = (9_798, 19_235, 3_735), 15  # OpenCV's luma (ITU-R BT.601), in units of 2^-15
COLOUR_BITS = 10  # binary places to which OpenCV's transform rounds a matrix
BINS = 256  # of a histogram of uint8
TILES = (augment.CLAHE_TILES[0] + 1) * (augment.CLAHE_TILES[1] + 1)  # a row and a column more, for what lies beyond


def taken(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Rows y (N, H') and columns x (N, W') of each image. (N, H', W', ...)"""
    image = torch.arange(len(images), device=images.device)
    return images[image[:, None, None], y[:, :, None], x[:, None, :]]


def rounded(levels: torch.Tensor) -> torch.Tensor:
    """float32, written over, to the nearest level, half to even, cut off at 0 and 255: OpenCV's saturate_cast."""
    return levels.round_().clamp_(0, 255).to(torch.uint8)


def blurred(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """cv2.filter2D with a kernel (N, K, K) for each image; y (N, H + K - 1) and x hold the mirrored border."""
    source = taken(images, y, x).permute(0, 3, 1, 2).float()  # (N, 3, H + K - 1, W + K - 1)
    channels = source.reshape(1, -1, *source.shape[2:])
    weight = kernel.repeat_interleave(3, dim=0)[:, None]  # (3 N, 1, K, K)
    smooth = functional.conv2d(channels, weight, groups=len(weight))
    return rounded(smooth).view(len(images), 3, *smooth.shape[2:]).permute(0, 2, 3, 1)


def with_noise(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`augment.with_noise` from rows y (N, H) and columns x (N, W) of the bank, by a weight (N,)."""
    noise = noise_bank(images.device)[y[:, :, None], x[:, None, :]]  # (N, H, W, 3)
    weight = weight[:, None, None, None]
    return rounded((noise * weight).sub_(128 * weight).add_(images))


@functools.cache
def noise_bank(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(augment.noise_bank()).to(device)


def median(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """cv2.medianBlur of 3 x 3: each column sorted, then the median of (largest low, median middle, smallest high).

    y (N, H + 2) and x (N, W + 2) repeat the first and last pixel.
    """
    source = taken(images, y, x)
    first, second, third = source[:, :-2], source[:, 1:-1], source[:, 2:]
    small, large = torch.minimum(first, second), torch.maximum(first, second)
    low, rest = torch.minimum(small, third), torch.maximum(small, third)
    middle, high = torch.minimum(large, rest), torch.maximum(large, rest)  # (N, H, W + 2, 3)
    return median_of_three(
        torch.maximum(torch.maximum(low[:, :, :-2], low[:, :, 1:-1]), low[:, :, 2:]),
        median_of_three(middle[:, :, :-2], middle[:, :, 1:-1], middle[:, :, 2:]),
        torch.minimum(torch.minimum(high[:, :, :-2], high[:, :, 1:-1]), high[:, :, 2:]),
    )


def median_of_three(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def equalised(
    images: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    row: torch.Tensor,
    column: torch.Tensor,
    clip_limit: torch.Tensor,
    lut_scale: torch.Tensor,
    top: torch.Tensor,
    bottom: torch.Tensor,
    down: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    across: torch.Tensor,
) -> torch.Tensor:
    """`augment.equalised`: OpenCV's CLAHE on the luma, all three channels moved by what the luma moves.

    Args:
        y, x: (N, H'), (N, W') int64 with the mirrored border that fills the last tiles.
        row, column: (N, H'), (N, W') int64; their sum is the first bin of a pixel's tile.
        clip_limit: (N,) int64, pixels in a bin. lut_scale: (N,) float32, levels a pixel.
        top, bottom, down: (N, H) int64, as row, for the tiles above and below a pixel; float32, the weight of bottom.
        left, right, across: (N, W), the same for columns.
    """
    red, green, blue = images.int().unbind(3)
    luma = (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])
    luma = luma.add_(1 << (GREY_BITS - 1)) >> GREY_BITS  # (N, H, W)

    # A histogram of each tile, clipped; what was clipped goes to all bins alike, the remainder to every few.
    bins = (row[:, :, None] + column[:, None, :]).add_(taken(luma, y, x)).flatten()
    counts = torch.zeros(len(images) * TILES * BINS, dtype=torch.int64, device=images.device)
    one = torch.ones(1, dtype=torch.int64, device=images.device)
    counts = counts.scatter_add_(0, bins, one.expand(bins.shape)).view(-1, TILES, BINS)
    clip_limit = clip_limit[:, None, None]
    clipped = (counts - clip_limit).clamp_(min=0).sum(2, keepdim=True)
    rest = clipped % BINS
    stride = BINS // rest.clamp(min=1)
    level = torch.arange(BINS, device=images.device)
    counts = torch.minimum(counts, clip_limit) + clipped // BINS + ((level % stride == 0) & (level // stride < rest))
    lut = (counts.cumsum(2) * lut_scale[:, None, None]).round_().clamp_(0, 255).flatten()

    # Each pixel blends what its four nearest tiles make of its level.
    def of_tiles(start: torch.Tensor) -> torch.Tensor:
        """From the left tile to the right one. (N, H, W)"""
        start = start[:, :, None] + luma
        first, second = lut[start + left[:, None, :]], lut[start + right[:, None, :]]
        return first.lerp_(second, across[:, None, :])

    wanted = of_tiles(top).lerp_(of_tiles(bottom), down[:, :, None]).round_().int()
    return (images + wanted.sub_(luma)[..., None]).clamp_(0, 255).to(torch.uint8)


def recoloured(
    images: torch.Tensor,
    row: torch.Tensor,
    column: torch.Tensor,
    matrix: torch.Tensor,
    offset: torch.Tensor,
    of_sum: torch.Tensor,
) -> torch.Tensor:
    """cv2.transform by a matrix for each image, with a share of the image's mean luma.

    Args:
        row, column: uint8 (N, H), (N, W), 1 within the image, else 0.
        matrix: (N, 3, 3) int32 in units of 2^-COLOUR_BITS. offset: (N, 3) float32 alike, with 0.5 for the rounding.
        of_sum: (N, 3) float32, to be added for each unit of the sum over a channel.
    """
    sums = (images * (row[:, :, None] * column[:, None, :])[..., None]).sum((1, 2))  # (N, 3) int64
    offset = (offset + (sums * of_sum).sum(1, keepdim=True)).round_().int()
    levels, by = images.int(), matrix[:, None, None]  # (N, 1, 1, 3, 3)
    total = torch.addcmul(offset[:, None, None], levels[..., 0, None], by[..., 0])
    total.addcmul_(levels[..., 1, None], by[..., 1]).addcmul_(levels[..., 2, None], by[..., 2])
    return (total >> COLOUR_BITS).clamp_(0, 255).to(torch.uint8)
