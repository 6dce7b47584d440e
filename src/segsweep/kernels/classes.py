"""Softmax over maps of logits, and what is summed over the pixels of each class.

Five sums of each class: how many pixels, -log p and p where it is true; p and p^2 everywhere. Nothing of the size of
the logits is kept: a tile stays in the cache, and the gradient makes the probabilities anew.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.functions import exp, larger, log
from segsweep.kernels.tiles import Arrays, Tile, addresses, check, sizes
from segsweep.kernels.writer import LANES, Lanes, Writer

SUMS = 5
_BLOCK = 256  # tiles whose sums are added in float32; these are then added in float64


def compile_functions() -> None:
    """For logits in bf16, which networks train with where this pays."""
    for one in (_sums, _gradient):
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
    check(logits, mask)
    threads, classes = torch.get_num_threads(), logits.shape[1]
    mask = mask.contiguous()
    room = torch.zeros(threads, 1 + SUMS, classes, LANES, dtype=torch.float32, device=logits.device)
    totals = torch.zeros(threads, SUMS, classes, LANES, dtype=torch.float64, device=logits.device)
    is_strange = torch.zeros(threads, dtype=torch.int64, device=logits.device)
    arguments = (*sizes(logits, ignore_index), *addresses(logits, mask, room, totals, is_strange))
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
    check(logits, mask)
    threads, classes = torch.get_num_threads(), logits.shape[1]
    result = torch.empty_like(logits)
    mask, of_sums = mask.contiguous(), of_sums.float().expand(SUMS - 1, classes).contiguous()
    room = torch.empty(threads, classes, LANES, dtype=torch.float32, device=logits.device)
    arguments = (*sizes(logits, ignore_index), *addresses(logits, mask, room, of_sums, result))
    machine.run(_gradient(logits.dtype), arguments)
    return result


class _Softmax(Tile):
    """A tile with its probabilities."""

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
        return largest, norm, self.only(self.is_valid, to.number(1.0) / norm)

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
    unit = to.number(1.0)
    arrays = Arrays.written(to, dtype, 1 + SUMS)
    totals, is_strange = to.pointer(to.float64), to.pointer(to.int64)
    width = build.mul(arrays.classes, to.int64(LANES))
    sums = build.add(arrays.at_room, width)  # behind the exponentials
    at_totals = build.mul(arrays.thread, build.mul(width, to.int64(SUMS)))
    with to.loop(arrays.start, arrays.end, to.int64(_BLOCK)) as several:
        stop = to.least(build.add(several.number, to.int64(_BLOCK)), arrays.end)
        with to.loop(several.number, stop, one) as turn:
            tile = _Softmax(to, arrays, turn.number)
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
            to.write(to.number(0.0), arrays.room, place)
    return machine.compiled(to.finish(), "sums_by_class")


@cache
def _gradient(dtype: torch.dtype) -> int:
    """Address of the function that writes the gradient.

    By the chain rule, with y the true class of a pixel, G the gradient of its probabilities and E_y that of -log p_y:
    p_k (G_k - sum_j p_j G_j) of the softmax, and E_y (p_k - q_k), where q is 1 for y and 0 else.
    """
    to = Writer("gradient_by_class")
    build, zero, one = to.builder, to.int64(0), to.int64(1)
    arrays = Arrays.written(to, dtype, 1)
    of_sums = to.pointer(to.float32)
    result = to.pointer(arrays.logits.type.pointee)

    def of_sum(i: int, k: Any) -> Lanes:
        at = build.add(build.mul(arrays.classes, to.int64(i)), k)
        return Lanes(to, to.spread(build.load(build.gep(of_sums, [at]))))

    def of_probability(tile: _Softmax, k: Any, p: Lanes) -> Lanes:
        return tile.only(tile.is_true(k), of_sum(1, k)) + of_sum(2, k) + of_sum(3, k) * (p * 2.0)

    with to.loop(arrays.start, arrays.end, one) as turn:
        tile = _Softmax(to, arrays, turn.number)
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
