"""Counts of pairs of true and best class, by one loop over the logits."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.tiles import Arrays, Tile, addresses, check, sizes
from segsweep.kernels.writer import Writer


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
    build, one = to.builder, to.int64(1)
    arrays = Arrays.written(to, dtype)
    counts = to.pointer(to.int64)
    at_counts = build.mul(arrays.thread, build.add(build.mul(arrays.classes, arrays.classes), one))
    with to.loop(arrays.start, arrays.end, one) as turn:
        tile = Tile(to, arrays, turn.number)
        to.count(tile.pair(tile.best()[1]), counts, at_counts)
    return machine.compiled(to.finish(), "confusion")
