"""Which pixels a prediction rests on, by three methods of Captum: of the mean logit of a class over a region."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segsweep.run import ConfigError
from segsweep.types import DataSpec

METHODS = ("grad-cam", "integrated-gradients", "occlusion")
BASELINES = ("mean", "black", "white")
_MOST_OCCLUSIONS = 400
_PIXELS_AT_ONCE = 1 << 18  # of all images of one pass


@dataclass(frozen=True)
class Attribution:
    """One map of one method.

    Attributes:
        values: (H, W); above 0: speaks for the class; Grad-CAM has nothing below 0.
        total: sum of all attributions, where it means something (integrated gradients), else None.
        difference: what the sum should be: output at the image minus output at the baseline.
    """

    values: NDArray[np.float32]
    total: float | None = None
    difference: float | None = None

    @property
    def gap(self) -> float | None:
        """How far the sum is from what it should be, as a share of that."""
        if self.total is None or self.difference is None:
            return None
        return abs(self.total - self.difference) / max(abs(self.difference), 1e-12)


class RegionScore(nn.Module):
    """The mean logit of a class over a region: what Seg-Grad-CAM sums, divided by its number of pixels.

    Args:
        model: segmenter in evaluation mode.
        number: of the class.
        region: (H, W) bool.
        tick: is told how many images have passed.

    Shape:
        (N, C, H, W) -> (N,).

    Reference:
        Vinogradova et al. 2020, Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation
        Mapping, arXiv:2002.11434.
    """

    def __init__(
        self, model: nn.Module, number: int, region: NDArray[np.bool_], tick: Callable[[int], None] = lambda _: None
    ) -> None:
        super().__init__()
        self.model, self.number, self.tick = model, number, tick
        self.weight = torch.from_numpy(region / max(1, region.sum())).float()

    def forward(self, image: Tensor) -> Tensor:
        """Scores a batch of images."""
        logits: Tensor = self.model(image).logits[:, self.number]
        self.tick(len(image))
        return (logits * self.weight).sum(dim=(1, 2))


def grad_cam(score: RegionScore, image: Tensor, layer: str) -> Attribution:
    """Seg-Grad-CAM: channels of a map, weighed by the mean of their gradients; what speaks against is cut off.

    Args:
        score: of the class and region.
        image: (1, C, H, W).
        layer: name of the module, as in ``layers.maps_of``.
    """
    attr = captum()
    found = attr.LayerGradCam(score, score.model.get_submodule(layer)).attribute(
        image.clone().requires_grad_(), relu_attributions=True
    )
    full = attr.LayerAttribution.interpolate(found.detach(), image.shape[-2:], interpolate_mode="bilinear")
    return Attribution(full[0, 0].numpy())


def integrated_gradients(score: RegionScore, image: Tensor, baseline: Tensor, steps: int) -> Attribution:
    """Gradients along the straight way from a baseline to the image; summed over channels.

    Completeness: the attributions add up to the output at the image minus that at the baseline, but for the sum that
    stands for an integral.

    Args:
        score: of the class and region.
        image: (1, C, H, W).
        baseline: (1, C, H, W).
        steps: on the way.

    Reference:
        Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, arXiv:1703.01365.
    """
    found = (
        captum()
        .IntegratedGradients(score)
        .attribute(
            image.clone().requires_grad_(),
            baseline,
            n_steps=steps,
            internal_batch_size=min(steps, images_at_once(image)),
        )
    )
    with torch.no_grad():
        difference = float(score(image) - score(baseline))
    total = found.detach().double().sum()
    return Attribution(found.detach()[0].sum(dim=0).float().numpy(), float(total), difference)


def occlusion(score: RegionScore, image: Tensor, baseline: Tensor, patch: int, stride: int) -> Attribution:
    """How much the output falls when a square patch is replaced by the baseline.

    Args:
        score: of the class and region.
        image: (1, C, H, W).
        baseline: (1, C, H, W).
        patch: side in pixels.
        stride: from one patch to the next, in pixels.

    Reference:
        Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901.
    """
    channels, (height, width) = image.shape[1], image.shape[-2:]
    with torch.no_grad():
        found = (
            captum()
            .Occlusion(score)
            .attribute(
                image,
                sliding_window_shapes=(channels, min(patch, height), min(patch, width)),
                strides=(channels, min(stride, height), min(stride, width)),
                baselines=baseline,
                perturbations_per_eval=images_at_once(image),
            )
        )
    # The whole patch is replaced at once, so each channel has its full effect.
    return Attribution(found[0].mean(dim=0).numpy().astype(np.float32))


def baseline_of(kind: str, image: Tensor, spec: DataSpec) -> Tensor:
    """An image without content: of the data's mean colour, black or white, standardised."""
    if kind == "mean":
        return torch.zeros_like(image)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return ((float(kind == "white") - mean) / std).expand_as(image).contiguous()


def patches(size: tuple[int, int], patch: int | None, stride: int | None) -> tuple[int, int]:
    """Side and distance of occluding patches; by default overlapping by half, 400 of them at most.

    Raises:
        ConfigError: the distance leaves gaps, or one of them is not positive.
    """
    if stride is None:
        stride = max(1, ceil(sqrt(size[0] * size[1] / _MOST_OCCLUSIONS))) if patch is None else max(1, patch // 2)
    patch = 2 * stride if patch is None else patch
    if not 0 < stride <= patch:
        raise ConfigError(f"--patch {patch} --stride {stride}: the stride must be 1 or more and at most the patch")
    return patch, stride


def num_patches(size: tuple[int, int], patch: int, stride: int) -> int:
    """How many places a patch takes."""
    rows, columns = (1 + ceil(max(0, side - patch) / stride) for side in size)
    return rows * columns


def images_at_once(image: Tensor) -> int:
    """Images of this size in one pass, so that memory is bounded."""
    return max(1, min(32, _PIXELS_AT_ONCE // (image.shape[-2] * image.shape[-1])))


def captum() -> Any:
    """The module ``captum.attr``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import captum.attr  # here: it takes seconds
    except ImportError as error:
        raise ConfigError(
            f'attributions need captum, which cannot be imported ({error}). Install it: pip install "segsweep[explain]"'
        ) from None
    return captum.attr
