"""ReSeg: convolutional features swept by recurrent networks along rows, then along columns.

How the data flows:

    image -> conv encoder -> [rows <-> , columns <->] x 2 -> 2x transposed convolutions -> 1x1 -> logits
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, resize_to
from segsweep.types import SegmenterOutput

Cell = Literal["elman", "gru", "lstm"]
_CELLS: dict[str, Callable[..., nn.RNNBase]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class ReNetLayer(nn.Module):
    """Sweeps a feature map in four directions: every output has seen its whole row, then the whole map.

    Args:
        in_features: channels of the map, D.
        hidden_size: units of each direction; the output has ``2 * hidden_size`` channels.
        cell: ``elman`` (tanh), ``gru`` or ``lstm``.

    Shape:
        (N, D, H, W) -> (N, 2 * hidden_size, H, W).

    Reference:
        Visin et al. 2015, ReNet, arXiv:1505.00393; 1x1 patches, the second sweep reads the output of the first.
    """

    def __init__(self, in_features: int, hidden_size: int, cell: Cell) -> None:
        super().__init__()
        make = _CELLS[cell]
        self.rows = make(in_features, hidden_size, batch_first=True, bidirectional=True)
        self.columns = make(2 * hidden_size, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, x_NDHW: Tensor) -> Tensor:
        """Sweeps rows left and right, then columns up and down."""
        x_NHWD = self._sweep(self.rows, x_NDHW.permute(0, 2, 3, 1))
        x_NWHD = self._sweep(self.columns, x_NHWD.transpose(1, 2))
        return x_NWHD.permute(0, 3, 2, 1)

    @staticmethod
    def _sweep(rnn: nn.RNNBase, x_NLTD: Tensor) -> Tensor:
        num, lines = x_NLTD.shape[:2]
        out: Tensor = rnn(x_NLTD.flatten(0, 1))[0]  # (N * L, T, 2 * hidden)
        return out.view(num, lines, *out.shape[1:])


class ReSeg(nn.Module):
    """Convolutional features, recurrent sweeps over them, learnt upsampling.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of the encoder's levels; the sweeps run on the last one, at stride ``2 ** (len(widths) - 1)``.
        num_sweeps: ReNet layers, each four sweeps.
        hidden_size: units of each direction.
        cell: ``elman``, ``gru`` or ``lstm``.

    Shape:
        image (N, C, H, W), any H and W >= the stride -> logits (N, K, H, W).

    Reference:
        Visin et al. 2016, ReSeg, arXiv:1511.07053. Differs: a small encoder trained from scratch instead of a frozen
        VGG16 up to conv3_3; 2x transposed convolutions follow the encoder's widths, with batch normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        num_sweeps: Annotated[int, Ge(1)],
        hidden_size: Annotated[int, Ge(1)],
        cell: Cell,
    ) -> None:
        super().__init__()
        self.encoder = ConvEncoder(in_channels, widths)
        features = (widths[-1], *[2 * hidden_size] * num_sweeps)
        self.sweeps = nn.Sequential(*(ReNetLayer(i, hidden_size, cell) for i, _ in pairwise(features)))
        ups: list[nn.Module] = []
        for i, o in pairwise((2 * hidden_size, *widths[-2::-1])):
            ups += [nn.ConvTranspose2d(i, o, 2, stride=2, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
        self.ups = nn.Sequential(*ups)
        self.head = nn.Conv2d(widths[0] if len(widths) > 1 else 2 * hidden_size, num_classes, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        x = self.sweeps(self.encoder(image)[-1])
        return SegmenterOutput(resize_to(self.head(self.ups(x)), image))
