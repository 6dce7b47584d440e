"""Maps that go up a level by repetition, and the convolution that smooths them; both made for training on a CPU.

A 3x3 kernel on a map whose pixels are repeated twice in height and width meets each pixel several times: taps that fall
on the same one can be added first, and of nine four are left, another four for each of the four places that a fine
pixel has in its coarse one:

    taps of a row          a b c              a b c
    fine pixels       . x [x y y] y .    . x x [y y z] z .      (the middle one is computed)
    coarse pixels          a b+c              a+b c

So the repeated map is never made, and its share of the convolution takes 4/9 of the multiplications.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from segsweep.models.narrow_maps import Conv2d
from segsweep.models.watched import is_watched

# With less to do, starting more operations takes longer than what they spare.
_LEAST_PIXELS = 4_000  # of the coarse maps of a batch
_LEAST_PRODUCTS = 40_000_000  # these pixels times channels in times channels out


def repeat(x: Tensor, skip: Tensor | None = None) -> Tensor:
    """Nearest-neighbour resize of (N, D, h, w), to the size of a skip or twice its own, beside the skip's channels."""
    if skip is None:
        return with_own_gradient(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    resized = F.interpolate(x, skip.shape[-2:], mode="nearest")
    return torch.cat([with_own_gradient(resized), skip], dim=1)


def with_own_gradient(resized: Tensor) -> Tensor:
    """Has the gradient of a resized map (N, D, H, W) come by itself and not as some channels of a larger one.

    The latter is what comes back from a concatenation with a skip, and what torch's CPU code of a resize turns around
    in memory and back, in twenty times the time of the backward pass.
    """
    if resized.requires_grad and resized.device.type == "cpu" and not torch.compiler.is_compiling():
        resized.register_hook(_by_itself)  # type: ignore[no-untyped-call]
    return resized


class OwnGradients(TorchFunctionMode):
    """Does for what another library resizes what ``repeat`` does for the models here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function."""
        result = func(*args, **(kwargs or {}))
        return with_own_gradient(result) if func is F.interpolate else result


def _by_itself(gradient: Tensor) -> Tensor:
    is_channels_last = gradient.dim() == 4 and gradient.stride(1) == 1
    return gradient.contiguous(memory_format=torch.channels_last) if is_channels_last else gradient


def conv_of_repeated(conv: nn.Conv2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """``conv(repeat(x, skip))``, up to rounding; sooner where a network trains on a CPU and there is enough to do.

    Args:
        conv: of D + S channels to E.
        x: (N, D, h, w).
        skip: (N, S, H, W), or None where S is 0.

    Returns:
        (N, E, H, W), (N, E, 2h, 2w) without a skip.
    """
    if not pays(conv, x, skip):
        return conv(repeat(x, skip))  # type: ignore[no-any-return]
    weight, of_skip, bias = conv.weight[:, : x.shape[1]], None, conv.bias
    if skip is not None:
        of_skip, bias = F.conv2d(skip, conv.weight[:, x.shape[1] :], bias, padding=1), None
        of_skip = of_skip.contiguous(memory_format=torch.channels_last)  # one of a single channel may have any layout
    bias = None if bias is None else bias.repeat(2)
    # Rows of even and of odd numbers. Of a row's pixels the odd ones come first: behind each other in memory, channels
    # of one coarse pixel and of the next are then those of fine pixels in their order, one column further left.
    kernels = (torch.cat(_merged(taps, dim=3)[::-1]) for taps in _merged(weight, dim=2))
    kernels = (kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels)
    rows = (F.conv2d(x, kernel, bias, padding=1) for kernel in kernels)
    result: Tensor = _Interleaved.apply(*rows, of_skip)
    return result


def pays(conv: nn.Conv2d, x: Tensor, skip: Tensor | None) -> bool:
    """Whether ``conv_of_repeated`` takes the quick way: it is right for these arguments, and there is enough to do."""
    # In a stack (torch.vmap) nothing requires a gradient, and what follows could not be asked there.
    if not (conv.training and x.requires_grad and x.device.type == "cpu") or torch.compiler.is_compiling():
        return False
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    if pixels < _LEAST_PIXELS or pixels * x.shape[1] * conv.out_channels < _LEAST_PRODUCTS:
        return False
    settings = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    if (
        type(conv) not in (nn.Conv2d, Conv2d)
        or is_watched(conv)
        or settings != ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    ):
        return False
    maps = [x] if skip is None else [x, skip]
    is_alike = all(y.dtype == x.dtype and y.is_contiguous(memory_format=torch.channels_last) for y in maps)
    return is_alike and (skip is None or (skip.shape[-2], skip.shape[-1]) == (2 * x.shape[-2], 2 * x.shape[-1]))


def _merged(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Taps along a dimension, three of them, as the two that even and that odd fine pixels have."""
    a, b, c = (weight.narrow(dim, i, 1) for i in range(3))
    return torch.cat([a, b + c], dim), torch.cat([a + b, c], dim)


class _Interleaved(torch.autograd.Function):
    """Puts rows of fine pixels, even and odd, in their order, and adds them to what comes from the skip.

    Shape:
        even and odd (N, 2E, h + 1, w + 1), of_skip (N, E, 2h, 2w) or None, overwritten -> (N, E, 2h, 2w).
    """

    @staticmethod
    def forward(ctx: Any, even: Tensor, odd: Tensor, of_skip: Tensor | None) -> Tensor:
        num, twice, height, width = even.shape
        ctx.shape = num, twice // 2, height - 1, width - 1
        if of_skip is None:
            size = (num, twice // 2, 2 * (height - 1), 2 * (width - 1))
            result = torch.empty(size, dtype=even.dtype, memory_format=torch.channels_last)
        else:
            ctx.mark_dirty(of_skip)
            result = of_skip
        pairs = _pairs_of_rows(result, *ctx.shape)
        for i, rows in enumerate((even, odd)):
            mine = _inner(rows.permute(0, 2, 3, 1).flatten(2), i, *ctx.shape[1:])
            if of_skip is None:
                pairs[:, :, i].copy_(mine)
            else:
                pairs[:, :, i].add_(mine)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        num, channels, height, width = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        pairs = _pairs_of_rows(gradient, *ctx.shape)
        found = []
        for i in range(2):
            rows = gradient.new_empty(num, height + 1, (width + 1) * 2 * channels)
            # What no fine pixel comes from: a row, and half a pixel at both ends of each.
            rows[:, height if i == 0 else 0] = 0
            rows[..., :channels] = 0
            rows[..., -channels:] = 0
            _inner(rows, i, channels, height, width).copy_(pairs[:, :, i])
            found.append(rows.view(num, height + 1, width + 1, 2 * channels).permute(0, 3, 1, 2))
        return *found, gradient if ctx.needs_input_grad[2] else None


def _pairs_of_rows(x: Tensor, num: int, channels: int, height: int, width: int) -> Tensor:
    """(N, E, 2h, 2w), channels last, as (N, h, 2, 2wE): the rows of a coarse pixel beside each other."""
    return x.permute(0, 2, 3, 1).view(num, height, 2, 2 * width * channels)


def _inner(rows: Tensor, parity: int, channels: int, height: int, width: int) -> Tensor:
    """The part (N, h, 2wE) of (N, h + 1, 2(w + 1)E) that fine pixels come from."""
    return rows[:, parity : parity + height, channels : channels + 2 * width * channels]
