"""Losses: terms over (output, batch), and the weighted sum that a run minimises.

All terms are computed in float32 whatever the precision of the model, and average over the pixels that are not
``ignore_index``; a batch without such a pixel gives 0, not NaN.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsweep.types import Batch, SegmenterOutput


class WeightedSum(nn.Module):
    """The loss of a run: named terms and their weights.

    Args:
        terms: name -> module (output, batch) -> scalar, or None where the term does not apply to the model.
        weights: name -> factor, one for each term.

    Returns:
        dict with ``total`` and the unweighted value of each term that applies, all scalar float32.

    Raises:
        ValueError: terms and weights do not have the same names.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if set(terms) != set(weights):
            raise ValueError(f"terms {sorted(terms)} and weights {sorted(weights)} must have the same names")
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)

    def forward(self, output: SegmenterOutput, batch: Batch) -> dict[str, Tensor]:
        """Evaluates every term that applies."""
        values = {name: term(output, batch) for name, term in self.terms.items()}
        values = {name: value for name, value in values.items() if value is not None}
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return {"total": total, **values}


class CrossEntropy(nn.Module):
    """Softmax cross entropy, mean over valid pixels.

    Args:
        ignore_index: mask value that is left out.

    >>> logits = torch.zeros(1, 4, 1, 2)
    >>> batch = Batch(torch.zeros(1, 3, 1, 2), torch.tensor([[[2, 255]]]), torch.tensor([0]))
    >>> round(CrossEntropy(ignore_index=255)(SegmenterOutput(logits), batch).item(), 4)  # ln 4
    1.3863
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar, 0 or more."""
        total = F.cross_entropy(output.logits.float(), batch.mask, ignore_index=self.ignore_index, reduction="sum")
        return total / (batch.mask != self.ignore_index).sum().clamp(min=1)


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
        logits, truth, valid = _pixelwise(output.logits, batch.mask, self.ignore_index)
        return _mean_over(F.binary_cross_entropy_with_logits(logits, truth, reduction="none"), valid)


class Dice(nn.Module):
    """Soft Dice loss: 1 - 2 sum(pq) / (sum(p^2) + sum(q^2)), mean over the classes present in the batch's truth.

    The sums run over all valid pixels of the batch. A class that the batch does not show is left out: its score would
    be 0 whatever the model says.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Milletari et al. 2016, V-Net, arXiv:1606.04797 (squared denominators), for several classes.

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
        logits, truth, valid = _pixelwise(output.logits, batch.mask, self.ignore_index)
        probability = logits.softmax(dim=1) * valid
        over_pixels = (0, 2, 3)
        overlap_K = (probability * truth).sum(over_pixels)
        truth_K = truth.sum(over_pixels)
        sizes_K = probability.square().sum(over_pixels) + truth_K  # q is 0 or 1: q^2 = q
        present_K = truth_K > 0
        loss_K = 1 - 2 * overlap_K / sizes_K.clamp(min=1e-6)
        return (loss_K * present_K).sum() / present_K.sum().clamp(min=1)


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
        logits, truth, valid = _pixelwise(output.logits, batch.mask, self.ignore_index)
        error = logits.softmax(dim=1) - truth
        return _mean_over(error.square() if self.kind == "mse" else error.abs(), valid)


class Reconstruction(nn.Module):
    """Distance between the image and its reconstruction, mean over pixels and channels, masked or not.

    It applies to models that reconstruct and is skipped for the others, so that one loss file serves every family.

    Args:
        kind: ``mse`` or ``mae`` on standardised values, or ``bce`` on values brought back to 0..1, where the
            reconstruction is taken as a logit.
        mean: per channel, the data's.
        std: per channel, the data's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: Literal["mse", "mae", "bce"], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor | None:
        """Scalar, 0 or more; None if the model does not reconstruct."""
        if output.reconstruction is None:
            return None
        reconstruction = output.reconstruction.float()
        if self.kind == "mse":
            return F.mse_loss(reconstruction, batch.image)
        if self.kind == "mae":
            return F.l1_loss(reconstruction, batch.image)
        intensity = (batch.image * self.std + self.mean).clamp(0, 1)
        return F.binary_cross_entropy_with_logits(reconstruction, intensity)


def _pixelwise(logits_NKHW: Tensor, mask_NHW: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Puts logits and truth into one memory layout: with channels_last logits the terms take three times as long.

    Returns:
        logits (N, K, H, W) float32, truth (N, K, H, W) float32 one-hot, all 0 where ignored, valid (N, 1, H, W) bool.
    """
    valid = (mask_NHW != ignore_index)[:, None]
    classes = torch.arange(logits_NKHW.shape[1], device=mask_NHW.device).view(1, -1, 1, 1)
    truth = (mask_NHW[:, None] == classes) & valid  # also right where ignore_index is the number of a class
    return logits_NKHW.float().contiguous(), truth.float(), valid


def _mean_over(value_NKHW: Tensor, valid_N1HW: Tensor) -> Tensor:
    num_values = valid_N1HW.sum() * value_NKHW.shape[1]
    return (value_NKHW * valid_N1HW).sum() / num_values.clamp(min=1)
