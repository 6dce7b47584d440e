"""Terms that compare whole regions: Dice, Jaccard, Tversky, and the correlation coefficient."""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from segsweep.losses.valid import mean_of_present, one_hot
from segsweep.types import Batch, SegmenterOutput

_OVER_PIXELS = (0, 2, 3)  # of the whole batch


class Dice(nn.Module):
    """Soft Dice loss: 1 - 2 sum(pq) / (sum(p^2) + sum(q^2)), mean over the classes present in the batch's truth.

    The sums run over all valid pixels of the batch.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Milletari et al. 2016, V-Net, arXiv:1606.04797 (squared denominators), for several classes.

    >>> import torch
    >>> logits = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1)  # p = (1/2, 1/2), q = (1, 0)
    >>> batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([0]))
    >>> round(Dice(ignore_index=255)(SegmenterOutput(logits), batch).item(), 4)  # 1 - 2 * .5 / (.25 + 1)
    0.2
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar in 0..1."""
        probability, truth = _regions(output, batch, self.ignore_index)
        overlap_K = (probability * truth).sum(_OVER_PIXELS)
        truth_K = truth.sum(_OVER_PIXELS)
        sizes_K = probability.square().sum(_OVER_PIXELS) + truth_K  # q is 0 or 1: q^2 = q
        return mean_of_present(1 - 2 * overlap_K / sizes_K.clamp(min=1e-6), truth_K)


class Tversky(nn.Module):
    """Tversky loss: 1 - TP / (TP + alpha FP + beta FN), mean over the classes present in the batch's truth.

    TP = sum(pq), FP = sum(p(1 - q)), FN = sum((1 - p)q) over all valid pixels of the batch.

    Args:
        alpha: price of false positives, 0 or more.
        beta: price of false negatives, 0 or more; above alpha for more recall.
        ignore_index: mask value that is left out.

    Reference:
        Salehi et al. 2017, Tversky loss function, arXiv:1706.05721, for several classes.

    >>> import torch
    >>> batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([0]))
    >>> value = Tversky(0.3, 0.7, ignore_index=255)(SegmenterOutput(torch.zeros(1, 2, 1, 1)), batch)
    >>> round(value.item(), 4)  # p = 1/2: 1 - .5 / (.5 + .7 * .5)
    0.4118
    """

    def __init__(self, alpha: Annotated[float, Ge(0)], beta: Annotated[float, Ge(0)], ignore_index: int) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar in 0..1."""
        probability, truth = _regions(output, batch, self.ignore_index)
        overlap_K = (probability * truth).sum(_OVER_PIXELS)
        truth_K = truth.sum(_OVER_PIXELS)
        false_positive_K = probability.sum(_OVER_PIXELS) - overlap_K
        whole_K = overlap_K + self.alpha * false_positive_K + self.beta * (truth_K - overlap_K)
        return mean_of_present(1 - overlap_K / whole_K.clamp(min=1e-6), truth_K)


class Jaccard(Tversky):
    """Soft Jaccard loss: 1 - intersection / union, mean over the classes present in the batch's truth.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Rahman and Wang 2016, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__(alpha=1.0, beta=1.0, ignore_index=ignore_index)


class MCC(nn.Module):
    """1 - the correlation coefficient R_K between prediction and truth, over all valid pixels of the batch.

    R_K is Gorodkin's generalisation of Matthews' coefficient to K classes, here of the soft confusion matrix
    C[k, l] = sum(q_k p_l). With t and p its margins as shares of all valid pixels, and c its trace likewise,
    R_K = (c - sum(t p)) / sqrt((1 - sum(t^2)) (1 - sum(p^2))); for K = 2 it is Matthews' coefficient.

    A batch that shows a single class has no correlation: its loss is 1 and its gradient 0.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Gorodkin 2004, Comparing two K-category assignments by a K-category correlation coefficient; as a loss, for two
        classes: Abhishek and Hamarneh 2021, arXiv:2010.13454.

    >>> import torch
    >>> batch = Batch(torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 1]]]), torch.tensor([0]))
    >>> logits = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log().view(1, 2, 1, 2)  # p of the true class: 3/4
    >>> round(MCC(ignore_index=255)(SegmenterOutput(logits), batch).item(), 4)  # 1 - (.75 - .5) / .5
    0.5
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar in 0..2."""
        probability, truth = _regions(output, batch, self.ignore_index)
        truth_K, predicted_K = truth.sum(_OVER_PIXELS), probability.sum(_OVER_PIXELS)
        num_valid = truth_K.sum()
        share = 1 / num_valid.clamp(min=1)
        hit = (probability * truth).sum() * share
        truth_K, predicted_K = truth_K * share, predicted_K * share
        spread = (1 - truth_K.square().sum()) * (1 - predicted_K.square().sum())
        correlation = (hit - (truth_K * predicted_K).sum()) / spread.clamp(min=1e-12).sqrt()
        return (1 - correlation) * (num_valid > 0)


def _regions(output: SegmenterOutput, batch: Batch, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot truth, (N, K, H, W) float32, both 0 where ignored."""
    logits, truth, valid = one_hot(output.logits, batch.mask, ignore_index)
    return logits.softmax(dim=1) * valid, truth
