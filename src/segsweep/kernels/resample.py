"""Images and their masks, bytes, at other positions: what torch needs two resamplings in float32 and a grid for."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.functions import absolute, floor, larger, rounded
from segsweep.kernels.writer import LANES, Lanes, Writer

_WORD = 4  # bytes that are read at once, from a pixel's first on: images and masks must hold at least so many
_MOST_BYTES = (1 << 31) - 1  # of an image: places in it are int32
_LONGEST_SIDE = 1 << 24  # pixels: float32 knows all whole numbers below


def fits(images: Tensor, masks: Tensor, out: tuple[int, int]) -> bool:
    """Whether images (N, H, W, C) and masks (N, H, W) can be read here, for a result of so many rows and columns.

    Of up to three channels, and with 32 columns or more.
    """
    if out[0] < 1 or out[1] < LANES:
        return False
    if not (machine.reads(images) and machine.reads(masks)) or {images.dtype, masks.dtype} != {torch.uint8}:
        return False
    if images.dim() != 4 or images.shape[:3] != masks.shape or not images.shape[3] < _WORD <= masks.numel():
        return False
    _, height, width = masks.shape
    return height * width * images.shape[3] <= _MOST_BYTES and max(height, width) < _LONGEST_SIDE


def compile_functions() -> None:
    """For images in grey and in colour."""
    for channels in (1, 3):
        _resample(channels)


def resampled(
    images: Tensor, masks: Tensor, positions: Tensor, out: tuple[int, int], ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Samples images bilinearly, mirrored at their edges, and masks by nearest neighbour, ignored outside.

    As ``grid_sample`` with ``align_corners=False``: edges are half a pixel away from the centres of the outermost ones.

    Args:
        images: (N, H, W, C) uint8, which ``fits`` together with the masks.
        masks: (N, H, W) uint8.
        positions: (N, 2, 3) float32, y and x in pixels of the source: of the first pixel of the result, and what a row
            further down and a column further right add to it. One that is no number is outside.
        out: (h, w) pixels of the result.
        ignore_index: value of a mask outside.

    Returns:
        Images (N, C, h, w) float32 in 0..1, contiguous, and masks (N, h, w) int64.

    Raises:
        ValueError: they do not fit, or positions are not in this process's memory.
    """
    num, height, width, channels = images.shape
    if not (fits(images, masks, out) and machine.reads(positions)) or positions.shape != (num, 2, 3):
        raise ValueError(
            f"images {tuple(images.shape)}, masks {tuple(masks.shape)}, positions {tuple(positions.shape)}"
        )
    images, masks, positions = images.contiguous(), masks.contiguous(), positions.float().contiguous()
    image = torch.empty((num, channels, *out), dtype=torch.float32, device=images.device)
    mask = torch.empty((num, *out), dtype=torch.int64, device=images.device)
    tensors = (x.data_ptr() for x in (images, masks, positions, image, mask))
    machine.run(_resample(channels), (num, *out, height, width, ignore_index, *tensors))
    return image, mask


class _Axis(NamedTuple):
    """Where 32 pixels of the result lie along one side of the source, in whole pixels of it: int32."""

    nearest: Any
    is_inside: Any  # whether that lies within the source
    first: Any  # the pixel at or before the place, which is mirrored at the edges
    second: Any  # the next one; at the last pixel, that one again
    share: Lanes  # of the second

    @classmethod
    def written(cls, at: Lanes, side: Lanes) -> _Axis:
        """Of places, along a side of so many pixels."""
        to, last = at.writer, side - 1.0
        nearest = rounded(at)
        is_inside = to.builder.and_(to.is_less(to.number(-0.5), nearest), to.is_less(nearest, side))
        # Distance from the edge, forth and back again and again.
        distance, period = absolute(at + 0.5), side * 2.0
        distance = distance - floor(distance / period) * period
        distance = to.where(to.is_less(side, distance), period - distance, distance)
        mirrored = _within(distance - 0.5, last)
        first = floor(mirrored)
        second = to.whole(_within(first + 1.0, last))
        return cls(to.whole(_within(nearest, last)), is_inside, to.whole(first), second, mirrored - first)


