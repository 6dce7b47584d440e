"""SegNet-Basic: pooling remembers where each maximum stood, and unpooling puts values back there.

How the data flows (4 levels; ``idx``: positions of the maxima):

    image -> LRN -> [7x7, BN, ReLU, pool] x 4 -> [unpool, 7x7, BN] x 4 -> 1x1 -> logits
                                     `---- idx ------^
"""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.normalisation import BatchNorm2d, Layers
from segsweep.types import SegmenterOutput


class SegNetEncoder(nn.Module):
    """Local response normalisation, then convolution, batch normalisation, ReLU and 2x2 max-pooling at each level.

    Args:
        in_channels: image channels.
        width: channels of every level.
        num_levels: levels, each halving height and width.
        kernel_size: of the convolutions, odd.

    Shape:
        image (N, C, H, W) -> list of (N, width, ceil(H / 2**i), ceil(W / 2**i)), i = 1 .. ``num_levels``.
    """

    def __init__(self, in_channels: int, width: int, num_levels: int, kernel_size: int) -> None:
        super().__init__()
        self.out_channels = (width,) * num_levels
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        inputs = (in_channels, *self.out_channels[1:])
        self.levels = nn.ModuleList(Layers(*_conv_bn(i, width, kernel_size), nn.ReLU(inplace=True)) for i in inputs)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps an image to its pooled features, fine to coarse."""
        return self.pool(image)[0]

    def pool(self, image: Tensor) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """The pooled features with the positions of their maxima and the sizes (h, w) before pooling."""
        maps, positions, sizes = [], [], []
        x = self.norm(image)
        for level in self.levels:
            x = level(x)
            sizes.append((x.shape[-2], x.shape[-1]))
            # ceil_mode: odd sizes keep their last row and column, so any size passes.
            x, position = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            maps.append(x)
            positions.append(position)
        return maps, positions, sizes


class SegNetBasic(nn.Module):
    """Encoder and decoder of equal depth and width, joined by the positions of the maxima alone.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        width: channels of every level.
        num_levels: levels of encoder and of decoder.
        kernel_size: of the convolutions, odd.

    Shape:
        image (N, C, H, W), any H and W -> logits (N, K, H, W).

    Raises:
        ValueError: an even kernel, which cannot keep the size.

    Reference:
        Badrinarayanan et al. 2017, arXiv:1511.00561, the SegNet-Basic of section 4: 1.425 M parameters as published,
        1.416 M here. Differs: the local response normalisation reads standardised images instead of intensities in
        0..255, and batch normalisation scores with running averages instead of a pass over the training set.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: Annotated[int, Ge(1)],
        num_levels: Annotated[int, Ge(1)],
        kernel_size: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} is even and would shift the image; give {kernel_size + 1}")
        self.encoder = SegNetEncoder(in_channels, width, num_levels, kernel_size)
        # No ReLU on the way up, as in the paper.
        self.decoder = nn.ModuleList(nn.Sequential(*_conv_bn(width, width, kernel_size)) for _ in range(num_levels))
        self.head = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # the paper's He initialisation

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        maps, positions, sizes = self.encoder.pool(image)
        x = maps[-1]
        for level, position, size in zip(self.decoder, reversed(positions), reversed(sizes), strict=True):
            x = level(unpool(x, position, size))
        return SegmenterOutput(self.head(x))


def unpool(x_NDhw: Tensor, position_NDhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Puts each value where its maximum stood in a map of ``size``, zeros elsewhere.

    What ``max_unpool2d`` does, which on a GPU has no deterministic kernel and so refuses ``trainer.deterministic``.
    """
    flat = x_NDhw.new_zeros(*x_NDhw.shape[:2], size[0] * size[1])
    flat = flat.scatter(2, position_NDhw.flatten(2), x_NDhw.flatten(2))
    return flat.view(*x_NDhw.shape[:2], *size)


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return conv, BatchNorm2d(out_channels)
