"""Softmax over maps of logits, class by class in memory, what is summed over the pixels of each class, and counts.

    logits    N x K planes of pixels; 32 pixels of all planes, a tile, are read before the next 32. The last tile of an
              image reaches back into the one before, whose pixels are not counted again
    mask      the true class of each pixel
    sums      5 x K: how many pixels, -log p and p where the class is true; p and p^2 everywhere

Nothing of the size of the logits is kept: a tile stays in the cache, and the gradient makes the probabilities anew.
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
_BLOCK = 256  # tiles whose sums are added in float32; these are then added in float64


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
    num, _, height, width = logits.shape
    return logits.is_contiguous() and mask.shape == (num, height, width) and height * width >= LANES


def _check(logits: Tensor, mask: Tensor) -> None:
    if not fits(logits, mask):
        raise ValueError(f"logits {tuple(logits.shape)} {logits.dtype} and mask {tuple(mask.shape)} {mask.dtype}")


def compile_functions() -> None:
    """For logits in bf16, which networks train with where this pays."""
    for one in (_sums, _gradient, _confusion):
        one(torch.bfloat16)


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
        ValueError: they do not fit.
    """
    _check(logits, mask)
    threads, classes = torch.get_num_threads(), logits.shape[1]
    mask = mask.contiguous()
    room = torch.zeros(threads, 1 + SUMS, classes, LANES, dtype=torch.float32, device=logits.device)
    totals = torch.zeros(threads, SUMS, classes, LANES, dtype=torch.float64, device=logits.device)
    is_strange = torch.zeros(threads, dtype=torch.int64, device=logits.device)
    arguments = (*_sizes(logits, ignore_index), *_addresses(logits, mask, room, totals, is_strange))
    machine.run(_sums(logits.dtype), arguments)
    if is_strange.any():
        raise RuntimeError(
            f"mask: a class is out of bounds; it must be in 0..{classes - 1}, or {ignore_index} (ignored)"
        )
    return totals.sum(dim=(0, 3))


def gradient_of(logits: Tensor, mask: Tensor, ignore_index: int, of_sums: Tensor) -> Tensor:
    """The gradient of the logits.

    Args:
        logits: as for ``sums_of``.
        mask: as there.
        ignore_index: as there.
        of_sums: (4, K) the gradients of the sums but the first, which has none.

    Returns:
        (N, K, H, W) like the logits.

    Raises:
        ValueError: they do not fit.
    """
    _check(logits, mask)
    threads, classes = torch.get_num_threads(), logits.shape[1]
    result = torch.empty_like(logits)
    mask, of_sums = mask.contiguous(), of_sums.float().expand(SUMS - 1, classes).contiguous()
    room = torch.empty(threads, classes, LANES, dtype=torch.float32, device=logits.device)
    arguments = (*_sizes(logits, ignore_index), *_addresses(logits, mask, room, of_sums, result))
    machine.run(_gradient(logits.dtype), arguments)
    return result


def confusion_of(logits: Tensor, mask: Tensor) -> Tensor:
    """Counts pairs of the true class and that of the largest logit.

    Args:
        logits: (N, K, H, W), which ``fits``.
        mask: (N, H, W) int64; what is no class is left out.

    Returns:
        (K, K) int64, truth in rows. The first class where several are equal; one that is NaN where there is any.

    Raises:
        ValueError: they do not fit.
    """
    _check(logits, mask)
    threads, classes = torch.get_num_threads(), logits.shape[1]
    mask = mask.contiguous()
    room = torch.empty(threads, classes, LANES, dtype=torch.float32, device=logits.device)
    counts = torch.zeros(threads, classes * classes + 1, dtype=torch.int64, device=logits.device)
    machine.run(_confusion(logits.dtype), (*_sizes(logits, -1), *_addresses(logits, mask, room, counts)))
    return counts.sum(dim=0)[:-1].view(classes, classes)


def _sizes(logits: Tensor, ignore_index: int) -> tuple[int, ...]:
    num, classes, height, width = logits.shape
    return num, classes, height * width, ignore_index


