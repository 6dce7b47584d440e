"""Turns features into class scores: what clusters and probes have in common."""

from typing import NamedTuple

import torch
from torch import Tensor

_NO_SCORE = -1e4  # of a class that nothing stands for; finite, so that softmax stays so


class Scores(NamedTuple):
    """Linear scores, each of which speaks for a class; a class has the largest of its scores.

    Attributes:
        weight: (M, D).
        bias: (M,).
        classes: (M,) int64 in ``0..K-1``.
        num_classes: K.
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor
    num_classes: int

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D, H, W) -> (N, K, H, W)."""
        weight, bias, classes = (x.to(features.device) for x in (self.weight, self.bias, self.classes))
        each = torch.einsum("ndhw,md->nmhw", features, weight) + bias.view(-1, 1, 1)
        of_class = each.new_full((len(each), self.num_classes, *each.shape[-2:]), _NO_SCORE)
        return of_class.scatter_reduce_(1, classes.view(1, -1, 1, 1).expand_as(each), each, "amax")
