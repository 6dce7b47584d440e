"""A convolutional autoencoder with a second decoder for the mask: plain, denoising or masked.

How the data flows:

    image -> [noise, hidden patches] -> conv encoder -> bottleneck -+-> image decoder -> reconstruction
                                                                    +-> mask decoder  -> logits
"""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, latent_decoder, resize_to
from segsweep.models.corruption import Corruption
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
        reconstruct: whether it has an image decoder. Without one it is its own control: the same network, from the
            same initial weights, that never reconstructs; with ``noise`` it is the control "noise alone".
        noise: standard deviation of Gaussian noise on the standardised image while training.
        mask_ratio: share of square patches hidden while training.
        mask_patch: side of such a patch in pixels; a multiple of the stride hides exactly.

    Shape:
        image (N, C, H, W), any H and W >= the stride -> logits (N, K, H, W), reconstruction (N, C, H, W) or None,
        latent (N, D, ceil(H / stride), ceil(W / stride)).

    Reference:
        Joint reconstruction and segmentation over a shared encoder as in Myronenko 2018, arXiv:1810.11654. Differs: a
        plain bottleneck instead of a variational one, and no skips in the mask decoder. Noise and hidden patches as in
        ``Corruption``; the reconstruction is compared in all pixels, not in the hidden ones alone as in MAE.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        latent_channels: Annotated[int, Ge(1)],
        reconstruct: bool,
        noise: Annotated[float, Ge(0)],
        mask_ratio: Annotated[float, Ge(0), Lt(1)],
        mask_patch: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        self.corruption = Corruption(noise, mask_ratio, mask_patch)
        self.encoder = ConvEncoder(in_channels, widths)
        # Its bias is what the decoders see of a hidden cell: a mask token that is learnt.
        self.bottleneck = nn.Conv2d(widths[-1], latent_channels, 1)
        # Drawn even where it is not kept, so that the control starts from the same weights.
        image_decoder = latent_decoder(latent_channels, widths, in_channels)
        self.image_decoder = image_decoder if reconstruct else None
        self.mask_decoder = latent_decoder(latent_channels, widths, num_classes)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments and reconstructs a batch of images."""
        latent = self.bottleneck(self.encoder(*self.corruption(image))[-1])
        logits = resize_to(self.mask_decoder(latent), image)
        if self.image_decoder is None:
            return SegmenterOutput(logits, latent=latent)
        return SegmenterOutput(logits, resize_to(self.image_decoder(latent), image), latent)