def _addresses(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(x.data_ptr() for x in tensors)


class _Arrays(NamedTuple):
    """What both functions get as arguments, and what of it is the thread's."""

    classes: Any
    pixels: Any  # of an image
    tiles: Any  # of an image
    ignored: Any
    logits: Any
    mask: Any
    room: Any
    at_room: Any  # where the thread's begins
    thread: Any
    start: Any  # the thread's first tile
    end: Any

    @classmethod
    def written(cls, to: Writer, dtype: torch.dtype, rooms: int) -> _Arrays:
        """Reads the arguments; the room of a thread has place for so many maps of a tile."""
        build = to.builder
        num, classes, pixels, ignored = (to.argument() for _ in range(4))
        logits = to.pointer(to.kind(dtype))
        mask, room = to.pointer(to.int64), to.pointer(to.float32)
        tiles = build.sdiv(build.add(pixels, to.int64(LANES - 1)), to.int64(LANES))
        thread, start, end = to.share(build.mul(num, tiles))
        at_room = build.mul(thread, build.mul(classes, to.int64(rooms * LANES)))
        return cls(classes, pixels, tiles, ignored, logits, mask, room, at_room, thread, start, end)


class _Tile:
    """32 pixels of all classes, within a loop that is being written.

    Args:
        to: writes it.
        arrays: which it is part of.
        number: of the tile.
    """

    def __init__(self, to: Writer, arrays: _Arrays, number: Any) -> None:
        build = to.builder
        self.to, self.arrays = to, arrays
        image, wanted = build.sdiv(number, arrays.tiles), build.srem(number, arrays.tiles)
        wanted = build.mul(wanted, to.int64(LANES))
        pixel = to.least(wanted, build.sub(arrays.pixels, to.int64(LANES)))
        self.is_new = build.icmp_signed(">=", to.numbers(), to.spread(build.sub(wanted, pixel)))
        self.first = build.add(build.mul(image, build.mul(arrays.classes, arrays.pixels)), pixel)
        mask = to.load(arrays.mask, build.add(build.mul(image, arrays.pixels), pixel))
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

    def softmax(self) -> tuple[Lanes, Lanes, Lanes]:
        """Puts exponentials into the room.

        Returns:
            The largest logit, the sum of the exponentials, and 1 through that, 0 where a pixel is ignored.
        """
        to = self.to
        zero, one = to.int64(0), to.int64(1)
        with to.loop(one, self.arrays.classes, one, [self.logit(zero).value]) as k:
            k.carried = [larger(Lanes(to, k.carried[0]), self.logit(k.number)).value]
        largest = Lanes(to, k.carried[0])
        with to.loop(zero, self.arrays.classes, one, [to.constant(0.0)]) as k:
            power = exp(self.logit(k.number) - largest)
            to.write(power, self.arrays.room, self._place_of_power(k.number))
            k.carried = [(Lanes(to, k.carried[0]) + power).value]
        norm = Lanes(to, k.carried[0])
        return largest, norm, self.only(self.is_valid, Lanes(to, to.constant(1.0)) / norm)

    def only(self, condition: Any, then: Lanes) -> Lanes:
        """Values where a condition holds, 0 elsewhere."""
        return self.to.where(condition, then, Lanes(self.to, self.to.constant(0.0)))

    def probability(self, k: Any, inverse: Lanes) -> Lanes:
        """Of a class, after ``softmax``."""
        return self.to.read(self.arrays.room, self._place_of_power(k)) * inverse

    def _place_of_power(self, k: Any) -> Any:
        return self.to.builder.add(self.arrays.at_room, self.to.builder.mul(k, self.to.int64(LANES)))


@cache
def _sums(dtype: torch.dtype) -> int:
    """Address of the function that fills in the totals, and notes which thread met a strange class."""
    to = Writer("sums_by_class")
    build, zero, one = to.builder, to.int64(0), to.int64(1)
    unit = Lanes(to, to.constant(1.0))
    arrays = _Arrays.written(to, dtype, 1 + SUMS)
    totals, is_strange = to.pointer(to.float64), to.pointer(to.int64)
    width = build.mul(arrays.classes, to.int64(LANES))
    sums = build.add(arrays.at_room, width)  # behind the exponentials
    at_totals = build.mul(arrays.thread, build.mul(width, to.int64(SUMS)))
    with to.loop(arrays.start, arrays.end, to.int64(_BLOCK)) as several:
        stop = to.least(build.add(several.number, to.int64(_BLOCK)), arrays.end)
        with to.loop(several.number, stop, one) as turn:
            tile = _Tile(to, arrays, turn.number)
            to.note(tile.is_strange, is_strange, arrays.thread)
            largest, norm, inverse = tile.softmax()
            log_norm, inverse = log(norm), tile.only(tile.is_new, inverse)
            with to.loop(zero, arrays.classes, one) as k:
                is_true = build.and_(tile.is_true(k.number), tile.is_new)
                p = tile.probability(k.number, inverse)
                entropy = log_norm - (tile.logit(k.number) - largest)
                of_truth = [tile.only(is_true, x) for x in (unit, entropy, p)]
                place = build.add(sums, build.mul(k.number, to.int64(LANES)))
                for more in (*of_truth, p, p * p):
                    to.write(to.read(arrays.room, place) + more, arrays.room, place)
                    place = build.add(place, width)
        with to.loop(zero, build.mul(width, to.int64(SUMS)), to.int64(LANES)) as i:
            place, in_totals = build.add(sums, i.number), build.add(at_totals, i.number)
            wide = build.fpext(to.load(arrays.room, place), to.vector(to.float64))
            to.store(build.fadd(to.load(totals, in_totals), wide), totals, in_totals)
            to.write(Lanes(to, to.constant(0.0)), arrays.room, place)
    return machine.compiled(to.finish(), "sums_by_class")


@cache
def _gradient(dtype: torch.dtype) -> int:
    """Address of the function that writes the gradient.

    By the chain rule, with y the true class of a pixel, G the gradient of its probabilities and E_y that of -log p_y:
    p_k (G_k - sum_j p_j G_j) of the softmax, and E_y (p_k - q_k), where q is 1 for y and 0 else.
    """
    to = Writer("gradient_by_class")
    build, zero, one = to.builder, to.int64(0), to.int64(1)
    arrays = _Arrays.written(to, dtype, 1)
    of_sums = to.pointer(to.float32)
    result = to.pointer(arrays.logits.type.pointee)

    def of_sum(i: int, k: Any) -> Lanes:
        at = build.add(build.mul(arrays.classes, to.int64(i)), k)
        return Lanes(to, to.spread(build.load(build.gep(of_sums, [at]))))

    def of_probability(tile: _Tile, k: Any, p: Lanes) -> Lanes:
        return tile.only(tile.is_true(k), of_sum(1, k)) + of_sum(2, k) + of_sum(3, k) * (p * 2.0)

    with to.loop(arrays.start, arrays.end, one) as turn:
        tile = _Tile(to, arrays, turn.number)
        *_, inverse = tile.softmax()
        with to.loop(zero, arrays.classes, one, [to.constant(0.0)] * 2) as k:
            p = tile.probability(k.number, inverse)
            along, entropy = (Lanes(to, value) for value in k.carried)
            along = along + p * of_probability(tile, k.number, p)
            k.carried = [along.value, to.where(tile.is_true(k.number), of_sum(0, k.number), entropy).value]
        along, entropy = (Lanes(to, value) for value in k.carried)
        with to.loop(zero, arrays.classes, one) as k:
            p = tile.probability(k.number, inverse)
            gradient = p * (of_probability(tile, k.number, p) - along + entropy)
            of_truth = tile.only(tile.is_true(k.number), entropy)
            to.write(gradient - of_truth, result, tile.place(k.number))
    return machine.compiled(to.finish(), "gradient_by_class")


@cache
def _confusion(dtype: torch.dtype) -> int:
    """Address of the function that adds to the counts of its thread."""
    to = Writer("confusion")
    build, zero, one = to.builder, to.int64(0), to.int64(1)
    arrays = _Arrays.written(to, dtype, 1)
    counts = to.pointer(to.int64)
    cells = build.bitcast(arrays.room, to.int32.as_pointer())  # of a tile
    none = build.mul(arrays.classes, arrays.classes)  # the cell of pixels that are left out
    at_counts = build.mul(arrays.thread, build.add(none, one))
    narrow = build.trunc(arrays.classes, to.int32)
    with to.loop(arrays.start, arrays.end, one) as turn:
        tile = _Tile(to, arrays, turn.number)
        with to.loop(one, arrays.classes, one, [tile.logit(zero).value, to.constant(0, to.int32)]) as k:
            logit, (largest, best) = tile.logit(k.number).value, k.carried
            is_larger = build.or_(build.fcmp_ordered(">", logit, largest), build.fcmp_unordered("uno", logit, logit))
            number = to.spread(build.trunc(k.number, to.int32))
            k.carried = [build.select(is_larger, logit, largest), build.select(is_larger, number, best)]
        is_counted = build.and_(tile.is_new, build.icmp_signed(">=", tile.truth, to.constant(0, to.int32)))
        cell = build.add(build.mul(tile.truth, to.spread(narrow)), k.carried[1])
        cell = build.select(is_counted, cell, to.spread(build.trunc(none, to.int32)))
        to.store(cell, cells, arrays.at_room)
        with to.loop(zero, to.int64(LANES), one) as pixel:
            found = build.load(build.gep(cells, [build.add(arrays.at_room, pixel.number)]))
            place = build.gep(counts, [build.add(at_counts, build.sext(found, to.int64))])
            build.store(build.add(build.load(place), one), place)
    return machine.compiled(to.finish(), "confusion")
