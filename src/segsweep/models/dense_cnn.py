"""The classic convolutional network with fully connected layers, asked for a mask instead of a label.

How the data flows:

    image -> [conv, ReLU, pool] x L -> flatten -> FC -> ReLU -> FC -> K x h x w grid -> upsample -> logits
"""

from itertools import pairwise
from math import prod
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import resize_to
from segsweep.types import SegmenterOutput


class DenseCNN(nn.Module):
    """Convolution, pooling, flatten, fully connected layers and a K x h x w output grid.

    The fully connected layers tie it to one input size: it knows where in the image each weight looks.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        size: (H, W) in pixels, the only size that it accepts.
        widths: channels of the convolutions; each is followed by 2x2 max-pooling.
        hidden_size: units of the fully connected layer.

    Shape:
        image (N, C, H, W) with (H, W) = ``size`` -> logits (N, K, H, W), upsampled from a grid of stride
        ``2 ** len(widths)``.

    Raises:
        ValueError: an image of another size, or a size smaller than the stride.

    Reference:
        The design of LeCun et al. 1998 with max-pooling and ReLU; the output grid instead of class scores is ours.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        size: tuple[int, int],
        widths: tuple[int, ...],
        hidden_size: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        self.size = (size[0], size[1])
        grid = (size[0] >> len(widths), size[1] >> len(widths))
        if 0 in grid:
            raise ValueError(f"size={list(size)} is smaller than the {2 ** len(widths)} pixels that pooling needs")
        layers: list[nn.Module] = []
        for i, o in pairwise((in_channels, *widths)):
            layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.dense = nn.Sequential(
            nn.Linear((widths[-1] if widths else in_channels) * prod(grid), hidden_size),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_size, num_classes * prod(grid)),
            nn.Unflatten(1, (num_classes, *grid)),
        )

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images of the one size."""
        height, width = image.shape[-2:]
        if (height, width) != self.size:
            raise ValueError(
                f"dense_cnn was built for {self.size[0]}x{self.size[1]} images and got {height}x{width}: its fully "
                f"connected layers fix the size. Set data.crop=null and data.size=[{height},{width}], or choose a "
                f"fully convolutional model such as model=unet"
            )
        return SegmenterOutput(resize_to(self.dense(self.features(image)), image))
