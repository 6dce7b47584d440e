"""Segments images that are too large for one pass: overlapping tiles, blended."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segsweep.types import SegmenterOutput

_BATCH = 4  # tiles in one forward pass


def segment_by_tiles(
    model: Callable[[Tensor], SegmenterOutput], image: Tensor, tile: tuple[int, int], overlap: float
) -> SegmenterOutput:
    """Segments an image tile by tile.

    Tiles lie on a regular grid and cover every pixel; where they overlap, outputs are averaged with weights that fall
    off towards a tile's border, because a segmenter sees least context there.

    Args:
        model: image (N, C, h, w) -> output.
        image: (N, C, H, W); one smaller than a tile is mirrored up to it.
        tile: (h, w) in pixels.
        overlap: share of a tile, 0 or more and below 0.9, that neighbours share at least.

    Returns:
        logits (N, K, H, W) and, if the model reconstructs, reconstruction (N, C, H, W), float32; no latent.

    Reference:
        Isensee et al., nnU-Net, Nature Methods 2021 (there: half a tile of overlap, Gaussian weights).
    """
    height, width = image.shape[-2:]
    padded = _mirror_up_to(image, tile)
    weight = _falloff(tile).to(image.device)
    rows, columns = (_starts(padded.shape[i - 2], tile[i], overlap) for i in (0, 1))
    corners = [(y, x) for y in rows for x in columns]
    logits = reconstruction = None
    total = torch.zeros(padded.shape[-2:], device=image.device)
    for first in range(0, len(corners), _BATCH):
        places = corners[first : first + _BATCH]
        output = model(torch.cat([padded[..., y : y + tile[0], x : x + tile[1]] for y, x in places]))
        logits = _add(logits, output.logits, places, padded, weight)
        if output.reconstruction is not None:
            reconstruction = _add(reconstruction, output.reconstruction, places, padded, weight)
        for y, x in places:
            total[y : y + tile[0], x : x + tile[1]] += weight
    if logits is None:
        raise ValueError(f"an image of {height}x{width} pixels has nothing to segment")
    logits = (logits / total)[..., :height, :width]
    return SegmenterOutput(logits, None if reconstruction is None else (reconstruction / total)[..., :height, :width])


def _add(canvas: Tensor | None, tiles: Tensor, places: list[tuple[int, int]], padded: Tensor, weight: Tensor) -> Tensor:
    if canvas is None:
        canvas = torch.zeros(len(padded), tiles.shape[1], *padded.shape[-2:], device=tiles.device)
    for (y, x), part in zip(places, tiles.float().chunk(len(places)), strict=True):
        canvas[..., y : y + weight.shape[0], x : x + weight.shape[1]] += part * weight
    return canvas


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Evenly spread first pixels of tiles that cover ``length``."""
    step = max(1, int(tile * (1 - overlap)))
    num = 1 + -(-(length - tile) // step)
    return [round(i * (length - tile) / max(1, num - 1)) for i in range(num)]


def _falloff(tile: tuple[int, int]) -> Tensor:
    """(h, w) weights: a raised cosine on each side that stays above zero at the border."""
    height, width = (torch.sin(torch.pi * (torch.arange(side) + 0.5) / side) for side in tile)
    return (height[:, None] * width[None, :]).clamp_min(1e-3)


def _mirror_up_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Mirrors at the lower and right border until the image has at least ``size``."""
    while image.shape[-2] < size[0] or image.shape[-1] < size[1]:
        # "reflect" takes at most one pixel less than there is; a single row or column can only be repeated.
        lacking = [max(0, size[i] - image.shape[i - 2]) for i in (0, 1)]
        down, right = (min(lacking[i], image.shape[i - 2] - 1) for i in (0, 1))
        if down or right:
            image = F.pad(image, (0, right, 0, down), "reflect")
        else:
            image = F.pad(image, (0, lacking[1], 0, lacking[0]), "replicate")
    return image
