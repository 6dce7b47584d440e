"""The effective receptive field: how much each pixel around a point changes what is predicted there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segsweep.explain.extent import Extent

SHARES = (0.5, 0.9, 0.95)
NUM_VIEWS = 16  # at least, so that no single image decides
_MOST_VIEWS = 64
_MOST_CLASSES = 8
_PIXELS_AT_ONCE = 1 << 18
_SEED = 0


@dataclass(frozen=True)
class Field:
    """What one model sees.

    Attributes:
        name: of the run.
        family: of the architecture, or "".
        sensitivity: (H, W), sums to 1.
        point: row and column that look.
        num_views: images that were averaged.
        num_images: different ones among them.
        extent: what it could see at most.
    """

    name: str
    family: str
    sensitivity: NDArray[np.float64]
    point: tuple[int, int]
    num_views: int
    num_images: int
    extent: Extent

    def reach(self) -> list[float]:
        """Share of the sensitivity within the square of side 1, 3, 5, ... around the point."""
        row, column = self.point
        last = max(row, column, self.sensitivity.shape[0] - 1 - row, self.sensitivity.shape[1] - 1 - column)
        return [
            float(self.sensitivity[max(0, row - r) : row + r + 1, max(0, column - r) : column + r + 1].sum())
            for r in range(last + 1)
        ]

    def side(self, share: float) -> int:
        """Side in pixels of the smallest square around the point that holds a share of the sensitivity."""
        reach = self.reach()
        return 2 * next((r for r, held in enumerate(reach) if held >= share - 1e-9), len(reach) - 1) + 1


class Measured(NamedTuple):
    """A receptive field as ``Field`` has it."""

    sensitivity: NDArray[np.float64]
    point: tuple[int, int]
    num_views: int


def effective_field(
    model: nn.Module,
    images: Sequence[Tensor],
    point: tuple[int, int] | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Mean |d logit at a point / d pixel| over views and classes, normalised to 1.

    Of many classes, the eight that are most probable at the point are looked at.

    Args:
        model: in evaluation mode.
        images: (1, C, h, w) each; larger ones are cut to the smallest, around their centres.
        point: row and column that look; None: the centre, and few images are completed by themselves, shifted around
            by random amounts, to 16 views, so that no single content of the centre decides.
        tick: is told how many views are done.

    Returns:
        Sensitivity (H, W) float64, sums to 1 (all 0 where nothing changes the output).

    Reference:
        Luo et al. 2016, Understanding the Effective Receptive Field in Deep Convolutional Neural Networks,
        arXiv:1701.04128. Differs: on images instead of noise, and over classes, because class 0 is not all there is.
    """
    views = _views(images, NUM_VIEWS if point is None else 1)
    height, width = views[0].shape[-2:]
    point = (height // 2, width // 2) if point is None else point
    total = torch.zeros(height, width, dtype=torch.float64)
    for view in views:
        total += _sensitivity(model, view, *point)
        tick(1)
    whole = float(total.sum())
    return Measured((total / whole if whole > 0 else total).numpy(), point, len(views))


def _sensitivity(model: nn.Module, view: Tensor, row: int, column: int) -> Tensor:
    """(H, W) float64: |d logit at a point / d pixel|, summed over channels, mean over classes."""
    with torch.no_grad():
        classes = model(view).logits[0, :, row, column].argsort(descending=True)[:_MOST_CLASSES]
    total = torch.zeros(view.shape[-2:], dtype=torch.float64)
    for group in classes.split(max(1, _PIXELS_AT_ONCE // (view.shape[-2] * view.shape[-1]))):
        batch = view.repeat(len(group), 1, 1, 1).requires_grad_()
        logits = model(batch).logits[torch.arange(len(group)), group, row, column]
        (gradient,) = torch.autograd.grad(logits.sum(), batch)
        total += gradient.abs().sum(dim=(0, 1)).double()
    return total / len(classes)


def _views(images: Sequence[Tensor], at_least: int) -> list[Tensor]:
    size = [min(image.shape[axis] for image in images) for axis in (-2, -1)]
    views = [_centred(image, size) for image in images[:_MOST_VIEWS]]
    generator = torch.Generator().manual_seed(_SEED)
    originals = len(views)
    while len(views) < at_least:
        shift = [int(torch.randint(side, (), generator=generator)) for side in size]
        views.append(views[len(views) % originals].roll(shift, dims=(-2, -1)))
    return views


def _centred(image: Tensor, size: Sequence[int]) -> Tensor:
    top, left = ((image.shape[axis] - size[axis]) // 2 for axis in (-2, -1))
    return image[..., top : top + size[0], left : left + size[1]].contiguous()
