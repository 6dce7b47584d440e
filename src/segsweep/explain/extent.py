"""How far a model can see at most: which pixels could change its output at the centre, whatever its weights.

Not-a-number passes through every operation that reads it, a weight of zero included; so a pixel that is not-a-number
reaches exactly the outputs that depend on it, and the ends of what is seen are found by bisection.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

_LARGEST = 512  # pixels, longest canvas that is tried


class Extent(NamedTuple):
    """Height and width in pixels of what can change the output at the centre.

    Attributes:
        height: None if no end was found within ``canvas``.
        width: the same.
        canvas: (height, width) of the largest image that was tried.
    """

    height: int | None
    width: int | None
    canvas: tuple[int, int]


@torch.no_grad()
def theoretical_extent(model: nn.Module, channels: int, size: tuple[int, int]) -> Extent:
    """Looks for the ends of what the centre depends on, on images that grow up to 512 pixels.

    A model that takes images of one size alone is looked at in that size.

    Args:
        model: in evaluation mode.
        channels: of the image.
        size: (H, W) in pixels to begin with.
    """
    height, tallest = _length(model, channels, size, 0)
    width, widest = _length(model, channels, size, 1)
    return Extent(height, width, (tallest, widest))


def _length(model: nn.Module, channels: int, size: tuple[int, int], axis: int) -> tuple[int | None, int]:
    """Pixels along an axis that the centre depends on, or None, and the length of the canvas."""
    canvas = list(size)
    while True:
        shape = (1, channels, *canvas)
        try:
            ends = [_free(partial(_reaches, model, shape, axis, end), canvas[axis]) for end in (0, 1)]
        except (ValueError, RuntimeError):  # a model for one size
            return None, canvas[axis] // 2 if canvas[axis] > size[axis] else size[axis]
        if min(ends) > 0:
            return canvas[axis] - sum(ends), canvas[axis]
        if 2 * canvas[axis] > _LARGEST:
            return None, canvas[axis]
        canvas[axis] *= 2


def _free(reaches: Callable[[int], bool], length: int) -> int:
    """The most pixels at one end that do not reach the centre."""
    low, high = 0, length // 2 + 1  # beyond the centre it does
    if reaches(1):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return low


def _reaches(model: nn.Module, shape: tuple[int, ...], axis: int, end: int, num: int) -> bool:
    image = torch.zeros(shape)
    length = shape[axis - 2]
    image.narrow(axis - 2, 0 if end == 0 else length - num, num).fill_(torch.nan)
    logits: Tensor = model(image).logits
    return bool(logits[0, :, shape[-2] // 2, shape[-1] // 2].isnan().any())
