"""Images in colour from channel by channel to pixel by pixel, standardised on the way: one pass for torch's three."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.tiles import LEAST_VALUES, number_of, place_of
from segsweep.kernels.writer import LANES, Lanes, Writer

_CHANNELS = 3


def pays(image: Tensor) -> bool:
    """Whether images (N, 3, H, W) float32, contiguous, can be read here, and there is enough to do."""
    return image.numel() >= LEAST_VALUES and fits(image) and machine.is_available()


def fits(image: Tensor) -> bool:
    """Whether images (N, 3, H, W) float32, contiguous and of 32 pixels or more, can be read here."""
    if not machine.reads(image) or image.dim() != 4 or image.dtype != torch.float32:
        return False
    return image.shape[1] == _CHANNELS and image.is_contiguous() and image.shape[2] * image.shape[3] >= LANES


def compile_functions() -> None:
    """For every image."""
    _standardise()


def standardised(image: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(x - mean) * scale, to the last bit as torch computes it.

    Args:
        image: (N, 3, H, W), which ``fits``.
        mean: (3,) or what can be viewed so, float32.
        scale: like it.

    Returns:
        (N, 3, H, W) float32, channels last.

    Raises:
        ValueError: they do not fit.
    """
    mean, scale = mean.reshape(-1).contiguous(), scale.reshape(-1).contiguous()
    if not fits(image) or any(
        x.shape != (_CHANNELS,) or x.dtype != torch.float32 or not machine.reads(x) for x in (mean, scale)
    ):
        raise ValueError(f"images {tuple(image.shape)} {image.dtype}, {len(mean)} means and {len(scale)} scales")
    num, _, height, width = image.shape
    result = torch.empty_like(image, memory_format=torch.channels_last)
    tensors = (x.data_ptr() for x in (image, mean, scale, result))
    machine.run(_standardise(), (num, height * width, *tensors))
    return result


@cache
def _standardise() -> int:
    """Address of the function."""
    to = Writer("standardise")
    build, one, channels = to.builder, to.int64(1), to.int64(_CHANNELS)
    num, pixels = to.argument(), to.argument()
    image, mean, scale, result = (to.pointer(to.float32) for _ in range(4))
    tiles = number_of(to, pixels)
    _, start, end = to.share(build.mul(num, tiles))
    of_channels = [
        [Lanes(to, to.spread(build.load(build.gep(values, [to.int64(c)])))) for c in range(_CHANNELS)]
        for values in (mean, scale)
    ]
    with to.loop(start, end, one) as tile:
        number, _, pixel = place_of(to, tile.number, tiles, pixels)
        first = build.mul(build.mul(number, channels), pixels)
        planes: list[Any] = []
        for c, (middle, factor) in enumerate(zip(*of_channels, strict=True)):
            place = build.add(build.add(first, build.mul(to.int64(c), pixels)), pixel)
            planes.append(((to.read(image, place) - middle) * factor).value)
        to.store(to.interleaved(planes), result, build.add(first, build.mul(pixel, channels)))
    return machine.compiled(to.finish(), "standardise")
