"""FC-DenseNet, the "one hundred layers tiramisu": a U-Net of densely connected blocks.

How the data flows (two levels; (+) joins channels):

    image -> 3x3 -> [dense] -(+)-> skip 0 ------------------(+)-> [dense] -> 1x1 -> logits
                     down <--'                               ^-- up
                      `-> [dense] -(+)-> skip 1 ------(+)-> [dense]
                            down <--'                  ^-- up
                             `-> [dense, bottleneck] --'
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from segsweep.models.normalisation import BatchNorm2d, Layers
from segsweep.types import SegmenterOutput

# Layers of each block on the way down and in the bottleneck, and the growth rate; the way up mirrors the way down.
_PUBLISHED: dict[int, tuple[tuple[int, ...], int]] = {
    56: ((4, 4, 4, 4, 4, 4), 12),
    67: ((5, 5, 5, 5, 5, 5), 16),
    103: ((4, 5, 7, 10, 12, 15), 16),
}


class DenseBlock(nn.Module):
    """Layers that each read everything before them and add ``growth_rate`` channels.

    Args:
        in_channels: channels of the input.
        num_layers: layers.
        growth_rate: channels of each layer.
        dropout: probability at which a layer's values are dropped.

    Shape:
        (N, D, H, W) -> (N, ``num_layers * growth_rate``, H, W), the new channels alone.
    """

    def __init__(self, in_channels: int, num_layers: int, growth_rate: int, dropout: float) -> None:
        super().__init__()
        inputs = range(in_channels, in_channels + num_layers * growth_rate, growth_rate)
        self.layers = nn.ModuleList(_bn_relu_conv(i, growth_rate, 3, dropout) for i in inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Grows new channels."""
        new: list[Tensor] = []
        for layer in self.layers:
            new.append(layer(torch.cat([x, *new], dim=1)))
        return torch.cat(new, dim=1)


class FCDenseNetEncoder(nn.Module):
    """Dense blocks with max-pooling between them, bottleneck included.

    Args:
        in_channels: image channels.
        layers: layers of each block, fine to coarse; the last one is the bottleneck.
        growth_rate: channels of each layer.
        first_channels: channels of the first convolution.
        dropout: probability.

    Shape:
        image (N, C, H, W) -> list of (N, out_channels[i], ceil(H / 2**i), ceil(W / 2**i)). The bottleneck's map is
        its new channels alone, the others join the block's input and its new channels.
    """

    def __init__(
        self, in_channels: int, layers: tuple[int, ...], growth_rate: int, first_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, first_channels, 3, padding=1)
        self.blocks, self.downs = nn.ModuleList(), nn.ModuleList()
        channels, joined = first_channels, []
        for num_layers in layers[:-1]:
            self.blocks.append(DenseBlock(channels, num_layers, growth_rate, dropout))
            channels += num_layers * growth_rate
            self.downs.append(_bn_relu_conv(channels, channels, 1, dropout))
            joined.append(channels)
        self.blocks.append(DenseBlock(channels, layers[-1], growth_rate, dropout))
        self.out_channels = (*joined, layers[-1] * growth_rate)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps an image to its features, fine to coarse."""
        maps: list[Tensor] = []
        x = self.stem(image)
        for block, down in zip(self.blocks, self.downs, strict=False):
            maps.append(torch.cat([x, block(x)], dim=1))
            # ceil_mode: odd sizes keep their last row and column, so any size passes.
            x = F.max_pool2d(down(maps[-1]), 2, ceil_mode=True)
        return [*maps, self.blocks[-1](x)]


class FCDenseNet(nn.Module):
    """Densely connected encoder and decoder with skips; only a block's new channels go up.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        layers: 56, 67 or 103 for the network of that name, or the layers of each block from the first down to the
            bottleneck, two or more.
        growth_rate: channels of each layer; None: the paper's, 12 for 56 and 16 otherwise.
        first_channels: channels of the first convolution.
        dropout: probability at which values are dropped after every convolution but the first and the last.

    Shape:
        image (N, C, H, W), any H and W -> logits (N, K, H, W).

    Raises:
        ValueError: fewer than two blocks.

    Reference:
        Jegou et al. 2017, arXiv:1611.09326. The architecture of its table 2 has 9.32 M parameters for 103, 3.46 M for
        67 and 1.38 M for 56, at 11 classes; the paper prints 9.4, 3.5 and 1.5. 9.4 is within 1 %, 3.5 is our figure
        rounded, 1.5 is neither. Differs: odd maps are pooled with their last row and column, so that any size passes.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        layers: Literal[56, 67, 103] | tuple[Annotated[int, Ge(1)], ...],
        growth_rate: Annotated[int, Ge(1)] | None,
        first_channels: Annotated[int, Ge(1)],
        dropout: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        super().__init__()
        blocks, published_growth = _PUBLISHED[layers] if isinstance(layers, int) else (tuple(layers), 16)
        if len(blocks) < 2:
            raise ValueError(f"layers={list(blocks)} has {len(blocks)} block; give two or more, e.g. [4,4,4]")
        growth = growth_rate or published_growth
        self.encoder = FCDenseNetEncoder(in_channels, blocks, growth, first_channels, dropout)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels = self.encoder.out_channels[-1]
        for num_layers, skip_channels in zip(blocks[-2::-1], self.encoder.out_channels[-2::-1], strict=True):
            self.ups.append(nn.ConvTranspose2d(channels, channels, 3, stride=2))
            self.blocks.append(DenseBlock(channels + skip_channels, num_layers, growth, dropout))
            joined, channels = channels + skip_channels, num_layers * growth
        self.head = nn.Conv2d(joined + channels, num_classes, 1)  # the last block alone keeps its input
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        *skips, new = self.encoder(image)
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            # The transposed convolution yields 2h + 1 rows for 2h or 2h - 1 of the skip.
            x = torch.cat([up(new)[..., : skip.shape[-2], : skip.shape[-1]], skip], dim=1)
            new = block(x)
        return SegmenterOutput(self.head(torch.cat([x, new], dim=1)))


def _bn_relu_conv(in_channels: int, out_channels: int, kernel_size: int, dropout: float) -> nn.Sequential:
    return Layers(
        BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.Dropout(dropout),
    )
