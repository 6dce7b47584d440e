"""Terms that compare whole regions: Dice, Jaccard, Tversky, and the correlation coefficient."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from segsweep.losses.class_sums import ClassSums, FromSums
from segsweep.losses.valid import mean_of_present


class Dice(FromSums):
    """Soft Dice loss: 1 - 2 sum(pq) / (sum(p^2) + sum(q^2)), mean over the classes present in the batch's truth.

    The sums run over all valid pixels of the batch.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Milletari et al. 2016, V-Net, arXiv:1606.04797 (squared denominators), for several classes.

    >>> import torch
    >>> from segsweep.types import Batch, SegmenterOutput
    >>> logits = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1)  # p = (1/2, 1/2), q = (1, 0)
    >>> batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([0]))
    >>> round(Dice(ignore_index=255)(SegmenterOutput(logits), batch).item(), 4)  # 1 - 2 * .5 / (.25 + 1)
    0.2
    """

    def of(self, sums: ClassSums) -> Tensor:
        """Scalar in 0..1."""
        sizes_K = sums.squared + sums.truth  # q is 0 or 1: q^2 = q
        return mean_of_present(1 - 2 * sums.overlap / sizes_K.clamp(min=1e-6), sums.truth)


class Tversky(FromSums):
    """Tversky loss: 1 - TP / (TP + alpha FP + beta FN), mean over the classes present in the batch's truth.

    TP = sum(pq), FP = sum(p(1 - q)), FN = sum((1 - p)q) over all valid pixels of the batch.

    Args:
        alpha: price of false positives, 0 or more.
        beta: price of false negatives, 0 or more; above alpha for more recall.
        ignore_index: mask value that is left out.

    Reference:
        Salehi et al. 2017, Tversky loss function, arXiv:1706.05721, for several classes.

    >>> import torch
    >>> from segsweep.types import Batch, SegmenterOutput
    >>> batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([0]))
    >>> value = Tversky(0.3, 0.7, ignore_index=255)(SegmenterOutput(torch.zeros(1, 2, 1, 1)), batch)
    >>> round(value.item(), 4)  # p = 1/2: 1 - .5 / (.5 + .7 * .5)
    0.4118
    """

    def __init__(self, alpha: Annotated[float, Ge(0)], beta: Annotated[float, Ge(0)], ignore_index: int) -> None:
        super().__init__(ignore_index)
        self.alpha, self.beta = alpha, beta

    def of(self, sums: ClassSums) -> Tensor:
        """Scalar in 0..1."""
        false_positive_K, false_negative_K = sums.predicted - sums.overlap, sums.truth - sums.overlap
        whole_K = sums.overlap + self.alpha * false_positive_K + self.beta * false_negative_K
        return mean_of_present(1 - sums.overlap / whole_K.clamp(min=1e-6), sums.truth)


class Jaccard(Tversky):
    """Soft Jaccard loss: 1 - intersection / union, mean over the classes present in the batch's truth.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Rahman and Wang 2016, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__(alpha=1.0, beta=1.0, ignore_index=ignore_index)


class MCC(FromSums):
    """1 - the correlation coefficient R_K between prediction and truth, over all valid pixels of the batch.

    R_K is Gorodkin's generalisation of Matthews' coefficient to K classes, here of the soft confusion matrix
    C[k, l] = sum(q_k p_l). With t and p its margins, c its trace and n the number of valid pixels,
    R_K = (n c - sum(t p)) / sqrt((n^2 - sum(t^2)) (n^2 - sum(p^2))); for K = 2 it is Matthews' coefficient.

    A batch that shows a single class has no correlation: its loss is 1 and its gradient 0.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Gorodkin 2004, Comparing two K-category assignments by a K-category correlation coefficient; as a loss, for two
        classes: Abhishek and Hamarneh 2021, arXiv:2010.13454.

    >>> import torch
    >>> from segsweep.types import Batch, SegmenterOutput
    >>> batch = Batch(torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 1]]]), torch.tensor([0]))
    >>> logits = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log().view(1, 2, 1, 2)  # p of the true class: 3/4
    >>> round(MCC(ignore_index=255)(SegmenterOutput(logits), batch).item(), 4)  # 1 - (.75 - .5) / .5
    0.5
    """

    def of(self, sums: ClassSums) -> Tensor:
        """Scalar in 0..2."""
        # In float64: where nearly all pixels are of one class, truth or prediction, this divides rounding by rounding.
        truth_K, predicted_K = sums.truth.double(), sums.predicted.double()
        num_truth, num_predicted = truth_K.sum(), predicted_K.sum()  # equal up to rounding
        shared = sums.overlap.double().sum() * num_predicted - (truth_K * predicted_K).sum()
        spread = (num_truth**2 - truth_K.square().sum()) * (num_predicted**2 - predicted_K.square().sum())
        least = 1e-12 * num_truth.clamp(min=1) ** 4
        # Not 0 but for rounding where the truth has a single class.
        correlation = torch.where((truth_K > 0).sum() > 1, shared, 0.0) / spread.clamp(min=least).sqrt()
        return ((1 - correlation) * (num_truth > 0)).float()
