"""Whether a map shows what the network has learnt: it should not look alike with random weights."""

import copy
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_SEED = 0


def randomised(model: nn.Module) -> nn.Module:
    """A copy whose weights are shuffled within each tensor: as large as before, and knowing nothing.

    Shuffled, not drawn anew, because that works for any module and keeps the scale of every layer.

    Reference:
        Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv:1810.03292 (model parameter randomisation).
    """
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Spearman's correlation of the sizes of two maps' values; None if one of them is the same everywhere."""
    from scipy.stats import spearmanr

    pair = [np.abs(values).ravel() for values in (first, second)]
    if any(np.ptp(values) == 0 or not np.isfinite(values).all() for values in pair):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(spearmanr(*pair).statistic)
