"""Segments images that are too large for one pass: overlapping tiles, blended."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segsweep.types import SegmenterOutput

_BATCH = 4  # tiles in one forward pass
_CANVAS = 80_000_000  # values, of classes times pixels, that are added up at once: 320 MB
_SCORES = 16_000_000  # values of the tiles of one forward pass: 64 MB
_BLOCK = 8_000_000  # values of a block that is handed out


class Block(NamedTuple):
    """What is known of a rectangle of an image.

    Attributes:
        row: its first.
        column: its first.
        scores: (K, h, w) float32.
    """

    row: int
    column: int
    scores: Tensor

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the image."""
        height, width = self.scores.shape[1:]
        return slice(self.row, self.row + height), slice(self.column, self.column + width)


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
    weight = _falloff(tile).to(image.device, non_blocking=True)
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


def stream_by_tiles(
    score: Callable[[Tensor], Tensor],
    image: NDArray[np.uint8],
    num_classes: int,
    tile: tuple[int, int],
    overlap: float,
    most: int = _CANVAS,
) -> Iterator[Block]:
    """Segments one image tile by tile in bounded memory: what ``segment_by_tiles`` gives, a block at a time.

    Only one row of tiles is added up at once, and where that were too much, only some of its columns; tiles at the
    border of two such strips are computed for both.

    Args:
        score: pixels of tiles (N, h, w, C) uint8 -> scores (N, K, h, w).
        image: (H, W, C) uint8; one smaller than a tile is mirrored up to it.
        num_classes: K.
        tile: (h, w) in pixels.
        overlap: as in ``segment_by_tiles``.
        most: values that are added up at once, at least; one tile and the columns it adds always are.

    Yields:
        Blocks that cover each pixel once, of at most 8 million values or one row.
    """
    rows, columns = (_mirrored(image.shape[i], tile[i]) for i in (0, 1))
    tops, lefts = (_starts(len(places), tile[i], overlap) for i, places in enumerate((rows, columns)))

    num = max(1, min(_BATCH, _SCORES // (num_classes * tile[0] * tile[1])))

    def scored(places: list[tuple[int, int]]) -> Iterator[tuple[int, int, Tensor]]:
        for first in range(0, len(places), num):
            some = places[first : first + num]
            cut = np.stack([image[rows[y : y + tile[0], None], columns[x : x + tile[1]]] for y, x in some])
            for (y, x), part in zip(some, score(torch.from_numpy(cut)).float(), strict=True):
                yield y, x, part

    for mine, start, end in _strips(lefts, tile[1], len(columns), most // (num_classes * tile[0])):
        covered = slice(start - mine[0], min(end, image.shape[1]) - mine[0])
        if covered.start >= covered.stop:
            continue  # what was mirrored
        for row, scores in _add_up(scored(list(product(tops, mine))), tile, mine[0], mine[-1] + tile[1]):
            part = scores[:, : max(0, image.shape[0] - row), covered]
            if part.numel():
                yield Block(row, start, part)


def _add_up(
    tiles: Iterator[tuple[int, int, Tensor]], tile: tuple[int, int], left: int, right: int
) -> Iterator[tuple[int, Tensor]]:
    """First row and means (K, h, w) of the rows that no later tile touches; tiles come from top to bottom."""
    canvas, total = torch.zeros(0), torch.zeros(0)
    top = 0
    for y, x, part in tiles:
        if not canvas.numel():
            canvas = part.new_zeros(len(part), tile[0], right - left)
            total, weight = part.new_zeros(canvas.shape[1:]), _falloff(tile).to(part.device, non_blocking=True)
        if y > top:
            num = y - top
            yield from _finished(canvas, total, num, top)
            for plane in (*canvas, total):
                plane[:-num] = plane[num:].clone()
                plane[-num:] = 0
            top = y
        canvas[:, :, x - left : x - left + tile[1]] += part * weight
        total[:, x - left : x - left + tile[1]] += weight
    yield from _finished(canvas, total, tile[0], top)


def _finished(canvas: Tensor, total: Tensor, num: int, top: int) -> Iterator[tuple[int, Tensor]]:
    """The first rows of a canvas, not all at once, because dividing them takes as much memory again."""
    step = max(1, _BLOCK // (canvas.shape[0] * canvas.shape[2]))
    for i in range(0, num, step):
        rows = slice(i, min(i + step, num))
        yield top + i, canvas[:, rows] / total[rows]


def _strips(lefts: list[int], width: int, end: int, most: int) -> Iterator[tuple[list[int], int, int]]:
    """Tiles side by side, by their first columns, as many as fit, and the columns that they cover all alone.

    >>> list(_strips([0, 6, 12, 18], 8, 26, 20))
    [([0, 6, 12], 0, 18), ([12, 18], 18, 26)]
    """
    borders = [*lefts[1:], end]  # before them, no tile further right has a part
    start = 0
    while start < end:
        first = next(i for i, left in enumerate(lefts) if left + width > start)
        last = next(i for i, border in enumerate(borders) if border > start)
        while last + 1 < len(lefts) and lefts[last + 1] + width - lefts[first] <= most:
            last += 1
        yield lefts[first : last + 1], start, borders[last]
        start = borders[last]


def _mirrored(length: int, least: int) -> NDArray[np.int64]:
    """Places to read from for at least that many pixels, as ``_mirror_up_to`` mirrors them.

    >>> _mirrored(3, 6).tolist()
    [0, 1, 2, 1, 0, 1]
    """
    places = np.arange(length)
    while len(places) < least:
        lacking = least - len(places)
        more = places[-2 : -2 - lacking : -1] if len(places) > 1 else places.repeat(lacking)
        places = np.concatenate([places, more])
    return places


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
