"""Which random number each operation reads, and how a number in [0, 1) becomes a strength."""

import math
from enum import IntEnum, auto, unique

import torch
from torch import Tensor

from segsweep.rng import uniform


@unique
class Draw(IntEnum):
    """The column of ``draws`` that an operation reads.

    Columns are fixed, so that switching one operation on changes the draws of no other; a new one goes to the end.
    """

    HFLIP = 0
    VFLIP = auto()
    ROTATE = auto()
    ZOOM = auto()
    SHIFT_Y = auto()
    SHIFT_X = auto()
    SHEAR = auto()
    BRIGHTNESS = auto()
    CONTRAST = auto()
    SATURATION = auto()
    HUE = auto()
    GAMMA = auto()
    BLUR = auto()
    NOISE = auto()
    NOISE_PATTERN = auto()
    CUTOUT_HEIGHT = auto()
    CUTOUT_WIDTH = auto()
    CUTOUT_Y = auto()
    CUTOUT_X = auto()
    MIX = auto()
    MIX_AREA = auto()
    MIX_Y = auto()
    MIX_X = auto()
    MIX_CLASSES = auto()


def around_zero(draws: Tensor, draw: Draw, limit: float) -> Tensor:
    """Uniform in ``-limit..limit``: (N,)."""
    return (2 * draws[:, draw] - 1) * limit


def around_one(draws: Tensor, draw: Draw, limit: float) -> Tensor:
    """A factor that is log-uniform in ``1/limit..limit``: (N,)."""
    # Not limit ** x: that one rounds differently in a vector's tail, so an image would depend on its batch.
    return around_zero(draws, draw, math.log(limit)).exp()


def more(draws: Tensor, draw: Draw, num: int) -> Tensor:
    """``num`` further uniform numbers that follow from one of them: (N, num)."""
    return uniform(draw, (draws[:, draw] * 2**24).to(torch.int64), num)  # a draw carries 24 random bits
