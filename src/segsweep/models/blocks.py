"""Blocks that several segmenters share, so that families differ only where they mean to."""

from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsweep.models.narrow_maps import Conv2d
from segsweep.models.normalisation import BatchNorm2d, Layers, in_turn
from segsweep.models.repetition import conv_of_repeated


def conv_block(in_channels: int, out_channels: int, num_convs: int = 2) -> nn.Sequential:
    """``num_convs`` times 3x3 convolution, batch normalisation, ReLU; keeps height and width."""
    layers: list[nn.Module] = []
    for i in range(num_convs):
        layers += [
            Conv2d(in_channels if i == 0 else out_channels, out_channels, 3, padding=1, bias=False),
            BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return Layers(*layers)


class UpBlock(nn.Sequential):
    """Goes up a level: repetition, the encoder's map of that level beside it, then a ``conv_block``.

    Args:
        in_channels: of the coarse map and the skip together.
        out_channels: channels of the result.
        num_convs: convolutions.

    Shape:
        x (N, D, h, w), skip (N, S, H, W) -> (N, out_channels, H, W); without a skip H = 2h and W = 2w.
    """

    def __init__(self, in_channels: int, out_channels: int, num_convs: int = 2) -> None:
        super().__init__(*conv_block(in_channels, out_channels, num_convs))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Maps a coarse map to a finer one."""
        conv, *others = self
        return in_turn(others, conv_of_repeated(conv, x, skip))  # type: ignore[arg-type]


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

    def forward(self, image: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """Maps an image to its features, fine to coarse.

        Args:
            image: (N, C, H, W).
            visible: (N, 1, H, W), 0 where the image is hidden and 1 elsewhere. Every level sets what is hidden back to
                0, as dense convolutions would carry their surroundings into it; a cell of a coarse level is hidden if
                all of its pixels are. None: nothing is hidden.
        """
        maps: list[Tensor] = []
        x = image
        for level in self.levels:
            x = level(_halve(x) if maps else x)
            if visible is not None:
                visible = _halve(visible) if maps else visible
                x = x * visible.to(x.dtype)
            maps.append(x)
        return maps


def _halve(x: Tensor) -> Tensor:
    # ceil_mode: odd sizes keep their last row and column, so any size passes.
    return F.max_pool2d(x, 2, ceil_mode=True)


def latent_decoder(latent_channels: int, widths: tuple[int, ...], out_channels: int) -> nn.Sequential:
    """Repetition and convolution up to full size, without skips: what an autoencoder puts on its bottleneck.

    Args:
        latent_channels: channels of the bottleneck, D.
        widths: channels of the encoder's levels, fine to coarse; the decoder goes back up through them.
        out_channels: channels of the result.

    Shape:
        (N, D, h, w) -> (N, out_channels, h * stride, w * stride) with stride ``2 ** (len(widths) - 1)``.
    """
    ups = [UpBlock(i, o, num_convs=1) for i, o in pairwise((latent_channels, *widths[-2::-1]))]
    last = nn.Conv2d(widths[0] if ups else latent_channels, out_channels, 1)
    # Odd numbers: as when a resize stood before each, so that weights of earlier runs fit.
    layers = {str(2 * i + 1): up for i, up in enumerate(ups)} | {str(2 * len(ups)): last}
    return nn.Sequential(OrderedDict(layers))


def ceil_div(number: int, divisor: int) -> int:
    """Quotient of positive numbers, rounded up; not ``-(-a // b)``, because ONNX divides towards zero.

    >>> ceil_div(5, 2)
    3
    """
    return (number + divisor - 1) // divisor


def resize_to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize of (N, D, h, w) to the height and width of ``like``; nothing if they are equal."""
    size = like.shape[-2:]
    # A graph that is exported for any size must not remember that this one was equal.
    if not torch.compiler.is_exporting() and x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def nearest_to(mask: Tensor, like: Tensor) -> Tensor:
    """Nearest-neighbour resize of class numbers (N, H, W) to the size of ``like``; nothing if they are equal."""
    size = like.shape[-2:]
    if mask.shape[-2:] == size:
        return mask
    return F.interpolate(mask[:, None].float(), size, mode="nearest")[:, 0].long()
