"""What every metric follows from: counts per image, made on the device without making the host wait.

Pixels with ``ignore_index`` are counted nowhere. Class numbers are converted to the shortest integers that do: these
passes over whole maps take as long as the memory that they read and write.
"""

from collections.abc import Sequence
from math import hypot, isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

_CACHE_LINE = 64  # bytes

NUM_BINS = 15  # of confidence, as in Guo et al. 2017
_TOLERANCE = 0.0075  # of the diagonal, as in the SegNet paper
_BITS = 15  # of an int16 that is never negative
_ALL_BITS = (1 << _BITS) - 1


def best_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each pixel and the class that has it: what ``logits.max(dim=1)`` returns, sooner.

    On a CPU torch looks for a maximum pixel by pixel, but pools many pixels at a time. Pooling over an axis of classes
    takes a tenth of the time (192x256, 12 classes), a third if values have to be put class by class in memory first,
    which is done where a pixel's values fill one cache line at most.

    Args:
        logits: (N, K, H, W) floats, H and W at least 1.

    Returns:
        values (N, H, W) and classes (N, H, W) int64, the first class where several are equal. Where a value is NaN the
        class is any one of those that are.
    """
    num, num_classes, height, width = logits.shape
    is_by_class = logits.is_contiguous() or num_classes * logits.element_size() <= _CACHE_LINE
    if logits.device.type != "cpu" or not is_by_class:
        values, classes = logits.max(dim=1)
        return values, classes
    # Pixels take the place of channels, in the memory format in which pooling goes through them side by side.
    by_class = logits.contiguous().view(num, num_classes, 1, height * width).permute(0, 3, 1, 2)
    values, classes = F.max_pool2d(by_class, (num_classes, 1), return_indices=True)
    return values.view(num, height, width), classes.view(num, height, width)


def confusion_per_image(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Counts (truth, prediction) pairs in each image.

    Args:
        prediction: (N, H, W) int64, classes in ``0..K-1``.
        mask: (N, H, W) int64, classes in ``0..K-1`` or ``ignore_index``.
        num_classes: K.
        ignore_index: mask value that is left out.

    Returns:
        (N, K, K) int64 on the same device, truth in rows.
    """
    prediction, mask = prediction.int(), mask.int()
    counts = _histogram(torch.add(prediction, mask, alpha=num_classes), mask != ignore_index, num_classes**2)
    return counts.view(-1, num_classes, num_classes)


