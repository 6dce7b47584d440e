"""A convolutional autoencoder with a second decoder for the mask.

How the data flows:

    image -> conv encoder -> bottleneck -+-> image decoder -> reconstruction
                                         +-> mask decoder  -> logits
"""

from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, conv_block, resize_to
from segsweep.types import SegmenterOutput


class ConvAutoencoder(nn.Module):
    """Encoder, bottleneck, one decoder for the image and one for the mask.

    No skips: with them reconstruction is trivial and the bottleneck learns nothing. The encoder is the very class that
    the CNN uses, so that the two differ in the decoders and the reconstruction term alone.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of the encoder's levels, fine to coarse.
        latent_channels: channels of the bottleneck, D, at stride ``2 ** (len(widths) - 1)``.

    Shape:
        image (N, C, H, W), any H and W >= the stride -> logits (N, K, H, W), reconstruction (N, C, H, W),
        latent (N, D, ceil(H / stride), ceil(W / stride)).

    Reference:
        Joint reconstruction and segmentation over a shared encoder as in Myronenko 2018, arXiv:1810.11654. Differs: a
        plain bottleneck instead of a variational one, and no skips in the mask decoder.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        latent_channels: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        self.encoder = ConvEncoder(in_channels, widths)
        self.bottleneck = nn.Conv2d(widths[-1], latent_channels, 1)
        self.image_decoder = _decoder(latent_channels, widths, in_channels)
        self.mask_decoder = _decoder(latent_channels, widths, num_classes)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments and reconstructs a batch of images."""
        latent = self.bottleneck(self.encoder(image)[-1])
        logits = resize_to(self.mask_decoder(latent), image)
        return SegmenterOutput(logits, resize_to(self.image_decoder(latent), image), latent)


def _decoder(latent_channels: int, widths: tuple[int, ...], out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise((latent_channels, *widths[-2::-1])):
        layers += [nn.Upsample(scale_factor=2), conv_block(i, o, num_convs=1)]
    return nn.Sequential(*layers, nn.Conv2d(widths[0], out_channels, 1))
