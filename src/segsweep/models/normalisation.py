"""Batch normalisation with the ReLU behind it, as networks of convolutions have it; made for training on a CPU.

Both together read a map twice on the way forward and, with its gradient, twice on the way back, and write one
each way: half of what torch's two operations read and write (its own, moreover, takes few channels one by one).

    forward     mean, variance <- x        y <- relu((x - mean) * scale + shift)
    backward    their sums <- x, dy        dx <- x, dy       (where y is positive is computed anew from x)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsweep.kernels import ChannelPass, Lanes, channel_pass, channels, is_available, machine, where_positive
from segsweep.models.watched import is_watched

_FAR = 64  # variances between a channel's mean and the pivot, squared; float32 keeps four digits of the variance then
_LEAST_VALUES = 1 << 19  # of a map: with less to do, starting the operations around a pass takes longer


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch normalisation; quicker where a network trains on a CPU.

    Shape:
        (N, D, H, W) -> (N, D, H, W).

    Reference:
        Ioffe and Szegedy 2015, arXiv:1502.03167, as in torch. Sums over pixels are taken in float32 for some hundred
        pixels and then in float64.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises a map."""
        return self._quickly(input, False) if self._is_quick(input) else super().forward(input)

    def rectified(self, x: Tensor) -> Tensor:
        """ReLU of the normalised map."""
        return self._quickly(x, True) if self._is_quick(x) else F.relu(super().forward(x), inplace=True)

    def _is_quick(self, x: Tensor) -> bool:
        # Asked first: a compiler that meets what follows would divide its graph there.
        if torch.compiler.is_compiling() or not (self.training and torch.is_grad_enabled()):
            return False
        weights = (self.weight, self.bias)
        # In a stack (torch.vmap) they require no gradient, and could not be asked for more.
        if not all(x is not None and x.requires_grad and x.dtype == torch.float32 for x in weights):
            return False
        if not channels.fits(x) or x.numel() < _LEAST_VALUES or not is_available():
            return False
        return x.shape[1] == self.num_features and x.numel() > x.shape[1] and self.eps > 0  # torch refuses others

    def _quickly(self, x: Tensor, rectifies: bool) -> Tensor:
        y, mean, variance = _Normalisation.apply(x, self.weight, self.bias, self.eps, rectifies)
        if self.track_running_stats:
            self._remember(mean, variance, x.numel() // x.shape[1])
        return y  # type: ignore[no-any-return]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, values: int) -> None:
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        if self.running_mean is not None and self.running_var is not None and momentum is not None:
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (values / (values - 1)), momentum)


class Layers(nn.Sequential):
    """torch's ``Sequential``, which has a normalisation and the ReLU behind it read the map once."""

    def forward(self, input: Tensor) -> Tensor:
        """Applies all layers."""
        return in_turn(self, input)


