"""Sums over the pixels of each class, from which cross entropy and the terms that compare regions follow.

Maps of K classes are the largest tensors of a step, and passes over them take as long as the memory that they read and
write. So logits are read piece by piece, each small enough for a processor's cache, and nothing of their size is kept:
the backward pass makes the probabilities anew. On a CPU that can compile a loop (``segsweep.kernels``) a piece is 32
pixels and the logits are read once; elsewhere it is an image or so, and torch's operations follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segsweep.kernels import classes, is_available
from segsweep.types import Batch, SegmenterOutput

_LEAST_VALUES = 1 << 17  # of logits: with less to do, compiling a loop is not worth its while
_PIECE = 3 << 19  # float32 values: larger maps leave the cache, and with smaller ones starting threads takes longer


class ClassSums(NamedTuple):
    """Over the valid pixels of a batch, for each class: (K,) float32.

    With p the probability of the class at a pixel, and q 1 where the class is true and 0 elsewhere.
    """

    truth: Tensor  # sum(q), without a gradient
    entropy: Tensor  # sum(-q log p)
    overlap: Tensor  # sum(pq)
    predicted: Tensor  # sum(p)
    squared: Tensor  # sum(p^2)


def class_sums(logits: Tensor, mask: Tensor, ignore_index: int) -> ClassSums:
    """Computes them in float32, in any memory layout, in as few passes as it can be done.

    Args:
        logits: (N, K, H, W).
        mask: (N, H, W) int64, classes in ``0..K-1`` or ``ignore_index``.
        ignore_index: mask value that is left out.

    Raises:
        RuntimeError: a mask value is neither.
    """
    sums = _CompiledSums if _is_compiled(logits) else _Sums
    return ClassSums(*sums.apply(logits, mask, ignore_index))


def _is_compiled(logits: Tensor) -> bool:
    if torch.compiler.is_compiling() or logits.numel() < _LEAST_VALUES:
        return False
    return classes.fits(logits) and is_available()


class FromSums(nn.Module):
    """A term that needs nothing but ``class_sums``: a sum of several terms computes them once.

    Args:
        ignore_index: mask value that is left out.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def of(self, sums: ClassSums) -> Tensor:
        """The value of the term."""
        raise NotImplementedError

    def takes_sums(self) -> bool:
        """Whether ``of`` gives its value: not where a term has settings, or a class derived from it, that need more."""
        return type(self).forward is FromSums.forward

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor:
        """The value of the term, by itself."""
        return self.of(class_sums(output.logits, batch.mask, self.ignore_index))


class _CompiledSums(torch.autograd.Function):
    """Five sums by one loop over the logits, and their gradient by another one."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, ignore_index: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits, mask)
        ctx.ignore_index = ignore_index
        num, *others = classes.sums_of(logits, mask, ignore_index).float()
        ctx.mark_non_differentiable(num)
        return num, *others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_K: Tensor) -> tuple[Tensor | None, ...]:
        logits, mask = ctx.saved_tensors
        return classes.gradient_of(logits, mask, ctx.ignore_index, torch.stack(gradients_K[1:])), None, None


class _Sums(torch.autograd.Function):
    """Five sums in one pass over the logits, and their gradient in another one."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, ignore_index: int) -> tuple[Tensor, ...]:
        valid = mask != ignore_index
        truth = torch.where(valid, mask, 0)
        # What the softmax subtracts, and the logarithm of what it divides by: apart, as large logits would round both.
        shift, log_norm = torch.empty((2, *mask.shape), dtype=torch.float32, device=mask.device)
        (room,) = _rooms(logits, 1)
        found = [_sums_of(room, *piece) for piece in _pieces(logits, truth, valid, shift, log_norm)]
        ctx.save_for_backward(logits, truth, valid, shift, log_norm)
        ctx.set_materialize_grads(False)
        num, *others = torch.stack(found).sum(dim=0).float()
        ctx.mark_non_differentiable(num)
        return num, *others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_K: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, *maps = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        rooms = _rooms(logits, 1 if gradients_K[3] is gradients_K[4] is None else 2)
        for x, part, *others in _pieces(logits, gradient, *maps):
            of_piece = _gradient_of(rooms, x, *others, *gradients_K[1:])
            # Two steps: a copy that changes layout and precision at once takes half as long again.
            part.copy_(of_piece if gradient.is_contiguous() else of_piece.to(part.dtype))
        return gradient, None, None


