"""What every metric of an image follows from, but for its boundaries, by one loop over the logits."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.functions import ceiling, exp, larger, smaller
from segsweep.kernels.tiles import Arrays, Tile, addresses, check, sizes
from segsweep.kernels.writer import Lanes, Writer

_MOST_COUNTS = 1 << 20  # of all threads and images at once
# A confidence is a float32 of at least 1 / K: with 256 classes or less a multiple of this, so that sums are exact, and
# the same whatever threads and batches the pixels are divided between.
_UNIT = 2.0**-32


def compile_functions(num_bins: int) -> None:
    """For logits in bf16."""
    _scores(torch.bfloat16, num_bins)


def scores_of(logits: Tensor, mask: Tensor, ignore_index: int, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Segments and counts, image by image.

    Args:
        logits: (N, K, H, W), which ``fits``.
        mask: (N, H, W) int64, classes in ``0..K-1`` or ``ignore_index``; what is neither is ignored, too.
        ignore_index: mask value that is left out.
        num_bins: equal ones, B, that confidences of 0..1 are divided into, each with its upper end.

    Returns:
        The best class (N, H, W) int16; of several equal ones the first, of those with NaN the last.
        (N, K, K) int64 as ``counting.confusion_per_image`` has them.
        (N, B, 3) float64 as ``counting.calibration_per_image`` has them; of an image with a NaN the sums are NaN.

    Raises:
        ValueError: they do not fit.
    """
    check(logits, mask)
    mask = mask.contiguous()
    best = torch.empty(mask.shape, dtype=torch.int16, device=logits.device)
    threads, num_cells = torch.get_num_threads(), logits.shape[1] ** 2
    layout = [num_cells, 1, num_bins, num_bins, 1, num_bins, 1, 1]  # 1: what is not counted, and the flag of a NaN
    together = max(1, _MOST_COUNTS // (threads * sum(layout)))
    parts = []
    for first in range(0, len(logits), together):
        some = slice(first, first + together)
        counts = torch.zeros(threads, len(logits[some]), sum(layout), dtype=torch.int64, device=logits.device)
        arguments = (*sizes(logits[some], ignore_index), *addresses(logits[some], mask[some], best[some], counts))
        machine.run(_scores(logits.dtype, num_bins), arguments)
        parts.append(counts.sum(dim=0))
    cells, _, wrong, right, _, confidence, _, has_nan = torch.split(torch.cat(parts), layout, dim=1)
    sums = torch.where(has_nan > 0, torch.nan, confidence.double() * _UNIT)
    calibration = torch.stack([wrong + right, sums, right], dim=-1)
    return best, cells.view(-1, *[logits.shape[1]] * 2), calibration


@cache
def _scores(dtype: torch.dtype, num_bins: int) -> int:
    """Address of the function that writes the best classes, and adds to the counts of its thread."""
    to = Writer("scores")
    build, zero, one = to.builder, to.int64(0), to.int64(1)
    arrays = Arrays.written(to, dtype)
    best_classes, counts = to.pointer(to.half), to.pointer(to.int64)
    num_cells = build.add(build.mul(arrays.classes, arrays.classes), one)
    num_pixels, num_sums = to.int64(2 * num_bins + 1), to.int64(num_bins + 1)
    size = build.add(num_cells, build.add(num_pixels, build.add(num_sums, one)))
    with to.loop(arrays.start, arrays.end, one) as turn:
        tile = Tile(to, arrays, turn.number)
        at_pairs = build.mul(build.add(build.mul(arrays.thread, arrays.num), tile.image), size)
        at_pixels = build.add(at_pairs, num_cells)
        at_sums = build.add(at_pixels, num_pixels)
        largest, best = tile.best()
        with to.loop(zero, arrays.classes, one, [to.constant(0.0)]) as k:
            k.carried = [(Lanes(to, k.carried[0]) + exp(tile.logit(k.number) - largest)).value]
        confidence = to.number(1.0) / Lanes(to, k.carried[0])
        is_nan = build.fcmp_unordered("uno", confidence.value, confidence.value)
        confidence = to.where(is_nan, to.number(1.0), confidence)
        to.store(build.trunc(best, to.vector(to.half)), best_classes, tile.in_mask)
        to.count(tile.pair(best), counts, at_pairs)
        upper = larger(ceiling(confidence * num_bins), 1.0)
        bins = build.sub(to.whole(smaller(upper, num_bins)), to.constant(1, to.int32))
        is_counted, is_right = tile.is_counted(), build.icmp_signed("==", tile.truth, best)
        of_right = build.add(bins, to.constant(num_bins, to.int32))
        nowhere = [to.constant(number, to.int32) for number in (2 * num_bins, num_bins)]
        pixels = build.select(is_counted, build.select(is_right, of_right, bins), nowhere[0])
        to.count(pixels, counts, at_pixels)
        wide = build.fpext(confidence.value, to.vector(to.float64))
        units = build.fptosi(build.fmul(wide, to.constant(1 / _UNIT, to.float64)), to.vector(to.int64))
        to.count(build.select(is_counted, bins, nowhere[1]), counts, at_sums, units)
        to.note(build.and_(is_nan, is_counted), counts, build.add(at_sums, num_sums))
    return machine.compiled(to.finish(), "scores")
