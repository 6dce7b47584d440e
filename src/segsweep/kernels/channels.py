"""Passes over maps, channels last, with vectors of one value a channel beside them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.writer import LANES, Lanes, Writer

_BLOCK = 1 << 14  # values of a map that are read at a time, 32 KB: they stay in the cache until all channels are done


def fits(x: Tensor) -> bool:
    """Whether a pass can read a map (N, D, H, W): in bf16 or float32, channels last, with pixels that fill the lanes.

    A row of lanes holds several pixels where there are few channels, so many that lanes and channels come out even.
    """
    if x.dtype not in (torch.bfloat16, torch.float32) or x.dim() != 4 or not machine.reads(x):
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not (x.numel() // x.shape[1]) % _pixels_of_row(x)


def _pixels_of_row(x: Tensor) -> int:
    return LANES // math.gcd(LANES, x.shape[1])


def channel_pass(*, maps: int, writes: bool = False, sums: int = 0) -> Callable[[Callable[..., Any]], ChannelPass]:
    """Makes a ``ChannelPass`` of the function below it.

    Args:
        maps: how many of its parameters are values of maps; the others are those of vectors.
        writes: whether the first thing that it returns are values of a new map.
        sums: how many things it returns besides, which are added up channel by channel.
    """
    return lambda expression: ChannelPass(expression, maps, writes, sums)


class ChannelPass:
    """A loop over all values of some maps.

        @channel_pass(maps=1, writes=True)
        def affine(x, scale, shift):
            return x * scale + shift

        y_NDHW, _ = affine([x_NDHW], [scale_D, shift_D])

    Each thread takes a part of the pixels, so sums round differently with another number of threads.

    Args:
        expression: takes and returns ``Lanes``.
        maps: see ``channel_pass``, as all that follow.
        writes: see there.
        sums: see there.
    """

    def __init__(self, expression: Callable[..., Any], maps: int, writes: bool, sums: int) -> None:
        self.expression, self.maps, self.writes, self.sums = expression, maps, writes, sums
        self.vectors = len(inspect.signature(expression).parameters) - maps

    def __call__(self, maps: Sequence[Tensor], vectors: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Runs over the maps.

        Args:
            maps: (N, D, H, W), all of one shape. The first one ``fits``, apart from its layout, and the others are made
                like it.
            vectors: (D,), of any floating type.

        Returns:
            The new map, of the first one's type, channels last, and the sums, (sums, D) float64. Where there is none,
            a tensor without values.

        Raises:
            ValueError: other maps or vectors.
        """
        maps = [y.to(maps[0].dtype).contiguous(memory_format=torch.channels_last) for y in maps]
        x, *others = maps
        channels, pixels = x.shape[1], _pixels_of_row(x)
        is_right = fits(x) and all(y.shape == x.shape for y in others) and all(y.shape == (channels,) for y in vectors)
        if not is_right or (len(maps), len(vectors)) != (self.maps, self.vectors):
            raise ValueError(f"a pass over {self.maps} maps of one shape and {self.vectors} vectors of their channels")
        vectors = [y.float().expand(pixels, channels).contiguous() for y in vectors]
        result = torch.empty_like(x) if self.writes else x.new_empty(0)
        size = (torch.get_num_threads(), self.sums, pixels, channels)
        sums = torch.zeros(size, dtype=torch.float64, device=x.device)
        width = pixels * channels
        sizes = (x.numel() // width, width, max(1, _BLOCK // width))
        machine.run(self.address(x.dtype), (*sizes, *(y.data_ptr() for y in (*maps, result, *vectors, sums))))
        return result, sums.sum(dim=(0, 2))

    @cache  # noqa: B019  passes live as long as the process
    def address(self, dtype: torch.dtype) -> int:
        """Of the loop over maps of a type, compiled when it is first asked for."""
        name = self.expression.__name__
        return machine.compiled(self._written(name, dtype), name)

    def _written(self, name: str, dtype: torch.dtype) -> str:
        """The loop in LLVM's language."""
        to = Writer(name)
        build, one = to.builder, to.int64(1)
        rows, width, block = (to.argument() for _ in range(3))
        *maps, result = (to.pointer(to.kind(dtype)) for _ in range(self.maps + 1))
        *vectors, totals = (to.pointer(kind) for kind in (*[to.float32] * self.vectors, to.float64))
        thread, start, end = to.share(rows)
        zeros = [to.constant(0.0)] * self.sums
        with to.loop(start, end, block) as several:
            stop = to.least(build.add(several.number, block), end)
            with to.loop(to.int64(0), width, to.int64(LANES)) as some:
                beside = [to.read(vector, some.number) for vector in vectors]
                with to.loop(several.number, stop, one, zeros) as row:
                    place = build.add(build.mul(row.number, width), some.number)
                    found = self.expression(*(to.read(values, place) for values in maps), *beside)
                    found = list(found) if isinstance(found, tuple) else [found]
                    if self.writes:
                        to.write(found.pop(0), result, place)
                    row.carried = [
                        (Lanes(to, total) + more).value for total, more in zip(row.carried, found, strict=True)
                    ]
                # In float64 from here on: a block has at most 512 rows, a map has millions.
                for i, total in enumerate(row.carried):
                    place = build.mul(build.add(build.mul(thread, to.int64(self.sums)), to.int64(i)), width)
                    place = build.add(place, some.number)
                    wide = build.fpext(total, to.vector(to.float64))
                    to.store(build.fadd(to.load(totals, place), wide), totals, place)
        return to.finish()
