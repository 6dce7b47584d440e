"""Softmax over maps of logits, class by class in memory, and what is summed over the pixels of each class.

    logits        N x K planes of pixels: 32 pixels of all planes are read before the next 32
    mask          the true class of each pixel
    sums          5 x K: how many pixels, -log p and p where the class is true; p and p^2 everywhere

Nothing of the size of the logits is kept: 32 pixels of all classes stay in the cache, and the gradient makes the
probabilities anew.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.functions import exp, larger, log
from segsweep.kernels.writer import LANES, Lanes, Writer

SUMS = 5
_BLOCK = 256  # times 32 pixels whose sums are added in float32


def fits(logits: Tensor) -> bool:
    """Whether the functions here can read logits (N, K, H, W): class by class, in bf16 or float32, with whole lanes."""
    if logits.dtype not in (torch.bfloat16, torch.float32) or logits.device.type != "cpu" or not logits.numel():
        return False
    return logits.is_contiguous() and not (logits.shape[2] * logits.shape[3]) % LANES


def sums_of(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    """The sums over all valid pixels.

    Args:
        logits: (N, K, H, W), which ``fits``.
        mask: (N, H, W) int64, classes in ``0..K-1`` or ``ignore_index``.
        ignore_index: mask value that is left out.

    Returns:
        (5, K) float64: number of pixels, -log p and p where the class is true, p and p^2 everywhere.

    Raises:
        RuntimeError: a mask value is neither.
    """
    threads, classes = torch.get_num_threads(), logits.shape[1]
    mask = mask.contiguous()
    room = torch.zeros(threads, 1 + SUMS, classes, LANES)
    totals = torch.zeros(threads, SUMS, classes, LANES, dtype=torch.float64)
    bad = torch.zeros(threads, dtype=torch.int64)
    machine.run(_sums(logits.dtype), (*_sizes(logits, ignore_index), *_addresses(logits, mask, room, totals, bad)))
    if bad.any():
        raise RuntimeError(f"mask: a class is out of bounds: it must be in 0..{classes - 1} or {ignore_index}")
    return totals.sum(dim=(0, 3))


def gradient_of(logits: Tensor, mask: Tensor, ignore_index: int, of_sums: Tensor) -> Tensor:
    """The gradient of the logits.

    Args:
        logits: as above.
        mask: as above.
        ignore_index: as above.
        of_sums: (4, K) the gradients of the sums but the first, which has none.

    Returns:
        (N, K, H, W) like the logits.
    """
    result = torch.empty_like(logits)
    coefficients = of_sums.float().contiguous()
    room = torch.empty(torch.get_num_threads(), logits.shape[1], LANES)
    mask = mask.contiguous()
    arguments = _addresses(logits, mask, room, coefficients, result)
    machine.run(_gradient(logits.dtype), (*_sizes(logits, ignore_index), *arguments))
    return result


def _sizes(logits: Tensor, ignore_index: int) -> tuple[int, ...]:
    num, classes, height, width = logits.shape
    return num, classes, height * width, ignore_index


def _addresses(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(x.data_ptr() for x in tensors)


class _Tile(NamedTuple):
    """32 pixels of all classes, within loops that are being written."""

    to: Writer
    arrays: _Arrays
    first: Any  # place of the first class among the logits
    truth: Any  # the true class of each pixel, int32; -1 if it has none
    is_valid: Any  # whether a pixel is not ignored
    is_strange: Any  # whether its class is none, though it is not ignored

    def logit(self, k: Any) -> Lanes:
        """Of a class."""
        return self.to.read(self.arrays.logits, self.place(k))

    def place(self, k: Any) -> Any:
        """Of a class among the logits."""
        return self.to.builder.add(self.first, self.to.builder.mul(k, self.arrays.pixels))

    def power(self, k: Any) -> Any:
        """Place of a class's exponentials in the room."""
        return self.to.builder.add(self.arrays.at_room, self.to.builder.mul(k, self.to.int64(LANES)))

    def is_true(self, k: Any) -> Any:
        """Where a class is the true one."""
        return self.to.builder.icmp_signed("==", self.truth, self.to.spread(self.to.builder.trunc(k, self.to.int32)))

    def softmax(self) -> tuple[Lanes, Lanes]:
        """Puts exponentials into the room; the largest logit, and their sum."""
        to = self.to
        zero, one = to.int64(0), to.int64(1)
        with to.loop(one, self.arrays.classes, one, [self.logit(zero).value]) as k:
            k.carried = [larger(Lanes(to, k.carried[0]), self.logit(k.number)).value]
        largest = Lanes(to, k.carried[0])
        with to.loop(zero, self.arrays.classes, one, [to.constant(0.0)]) as k:
            power = exp(self.logit(k.number) - largest)
            to.store(power.value, self.arrays.room, self.power(k.number))
            k.carried = [(Lanes(to, k.carried[0]) + power).value]
        return largest, Lanes(to, k.carried[0])

    def probability(self, k: Any, norm: Lanes) -> Lanes:
        """Of a class, after ``softmax``; ``norm`` is 1 through the sum, and 0 where a pixel is ignored."""
        return Lanes(self.to, self.to.load(self.arrays.room, self.power(k))) * norm


