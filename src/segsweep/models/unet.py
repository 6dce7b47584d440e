"""U-Net, the convolutional encoder-decoder with skip connections.

How the data flows:

    image -> level 0 ------------------------> up 0 -> 1x1 -> logits
               level 1 ------------> up 1 ---^
                 level 2 -> up 2 --^
                   level 3 ^
"""

from itertools import pairwise

from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, UpBlock
from segsweep.types import SegmenterOutput


class UNet(nn.Module):
    """Convolutional encoder and decoder, joined by skips at every level.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of each level, fine to coarse; two levels or more.

    Shape:
        image (N, C, H, W), any H and W >= ``2 ** (len(widths) - 1)`` -> logits (N, K, H, W).

    Raises:
        ValueError: fewer than two levels.

    Reference:
        Ronneberger et al. 2015, arXiv:1505.04597. Differs: padded convolutions with batch normalisation, one
        level less, a quarter of the width, and repetition instead of transposed convolution to go up.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths={list(widths)} has {len(widths)} level; give two or more, e.g. [16,32,64,128]")
        self.encoder = ConvEncoder(in_channels, widths)
        levels = pairwise(reversed(widths))  # (coarse, fine), coarsest first
        self.merges = nn.ModuleList(UpBlock(coarse + fine, fine) for coarse, fine in levels)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        *skips, x = self.encoder(image)
        for merge, skip in zip(self.merges, reversed(skips), strict=True):
            x = merge(x, skip)
        return SegmenterOutput(self.head(x))