def in_turn(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Applies layers one after another, a ``BatchNorm2d`` and the ReLU behind it as one."""
    left = deque(layers)
    while left:
        layer = left.popleft()
        if left and _is_pair(layer, left[0]):
            left.popleft()
            x = layer.rectified(x)  # type: ignore[operator]
        else:
            x = layer(x)
    return x


def _is_pair(layer: nn.Module, following: nn.Module) -> bool:
    is_typical = type(layer) is BatchNorm2d and type(following) is nn.ReLU
    return is_typical and not is_watched(layer) and not is_watched(following)


@channel_pass(maps=1, sums=2)
def _moments(x: Lanes, pivot: Lanes) -> tuple[Lanes, Lanes]:
    distance = x - pivot
    return distance, distance * distance


class _Passes(NamedTuple):
    """What reads and writes whole maps, apart from the moments."""

    normalised: ChannelPass
    sums: ChannelPass
    gradient: ChannelPass


@cache
def _passes(rectifies: bool) -> _Passes:
    def passed(y: Lanes, then: Lanes) -> Lanes:
        return where_positive(y, then) if rectifies else then

    @channel_pass(maps=1, writes=True)
    def normalised(x: Lanes, mean: Lanes, scale: Lanes, shift: Lanes) -> Lanes:
        y = (x - mean) * scale + shift
        return passed(y, y)

    @channel_pass(maps=2, sums=2)
    def sums(x: Lanes, of_y: Lanes, mean: Lanes, scale: Lanes, shift: Lanes) -> tuple[Lanes, Lanes]:
        distance = x - mean
        of_y = passed(distance * scale + shift, of_y)
        return of_y, of_y * distance

    @channel_pass(maps=2, writes=True)
    def gradient(x: Lanes, of_y: Lanes, mean: Lanes, scale: Lanes, shift: Lanes, slope: Lanes, level: Lanes) -> Lanes:
        distance = x - mean
        return passed(distance * scale + shift, of_y) * scale + (distance * slope + level)

    return _Passes(normalised, sums, gradient)


def compile_passes() -> None:
    """What the first training step would do, in the process that others are forked from."""
    for one in (_moments, *_passes(rectifies=False), *_passes(rectifies=True)):
        one.address(torch.bfloat16)


def _mean_and_variance(x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Of each channel, (D,) float64, and whether the pivot, (D,), was near enough for the variance to be exact."""
    off, squared = _moments([x], [pivot])[1] * (x.shape[1] / x.numel())
    variance = (squared - off.square()).clamp_(min=0)
    return pivot + off, variance, not bool((off.square() > _FAR * variance).any())


class _Normalisation(torch.autograd.Function):
    """Batch normalisation: y, and the mean and the variance (biased) of each channel, without gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, rectifies: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        # From near the mean, whose square would swallow the variance; once more where the first pixel is far away.
        mean, variance, is_near = _mean_and_variance(x, x[0, :, 0, 0].double())
        if not is_near:
            mean, variance, _ = _mean_and_variance(x, mean)
        mean, variance = mean.float(), variance.float()
        scale = weight * (variance + eps).rsqrt()
        y, _ = _passes(rectifies).normalised([x], [mean, scale, bias])
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.settings = eps, rectifies
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, of_y: Tensor | None, *_none: None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, variance = ctx.saved_tensors
        eps, rectifies = ctx.settings
        if of_y is None:
            return None, None, None, None, None
        if torch.is_grad_enabled() or not machine.reads(of_y):  # a second derivative, or many gradients at once
            return *_by_torch(x, weight, bias, of_y, eps, rectifies, ctx.needs_input_grad), None, None
        x = x.to(of_y.dtype)  # who keeps tensors elsewhere in between may give them back otherwise
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        passes = _passes(rectifies)
        of_bias, along = passes.sums([x, of_y], [mean, scale, bias])[1].float()
        values = x.numel() // x.shape[1]
        slope, level = -scale * inverse.square() * along / values, -scale * of_bias / values
        of_weight = along * inverse
        if not ctx.needs_input_grad[0]:
            return None, of_weight, of_bias, None, None
        of_x, _ = passes.gradient([x, of_y], [mean, scale, bias, slope, level])
        return of_x, of_weight, of_bias, None, None


def _by_torch(
    x: Tensor, weight: Tensor, bias: Tensor, of_y: Tensor, eps: float, rectifies: bool, needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x, weight and bias as functions that have derivatives themselves."""
    with torch.enable_grad():
        # Views, whose gradients nobody waits for: hooks are called once.
        x, weight, bias = inputs = [value.view_as(value) for value in (x, weight, bias)]
        y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
        y = F.relu(y) if rectifies else y
    wanted = [value for value, is_needed in zip(inputs, needs, strict=False) if is_needed]
    found = iter(torch.autograd.grad(y, wanted, of_y, create_graph=torch.is_grad_enabled()))
    return [next(found) if is_needed else None for is_needed in needs[: len(inputs)]]