def pooled_confusion(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Counts (truth, prediction) pairs of all images together, in as few operations as it can be done.

    Args:
        prediction: (N, H, W) int64, classes in ``0..K-1``.
        mask: (N, H, W) int64, 0..255; K and more are left out.
        num_classes: K.

    Returns:
        (K, K) int64 on the same device, truth in rows.
    """
    # Rows up to 255, of which those from K on are dropped.
    cell = torch.add(prediction, mask, alpha=num_classes).flatten()
    counts = totals(cell, 256 * num_classes)
    return counts[: num_classes * num_classes].view(num_classes, num_classes)


def calibration_per_image(confidence: Tensor, is_right: Tensor, valid: Tensor) -> Tensor:
    """Counts pixels by the confidence of their prediction: 15 equal bins of 0..1, each with its upper end.

    Args:
        confidence: (N, H, W) float32 in 0..1, the largest probability of each pixel.
        is_right: (N, H, W) bool, whether the class that has it is the true one.
        valid: (N, H, W) bool.

    Returns:
        (N, 15, 3) float64 on the same device: pixels, the sum of their confidences, pixels that are right.
    """
    bins = (confidence * NUM_BINS).ceil_().int().clamp_(1, NUM_BINS).sub_(1)
    wrong, right = _histogram_of_two(bins, is_right, valid, NUM_BINS)
    return torch.stack([wrong + right, _histogram(bins, valid, NUM_BINS, confidence), right], dim=-1)


def boundary_per_image(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Counts boundary pixels of each class, and those that have a counterpart within the tolerance.

    A pixel lies on the boundary if one of its four neighbours has another class; ignored neighbours and the image's
    edge make no boundary, and the prediction is ignored where the truth is. The counterpart is a boundary pixel of the
    same class in the other map, at a Euclidean distance of at most 0.75 % of the image's diagonal, 1 pixel at least.

    A class is one bit of a map, so that one dilation serves 15 classes.

    Args:
        prediction: (N, H, W) integers, classes in ``0..K-1``.
        mask: (N, H, W) int64, classes in ``0..K-1`` or ``ignore_index``.
        num_classes: K.
        ignore_index: mask value that is left out.

    Returns:
        (N, K, 4) int64 on the same device: predicted boundary pixels, those of them with a counterpart, true boundary
        pixels, those of them with a counterpart.
    """
    maps = [labels.to(torch.int16) for labels in (prediction, mask)]
    ignored = mask == ignore_index
    edges = [_edge(labels, ignored) for labels in maps]
    met = [torch.zeros_like(ignored) for _ in maps]
    radius = squared_tolerance(mask.shape[-2:])
    for first in range(0, num_classes, _BITS):
        bits = [_bits(labels, edge, first) for labels, edge in zip(maps, edges, strict=True)]
        for own, other, found in zip(bits, reversed(bits), met, strict=True):
            found |= (own & _dilate(other, radius)) != 0
    counts = []
    for labels, edge, found in zip(maps, edges, met, strict=True):
        without, having = _histogram_of_two(labels, found, edge, num_classes)
        counts += [without + having, having]
    return torch.stack(counts, dim=-1)


def squared_tolerance(size: Sequence[int]) -> float:
    """How far a counterpart may lie in an image of (h, w) pixels, squared."""
    return max(1.0, _TOLERANCE * hypot(*size)) ** 2


def _edge(labels_NHW: Tensor, ignored_NHW: Tensor) -> Tensor:
    """(N, H, W) bool: whether one of the four neighbours has another class, ignored ones left aside."""
    edge = torch.zeros_like(ignored_NHW)
    for axis in (-2, -1):
        length = labels_NHW.shape[axis] - 1
        first, second = (labels_NHW.narrow(axis, start, length) for start in (0, 1))
        is_ignored = ignored_NHW.narrow(axis, 0, length) | ignored_NHW.narrow(axis, 1, length)
        differ = (first != second) & ~is_ignored
        edge.narrow(axis, 0, length).logical_or_(differ)
        edge.narrow(axis, 1, length).logical_or_(differ)
    return edge


def _bits(labels_NHW: Tensor, edge_NHW: Tensor, first: int) -> Tensor:
    """(N, H, W) int16: bit i is set on the boundary of class ``first + i``."""
    place = labels_NHW - first
    counted = edge_NHW if first == 0 else edge_NHW & (place >= 0)
    # Classes beyond these 15 have the sixteenth bit, which is dropped.
    return torch.where(counted, torch.ones_like(place) << place.clamp(0, _BITS), 0) & _ALL_BITS


def _dilate(bits_NHW: Tensor, squared_radius: float) -> Tensor:
    """Sets each bit in the whole disc around every pixel that has it.

    A disc is a pile of rows: rows grow pixel by pixel, and each is laid where the disc is as wide.
    """
    radius = isqrt(int(squared_radius))
    half_width = [isqrt(int(squared_radius - dy**2)) for dy in range(radius + 1)]
    row, disc = bits_NHW.clone(), torch.zeros_like(bits_NHW)
    for half in range(radius + 1):
        if half > 0:
            row[..., half:] |= bits_NHW[..., :-half]
            row[..., :-half] |= bits_NHW[..., half:]
        for dy in (dy for dy in range(min(radius + 1, bits_NHW.shape[-2])) if half_width[dy] == half):
            disc[..., dy:, :] |= row[..., : row.shape[-2] - dy, :]
            if dy > 0:
                disc[..., :-dy, :] |= row[..., dy:, :]
    return disc


def _histogram_of_two(
    bins_NHW: Tensor, is_second_NHW: Tensor, counted_NHW: Tensor, num_bins: int
) -> tuple[Tensor, Tensor]:
    """Counts pixels of two kinds apart, in one pass: (N, num_bins) of those that are not and those that are second."""
    both = _histogram(torch.add(bins_NHW, is_second_NHW, alpha=num_bins), counted_NHW, 2 * num_bins)
    return both[:, :num_bins], both[:, num_bins:]


def _histogram(bins_NHW: Tensor, counted_NHW: Tensor, num_bins: int, weight_NHW: Tensor | None = None) -> Tensor:
    """Counts in each image, or sums in float64, of the pixels that are counted: (N, num_bins)."""
    num = len(bins_NHW)
    offset = torch.arange(num, dtype=torch.int32, device=bins_NHW.device).view(-1, 1, 1) * num_bins
    # What is not counted goes into one more bin behind all others, which is then dropped.
    cell = torch.where(counted_NHW, offset + bins_NHW, num * num_bins).flatten()
    weight = None if weight_NHW is None else weight_NHW.flatten().double()
    return totals(cell, num * num_bins + 1, weight)[:-1].view(num, num_bins)


def totals(cell: Tensor, num_cells: int, weight: Tensor | None = None) -> Tensor:
    """How often each cell occurs in (n,) integers, or the sum of its weights: (num_cells,)."""
    if cell.device.type == "cpu":
        return torch.bincount(cell, weight, minlength=num_cells)
    # bincount would wait for the device to know the largest value.
    ones = torch.ones_like(cell, dtype=torch.int64) if weight is None else weight
    return torch.zeros(num_cells, dtype=ones.dtype, device=cell.device).index_add_(0, cell, ones)
