"""How sure a model is, pixel by pixel: of one softmax, of passes with dropout, of several seeds."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_SEED = 0
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Doubt:
    """Maps of one image, as shares of the largest entropy there can be, log K; 0: sure, 1: all classes alike.

    Attributes:
        entropy: (H, W) of the mean of the probabilities.
        mutual: (H, W) mutual information: what of the entropy comes from the members' disagreement; None of one member.
        num: members or passes.
    """

    entropy: NDArray[np.float32]
    mutual: NDArray[np.float32] | None
    num: int


def doubt(probabilities_MKHW: Tensor) -> Doubt:
    """Splits what several members say into entropy of their mean and mutual information.

    Reference:
        Houlsby et al. 2011, arXiv:1112.5745; Gal and Ghahramani 2016, arXiv:1506.02142; Lakshminarayanan et al. 2017,
        arXiv:1612.01474.

    >>> sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1)  # two members, each sure of another class
    >>> found = doubt(sure)
    >>> float(found.entropy[0, 0]), float(found.mutual[0, 0])
    (1.0, 1.0)
    """
    whole = _entropy(probabilities_MKHW.mean(dim=0))
    num = len(probabilities_MKHW)
    if num == 1:
        return Doubt(whole.numpy(), None, 1)
    each = torch.stack([_entropy(member) for member in probabilities_MKHW]).mean(dim=0)
    return Doubt(whole.numpy(), (whole - each).clamp_min(0).numpy(), num)


@torch.no_grad()
def probabilities(model: nn.Module, image: Tensor) -> Tensor:
    """Softmax (1, K, H, W) float32 of one image (1, C, H, W)."""
    logits: Tensor = model(image).logits
    return logits.float().softmax(dim=1)


def has_dropout(model: nn.Module) -> bool:
    """Whether some layer drops values while training."""
    return any(isinstance(module, _DROPOUT) and module.p > 0 for module in model.modules())


def dropout_doubt(model: nn.Module, image: Tensor, passes: int, tick: Callable[[int], None] = lambda _: None) -> Doubt:
    """Passes with dropout switched on and everything else as in evaluation; the same each time it is called.

    Args:
        model: with dropout; left as it is.
        image: (1, C, H, W).
        passes: two or more.
        tick: is told how many passes are done.
    """
    other = copy.deepcopy(model).eval()
    for module in other.modules():
        if isinstance(module, _DROPOUT):
            module.train()
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for _ in range(passes):
            found.append(probabilities(other, image))
            tick(1)
    return doubt(torch.cat(found))


def ensemble_doubt(models: Sequence[nn.Module], image: Tensor) -> Doubt:
    """What several models of the same classes say of one image (1, C, H, W)."""
    return doubt(torch.cat([probabilities(model, image) for model in models]))


def _entropy(probability_KHW: Tensor) -> Tensor:
    classes = max(2, len(probability_KHW))
    nats: Tensor = -torch.special.xlogy(probability_KHW, probability_KHW).sum(dim=0)
    return nats / log(classes)
