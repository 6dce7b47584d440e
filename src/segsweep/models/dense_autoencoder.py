"""The classic fully connected autoencoder, with a second decoder for the mask.

How the data flows:

    image -> flatten -> FC -> ReLU -> hidden -+-> FC -> C x H x W reconstruction
                                              +-> FC -> K x H x W logits
"""

from math import prod
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from segsweep.types import SegmenterOutput


class DenseEncoder(nn.Module):
    """Every hidden unit looks at every pixel.

    Args:
        in_channels: image channels.
        size: (H, W) in pixels, the only size that it accepts.
        hidden_size: units, D.

    Shape:
        image (N, C, H, W) -> list of one map (N, D, 1, 1).
    """

    def __init__(self, in_channels: int, size: tuple[int, int], hidden_size: int) -> None:
        super().__init__()
        self.out_channels = (hidden_size,)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * prod(size), hidden_size),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (hidden_size, 1, 1)),
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps an image to its code."""
        return [self.layers(image)]


class DenseAutoencoder(nn.Module):
    """One hidden layer between the pixels and the pixels: 784-256-784 for 28x28 digits.

    It knows nothing about space, not even that neighbours are neighbours: the floor for what convolutions add.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        size: (H, W) in pixels, the only size that it accepts.
        hidden_size: units of the hidden layer, D.
        reconstruct: whether it has an image decoder.

    Shape:
        image (N, C, H, W) with (H, W) = ``size`` -> logits (N, K, H, W), reconstruction (N, C, H, W) or None,
        latent (N, D, 1, 1).

    Raises:
        ValueError: an image of another size.

    Reference:
        Hinton and Salakhutdinov 2006, Science 313:504, in the one-layer form of countless courses: 402,448 parameters
        at 1x28x28. Differs: a linear output in standardised units instead of a sigmoid, and the mask decoder.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        size: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]],
        hidden_size: Annotated[int, Ge(1)],
        reconstruct: bool,
    ) -> None:
        super().__init__()
        self.size = (size[0], size[1])
        self.encoder = DenseEncoder(in_channels, self.size, hidden_size)
        self.mask_decoder = _decoder(hidden_size, (num_classes, *self.size))
        self.image_decoder = _decoder(hidden_size, (in_channels, *self.size)) if reconstruct else None

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments and reconstructs a batch of images of the one size."""
        height, width = image.shape[-2:]
        if (height, width) != self.size:
            raise ValueError(
                f"dense_autoencoder was built for {self.size[0]}x{self.size[1]} images and got {height}x{width}: its "
                f"fully connected layers fix the size. Set data.crop=null and data.size=[{height},{width}], or choose "
                f"a fully convolutional model such as model=conv_autoencoder"
            )
        latent = self.encoder(image)[-1]
        reconstruction = None if self.image_decoder is None else self.image_decoder(latent)
        return SegmenterOutput(self.mask_decoder(latent), reconstruction, latent)


def _decoder(hidden_size: int, shape: tuple[int, int, int]) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(hidden_size, prod(shape)), nn.Unflatten(1, shape))
