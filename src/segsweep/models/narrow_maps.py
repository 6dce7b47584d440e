"""Convolutions of narrow maps, as deep ones are; made for training on a CPU with matrix units (AMX).

oneDNN, which convolves for torch on CPUs, sums the gradient of the weights row by row of a map, and a matrix unit takes
32 pixels of a row at once: it multiplies zeros two thirds of its time if a row has 10. Here the rows of all images lie
behind each other, and the gradient is one product of matrices:

    gradient of the result (E, pixels) @ (pixels, k * k * C) values under the taps of each pixel = (E, k * k * C)

The right one is k * k times as large as the map, which is little where maps are small.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDEST = 12  # pixels of a row; from 16 on oneDNN is as quick
_LEAST_PRODUCTS = 40_000_000  # pixels times taps times channels in times channels out; with less to do, too
_MOST_VALUES = 1 << 25  # of the right matrix: 64 MB


class Conv2d(nn.Conv2d):
    """torch's convolution; where a network trains in bf16 on narrow maps the gradient of its weights comes sooner."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (_trains_in_bf16(x, weight) and self._is_plain() and self._pays(x)):
            return super()._conv_forward(x, weight, bias)  # type: ignore[no-any-return]
        result: Tensor = _Convolution.apply(x.bfloat16(), weight.bfloat16(), self.stride, self.padding)
        return result

    def _is_plain(self) -> bool:
        settings = (self.dilation, self.groups, self.padding_mode, self.bias is None)
        return settings == ((1, 1), 1, "zeros", True) and not isinstance(self.padding, str)

    def _pays(self, x: Tensor) -> bool:
        height, width = (
            (x.shape[i] + 2 * int(self.padding[i]) - self.kernel_size[i]) // self.stride[i] + 1 for i in (-2, -1)
        )
        pixels = len(x) * height * width
        values = pixels * self.weight[0].numel()
        return width <= _WIDEST and values <= _MOST_VALUES and values * self.out_channels >= _LEAST_PRODUCTS


def _trains_in_bf16(x: Tensor, weight: Tensor) -> bool:
    # Asked first: a compiler that meets what follows would divide its graph there.
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dim() != 4:
        return False
    if not (weight.requires_grad and torch.is_grad_enabled()):  # where torch.vmap stacks weights they require none
        return False
    is_autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if is_autocast else x.dtype
    allowed = {torch.bfloat16, torch.float32} if is_autocast else {torch.bfloat16}
    return dtype == torch.bfloat16 and {x.dtype, weight.dtype} <= allowed and _has_matrix_units()


@cache
def _has_matrix_units() -> bool:
    tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 has no such function
    return tell is not None and bool(tell().get("amx_bf16"))


class _Convolution(torch.autograd.Function):
    """A convolution without a bias whose weights have the gradient of ``gradient_of_weight``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.settings = inputs[2:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.settings
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            settings = (None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False))
            of_x = torch.ops.aten.convolution_backward(gradient, x, weight, *settings)[0]
        if ctx.needs_input_grad[1]:
            of_weight = gradient_of_weight(x, gradient, weight.shape[-2:], stride, padding)
        return of_x, of_weight, None, None


def gradient_of_weight(
    x: Tensor, gradient: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The gradient of the weights of a convolution.

    Args:
        x: what was convolved, (N, C, H, W).
        gradient: of the result, (N, E, h, w).
        kernel: height and width of the weights, pixels.
        stride: down and to the right, pixels.
        padding: zeros above and below, and at the left and right of each image, pixels.

    Returns:
        (E, C, *kernel), channels last.
    """
    num, channels, *_ = x.shape
    _, out_channels, height, width = gradient.shape
    # (H, N, W, C): rows of all images behind each other.
    padded = F.pad(x.permute(2, 0, 3, 1), (0, 0, padding[1], padding[1], 0, 0, padding[0], padding[0]))
    down, image, right, channel = padded.stride()
    under_taps = padded.as_strided(
        (height, num, width, *kernel, channels), (stride[0] * down, image, stride[1] * right, down, right, channel)
    )
    flat = under_taps.reshape(height * num * width, -1)
    product = gradient.permute(1, 2, 0, 3).reshape(out_channels, -1) @ flat
    return product.view(out_channels, *kernel, channels).permute(0, 3, 1, 2)