def _within(x: Lanes, last: Lanes) -> Lanes:
    """From 0 to the last, 0 if it is no number: it can always be made an int32, and lies in the image."""
    x = larger(x.writer.number(0.0), x)
    return x.writer.where(x.writer.is_less(last, x), last, x)


@cache
def _resample(channels: int) -> int:
    """Address of the function, for images of so many channels."""
    to = Writer("resample")
    build, one = to.builder, to.int64(1)
    num, rows, columns, height, width, ignored = (to.argument() for _ in range(6))
    images, masks = to.argument(), to.argument()
    positions, image, mask = (to.pointer(kind) for kind in (to.float32, to.float32, to.int64))
    _, start, end = to.share(build.mul(num, rows))
    pixels = build.mul(height, width)
    sides = [Lanes(to, to.spread(build.sitofp(side, to.float32))) for side in (height, width)]
    wide = to.spread(build.trunc(width, to.int32))

    def bytes_at(array: Any, number: Any, within: Any, size: int) -> Any:
        """An int32 for each pixel of an image, whose lowest bytes are the pixel's.

        Where four bytes from there on would reach beyond the array, its last four are read and shifted down.
        """
        image = build.mul(pixels, to.int64(size))
        start = build.mul(number, image)
        last = build.sub(build.sub(build.mul(num, image), start), to.int64(_WORD))  # from here to the array's last four
        last = to.spread(build.trunc(to.least(last, to.int64(_MOST_BYTES)), to.int32))
        at = build.mul(within, to.constant(size, to.int32))
        allowed = build.select(build.icmp_signed("<", at, last), at, last)
        shift = build.shl(build.sub(at, allowed), to.constant(3, to.int32))
        return build.lshr(to.gathered(build.add(to.widest(allowed), to.spread(build.add(array, start)))), shift)

    with to.loop(start, end, one) as line:
        number, row = build.sdiv(line.number, rows), build.srem(line.number, rows)
        down = build.sitofp(row, to.float32)
        steps = []
        for axis in range(2):
            begin, by_row, by_column = (
                build.load(build.gep(positions, [build.add(build.mul(number, to.int64(6)), to.int64(3 * axis + i))]))
                for i in range(3)
            )
            begin = build.fadd(begin, build.fmul(by_row, down))
            steps.append([Lanes(to, to.spread(value)) for value in (begin, by_column)])
        with to.loop(to.int64(0), columns, to.int64(LANES)) as some:
            column = to.least(some.number, build.sub(columns, to.int64(LANES)))  # the last ones reach back
            right = Lanes(to, to.spread(build.sitofp(column, to.float32))) + Lanes(to, to.counted(to.float32))
            y, x = (_Axis.written(begin + step * right, side) for (begin, step), side in zip(steps, sides, strict=True))
            to_row = build.mul(line.number, columns)
            words = bytes_at(masks, number, build.add(build.mul(y.nearest, wide), x.nearest), 1)
            classes = to.widest(build.and_(words, to.constant(255, to.int32)))
            classes = build.select(build.and_(y.is_inside, x.is_inside), classes, to.spread(ignored))
            to.store(classes, mask, build.add(to_row, column))
            corners = [
                [bytes_at(images, number, build.add(build.mul(i, wide), j), channels) for j in (x.first, x.second)]
                for i in (y.first, y.second)
            ]
            for channel in range(channels):
                shift = to.constant(8 * channel, to.int32)
                lines = []
                for left, beside in corners:
                    one, other = (to.of_byte(build.lshr(word, shift)) for word in (left, beside))
                    lines.append(_between(one, other, x.share))
                value = _between(lines[0], lines[1], y.share) / 255.0
                plane = build.add(build.mul(number, to.int64(channels)), to.int64(channel))
                place = build.mul(build.add(build.mul(plane, rows), row), columns)
                to.write(value, image, build.add(place, column))
    return machine.compiled(to.finish(), "resample")


def _between(one: Lanes, other: Lanes, share: Lanes) -> Lanes:
    return one + share * (other - one)
