"""What terms that compare with labels share: the truth as one-hot maps, and means over the pixels that count."""

import torch
from torch import Tensor

from segsweep.types import SegmenterOutput

_LEAST_VALUES = 1 << 18  # fewer are in a cache, in any order


def by_class(output: SegmenterOutput) -> SegmenterOutput:
    """Has logits lie class by class in memory on a CPU.

    Once, for what the loss, its gradient and the counts would each make by themselves. A GPU reads any layout as
    quickly.
    """
    logits = output.logits
    if logits.device.type != "cpu" or logits.numel() < _LEAST_VALUES:
        return output
    return output._replace(logits=logits.contiguous())


def for_terms(logits_NKHW: Tensor) -> Tensor:
    """In float32 and class by class in memory: terms of channels_last logits would take three times as long.

    Done once for all terms of a sum; what has that layout already is not copied.
    """
    return logits_NKHW.to(torch.float32, memory_format=torch.contiguous_format)


def one_hot(logits_NKHW: Tensor, mask_NHW: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """The truth in the layout and precision of ``for_terms``.

    Returns:
        logits (N, K, H, W) float32, truth (N, K, H, W) float32 one-hot, all 0 where ignored, valid (N, 1, H, W) bool.
    """
    valid = (mask_NHW != ignore_index)[:, None]
    classes = torch.arange(logits_NKHW.shape[1], device=mask_NHW.device).view(1, -1, 1, 1)
    truth = (mask_NHW[:, None] == classes) & valid  # also right where ignore_index is the number of a class
    return for_terms(logits_NKHW), truth.float(), valid


def mean_over(value_NKHW: Tensor, valid_N1HW: Tensor) -> Tensor:
    """Mean over valid pixels and all of K, 0 without any."""
    num_values = valid_N1HW.sum() * value_NKHW.shape[1]
    return (value_NKHW * valid_N1HW).sum() / num_values.clamp(min=1)


def mean_of_present(loss_K: Tensor, truth_K: Tensor) -> Tensor:
    """Mean over the classes with at least one pixel in the truth, 0 without any.

    A class that the batch does not show is left out: its score would be the same whatever the model says.
    """
    present_K = truth_K > 0
    return (loss_K * present_K).sum() / present_K.sum().clamp(min=1)
