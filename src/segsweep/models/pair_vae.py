"""A convolutional variational autoencoder of images together with their masks: a source of new pairs.

How the data flows:

    image + one-hot mask -> conv encoder -> mean, log-variance -> sample -> decoder -+-> image
                                                  |                                 +-> logits of the mask
                                                  +-> divergence from N(0, I)
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, latent_decoder, resize_to
from segsweep.models.vae import bounded_moments, divergence
from segsweep.types import SegmenterOutput


class PairVAE(nn.Module):
    """Encoder of pairs, a normal distribution at each cell of the bottleneck, one decoder for image and mask.

    While training the decoder sees a sample of the latent, in evaluation its mean. A mask value beyond the classes,
    as that of ignored pixels, leaves all of its pixel's mask channels 0.

    Args:
        in_channels: image channels, C.
        num_classes: classes, K.
        widths: channels of the encoder's levels, fine to coarse.
        latent_channels: channels of the latent, D, at stride ``2 ** (len(widths) - 1)``.

    Shape:
        image (N, C, H, W), mask (N, H, W), any H and W >= the stride -> logits (N, K, H, W), reconstruction
        (N, C, H, W), latent (N, D, ceil(H / stride), ceil(W / stride)), divergence (N,) in nats.

    Reference:
        Kingma and Welling 2014, arXiv:1312.6114. Differs: pairs instead of images, and a latent that keeps its places.
    """

    def __init__(
        self, in_channels: int, num_classes: int, widths: tuple[int, ...], latent_channels: Annotated[int, Ge(1)]
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.encoder = ConvEncoder(in_channels + num_classes, widths)
        self.moments = nn.Conv2d(widths[-1], 2 * latent_channels, 1)
        self.decoder = latent_decoder(latent_channels, widths, in_channels + num_classes)

    def forward(self, image: Tensor, mask: Tensor) -> SegmenterOutput:
        """Rebuilds pairs."""
        mean, log_variance = self.posterior(image, mask)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        reconstruction, logits = self.decode(latent, image)
        return SegmenterOutput(logits, reconstruction, latent, divergence(mean, log_variance))

    def posterior(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent given pairs, each (N, D, h, w) float32."""
        classes = torch.arange(self.num_classes, device=mask.device).view(1, -1, 1, 1)
        truth = (mask[:, None] == classes).to(image.dtype)
        return bounded_moments(self.moments(self.encoder(torch.cat([image, truth], dim=1))[-1]))

    def decode(self, latent: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) float32, standardised, and logits (N, K, H, W) float32, as high and wide as ``like``."""
        both = resize_to(self.decoder(latent.to(self.moments.weight.dtype)), like).float()
        return both[:, : self.in_channels], both[:, self.in_channels :]
