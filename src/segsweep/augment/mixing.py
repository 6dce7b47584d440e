"""Which pixels of a partner image are pasted into an image, together with their classes."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segsweep.augment.draws import Draw, more

Kind = Literal["cutmix", "classmix", "copy_paste"]

_MASK_VALUES = 256  # masks are stored as bytes


@dataclass(frozen=True)
class Mixing:
    """The part of ``Augment`` that combines two images, whose docstring explains the fields."""

    kind: Kind | None
    probability: float

    @property
    def mixes(self) -> bool:
        """Whether any image can get a partner."""
        return self.kind is not None and self.probability > 0

    def is_mixed(self, draws: Tensor) -> Tensor:
        """Which images get a partner: (N,) bool."""
        return draws[:, Draw.MIX] < (self.probability if self.mixes else 0.0)

    def pasted(self, partner_mask: Tensor, draws: Tensor, is_rare_K: Tensor, ignore_index: int) -> Tensor:
        """Which pixels come from the partner: (N, h, w) bool."""
        if self.kind == "cutmix":
            chosen = _rectangle(draws, (partner_mask.shape[1], partner_mask.shape[2]))
        elif self.kind == "classmix":
            chosen = _look_up(_half_of_the_classes(partner_mask, draws, ignore_index), partner_mask, ignore_index)
        else:
            is_rare = F.pad(is_rare_K, (0, _MASK_VALUES - len(is_rare_K))).repeat(len(draws), 1)
            chosen = _look_up(is_rare, partner_mask, ignore_index)
        return chosen & self.is_mixed(draws)[:, None, None]


def _rectangle(draws: Tensor, size: tuple[int, int]) -> Tensor:
    share = draws[:, Draw.MIX_AREA].sqrt()[:, None]  # of each side, so that the area's share is uniform
    inside = []
    for side, draw in ((size[0], Draw.MIX_Y), (size[1], Draw.MIX_X)):
        position = torch.arange(side, device=draws.device) + 0.5 - draws[:, draw, None] * (1 - share) * side
        inside.append((position >= 0) & (position < share * side))
    return inside[0][:, :, None] & inside[1][:, None, :]


def _half_of_the_classes(mask: Tensor, draws: Tensor, ignore_index: int) -> Tensor:
    """Half of the classes that occur in each mask, rounded down: (N, 256) bool."""
    occurs = draws.new_zeros(len(mask), _MASK_VALUES).scatter_(1, mask.flatten(1), 1.0)
    occurs.select(1, ignore_index).fill_(0)
    order = more(draws, Draw.MIX_CLASSES, _MASK_VALUES) - occurs  # those that occur are below 0: they come first
    rank = order.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < (occurs.sum(dim=1, keepdim=True) / 2).floor()


def _look_up(chosen_NK: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    chosen_NK.select(1, ignore_index).fill_(False)
    return chosen_NK.gather(1, mask.flatten(1)).view_as(mask)
