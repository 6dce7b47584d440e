"""What is predicted of one image, at its own size and a block at a time: of a large image never all at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segsweep.counting import best_class
from segsweep.tiling import Block

_AT_ONCE = 32_000_000  # values, of classes times pixels, that are resized in one piece: 128 MB
_BLOCK = 8_000_000  # values of a block beyond that


@dataclass(frozen=True)
class Answer:
    """Scores of one image.

    Attributes:
        size: (H, W) of the image.
        num_classes: K.
        blocks: yields rectangles that cover each pixel once; may be asked for again, and then computes again what did
            not fit into memory.
    """

    size: tuple[int, int]
    num_classes: int
    blocks: Callable[[], Iterator[Block]]

    def classes(self) -> NDArray[np.uint8]:
        """(H, W) class numbers."""
        found = np.empty(self.size, np.uint8)
        for block in self.blocks():
            found[block.place] = classes_of(block)
        return found

    def probabilities(self) -> NDArray[np.float32]:
        """(K, H, W), of each class."""
        found = np.empty((self.num_classes, *self.size), np.float32)
        for block in self.blocks():
            found[(slice(None), *block.place)] = probabilities_of(block)
        return found

    def entropy(self) -> NDArray[np.float32]:
        """(H, W), 0 where one class is certain to 1 where all are equally likely."""
        found = np.empty(self.size, np.float32)
        for block in self.blocks():
            found[block.place] = entropy_of(block)
        return found


def classes_of(block: Block) -> NDArray[np.uint8]:
    """(h, w) class numbers of a block."""
    classes: NDArray[np.uint8] = best_class(block.scores[None])[1][0].to(torch.uint8).cpu().numpy()
    return classes


def probabilities_of(block: Block) -> NDArray[np.float32]:
    """(K, h, w) of a block."""
    probabilities: NDArray[np.float32] = block.scores.softmax(dim=0).cpu().numpy()
    return probabilities


def entropy_of(block: Block) -> NDArray[np.float32]:
    """(h, w) of a block, as a share of what K equally likely classes have."""
    logarithms = block.scores.log_softmax(dim=0)
    nats = -(logarithms.exp() * logarithms).nan_to_num().sum(dim=0)
    entropy: NDArray[np.float32] = (nats / max(np.log(len(block.scores)), 1e-9)).clamp(0, 1).cpu().numpy()
    return entropy


def resized_blocks(scores: Tensor, size: tuple[int, int], at_once: int = _AT_ONCE) -> Iterator[Block]:
    """Scores (K, h, w) at another size (H, W): bilinear, as ``F.interpolate`` resizes the whole of them.

    Args:
        scores: float32.
        size: (H, W).
        at_once: values up to which they are resized in one piece.
    """
    if scores.shape[1:] == size:
        yield Block(0, 0, scores)
        return
    num = len(scores) * size[1]
    if num * size[0] <= at_once:
        yield Block(0, 0, F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0])
        return
    (above, below, down), (left, right, across) = (
        _neighbours(scores.shape[i + 1], size[i], scores.device) for i in (0, 1)
    )
    step = max(1, _BLOCK // num)
    for row in range(0, size[0], step):
        rows = slice(row, min(row + step, size[0]))
        first, end = int(above[rows.start]), int(below[rows.stop - 1]) + 1
        source = scores[:, first:end]
        wide = source[..., left] * (1 - across) + source[..., right] * across
        share = down[rows, None]
        yield Block(row, 0, wide[:, above[rows] - first] * (1 - share) + wide[:, below[rows] - first] * share)


def _neighbours(length: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``target`` pixels: the one before and the one after it among ``length``, and the share of the latter.

    In the arithmetic of ``F.interpolate``: pixel centres, float32.
    """
    place = ((torch.arange(target, device=device) + 0.5) * (length / target) - 0.5).clamp_min(0)
    before = place.floor().long().clamp_max(length - 1)
    return before, (before + 1).clamp_max(length - 1), place - before
