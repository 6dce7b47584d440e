"""The image as a sequence of regions: a recurrent network labels each region, and each pixel gets its region's label.

How the data flows:

    image -> regions ---------+------------------------------------------> spread over pixels -> logits
      |                       v                                                   ^
      +-> conv encoder -> means over each region -> RNN in reading order -> K per region
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, ceil_div
from segsweep.models.cells import Cell, Recurrence, Sequences
from segsweep.models.superpixels import patches, region_means, spread, superpixels
from segsweep.types import SegmenterOutput


class RegionRNN(nn.Module):
    """One bidirectional recurrent network over the regions' features.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of the encoder's levels; a region's features are the means of all levels over it.
        regions: ``superpixels`` that follow edges, or square ``patches``.
        region_size: side of a patch, or distance of superpixel centres, in pixels.
        compactness: of superpixels: standard deviations of colour that weigh as much as one ``region_size``.
        num_layers: recurrent layers.
        hidden_size: units of each direction.
        cell: ``elman`` (tanh), ``elman_relu``, ``gru``, ``lstm`` or ``mingru``.
        recurrence: ``off`` labels each region by itself, the control.

    Shape:
        image (N, C, H, W), any H and W >= ``2 ** (len(widths) - 1)`` -> logits (N, K, H, W), constant over a region.

    Reference:
        The oldest way to use a sequence model for an image: regions in reading order, as words of a text. Superpixels
        after Achanta et al. 2012, SLIC; no paper is followed to the letter.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        regions: Literal["superpixels", "patches"],
        region_size: Annotated[int, Ge(1)],
        compactness: Annotated[float, Gt(0)],
        num_layers: Annotated[int, Ge(1)],
        hidden_size: Annotated[int, Ge(1)],
        cell: Cell,
        recurrence: Recurrence,
    ) -> None:
        super().__init__()
        self.regions, self.region_size, self.compactness = regions, region_size, compactness
        self.encoder = ConvEncoder(in_channels, widths)
        features = (sum(widths), *[2 * hidden_size] * (num_layers - 1))
        self.rnn = nn.Sequential(*(Sequences(i, hidden_size, cell, recurrence) for i in features))
        self.head = nn.Linear(2 * hidden_size, num_classes)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        height, width = image.shape[-2:]
        num_regions = ceil_div(height, self.region_size) * ceil_div(width, self.region_size)
        region = self.divide(image)
        means = [region_means(x, _sampled(region, x), num_regions) for x in self.encoder(image)]
        x_NRD = torch.cat(means, dim=1).transpose(1, 2)
        logits_NKR = self.head(self.rnn(x_NRD)).transpose(1, 2)
        return SegmenterOutput(spread(logits_NKR, region))

    def divide(self, image: Tensor) -> Tensor:
        """Number of each pixel's region, (N, H, W) int64 in reading order."""
        if self.regions == "patches":
            return patches(image, self.region_size)
        return superpixels(image, self.region_size, self.compactness)


def _sampled(region_NHW: Tensor, like: Tensor) -> Tensor:
    """Region numbers at the size of a coarser map: those of every second, fourth, ... pixel."""
    # The nearest pixel of interpolate, which takes no integers.
    row, column = (
        torch.arange(few, device=like.device) * many // few
        for few, many in zip(like.shape[-2:], region_NHW.shape[-2:], strict=True)
    )
    return region_NHW[:, row][:, :, column]
