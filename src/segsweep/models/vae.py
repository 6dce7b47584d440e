"""A convolutional variational autoencoder with a second decoder for the mask.

How the data flows:

    image -> conv encoder -> mean, log-variance -> sample -+-> image decoder -> reconstruction
                                  |                        +-> mask decoder  -> logits
                                  +-> divergence from N(0, I)
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, latent_decoder, resize_to
from segsweep.types import SegmenterOutput

_MAX_LOG_VARIANCE = 10.0


class VAE(nn.Module):
    """Encoder, a normal distribution at each cell of the bottleneck, one decoder for the image and one for the mask.

    While training the decoders see a sample of the latent, in evaluation its mean.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of the encoder's levels, fine to coarse.
        latent_channels: channels of the latent, D, at stride ``2 ** (len(widths) - 1)``.

    Shape:
        image (N, C, H, W), any H and W >= the stride -> logits (N, K, H, W), reconstruction (N, C, H, W),
        latent (N, D, ceil(H / stride), ceil(W / stride)), divergence (N,) in nats.

    Reference:
        Kingma and Welling 2014, arXiv:1312.6114, beside a segmentation as in Myronenko 2018, arXiv:1810.11654.
        Differs: a latent that keeps its places, so any size passes, and the log-variance is bounded.
    """

    def __init__(
        self, in_channels: int, num_classes: int, widths: tuple[int, ...], latent_channels: Annotated[int, Ge(1)]
    ) -> None:
        super().__init__()
        self.latent_channels, self.stride = latent_channels, 2 ** (len(widths) - 1)
        self.encoder = ConvEncoder(in_channels, widths)
        self.moments = nn.Conv2d(widths[-1], 2 * latent_channels, 1)
        self.image_decoder = latent_decoder(latent_channels, widths, in_channels)
        self.mask_decoder = latent_decoder(latent_channels, widths, num_classes)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments and reconstructs a batch of images."""
        mean, log_variance = self.posterior(image)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        latent = latent.to(self.moments.weight.dtype)
        logits = resize_to(self.mask_decoder(latent), image)
        reconstruction = resize_to(self.image_decoder(latent), image)
        return SegmenterOutput(logits, reconstruction, latent, divergence(mean, log_variance))

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent given an image, each (N, D, h, w) float32."""
        return bounded_moments(self.moments(self.encoder(image)[-1]))

    def sample(self, num: int, size: tuple[int, int]) -> Tensor:
        """Images decoded from latents that are drawn from the prior, in evaluation mode to be of use.

        Args:
            num: how many, N.
            size: (H, W) in pixels.

        Returns:
            (N, C, H, W) in standardised units.
        """
        weight = self.moments.weight
        cells = [-(-side // self.stride) for side in size]
        latent = torch.randn(num, self.latent_channels, *cells, device=weight.device, dtype=weight.dtype)
        return resize_to(self.image_decoder(latent), weight.new_empty(1, 1, *size))

    def interpolate(self, first: Tensor, second: Tensor, num: int) -> Tensor:
        """Images decoded on the straight lines between the latent means of images, in equal steps.

        Args:
            first: (N, C, H, W).
            second: (N, C, H, W).
            num: images on each line, both ends included.

        Returns:
            (N, num, C, H, W) in standardised units, from the reconstruction of ``first`` to that of ``second``.
        """
        start, end = (self.posterior(image)[0] for image in (first, second))
        shares = torch.linspace(0, 1, num, device=start.device).view(-1, 1, 1, 1, 1)
        latent_TNDHW = torch.lerp(start, end, shares).to(self.moments.weight.dtype)
        images = resize_to(self.image_decoder(latent_TNDHW.flatten(0, 1)), first)
        return images.reshape(num, len(first), *images.shape[1:]).transpose(0, 1)


def bounded_moments(both: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, each (N, D, h, w) float32, from the (N, 2 D, h, w) that an encoder gives.

    The log-variance is kept within +-10 (standard deviations from 0.007 to 148): one wild value would overflow
    ``exp``, and a variance that shrinks without end would make the divergence grow without end. By tanh, not by a
    hard clamp, whose gradient is 0 outside: the loss could never bring back what has left.
    """
    # float32 also under autocast: the divergence sums thousands of terms, and bfloat16 has three digits.
    mean, raw = both.float().chunk(2, dim=1)
    return mean, _MAX_LOG_VARIANCE * torch.tanh(raw / _MAX_LOG_VARIANCE)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of normal distributions from N(0, I).

    Args:
        mean: (N, ...).
        log_variance: (N, ...).

    Returns:
        (N,) nats, 0 or more, summed over everything but the batch: its mean would weigh the latent by its size, and
        turn the model into a plain autoencoder.
    """
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).flatten(1).sum(dim=1)
