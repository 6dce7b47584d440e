"""Precision against recall of every class, from counts whose memory does not grow with the images."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from segsweep.counting import totals

NUM_THRESHOLDS = 127  # as many as TensorBoard takes
_SCORES_PER_IMAGE = 2**14  # pixels times classes; more of an image would tell nothing more and take time


class Curve(NamedTuple):
    """One class against all others, at thresholds ``i / 126``; each field is (127,) float64.

    A pixel counts as predicted if its probability of the class is at least the threshold.
    """

    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    true_negatives: NDArray[np.float64]
    false_negatives: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


class ScoreCounts(Metric):
    """Counts pixels by class, by whether they are of it, and by their softmax probability of it.

    All images are looked at, large ones at every n-th pixel: 16,384 probabilities of each. The counts stay on the
    device; the host waits for them in ``compute`` alone.

    Args:
        num_classes: K.
        ignore_index: mask value that is left out.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        shape = (num_classes, 2, NUM_THRESHOLDS)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, mask: Tensor) -> None:
        """Adds a batch: logits (N, K, H, W) at the size of the mask (N, H, W)."""
        classes, bins = self.num_classes, NUM_THRESHOLDS
        step = -(-classes * mask[0].numel() // _SCORES_PER_IMAGE)
        # A model on its way to a NaN loss still is tested.
        score = logits.flatten(2)[:, :, ::step].float().softmax(dim=1).nan_to_num_(0.0)
        truth = mask.flatten(1)[:, None, ::step]
        number = torch.arange(classes, device=mask.device).view(1, -1, 1)
        cell = (score * (bins - 1)).int() + (2 * number + (truth == number)) * bins
        # What is ignored goes into one more bin behind all others, which is then dropped.
        cell = torch.where(truth == self.ignore_index, 2 * bins * classes, cell).flatten()
        self.counts += totals(cell, 2 * bins * classes + 1)[:-1].view_as(self.counts)

    def compute(self) -> NDArray[np.int64]:
        """(K, 2, 127): pixels of other classes, and of the class, in each bin of probability."""
        counts: NDArray[np.int64] = self.counts.cpu().numpy()
        return counts


def curve(counts_2B: NDArray[np.integer]) -> Curve:
    """The curve of one class.

    Args:
        counts_2B: pixels of other classes, and of the class, in each of 127 bins of probability.

    Returns:
        Precision is 1 where nothing is predicted, as scikit-learn has it; recall 0 for a class that is absent.

    >>> counts = np.zeros((2, 127), int)
    >>> counts[0, 20], counts[1, 100] = 3, 5  # three other pixels at 20/126, five of the class at 100/126
    >>> found = curve(counts)
    >>> found.precision[[0, 20, 21, 100]].tolist(), found.recall[[100, 101]].tolist()
    ([0.625, 0.625, 1.0, 1.0], [1.0, 0.0])
    """
    false, true = np.flip(np.cumsum(np.flip(counts_2B.astype(np.float64), axis=1), axis=1), axis=1)
    precision = np.divide(true, true + false, out=np.ones_like(true), where=true + false > 0)
    return Curve(true, false, false[0] - false, true[0] - true, precision, true / max(true[0], 1.0))