def _tile(to: Writer, arrays: _Arrays, number: Any) -> _Tile:
    """The tile of a number; an image has ``pixels / 32`` of them."""
    build = to.builder
    of_image = build.sdiv(arrays.pixels, to.int64(LANES))
    image, column = build.sdiv(number, of_image), build.srem(number, of_image)
    pixel = build.mul(column, to.int64(LANES))
    first = build.add(build.mul(image, build.mul(arrays.classes, arrays.pixels)), pixel)
    mask = to.load(arrays.mask, build.add(build.mul(image, arrays.pixels), pixel))
    is_valid = build.icmp_signed("!=", mask, to.spread(arrays.ignored))
    is_class = build.icmp_unsigned("<", mask, to.spread(arrays.classes))
    narrow = build.trunc(mask, to.vector(to.int32))
    return _Tile(
        to,
        arrays,
        first,
        truth=build.select(build.and_(is_valid, is_class), narrow, to.constant(-1, to.int32)),
        is_valid=is_valid,
        is_strange=build.and_(is_valid, build.not_(is_class)),
    )


class _Arrays(NamedTuple):
    """What both functions get, and the tiles of the thread that runs them."""

    num: Any
    classes: Any
    pixels: Any
    ignored: Any
    logits: Any
    mask: Any
    room: Any
    thread: Any
    start: Any
    end: Any
    at_room: Any


def _arrays(to: Writer, dtype: torch.dtype, rooms: int) -> _Arrays:
    """Reads the arguments; the room of a thread is for so many maps of a tile."""
    build = to.builder
    num, classes, pixels, ignored = (to.argument() for _ in range(4))
    logits = to.pointer(to.half if dtype == torch.bfloat16 else to.float32)
    mask, room = to.pointer(to.int64), to.pointer(to.float32)
    thread, start, end = to.share(build.mul(num, build.sdiv(pixels, to.int64(LANES))))
    at_room = build.mul(thread, build.mul(classes, to.int64(rooms * LANES)))
    return _Arrays(num, classes, pixels, ignored, logits, mask, room, thread, start, end, at_room)


@cache
def _sums(dtype: torch.dtype) -> int:
    to = Writer("sums_by_class")
    build, zero, one, nothing = to.builder, to.int64(0), to.int64(1), Lanes(to, to.constant(0.0))
    arrays = _arrays(to, dtype, 1 + SUMS)
    totals, bad = to.pointer(to.float64), to.pointer(to.int64)
    width = build.mul(arrays.classes, to.int64(LANES))
    sums = build.add(arrays.at_room, width)  # behind the exponentials
    at_totals = build.mul(arrays.thread, build.mul(width, to.int64(SUMS)))
    with to.loop(arrays.start, arrays.end, to.int64(_BLOCK)) as several:
        stop = to.least(build.add(several.number, to.int64(_BLOCK)), arrays.end)
        with to.loop(several.number, stop, one) as turn:
            tile = _tile(to, arrays, turn.number)
            to.note(tile.is_strange, bad, arrays.thread)
            largest, norm = tile.softmax()
            log_norm = log(norm)
            inverse = to.where(tile.is_valid, Lanes(to, to.constant(1.0)) / norm, nothing)
            with to.loop(zero, arrays.classes, one) as k:
                is_true = tile.is_true(k.number)
                p = tile.probability(k.number, inverse)
                entropy = log_norm - (tile.logit(k.number) - largest)
                of_class = [to.where(is_true, x, nothing) for x in (Lanes(to, to.constant(1.0)), entropy, p)]
                for i, more in enumerate((*of_class, p, p * p)):
                    at = build.add(build.add(sums, build.mul(width, to.int64(i))), build.mul(k.number, to.int64(LANES)))
                    to.write(to.read(arrays.room, at) + more, arrays.room, at)
        with to.loop(zero, build.mul(width, to.int64(SUMS)), to.int64(LANES)) as i:
            at, to_total = build.add(sums, i.number), build.add(at_totals, i.number)
            wide = build.fpext(to.load(arrays.room, at), to.vector(to.float64))
            to.store(build.fadd(to.load(totals, to_total), wide), totals, to_total)
            to.write(nothing, arrays.room, at)
    return machine.compiled(to.finish(), "sums_by_class")


@cache
def _gradient(dtype: torch.dtype) -> int:
    to = Writer("gradient_by_class")
    build, zero, one, nothing = to.builder, to.int64(0), to.int64(1), Lanes(to, to.constant(0.0))
    arrays = _arrays(to, dtype, 1)
    coefficients = to.pointer(to.float32)
    result = to.pointer(arrays.logits.type.pointee)

    def of_sum(i: int, k: Any) -> Lanes:
        """The gradient of a sum of a class, for all pixels."""
        at = build.add(build.mul(arrays.classes, to.int64(i)), k)
        return Lanes(to, to.spread(build.load(build.gep(coefficients, [at]))))

    with to.loop(arrays.start, arrays.end, one) as turn:
        tile = _tile(to, arrays, turn.number)
        _, norm = tile.softmax()
        inverse = to.where(tile.is_valid, Lanes(to, to.constant(1.0)) / norm, nothing)

        def of_probability(k: Any, p: Lanes) -> Lanes:
            overlap = to.where(tile.is_true(k), of_sum(1, k), nothing)
            return overlap + of_sum(2, k) + of_sum(3, k) * (p * 2.0)

        with to.loop(zero, arrays.classes, one, [nothing.value] * 2) as k:
            p = tile.probability(k.number, inverse)
            along, entropy = (Lanes(to, value) for value in k.carried)
            along = along + p * of_probability(k.number, p)
            k.carried = [along.value, to.where(tile.is_true(k.number), of_sum(0, k.number), entropy).value]
        along, entropy = (Lanes(to, value) for value in k.carried)
        with to.loop(zero, arrays.classes, one) as k:
            p = tile.probability(k.number, inverse)
            gradient = p * (of_probability(k.number, p) - along + entropy)
            gradient = gradient - to.where(tile.is_true(k.number), entropy, nothing)
            to.write(gradient, result, tile.place(k.number))
    return machine.compiled(to.finish(), "gradient_by_class")
