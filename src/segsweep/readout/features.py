"""What is known about each pixel: what a model has learnt, its colour, or its place."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsweep.rng import mix, uniform
from segsweep.types import Batch, SegmenterOutput

Maps = Callable[[Tensor], list[Tensor]]
"""image (N, C, H, W) -> maps (N, D_i, h_i, w_i) of any size."""


class Sample(NamedTuple):
    """Places drawn from a set of images.

    Attributes:
        features: (n, D) float32, on the CPU.
        labels: (n,) int64, a class or ``ignore_index``; on the CPU.
    """

    features: Tensor
    labels: Tensor


def learnt_maps(model: nn.Module, levels: tuple[int, ...] | None) -> Maps:
    """What a model makes of an image: levels of its encoder or, without any, its latent, else the coarsest level.

    Every vector of every map has length 1 once it is resized, so that the direction counts and levels weigh alike.

    Raises:
        ValueError: the model has neither a latent nor an encoder, or its encoder lacks a level.
    """

    def maps(image: Tensor) -> list[Tensor]:
        if levels is None:
            output: SegmenterOutput = model(image)
            if output.latent is not None:
                return [output.latent.float()]
        encoder: Any = getattr(model, "encoder", None)
        if encoder is None:
            raise ValueError(f"{type(model).__name__} has neither a latent nor an encoder to cluster")
        found = encoder(image)
        wanted = (-1,) if levels is None else levels
        if not all(-len(found) <= level < len(found) for level in wanted):
            raise ValueError(f"regime.readout.levels={list(wanted)}: the encoder has levels 0 to {len(found) - 1}")
        return [found[level].float() for level in wanted]

    return maps


def colour_maps(image: Tensor) -> list[Tensor]:
    """The image itself, in standardised intensities."""
    return [image]


def position_maps(image: Tensor) -> list[Tensor]:
    """(N, 2, H, W) row and column of each pixel, in 0..1."""
    height, width = image.shape[-2:]
    rows, columns = ((torch.arange(side, device=image.device) + 0.5) / side for side in (height, width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return [grid.expand(len(image), -1, -1, -1)]


def dense(maps: list[Tensor], size: tuple[int, int], unit_length: bool) -> Tensor:
    """Maps resized bilinearly to (H, W) and put on top of each other: (N, D, H, W)."""
    resized = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps]
    return torch.cat([F.normalize(x, dim=1) if unit_length else x for x in resized], dim=1)


def at_places(maps: list[Tensor], place_NP2: Tensor, unit_length: bool) -> Tensor:
    """What ``dense`` would hold at places (row, column in 0..1 of the image), without making it: (N, P, D)."""
    grid = 2 * place_NP2.flip(-1)[:, :, None] - 1  # grid_sample wants x before y, in -1..1
    found = [
        F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode="border", align_corners=False)[..., 0]
        for x in maps
    ]
    return torch.cat([F.normalize(x, dim=1) if unit_length else x for x in found], dim=1).transpose(1, 2)


def draw_sample(maps: Maps, batches: Iterable[Batch], num_per_image: int, unit_length: bool, seed: int) -> Sample:
    """Draws places evenly from all images; where they lie follows from (seed, index), never from a mask.

    Args:
        maps: what is known about pixels.
        batches: images, with masks of any size.
        num_per_image: places in each image.
        unit_length: whether each map's vectors are brought to length 1.
        seed: of the run.
    """
    features, labels = [], []
    for batch in batches:
        place = uniform(mix(seed, "readout"), batch.index, 2 * num_per_image).view(-1, num_per_image, 2)
        features.append(at_places(maps(batch.image), place, unit_length).flatten(0, 1).cpu())
        height, width = batch.mask.shape[-2:]
        row, column = (place[..., 0] * height).long(), (place[..., 1] * width).long()
        labels.append(batch.mask.flatten(1).gather(1, row * width + column).flatten().cpu())
    return Sample(torch.cat(features), torch.cat(labels))
