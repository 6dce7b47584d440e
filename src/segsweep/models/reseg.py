"""ReSeg: convolutional features swept by recurrent networks along rows, then along columns.

How the data flows:

    image -> trunk -> [rows <-> , columns <->] x L -> 2x transposed convolutions -> 1x1 -> logits
"""

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, resize_to
from segsweep.models.cells import Cell, Recurrence
from segsweep.models.normalisation import BatchNorm2d, Layers
from segsweep.models.renet import renet_layers
from segsweep.models.vgg import VGG16Trunk
from segsweep.types import SegmenterOutput


class ReSeg(nn.Module):
    """A small convolutional encoder, recurrent sweeps over its features, learnt upsampling.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of the encoder's levels; the sweeps run on the last one, at stride ``2 ** (len(widths) - 1)``.
        num_sweeps: ReNet layers, each four sweeps.
        hidden_size: units of each direction.
        cell: ``elman`` (tanh), ``elman_relu``, ``gru``, ``lstm`` or ``mingru``.
        recurrence: ``off`` takes each place of the map by itself, the control.

    Shape:
        image (N, C, H, W), any H and W >= the stride -> logits (N, K, H, W).

    Reference:
        Visin et al. 2016, ReSeg, arXiv:1511.07053. Differs: the encoder that all families share, trained from scratch,
        instead of a frozen VGG16 up to conv3_3; the transposed convolutions follow its widths and are followed by batch
        normalisation. ``ReSegVGG`` is the published one.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        num_sweeps: Annotated[int, Ge(1)],
        hidden_size: Annotated[int, Ge(1)],
        cell: Cell,
        recurrence: Recurrence,
    ) -> None:
        super().__init__()
        self.encoder = ConvEncoder(in_channels, widths)
        self.sweeps = renet_layers(widths[-1], num_sweeps, hidden_size, cell, recurrence)
        ups: list[nn.Module] = []
        for i, o in pairwise((2 * hidden_size, *widths[-2::-1])):
            ups += [nn.ConvTranspose2d(i, o, 2, stride=2, bias=False), BatchNorm2d(o), nn.ReLU(inplace=True)]
        self.ups = Layers(*ups)
        self.head = nn.Conv2d(widths[0] if len(widths) > 1 else 2 * hidden_size, num_classes, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        x = self.sweeps(self.encoder(image)[-1])
        return SegmenterOutput(resize_to(self.head(self.ups(x)), image))


class ReSegVGG(nn.Module):
    """ReSeg as published: VGG16 up to conv3_3, two ReNet layers of 100 units, two 2x transposed convolutions.

    Args:
        in_channels: image channels, 3 or 1; grey is repeated.
        num_classes: classes, K.
        trunk_weights: ``imagenet`` or None for random ones.
        trunk: ``frozen`` (as published) or ``trained``.
        num_sweeps: ReNet layers, each four sweeps.
        hidden_size: units of each direction.
        up_widths: channels of the 2x transposed convolutions, each followed by ReLU.
        cell: ``elman`` (tanh), ``elman_relu``, ``gru``, ``lstm`` or ``mingru``.
        recurrence: ``off`` takes each place of the map by itself, the control.

    Shape:
        image (N, C, H, W), any H and W >= 4 -> logits (N, K, H, W).

    Raises:
        FileNotFoundError: the weights are not on this machine and cannot be fetched.

    Reference:
        Visin et al. 2016, arXiv:1511.07053, with the settings of the authors' CamVid script: GRU, 1x1 patches, no
        peepholes, zero initial state. Differs: torch's GRU applies the reset gate after the matrix product.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        trunk_weights: Literal["imagenet"] | None,
        trunk: Literal["frozen", "trained"],
        num_sweeps: Annotated[int, Ge(1)],
        hidden_size: Annotated[int, Ge(1)],
        up_widths: tuple[int, int],
        cell: Cell,
        recurrence: Recurrence,
    ) -> None:
        super().__init__()
        self.encoder = VGG16Trunk(in_channels, trunk_weights, is_frozen=trunk == "frozen")
        self.sweeps = renet_layers(self.encoder.out_channels[-1], num_sweeps, hidden_size, cell, recurrence)
        ups: list[nn.Module] = []
        for i, o in pairwise((2 * hidden_size, *up_widths)):
            ups += [nn.ConvTranspose2d(i, o, 2, stride=2), nn.ReLU(inplace=True)]
        self.ups = Layers(*ups)
        self.head = nn.Conv2d(up_widths[-1], num_classes, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        return self.decode(self.encoder(image)[-1], image)

    def decode(self, features: Tensor, image: Tensor) -> SegmenterOutput:
        """Segments images whose features are known: those of a frozen trunk need computing once."""
        return SegmenterOutput(resize_to(self.head(self.ups(self.sweeps(features))), image))
