"""A distance-weighted error: a wrong pixel costs the more, the farther it is from where it would be right."""

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from segsweep.losses.valid import mean_over, one_hot
from segsweep.types import Batch, SegmenterOutput


class Boundary(nn.Module):
    """Boundary loss: half the sum over classes of abs(phi) abs(p - q), mean over valid pixels.

    phi_k is the Euclidean distance of a pixel to the border of class k in the image: outside of k to its nearest pixel,
    inside to the nearest pixel of another class; cut off at ``max_distance`` and divided by it. A class that the image
    does not show is that far from everywhere.

    Args:
        max_distance: pixels, 1 to 100; where all borders are farther the term is the plain error of ``mae``.
        ignore_index: mask value that is left out; such pixels are no border.

    Reference:
        Kervadec et al. 2019, Boundary loss for highly unbalanced segmentation, arXiv:1812.07032. There the integrand is
        phi p, with phi negative inside. This one is phi p plus a constant of the truth: the same gradient, but never
        negative, and 0 for the truth itself. Differs: distances are cut off, so that they can be computed on the device
        in the step; every class takes part; a class absent from the image, for which the authors' code has phi = 0,
        pays. To be used beside a region term, as in the paper.

    >>> batch = Batch(torch.zeros(1, 3, 1, 4), torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([0]))
    >>> p = torch.tensor([[0.5, 1.0, 1.0, 0.0], [0.5, 0.0, 0.0, 1.0]])  # only the first pixel is wrong, 3 from class 1
    >>> round(Boundary(5, ignore_index=255)(SegmenterOutput(p.log().view(1, 2, 1, 4)), batch).item(), 4)  # 3/5 * .5 / 4
    0.075
    """

    def __init__(self, max_distance: Annotated[int, Gt(0), Le(100)], ignore_index: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.ignore_index = ignore_index

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar in 0..1."""
        logits, truth, valid = one_hot(output.logits, batch.mask, self.ignore_index)
        with torch.no_grad():
            distance = border_distance(truth > 0, self.max_distance)
        error = (logits.softmax(dim=1) - truth).abs() * distance
        return mean_over(error.sum(dim=1, keepdim=True), valid) / (2 * self.max_distance)


def border_distance(truth_NKHW: Tensor, limit: int) -> Tensor:
    """Distance of every pixel to the border of every class, in pixels, at most ``limit``.

    Args:
        truth_NKHW: (N, K, H, W) bool, at most one class a pixel.
        limit: pixels, at most 100 (its square has to fit into an int16 twice); the cost grows with it.

    Returns:
        (N, K, H, W) float32: to the nearest pixel of the class, or from inside to the nearest of another class.
    """
    far = torch.where(truth_NKHW, 0, limit).to(torch.int16)  # half the bytes of float32, half the time
    squared = _spread(far, limit, lambda shift: shift, axis=-2).square()
    outside = _spread(squared, limit, lambda shift: shift**2, axis=-1).float().sqrt_().clamp_(max=limit)
    # Inside of its own class a pixel has distance 0 to it; the nearest of another class is the second smallest.
    others = outside.masked_fill(truth_NKHW, limit).amin(dim=1, keepdim=True)
    return torch.where(truth_NKHW, others, outside)


def _spread(cost: Tensor, limit: int, price: Callable[[int], int], axis: int) -> Tensor:
    """The least of the costs of all pixels closer than ``limit`` along an axis, each plus the price of its shift."""
    least, length = cost.clone(), cost.shape[axis]
    for shift in range(1, min(limit, length)):
        dearer = cost + price(shift)
        for start, other in ((shift, 0), (0, shift)):
            part = least.narrow(axis, start, length - shift)
            torch.minimum(part, dearer.narrow(axis, other, length - shift), out=part)
    return least
