"""The Lovasz-softmax loss: a convex surrogate of the IoU itself."""

import torch
from torch import Tensor, nn

from segsweep.losses.valid import mean_of_present, one_hot
from segsweep.types import Batch, SegmenterOutput


class Lovasz(nn.Module):
    """Lovasz extension of 1 - IoU at the errors abs(p - q), mean over the classes present in the batch's truth.

    All valid pixels of the batch are one set (the reference's ``per_image=False``). An ignored pixel enters with error
    0, which changes no product, so nothing has to be selected and the host does not wait.

    Args:
        ignore_index: mask value that is left out.

    Reference:
        Berman et al. 2018, The Lovasz-Softmax Loss, arXiv:1705.08790.

    >>> batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([0]))
    >>> value = Lovasz(ignore_index=255)(SegmenterOutput(torch.tensor([0.75, 0.25]).log().view(1, 2, 1, 1)), batch)
    >>> round(value.item(), 4)  # one pixel: its error
    0.25
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar in 0..1."""
        logits, truth, valid = one_hot(output.logits, batch.mask, self.ignore_index)
        error = (logits.softmax(dim=1) - truth).abs() * valid
        error_KP, truth_KP = (x.transpose(0, 1).flatten(1) for x in (error, truth))
        error_KP, order_KP = error_KP.sort(dim=1, descending=True)
        slope_KP = _slopes(truth_KP.gather(1, order_KP))
        return mean_of_present((error_KP * slope_KP).sum(dim=1), truth_KP.sum(dim=1))


def _slopes(truth_KP: Tensor) -> Tensor:
    """How much 1 - IoU grows when one pixel more is wrong, pixel after pixel in the order given.

    A pixel of the class takes one from the intersection I: 1 / U more. Another one adds one to the union U:
    I / (U (U - 1)) more. The reference takes differences of 1 - I / U instead, which at a million pixels are hardly
    larger than the rounding errors of float32.
    """
    is_class = truth_KP > 0
    size_K1 = is_class.sum(dim=1, keepdim=True)
    intersection = (size_K1 - is_class.cumsum(dim=1)).float()
    union = (size_K1 + (~is_class).cumsum(dim=1)).float()
    return torch.where(is_class, 1 / union.clamp(min=1), intersection / (union * (union - 1)).clamp(min=1))