def _pieces(logits_NKHW: Tensor, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of some images, or of some rows of one image; on a GPU, whose kernels cost more than its memory, of all."""
    num, _, height, _ = logits_NKHW.shape
    images, rows = _size_of_piece(logits_NKHW)
    for n in range(0, max(num, 1), images):  # a batch without images has sums, too
        for y in range(0, height, rows):
            yield tuple(x[n : n + images, ..., y : y + rows, :] for x in (logits_NKHW, *maps))


def _size_of_piece(logits_NKHW: Tensor) -> tuple[int, int]:
    """Images, and rows of each; pieces of an image are of about equal size."""
    num, channels, height, width = logits_NKHW.shape
    if logits_NKHW.device.type != "cpu":
        return max(1, num), height
    values = channels * width * height  # of an image
    return max(1, _PIECE // values), -(-height // -(-values // _PIECE))


def _rooms(logits_NKHW: Tensor, num: int) -> Tensor:
    """Memory for maps of a piece, (num, values) float32: what all pieces share stays in the cache."""
    images, rows = _size_of_piece(logits_NKHW)
    values = logits_NKHW[:images, :, :rows].numel()
    return torch.empty(num, values, dtype=torch.float32, device=logits_NKHW.device)


def _within(room: Tensor, piece_NKHW: Tensor) -> Tensor:
    """Some of the room in the shape of a piece, class by class."""
    return room[: piece_NKHW.numel()].view(piece_NKHW.shape)


def _sums_of(
    room: Tensor, logits_NKHW: Tensor, truth_NHW: Tensor, valid_NHW: Tensor, shift_NHW: Tensor, log_norm_NHW: Tensor
) -> Tensor:
    """The sums of a piece: (5, K) float64. Fills in the last two maps; a norm is infinite where pixels are ignored."""
    x = _within(room, logits_NKHW).copy_(logits_NKHW)
    torch.amax(x, dim=1, out=shift_NHW)
    of_truth = _at(x.sub_(shift_NHW[:, None]), truth_NHW)
    norm = x.exp_().sum(dim=1).masked_fill_(~valid_NHW, torch.inf)
    probability = x.mul_(norm.reciprocal()[:, None])
    entropy = torch.log(norm, out=log_norm_NHW) - of_truth
    of_classes = _by_class((None, entropy, _at(probability, truth_NHW)), truth_NHW, valid_NHW, x.shape[1])
    predicted = probability.sum((0, 2, 3))
    squared = probability.square_().sum((0, 2, 3))
    return torch.stack([*of_classes, predicted.double(), squared.double()])


def _by_class(
    values_NHW: tuple[Tensor | None, ...], truth_NHW: Tensor, valid_NHW: Tensor, num_classes: int
) -> list[Tensor]:
    """Sums of the values of each class's pixels, None for their number: (K,) float64 each."""
    by = _by_counting if truth_NHW.device.type == "cpu" else _by_masking
    return [sums.double() for sums in by(values_NHW, truth_NHW, valid_NHW, num_classes)]


def _by_counting(
    values_NHW: tuple[Tensor | None, ...], truth_NHW: Tensor, valid_NHW: Tensor, num_classes: int
) -> list[Tensor]:
    cell = torch.where(valid_NHW, truth_NHW, num_classes).flatten()
    # In float64: it adds one value after another.
    weights = [None if values is None else values.flatten().double() for values in values_NHW]
    return [torch.bincount(cell, weight, minlength=num_classes + 1)[:num_classes] for weight in weights]


def _by_masking(
    values_NHW: tuple[Tensor | None, ...], truth_NHW: Tensor, valid_NHW: Tensor, num_classes: int
) -> list[Tensor]:
    """On a GPU counting would have the host wait for the largest class, and add in another order each time."""
    classes = torch.arange(num_classes, device=truth_NHW.device).view(1, -1, 1, 1)
    of_class = (truth_NHW[:, None] == classes) & valid_NHW[:, None]
    maps = [of_class if values is None else torch.where(of_class, values[:, None], 0) for values in values_NHW]
    return [x.sum((0, 2, 3)) for x in maps]


def _gradient_of(
    rooms: Tensor,
    logits_NKHW: Tensor,
    truth_NHW: Tensor,
    valid_NHW: Tensor,
    shift_NHW: Tensor,
    log_norm_NHW: Tensor,
    entropy_K: Tensor | None,
    overlap_K: Tensor | None,
    predicted_K: Tensor | None,
    squared_K: Tensor | None,
) -> Tensor:
    """Gradient of a piece: (N, K, H, W) float32, in one of the rooms.

    By the chain rule, with y the true class of a pixel and G the gradient of its probabilities:
    p_k (G_k - sum_j p_j G_j) of the softmax, and entropy_y (p_k - q_k) of the cross entropy.
    """
    probability = _within(rooms[0], logits_NKHW).copy_(logits_NKHW)
    probability.sub_(shift_NHW[:, None]).sub_(log_norm_NHW[:, None]).exp_()  # 0 where ignored
    at_truth = torch.zeros_like(shift_NHW)  # what the true class gets alone
    if overlap_K is not None:
        at_truth += _of(overlap_K, truth_NHW) * _at(probability, truth_NHW)
    if entropy_K is not None:
        at_truth -= _of(entropy_K, truth_NHW) * valid_NHW
    of_all = -at_truth[:, None]  # what is multiplied by the probability of each class
    if squared_K is None and predicted_K is None:
        gradient = probability.mul_(of_all)
    else:
        gradient = _within(rooms[1], logits_NKHW)
        _set_to_gradient_of_probability(gradient, probability, predicted_K, squared_K)
        of_all -= gradient.mul_(probability).sum(dim=1, keepdim=True)
        gradient.addcmul_(probability, of_all)
    return gradient.scatter_add_(1, truth_NHW[:, None], at_truth[:, None])


def _set_to_gradient_of_probability(
    gradient: Tensor, probability: Tensor, predicted_K: Tensor | None, squared_K: Tensor | None
) -> None:
    """G, by the sums of the probabilities and of their squares."""
    if squared_K is not None:
        torch.mul(probability, (2 * squared_K).view(1, -1, 1, 1), out=gradient)
    if predicted_K is not None:
        linear = predicted_K.view(1, -1, 1, 1)
        if squared_K is None:
            gradient.copy_(linear)
        else:
            gradient.add_(linear)


def _at(maps_NKHW: Tensor, classes_NHW: Tensor) -> Tensor:
    """The value of one class of each pixel."""
    return maps_NKHW.gather(1, classes_NHW[:, None])[:, 0]


def _of(values_K: Tensor, classes_NHW: Tensor) -> Tensor:
    """The value of each pixel's class; plain indexing takes six times as long."""
    return values_K.index_select(0, classes_NHW.flatten()).view(classes_NHW.shape)
