"""The soft normalised cut: segments by the image alone, without labels."""

from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from segsweep.losses.valid import for_terms
from segsweep.types import Batch, SegmenterOutput

Offset = tuple[slice, slice]


class NormalisedCut(nn.Module):
    """Soft normalised cut of W-Net: K - sum over classes of assoc(A_k, A_k) / assoc(A_k, V), mean over images.

    Two pixels closer than ``radius`` are tied by exp(-difference^2 / sigma_intensity^2) exp(-distance^2 /
    sigma_distance^2), others not at all. It is 0 if classes cut no tie and K - 1 if all classes are equally likely
    everywhere. Pixels that are ``ignore_index`` take part as all others do: it asks for no label.

    Args:
        radius: pixels.
        sigma_intensity: on the scale 0..255; the difference of two colours is the Euclidean one.
        sigma_distance: pixels.
        mean: per channel, the data's.
        std: per channel, the data's.

    Reference:
        Xia and Kulis 2017, W-Net, arXiv:1711.08506, section 3.1. Ties are computed by shifting the image, one offset
        after another: memory grows with the image and not with its square.

    >>> image = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)  # black and white: no tie but to itself
    >>> batch = Batch(image, torch.zeros(1, 1, 2, dtype=torch.long), torch.tensor([0]))
    >>> term = NormalisedCut(5, 10.0, 4.0, mean=(0.0,), std=(1.0,))
    >>> logits = torch.zeros(1, 2, 1, 2)
    >>> round(term(SegmenterOutput(logits), batch).item(), 4)  # each class has half of each pixel: 2 - 1/2 - 1/2
    1.0
    """

    needs_labels = False
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        radius: Annotated[int, Gt(0)],
        sigma_intensity: Annotated[float, Gt(0)],
        sigma_distance: Annotated[float, Gt(0)],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.radius = radius
        self.sigma_intensity, self.sigma_distance = sigma_intensity, sigma_distance
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """Scalar in 0..K-1."""
        probability = for_terms(output.logits).softmax(dim=1)
        with torch.no_grad():
            image = (batch.image.float() * self.std + self.mean) * (255 / self.sigma_intensity)
            tied, degree = self._tie(image, probability)
        # The ties W are symmetric, so the gradient of p'Wp is 2Wp: no graph has to be kept of all the shifts.
        product = probability * tied
        within_NK = (2 * product - product.detach()).sum(dim=(2, 3))
        to_all_NK = (probability * degree).sum(dim=(2, 3))
        return (1 - within_NK / to_all_NK.clamp(min=1e-9)).sum(dim=1).mean()

    def _tie(self, image: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over each pixel's ties, of its neighbours' probabilities (N, K, H, W) and of ones (N, 1, H, W)."""
        tied, degree = probability.clone(), torch.ones_like(image[:, :1])  # each pixel's tie to itself is 1
        for squared, here, there in _pairs(self.radius, *image.shape[-2:]):
            at, to = (..., *here), (..., *there)
            difference = (image[at] - image[to]).square().sum(dim=1, keepdim=True)
            tie = torch.exp(-difference - squared / self.sigma_distance**2)
            tied[at].addcmul_(tie, probability[to])
            tied[to].addcmul_(tie, probability[at])
            degree[at] += tie
            degree[to] += tie
        return tied, degree


def _pairs(radius: int, height: int, width: int) -> Iterator[tuple[int, Offset, Offset]]:
    """All pairs of pixels closer than ``radius``, each once: squared distance, and both ends as slices."""
    for dy in range(min(radius, height)):
        for dx in range(1 - min(radius, width), min(radius, width)):
            if 0 < dy**2 + dx**2 < radius**2 and (dy > 0 or dx > 0):
                here = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
                there = slice(dy, height), slice(max(0, dx), width - max(0, -dx))
                yield dy**2 + dx**2, here, there
