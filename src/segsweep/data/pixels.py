"""From an image's pixels to what a model takes: its size, and its values. Training and prediction share it."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segsweep.data.source import Pixels
from segsweep.kernels import standardise as standardise_kernel
from segsweep.types import DataSpec


def fitted_size(own: tuple[int, int], spec: DataSpec, fit: str) -> tuple[int, int]:
    """(h, w) to which an image of its own size is decoded: ``spec.size``, or what of it its aspect ratio fills."""
    if spec.size is None:
        return own
    if fit != "pad":
        return spec.size
    scale = min(spec.size[0] / own[0], spec.size[1] / own[1])
    return max(1, round(own[0] * scale)), max(1, round(own[1] * scale))


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """(h, w, C) uint8 to another size: bilinear, with antialiasing; nothing if it has that size."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)).reshape(*size, -1)


def to_input(pixels: Tensor, spec: DataSpec) -> Tensor:
    """(N, h, w, C) uint8 -> (N, C, h, w) float32, standardised, in the memory format that models are trained in."""
    return standardise(pixels.permute(0, 3, 1, 2).float().div_(255), spec)


def standardise(image: Tensor, spec: DataSpec) -> Tensor:
    """(N, C, H, W) in place, from intensities in 0..1 to mean 0 and standard deviation 1 by the data's statistics."""
    mean, scale = _statistics(spec.mean, spec.std, image.device)
    return image.sub_(mean).mul_(scale)


def to_trained(image: Tensor, spec: DataSpec) -> Tensor:
    """(N, C, H, W) like that, overwritten or not, in the memory format that models are trained in.

    Not before: what is done to an image channel by channel is several times as fast on a CPU.
    """
    if standardise_kernel.pays(image):
        return standardise_kernel.standardised(image, *_statistics(spec.mean, spec.std, image.device))
    return standardise(image, spec).contiguous(memory_format=torch.channels_last)


@lru_cache
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation, (C, 1, 1) each; kept, because a copy to a GPU makes the host wait."""
    mean_C11, std_C11 = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return mean_C11, 1 / std_C11
