"""ReNet: an image cut into patches, swept by recurrent networks instead of convolutions.

How the data flows:

    image -> p x p patches -> [rows <-> , columns <->] x L -> 1x1 -> p x p logits a patch
"""

from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ceil_div
from segsweep.models.cells import Cell, Recurrence, Sequences
from segsweep.types import SegmenterOutput


class ReNetLayer(nn.Module):
    """Sweeps a feature map in four directions: every output has seen its whole row, then the whole map.

    Args:
        in_features: channels of the map, D.
        hidden_size: units of each direction; the output has ``2 * hidden_size`` channels.
        cell: kind of the recurrent network.
        recurrence: ``off`` takes each place by itself, the control.

    Shape:
        (N, D, H, W) -> (N, 2 * hidden_size, H, W).
    """

    def __init__(self, in_features: int, hidden_size: int, cell: Cell, recurrence: Recurrence) -> None:
        super().__init__()
        self.rows = Sequences(in_features, hidden_size, cell, recurrence)
        self.columns = Sequences(2 * hidden_size, hidden_size, cell, recurrence)

    def forward(self, x_NDHW: Tensor) -> Tensor:
        """Sweeps rows left and right, then columns up and down."""
        x_NHWD = self._sweep(self.rows, x_NDHW.permute(0, 2, 3, 1))
        x_NWHD = self._sweep(self.columns, x_NHWD.transpose(1, 2))
        return x_NWHD.permute(0, 3, 2, 1)

    @staticmethod
    def _sweep(rnn: Sequences, x_NLTD: Tensor) -> Tensor:
        num, lines = x_NLTD.shape[:2]
        out: Tensor = rnn(x_NLTD.flatten(0, 1))  # (N * L, T, 2 * hidden)
        return out.view(num, lines, *out.shape[1:])


def renet_layers(
    in_features: int, num_layers: int, hidden_size: int, cell: Cell, recurrence: Recurrence
) -> nn.Sequential:
    """Layers on top of each other, (N, in_features, H, W) -> (N, 2 * hidden_size, H, W)."""
    features = (in_features, *[2 * hidden_size] * num_layers)
    return nn.Sequential(*(ReNetLayer(i, hidden_size, cell, recurrence) for i, _ in pairwise(features)))


class ReNet(nn.Module):
    """Recurrent sweeps over patches of the image, and nothing else.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        patch_size: side of a patch in pixels, p.
        num_layers: ReNet layers, each four sweeps.
        hidden_size: units of each direction.
        cell: ``elman`` (tanh), ``elman_relu``, ``gru``, ``lstm`` or ``mingru``.
        recurrence: ``off`` takes each patch by itself, the control.

    Shape:
        image (N, C, H, W), any size -> logits (N, K, H, W); what is missing to whole patches is filled with 0.

    Reference:
        Visin et al. 2015, ReNet, arXiv:1505.00393. Differs: the paper classifies images by fully connected layers
        over the last map; here each place of it gives the logits of its patch.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        patch_size: Annotated[int, Ge(1)],
        num_layers: Annotated[int, Ge(1)],
        hidden_size: Annotated[int, Ge(1)],
        cell: Cell,
        recurrence: Recurrence,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.sweeps = renet_layers(in_channels * patch_size**2, num_layers, hidden_size, cell, recurrence)
        self.head = nn.Conv2d(2 * hidden_size, num_classes * patch_size**2, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        height, width = image.shape[-2:]
        # Not -width % patch: an exported graph for any size is to know that the patch divides the sum.
        columns, rows = (ceil_div(side, self.patch_size) * self.patch_size - side for side in (width, height))
        padded = F.pad(image, (0, columns, 0, rows))
        x = self.sweeps(F.pixel_unshuffle(padded, self.patch_size))
        logits = F.pixel_shuffle(self.head(x), self.patch_size)
        return SegmenterOutput(logits[..., :height, :width])
