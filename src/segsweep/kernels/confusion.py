"""Counts of pairs of true and best class, by one loop over the logits."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.tiles import Arrays, Tile, addresses, check, sizes
from segsweep.kernels.writer import LANES, Writer


def compile_functions() -> None:
    """For logits in bf16."""
    _confusion(torch.bfloat16)


def confusion_of(logits: Tensor, mask: Tensor) -> Tensor:
    """Counts pairs of the true class and that of the largest logit.

    Args:
        logits: (N, K, H, W), which ``fits``.
        mask: (N, H, W) int64; what is no class is left out.

    Returns:
        (K, K) int64, truth in rows. Of several equal classes the first one is the best, of those with NaN the last.

    Raises:
        ValueError: they do not fit.
    """
    check(logits, mask)
    threads, classes = torch.get_num_threads(), logits.shape[1]
    mask = mask.contiguous()
    counts = torch.zeros(threads, classes * classes + 1, dtype=torch.int64, device=logits.device)
    nothing = -1  # is ignored but what is no class
    machine.run(_confusion(logits.dtype), (*sizes(logits, nothing), *addresses(logits, mask, counts)))
    return counts.sum(dim=0)[:-1].view(classes, classes)


@cache
def _confusion(dtype: torch.dtype) -> int:
    """Address of the function that adds to the counts of its thread."""
    to = Writer("confusion")
    build, zero, one = to.builder, to.int64(0), to.int64(1)
    arrays = Arrays.written(to, dtype)
    counts = to.pointer(to.int64)
    none = build.mul(arrays.classes, arrays.classes)  # the cell of pixels that are left out
    at_counts = build.mul(arrays.thread, build.add(none, one))
    narrow = build.trunc(arrays.classes, to.int32)
    with to.loop(arrays.start, arrays.end, one) as turn:
        tile = Tile(to, arrays, turn.number)
        with to.loop(one, arrays.classes, one, [tile.logit(zero).value, to.constant(0, to.int32)]) as k:
            logit, (largest, best) = tile.logit(k.number).value, k.carried
            is_larger = build.or_(build.fcmp_ordered(">", logit, largest), build.fcmp_unordered("uno", logit, logit))
            number = to.spread(build.trunc(k.number, to.int32))
            k.carried = [build.select(is_larger, logit, largest), build.select(is_larger, number, best)]
        is_counted = build.and_(tile.is_new, build.icmp_signed(">=", tile.truth, to.constant(0, to.int32)))
        cell = build.add(build.mul(tile.truth, to.spread(narrow)), k.carried[1])
        cell = build.select(is_counted, cell, to.spread(build.trunc(none, to.int32)))
        for pixel in range(LANES):  # no loop: it would take twice the time
            found = build.sext(build.extract_element(cell, to.int32(pixel)), to.int64)
            place = build.gep(counts, [build.add(at_counts, found)])
            build.store(build.add(build.load(place), one), place)
    return machine.compiled(to.finish(), "confusion")
