"""The mIoU of ``metrics.py`` from counts alone, without torch, and what each image contributes to it.

A score is TP / (TP + FP + FN) of the counts pooled over images, averaged over the classes present in their truth.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def margins(confusion: Array) -> Array:
    """(..., K, K) matrices, truth in rows -> (..., 3, K) pixels of each class in truth, in prediction, in both."""
    both = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([confusion.sum(axis=-1), confusion.sum(axis=-2), both], axis=-2)


def ious(counts: Array) -> tuple[Array, NDArray[np.bool_]]:
    """IoU of each class, 0 where absent, and which classes are present.

    Args:
        counts: (..., 3, K) pixels of each class in the truth, in the prediction, in both.

    Returns:
        Two arrays (..., K).
    """
    truth, predicted, both = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    present = truth > 0
    return np.divide(both, truth + predicted - both, out=np.zeros(truth.shape), where=present), present


def miou(counts: Array) -> Array:
    """(..., 3, K) counts -> (...) mean IoU over the classes present, NaN if there is none.

    >>> float(miou(np.array([[4.0, 4.0], [3.0, 5.0], [3.0, 4.0]])))
    0.775
    """
    iou, present = ious(counts)
    num = present.sum(axis=-1)
    return np.asarray(np.divide(iou.sum(axis=-1), num, out=np.full(num.shape, np.nan), where=num > 0))


def influence(counts: Array) -> Array:
    """How much each block moves the pooled mIoU: its derivative by the weight of the block.

    Args:
        counts: (..., B, 3, K) of blocks.

    Returns:
        (..., B), zero on average: of a sample that has block b ``w[b]`` times, the mIoU is about the pooled one plus
        the sum of ``w * influence``.
    """
    pooled = counts.sum(axis=-3)
    iou, present = ious(pooled)
    truth, predicted, both = pooled[..., 0, :], pooled[..., 1, :], pooled[..., 2, :]
    union = np.where(present, truth + predicted - both, 1)
    share = present / np.maximum(present.sum(axis=-1, keepdims=True), 1) / union
    of_both, of_union = share * (1 + iou), -share * iou  # d/dw of both / (truth + predicted - both)
    either = counts[..., 0, :] + counts[..., 1, :]  # what is in both counts twice
    return np.asarray((counts[..., 2, :] * of_both[..., None, :] + either * of_union[..., None, :]).sum(axis=-1))
