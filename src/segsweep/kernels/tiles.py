"""Maps of logits, class by class in memory, and the true class of each pixel, as loops read them.

logits    N x K planes of pixels; 32 pixels of all planes, a tile, are read before the next 32. The last tile of an
image reaches back into the one before, whose pixels are not counted again
mask      the true class of each pixel
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.writer import LANES, Lanes, Writer

_MOST_CLASSES = 1 << 15  # pairs of them are counted in int32
LEAST_VALUES = 1 << 17  # of logits or images: with less to do, compiling a loop is not worth its while


def pays(logits: Tensor, mask: Tensor) -> bool:
    """Whether a loop over both can be compiled, and there is enough to do."""
    return logits.numel() >= LEAST_VALUES and fits(logits, mask) and machine.is_available()


def fits(logits: Tensor, mask: Tensor) -> bool:
    """Whether both can be read here.

    Args:
        logits: (N, K, H, W), class by class, in bf16 or float32, with a tile or more an image.
        mask: (N, H, W) int64.
    """
    if not (machine.reads(logits) and machine.reads(mask)) or logits.dim() != 4:
        return False
    if logits.dtype not in (torch.bfloat16, torch.float32) or mask.dtype != torch.int64:
        return False
    num, classes, height, width = logits.shape
    is_right = logits.is_contiguous() and mask.shape == (num, height, width)
    return is_right and height * width >= LANES and classes <= _MOST_CLASSES


def check(logits: Tensor, mask: Tensor) -> None:
    """Raises ValueError where they do not fit."""
    if not fits(logits, mask):
        raise ValueError(f"logits {tuple(logits.shape)} {logits.dtype} and mask {tuple(mask.shape)} {mask.dtype}")


def sizes(logits: Tensor, ignore_index: int) -> tuple[int, ...]:
    """The first arguments of every loop over both."""
    num, classes, height, width = logits.shape
    return num, classes, height * width, ignore_index


def addresses(*tensors: Tensor) -> tuple[int, ...]:
    """The arguments behind these; logits, mask and, if any, room come first."""
    return tuple(x.data_ptr() for x in tensors)


def number_of(to: Writer, pixels: Any) -> Any:
    """How many tiles an image of so many pixels has."""
    return to.builder.sdiv(to.builder.add(pixels, to.int64(LANES - 1)), to.int64(LANES))


def place_of(to: Writer, number: Any, tiles: Any, pixels: Any) -> tuple[Any, Any, Any]:
    """Of one of all images' tiles: its image, the first pixel there that is new, and the first one that is read."""
    build = to.builder
    image, wanted = build.sdiv(number, tiles), build.mul(build.srem(number, tiles), to.int64(LANES))
    return image, wanted, to.least(wanted, build.sub(pixels, to.int64(LANES)))


class Arrays(NamedTuple):
    """What every loop gets as arguments, and what of it is the thread's."""

    num: Any  # of images
    classes: Any
    pixels: Any  # of an image
    tiles: Any  # of an image
    ignored: Any
    logits: Any
    mask: Any
    room: Any  # for values of a tile that a loop keeps for its next one, None without
    at_room: Any  # where the thread's part of it begins
    thread: Any
    start: Any  # the thread's first tile
    end: Any

    @classmethod
    def written(cls, to: Writer, dtype: torch.dtype, rooms: int = 0) -> Arrays:
        """Reads the arguments; a thread's part of the room are ``rooms`` x K x 32 values."""
        build = to.builder
        num, classes, pixels, ignored = (to.argument() for _ in range(4))
        logits = to.pointer(to.kind(dtype))
        mask, room = to.pointer(to.int64), to.pointer(to.float32) if rooms else None
        tiles = number_of(to, pixels)
        thread, start, end = to.share(build.mul(num, tiles))
        at_room = build.mul(thread, build.mul(classes, to.int64(rooms * LANES)))
        return cls(num, classes, pixels, tiles, ignored, logits, mask, room, at_room, thread, start, end)


class Tile:
    """32 pixels of all classes, within a loop that is being written.

    Args:
        to: writes it.
        arrays: which it is part of.
        number: of the tile.
    """

    def __init__(self, to: Writer, arrays: Arrays, number: Any) -> None:
        build = to.builder
        self.to, self.arrays = to, arrays
        self.image, wanted, pixel = place_of(to, number, arrays.tiles, arrays.pixels)
        self.is_new = build.icmp_signed(">=", to.counted(to.int64), to.spread(build.sub(wanted, pixel)))
        self.first = build.add(build.mul(self.image, build.mul(arrays.classes, arrays.pixels)), pixel)
        self.in_mask = build.add(build.mul(self.image, arrays.pixels), pixel)
        mask = to.load(arrays.mask, self.in_mask)
        self.is_valid = build.icmp_signed("!=", mask, to.spread(arrays.ignored))
        is_class = build.icmp_unsigned("<", mask, to.spread(arrays.classes))
        self.is_strange = build.and_(self.is_valid, build.not_(is_class))
        narrow, none = build.trunc(mask, to.vector(to.int32)), to.constant(-1, to.int32)
        self.truth = build.select(build.and_(self.is_valid, is_class), narrow, none)

    def place(self, k: Any) -> Any:
        """Of a class among the logits."""
        return self.to.builder.add(self.first, self.to.builder.mul(k, self.arrays.pixels))

    def logit(self, k: Any) -> Lanes:
        """Of a class."""
        return self.to.read(self.arrays.logits, self.place(k))

    def is_true(self, k: Any) -> Any:
        """Where a class is the true one, and not ignored."""
        return self.to.builder.icmp_signed("==", self.truth, self.to.spread(self.to.builder.trunc(k, self.to.int32)))

    def best(self) -> tuple[Lanes, Any]:
        """The largest logit and its class, an int32: the first of equal ones, the last of those with NaN."""
        to, build = self.to, self.to.builder
        first = [self.logit(to.int64(0)).value, to.constant(0, to.int32)]
        with to.loop(to.int64(1), self.arrays.classes, to.int64(1), first) as k:
            logit, (largest, best) = self.logit(k.number).value, k.carried
            is_larger = build.or_(build.fcmp_ordered(">", logit, largest), build.fcmp_unordered("uno", logit, logit))
            number = to.spread(build.trunc(k.number, to.int32))
            k.carried = [build.select(is_larger, logit, largest), build.select(is_larger, number, best)]
        return Lanes(to, k.carried[0]), k.carried[1]

    def pair(self, best: Any) -> Any:
        """The cell of the true class and this one among K x K, the one behind them where a pixel is not counted."""
        to, build = self.to, self.to.builder
        classes = build.trunc(self.arrays.classes, to.int32)
        cell = build.add(build.mul(self.truth, to.spread(classes)), best)
        return build.select(self.is_counted(), cell, to.spread(build.mul(classes, classes)))

    def is_counted(self) -> Any:
        """Where a pixel is new and has a true class."""
        build = self.to.builder
        has_class = build.icmp_signed(">=", self.truth, self.to.constant(0, self.to.int32))
        return build.and_(self.is_new, has_class)

    def only(self, condition: Any, then: Lanes) -> Lanes:
        """Values where a condition holds, 0 elsewhere."""
        return self.to.where(condition, then, self.to.number(0.0))
