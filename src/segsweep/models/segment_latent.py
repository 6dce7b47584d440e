"""A segmenter that sees an image's code alone: what is left of the image once an autoencoder has compressed it.

How the data flows:

    image -> conv encoder -> 1x1 -> code -> convolutions on the grid of the code -> stride x stride logits a cell
                                     |
                                     +-> image decoder of the objective (regime=pretrain), not part of this model
"""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, conv_block
from segsweep.types import SegmenterOutput


class CodeEncoder(ConvEncoder):
    """The encoder that all families share, its coarsest map brought down to a code.

    Args:
        in_channels: image channels.
        widths: channels of each level, fine to coarse; level i has stride ``2**i``.
        latent_channels: channels of the code, D.

    Shape:
        image (N, C, H, W) -> list of the maps of all levels but the last, and of the code
        (N, D, ceil(H / stride), ceil(W / stride)) with stride ``2 ** (len(widths) - 1)``.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], latent_channels: int) -> None:
        super().__init__(in_channels, widths)
        self.out_channels = (*widths[:-1], latent_channels)
        # Its bias is what a decoder sees of a hidden cell: a mask token that is learnt.
        self.bottleneck = nn.Conv2d(widths[-1], latent_channels, 1)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """Maps an image to its features and its code; ``visible`` as in ``ConvEncoder``."""
        *maps, last = super().forward(image, visible)
        return [*maps, self.bottleneck(last)]


class SegmentLatent(nn.Module):
    """Segments the bottleneck of an autoencoder, without skips; every layer works on the small grid of the code.

    With ``regime=pretrain regime.stages.finetune.encoder=frozen`` the code is that of an autoencoder that has seen no
    label; with ``augment=none`` it is then computed once for a whole run. With ``regime=supervised`` the same network
    learns which code the labels need. A code has D h w values for the C H W of an image:

        reduction = C stride^2 / D

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of the encoder's levels, fine to coarse.
        latent_channels: channels of the code, D, at stride ``2 ** (len(widths) - 1)``.
        hidden_size: channels of the segmenter.
        num_convs: 3x3 convolutions of the segmenter.

    Shape:
        image (N, C, H, W), any H and W >= the stride -> logits (N, K, H, W), latent (N, D, ceil(H / stride),
        ceil(W / stride)): the code.

    Reference:
        Segmentation of compressed representations after Torfason et al. 2018, arXiv:1803.06131. Differs: the code is
        neither quantised nor entropy coded, and logits reach full size by sub-pixel convolution (Shi et al. 2016,
        arXiv:1609.05158), so that no layer works at full size.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        latent_channels: Annotated[int, Ge(1)],
        hidden_size: Annotated[int, Ge(1)],
        num_convs: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.encoder = CodeEncoder(in_channels, widths, latent_channels)
        self.segmenter = conv_block(latent_channels, hidden_size, num_convs)
        self.head = nn.Conv2d(hidden_size, num_classes * self.stride**2, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        return self.decode(self.encoder(image)[-1], image)

    def decode(self, features: Tensor, image: Tensor) -> SegmenterOutput:
        """Segments images whose codes are known; of ``image`` nothing but its size is read."""
        logits = F.pixel_shuffle(self.head(self.segmenter(features)), self.stride)
        # The encoder's last cells reach beyond an image whose sides are no multiples of the stride.
        return SegmenterOutput(logits[..., : image.shape[-2], : image.shape[-1]], latent=features)
