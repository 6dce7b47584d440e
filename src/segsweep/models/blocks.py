"""Blocks that several segmenters share, so that families differ only where they mean to."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def conv_block(in_channels: int, out_channels: int, num_convs: int = 2) -> nn.Sequential:
    """``num_convs`` times 3x3 convolution, batch normalisation, ReLU; keeps height and width."""
    layers: list[nn.Module] = []
    for i in range(num_convs):
        layers += [
            nn.Conv2d(in_channels if i == 0 else out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class ConvEncoder(nn.Module):
    """Two convolutions a level, 2x2 max-pooling between levels: the encoder that all three families share.

    Args:
        in_channels: image channels.
        widths: channels of each level, fine to coarse; level i has stride ``2**i``.

    Shape:
        image (N, C, H, W) -> list of (N, widths[i], ceil(H / 2**i), ceil(W / 2**i)).
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.out_channels = tuple(widths)
        self.levels = nn.ModuleList(conv_block(i, o) for i, o in pairwise((in_channels, *widths)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps an image to its features, fine to coarse."""
        maps: list[Tensor] = []
        x = image
        for level in self.levels:
            # ceil_mode: odd sizes keep their last row and column, so any size passes.
            x = level(F.max_pool2d(x, 2, ceil_mode=True) if maps else x)
            maps.append(x)
        return maps


def resize_to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize of (N, D, h, w) to the height and width of ``like``; nothing if they are equal."""
    size = like.shape[-2:]
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def repeat_to(x: Tensor, like: Tensor) -> Tensor:
    """Nearest-neighbour resize of (N, D, h, w) to the size of ``like``: cheap, for a convolution to smooth."""
    return F.interpolate(x, like.shape[-2:], mode="nearest")
