"""Test images drawn again, block by block: other samples that the same models might have been tested on."""

import numpy as np
from numpy.typing import NDArray

from segsweep.report.pooled import miou

Array = NDArray[np.float64]
NUM_DRAWS = 1000  # for each run: more would not move the share of draws that it wins by 0.01


def draw(num_blocks: int, num_draws: int = NUM_DRAWS) -> Array:
    """(R, B) float64: how often each block is in each sample; the same at every call."""
    return (
        np.random.default_rng(0).multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), num_draws).astype(float)
    )


def scores(weights: Array, counts: Array) -> Array:
    """Pooled mIoU (S, R) of samples of blocks.

    Args:
        weights: (R, B).
        counts: (S, B, 3, K) of runs.
    """
    pooled = weights @ counts.reshape(*counts.shape[:2], -1)
    return miou(pooled.reshape(len(counts), len(weights), *counts.shape[2:]))
