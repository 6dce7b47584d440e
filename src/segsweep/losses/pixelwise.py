"""Terms that are means over pixels: cross entropy, binary cross entropy, focal, squared and absolute error."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from segsweep.losses.class_sums import ClassSums, FromSums
from segsweep.losses.class_weights import ClassWeights, Weighting
from segsweep.losses.valid import for_terms, mean_over, one_hot
from segsweep.types import Batch, SegmenterOutput


class CrossEntropy(FromSums):
    """Softmax cross entropy: mean over valid pixels, weighted by class.

    As in torch the sum is divided by the sum of the weights of the pixels in it.

    Args:
        num_classes: K.
        ignore_index: mask value that is left out.
        weights: of the classes: ``none``, ``median_frequency``, ``enet`` or ``segnet`` (see ``ClassWeights``), or K
            numbers.
        label_smoothing: share of the truth that is spread over all classes, at least 0 and below 1.
        hard_fraction: share of the valid pixels of the batch that count, those to whose true class the model gives
            least; 1 counts all.

    Reference:
        Hard pixels: Wu et al. 2016, Bridging Category-level and Instance-level Semantic Image Segmentation,
        arXiv:1605.06885 (online bootstrapping; there a threshold and a least number of pixels, here a share).

    >>> logits = torch.zeros(1, 4, 1, 2)
    >>> batch = Batch(torch.zeros(1, 3, 1, 2), torch.tensor([[[2, 255]]]), torch.tensor([0]))
    >>> term = CrossEntropy(4, 255, weights="none", label_smoothing=0.0, hard_fraction=1.0)
    >>> round(term(SegmenterOutput(logits), batch).item(), 4)  # ln 4
    1.3863
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        weights: Weighting,
        label_smoothing: Annotated[float, Ge(0), Lt(1)],
        hard_fraction: Annotated[float, Gt(0), Le(1)],
    ) -> None:
        super().__init__(ignore_index)
        self.class_weights = ClassWeights(num_classes, weights)
        self.label_smoothing = label_smoothing
        self.hard_fraction = hard_fraction

    def takes_sums(self) -> bool:
        """Not with smoothed labels, nor where some pixels are left out."""
        is_plain = self.label_smoothing == 0 and self.hard_fraction == 1
        return type(self).forward is CrossEntropy.forward and is_plain

    def of(self, sums: ClassSums) -> Tensor:
        """Scalar, 0 or more."""
        weight_K: Tensor = self.class_weights()
        # Weights may well add up to less than 1.
        return (weight_K * sums.entropy).sum() / (weight_K * sums.truth).sum().clamp(min=1e-12)

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar, 0 or more."""
        logits, mask, ignored = for_terms(output.logits), batch.mask, self.ignore_index
        counted = mask != ignored
        if self.hard_fraction < 1:
            plain = F.cross_entropy(logits.detach(), mask, ignore_index=ignored, reduction="none")
            counted = _hardest(plain, counted, self.hard_fraction)
            mask = torch.where(counted, mask, ignored)
        weight_K: Tensor = self.class_weights()
        total = F.cross_entropy(logits, mask, weight_K, None, ignored, None, "sum", self.label_smoothing)
        weight_NHW = weight_K[torch.where(counted, mask, 0)] * counted
        return total / weight_NHW.sum().clamp(min=1e-12)


class BCE(nn.Module):
    """Binary cross entropy of each class against the rest, mean over valid pixels and classes.

    Args:
        ignore_index: mask value that is left out.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar, 0 or more."""
        logits, truth, valid = one_hot(output.logits, batch.mask, self.ignore_index)
        return mean_over(F.binary_cross_entropy_with_logits(logits, truth, reduction="none"), valid)


class Focal(nn.Module):
    """Focal loss: cross entropy times (1 - p)^gamma, p the probability of the true class; mean over valid pixels.

    Args:
        gamma: exponent, 0 or more; 0 is cross entropy.
        ignore_index: mask value that is left out.

    Reference:
        Lin et al. 2017, Focal Loss for Dense Object Detection, arXiv:1708.02002. Differs: softmax over K classes, no
        alpha, and a mean over pixels where the paper divides by the number of objects.

    >>> batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([0]))
    >>> value = Focal(gamma=2.0, ignore_index=255)(SegmenterOutput(torch.zeros(1, 2, 1, 1)), batch)
    >>> round(value.item(), 4)  # (1 / 2)^2 ln 2
    0.1733
    """

    def __init__(self, gamma: Annotated[float, Ge(0)], ignore_index: int) -> None:
        super().__init__()
        self.gamma = gamma
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar, 0 or more."""
        logits = for_terms(output.logits)
        entropy = F.cross_entropy(logits, batch.mask, ignore_index=self.ignore_index, reduction="none")
        # 1e-6: below it the power's derivative may be infinite (gamma < 1), times 0 NaN.
        miss = (-torch.expm1(-entropy)).clamp(min=1e-6)
        valid = batch.mask != self.ignore_index
        return (miss**self.gamma * entropy).sum() / valid.sum().clamp(min=1)  # the entropy of ignored pixels is 0


class ProbabilityError(nn.Module):
    """Distance between class probabilities and the one-hot truth, mean over valid pixels and classes.

    Args:
        kind: ``mse`` (squared, the Brier score divided by K) or ``mae`` (absolute).
        ignore_index: mask value that is left out.
    """

    def __init__(self, kind: Literal["mse", "mae"], ignore_index: int) -> None:
        super().__init__()
        self.kind = kind
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar in 0..1."""
        logits, truth, valid = one_hot(output.logits, batch.mask, self.ignore_index)
        error = logits.softmax(dim=1) - truth
        return mean_over(error.square() if self.kind == "mse" else error.abs(), valid)


def _hardest(loss_NHW: Tensor, valid_NHW: Tensor, fraction: float) -> Tensor:
    """Marks the given share of the valid pixels, rounded up, with the highest loss; the host does not wait."""
    loss = torch.where(valid_NHW, loss_NHW, -1.0).flatten()
    num_kept = (valid_NHW.sum() * fraction).ceil()
    order = loss.argsort(descending=True, stable=True)
    is_kept = torch.arange(len(order), device=order.device) < num_kept
    return torch.zeros_like(is_kept).scatter(0, order, is_kept).view_as(valid_NHW)
