"""Sums over the pixels of each class, from which cross entropy and the terms that compare regions follow.

Maps of K classes are the largest tensors of a step, and passes over them take as long as the memory that they read and
write. So nothing of their size is kept, the backward pass makes the probabilities anew, and on a CPU that can compile a
loop (``segsweep.kernels``) the logits are read once each way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segsweep.kernels import classes, tiles
from segsweep.types import Batch, SegmenterOutput


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
        ValueError: the mask has another size.
    """
    if mask.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"mask {tuple(mask.shape)} does not fit logits {tuple(logits.shape)}")
    if not torch.compiler.is_compiling() and logits.device.type == "cpu" and logits.numel() >= tiles.LEAST_VALUES:
        by_class = logits.contiguous()
        if tiles.pays(by_class, mask):
            return ClassSums(*_CompiledSums.apply(by_class, mask, ignore_index))
    return ClassSums(*_Sums.apply(logits, mask, ignore_index))


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
        ctx.settings = logits.dtype, ignore_index
        num, *others = classes.sums_of(logits, mask, ignore_index).float()
        ctx.mark_non_differentiable(num)
        return num, *others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_K: Tensor) -> tuple[Tensor | None, ...]:
        logits, mask = ctx.saved_tensors
        dtype, ignore_index = ctx.settings
        logits = logits.to(dtype).contiguous()  # who keeps tensors elsewhere in between may give them back otherwise
        return classes.gradient_of(logits, mask.long(), ignore_index, torch.stack(gradients_K[1:])), None, None


class _Sums(torch.autograd.Function):
    """The same by operations of torch: on a GPU, and where no loop can be compiled."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, ignore_index: int) -> tuple[Tensor, ...]:
        valid = mask != ignore_index
        truth = torch.where(valid, mask, 0)
        x = _in_float32(logits)
        # What the softmax subtracts, and the logarithm of what it divides by: apart, as large logits would round both.
        shift = x.amax(dim=1)
        of_truth = _at(x.sub_(shift[:, None]), truth)
        norm = x.exp_().sum(dim=1).masked_fill_(~valid, torch.inf)
        log_norm = norm.log()
        p = x.mul_(norm.reciprocal()[:, None])
        of_class = (truth[:, None] == _numbers(p)) & valid[:, None]
        maps = ((log_norm - of_truth)[:, None], p)
        of_truths = (torch.where(of_class, values, 0).sum((0, 2, 3)) for values in maps)
        sums = (of_class.sum((0, 2, 3)).float(), *of_truths, p.sum((0, 2, 3)), p.square_().sum((0, 2, 3)))
        ctx.save_for_backward(logits, truth, valid, shift, log_norm)
        ctx.mark_non_differentiable(sums[0])
        ctx.set_materialize_grads(False)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_K: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, truth, valid, shift, log_norm = ctx.saved_tensors
        _, of_entropy, of_overlap, of_predicted, of_squared = gradients_K
        p = _in_float32(logits).sub_(shift[:, None]).sub_(log_norm[:, None]).exp_()  # 0 where ignored
        at_truth = torch.zeros_like(shift)  # what the true class gets alone
        if of_overlap is not None:
            at_truth += of_overlap[truth] * _at(p, truth)
        if of_entropy is not None:
            at_truth -= of_entropy[truth] * valid
        gradient = _of_probability(p, of_predicted, of_squared)
        along = at_truth[:, None]
        if gradient is None:
            gradient = p.mul_(-along)
        else:
            along = along + gradient.mul_(p).sum(dim=1, keepdim=True)
            gradient.addcmul_(p, along, value=-1)
        gradient.scatter_add_(1, truth[:, None], at_truth[:, None])
        return gradient.to(logits.dtype).contiguous(memory_format=_layout(logits)), None, None


def _of_probability(p_NKHW: Tensor, of_predicted_K: Tensor | None, of_squared_K: Tensor | None) -> Tensor | None:
    """The gradient of all probabilities, by their sums and the sums of their squares."""
    if of_squared_K is None:
        return None if of_predicted_K is None else of_predicted_K.view(1, -1, 1, 1).expand_as(p_NKHW).clone()
    gradient = p_NKHW * (2 * of_squared_K).view(1, -1, 1, 1)
    return gradient if of_predicted_K is None else gradient.add_(of_predicted_K.view(1, -1, 1, 1))


def _in_float32(logits_NKHW: Tensor) -> Tensor:
    """A copy."""
    return logits_NKHW.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _layout(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _numbers(maps_NKHW: Tensor) -> Tensor:
    """Those of the classes: (1, K, 1, 1)."""
    return torch.arange(maps_NKHW.shape[1], device=maps_NKHW.device).view(1, -1, 1, 1)


def _at(maps_NKHW: Tensor, classes_NHW: Tensor) -> Tensor:
    """The value of one class of each pixel."""
    return maps_NKHW.gather(1, classes_NHW[:, None])[:, 0]
