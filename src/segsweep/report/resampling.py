"""Test images drawn again, block by block: how sure a score is over images, and how often one beats another."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from segsweep.report.intervals import CONFIDENCE, Interval, half_width
from segsweep.report.pooled import ious, miou

Array = NDArray[np.float64]
NUM_DRAWS = 2000
MIN_BLOCKS = 8  # below, a sample of few different blocks comes up too often for its standard error to mean anything


def draw(num_blocks: int, num_draws: int = NUM_DRAWS) -> Array:
    """(R, B) float64: how often each block is in each sample; the same at every call."""
    return (
        np.random.default_rng(0).multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), num_draws).astype(float)
    )


def scores(weights: Array, counts: Array) -> Array:
    """Pooled mIoU (..., R) of samples of blocks.

    Args:
        weights: (R, B).
        counts: (..., B, 3, K).
    """
    return miou(_samples(weights, counts))


def over_images(weights: Array, counts: Array) -> Interval:
    """Mean over runs of the pooled mIoU with its bootstrap-t interval over blocks; Student's t below 8 blocks.

    Args:
        weights: (R, B) of ``draw``.
        counts: (S, B, 3, K) of the runs.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 12.5; the standard error is that of the linearised mean.
    """
    one = np.ones((1, counts.shape[1]))
    mean, error = (float(value[0]) for value in _studied(one, counts))
    means, errors = _studied(weights, counts)
    known = np.isfinite(means) & (errors > 0)
    num_blocks = counts.shape[1]
    if error == 0 or not known.any():
        return Interval(mean, mean, mean, num_blocks)
    if num_blocks < MIN_BLOCKS:
        reach = half_width(num_blocks) * sqrt(num_blocks) * error
        return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach), num_blocks)
    tail = (1 - CONFIDENCE) / 2
    high, low = np.quantile((means[known] - mean) / errors[known], (tail, 1 - tail))
    return Interval(mean, max(0.0, mean - low * error), min(1.0, mean - high * error), num_blocks)


def _samples(weights: Array, counts: Array) -> Array:
    """(R, B) weights of (..., B, 3, K) counts -> (..., R, 3, K) counts."""
    flat = counts.reshape(*counts.shape[:-2], -1)
    return np.asarray(weights @ flat).reshape(*counts.shape[:-3], len(weights), *counts.shape[-2:])


def _studied(weights: Array, counts: Array) -> tuple[Array, Array]:
    """Mean over runs of the pooled mIoU of each sample, and its standard error within the sample, (R,) each."""
    num_blocks = counts.shape[1]
    means, moves = np.zeros(len(weights)), np.zeros(weights.shape)
    for run in counts:
        pooled = _samples(weights, run)
        means += miou(pooled)
        # As pooled.influence, but of all samples at once: as products of matrices.
        iou, present = ious(pooled)
        margins = pooled[:, 0] + pooled[:, 1]
        union = np.where(present, margins - pooled[:, 2], 1)
        share = present / np.maximum(present.sum(axis=-1, keepdims=True), 1) / union
        moves += (share * (1 + iou)) @ run[:, 2].T - (share * iou) @ (run[:, 0] + run[:, 1]).T
    variance = (weights * np.square(moves)).sum(axis=1) * num_blocks / (num_blocks - 1)
    return means / len(counts), np.sqrt(variance) / len(counts)
