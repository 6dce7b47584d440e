"""A U-Net whose feature maps are swept by input-gated recurrences, without a loop over time.

How the data flows:

    image -> level 0 -------------------------------> up 0 -> 1x1 -> logits
               level 1 -------------------> up 1 ---^
                 level 2 -> sweep -> up 2 --^
                   level 3 -> sweep -^

    sweep:  x + out(rows <->),  then  x + out(columns <->)
"""

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, UpBlock
from segsweep.models.cells import Recurrence
from segsweep.models.scan import matrix_scan
from segsweep.types import SegmenterOutput

_SHORTEST, _LONGEST = 1.0, 64.0  # steps that a head remembers at the start, spread geometrically over the heads


class LineSweep(nn.Module):
    """Sweeps lines of features in both directions by matrix products, a gate for each head.

    h_t = a_t h_(t-1) + sqrt(1 - a_t^2) v_t, and out of it comes linear(h_t * silu(r_t)). The gates a and r and the
    value v follow from the input at t alone, and one a serves all features of a head; so a whole sweep is a lower (or
    upper) triangular matrix times the values. Half of the heads run forward, half backward. The factor of v keeps the
    variance of h whatever the memory: with 1 - a, what a long-remembering head saw once would drown. With r each place
    reads of h what it needs; docs/results.md says how it was chosen.

    Args:
        features: of a position, D.
        num_heads: gates of a position, two or more; D is a multiple of it.
        recurrence: ``off`` sets every a to 0, so that h = v: the control.

    Shape:
        (B, T, D) -> (B, T, D). The result is 0 before the first training step.

    Reference:
        Gates that see the input alone as in minGRU (Feng et al. 2024, arXiv:2410.01201), the factor of v as in Griffin
        (De et al. 2024, arXiv:2402.19427), shared over heads so that the matrix form of gated linear recurrences
        applies (Dao and Gu 2024, arXiv:2405.21060); r as in Mamba (Gu and Dao 2023, arXiv:2312.00752); starting as the
        identity as in L-RNN (Xie et al. 2016). The combination, in rows and columns of feature maps, is ours.
    """

    reverse: Tensor

    def __init__(self, features: int, num_heads: int, recurrence: Recurrence) -> None:
        super().__init__()
        self.num_heads, self.recurrence = num_heads, recurrence
        self.norm = nn.LayerNorm(features)
        self.value = nn.Linear(features, features)
        self.gate = nn.Linear(features, num_heads)
        self.read = nn.Linear(features, features)
        self.out = nn.Linear(features, features)
        self.register_buffer("reverse", torch.arange(num_heads) >= num_heads // 2, persistent=False)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        each_way = num_heads // 2, num_heads - num_heads // 2
        memory = _SHORTEST * torch.cat([torch.logspace(0, 1, num, base=_LONGEST / _SHORTEST) for num in each_way])
        with torch.no_grad():  # softplus(bias) = 1 / memory
            self.gate.bias.copy_(torch.expm1(1 / memory).log())

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Sweeps each line."""
        y = self.norm(x_BTD)
        v = self.value(y)
        h = v if self.recurrence == "off" else self.sweep(v, self.log_forget(y))
        out: Tensor = self.out(h * F.silu(self.read(y)))
        return out

    def log_forget(self, y_BTD: Tensor) -> Tensor:
        """Log of a, (B, heads, T), below 0; float32 at least, because it is summed along the line."""
        logits = self.gate(y_BTD).transpose(1, 2)
        return -F.softplus(logits.to(torch.promote_types(logits.dtype, torch.float32)))

    def sweep(self, v_BTD: Tensor, log_a_BGT: Tensor) -> Tensor:
        """All steps of all heads at once, (B, T, D)."""
        num, steps, features = v_BTD.shape
        v_BGTd = v_BTD.view(num, steps, self.num_heads, -1).transpose(1, 2)
        enter = (-torch.expm1(2 * log_a_BGT)).sqrt()[..., None]  # expm1: exact where a is close to 1
        h_BGTd = matrix_scan(log_a_BGT, (enter * v_BGTd).to(v_BTD.dtype), self.reverse)
        return h_BGTd.transpose(1, 2).reshape(num, steps, features)


class GatedSweep(nn.Module):
    """Sweeps a feature map along its rows, then along its columns, each added to what was there.

    Args:
        features: channels of the map, D.
        num_heads: gates of a position, two or more; D is a multiple of it.
        recurrence: ``off`` takes each place by itself, the control.

    Shape:
        (N, D, H, W) -> (N, D, H, W), equal to the input before the first training step.
    """

    def __init__(self, features: int, num_heads: int, recurrence: Recurrence) -> None:
        super().__init__()
        self.rows = LineSweep(features, num_heads, recurrence)
        self.columns = LineSweep(features, num_heads, recurrence)

    def forward(self, x_NDHW: Tensor) -> Tensor:
        """Sweeps in four directions."""
        x_NHWD = self._add(self.rows, x_NDHW.permute(0, 2, 3, 1))
        x_NWHD = self._add(self.columns, x_NHWD.transpose(1, 2))
        return x_NWHD.permute(0, 3, 2, 1)

    @staticmethod
    def _add(line: LineSweep, x_NLTD: Tensor) -> Tensor:
        swept: Tensor = line(x_NLTD.flatten(0, 1))
        return x_NLTD + swept.view(x_NLTD.shape)


class GatedSweepNet(nn.Module):
    """U-Net with gated sweeps on the maps of several levels, skips included.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of each level, fine to coarse; two levels or more.
        sweep_levels: levels that are swept; level i has stride ``2**i``.
        head_size: features that share a gate; a swept level has two heads or more.
        recurrence: ``off`` removes the recurrence and nothing else, the control.

    Shape:
        image (N, C, H, W), any H and W >= ``2 ** (len(widths) - 1)`` -> logits (N, K, H, W).

    Raises:
        ValueError: fewer than two levels, a level that does not exist, or a width that the heads do not divide.

    Reference:
        Ours; the sweeps stand where L-RNN found them to pay (Xie et al. 2016: at several strides, with skips).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        sweep_levels: tuple[int, ...],
        head_size: Annotated[int, Ge(1)],
        recurrence: Recurrence,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths={list(widths)} has {len(widths)} level; give two or more, e.g. [16,32,64,128]")
        if not set(sweep_levels) <= set(range(len(widths))):
            raise ValueError(f"sweep_levels={list(sweep_levels)}: the levels of widths are 0 to {len(widths) - 1}")
        for level in sweep_levels:
            if widths[level] % head_size or widths[level] < 2 * head_size:
                raise ValueError(
                    f"widths[{level}]={widths[level]} is no multiple of head_size={head_size}, twice or more: a swept "
                    f"level needs a head for each direction"
                )
        self.encoder = ConvEncoder(in_channels, widths)
        self.sweeps = nn.ModuleList(
            GatedSweep(width, width // head_size, recurrence) if level in sweep_levels else nn.Identity()
            for level, width in enumerate(widths)
        )
        levels = pairwise(reversed(widths))  # (coarse, fine), coarsest first
        self.merges = nn.ModuleList(UpBlock(coarse + fine, fine) for coarse, fine in levels)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        *skips, x = (sweep(x) for sweep, x in zip(self.sweeps, self.encoder(image), strict=True))
        for merge, skip in zip(self.merges, reversed(skips), strict=True):
            x = merge(x, skip)
        return SegmenterOutput(self.head(x))
