"""Boundary pixels of two maps of classes, and those with a counterpart nearby in the other one, by two loops.

The maps lie side by side, prediction and truth of all images, int16, with a margin of what is no class (-1) as wide as
the tolerance, so that no neighbour has to be asked whether it lies in the image. The first loop leaves what is a
boundary. The second one compares each boundary pixel with those of the other map within reach, 32 at a time, and passes
over where there is none: how many classes there are does not matter.
"""

from __future__ import annotations

from functools import cache
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segsweep.kernels import machine
from segsweep.kernels.writer import LANES, Writer

_NOTHING = -1
_STEPS = 16  # after which it is asked whether any is left to do
_MET = 32  # bits: a count of pixels, and above it one of those that have a counterpart
_MOST_CLASSES = 1 << 15


def compile_functions() -> None:
    """All there are."""
    _edges()
    _matches()


def fits(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int) -> bool:
    """Whether both can be read here: (N, H, W) integers, and class numbers that are int16."""
    if not all(machine.reads(x) and not x.dtype.is_floating_point for x in (prediction, mask)):
        return False
    if prediction.shape != mask.shape or mask.dim() != 3:
        return False
    return num_classes <= _MOST_CLASSES and -_MOST_CLASSES <= ignore_index < _MOST_CLASSES


def boundaries_of(
    prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int, squared_radius: float
) -> Tensor:
    """Counts boundary pixels of each class and image.

    Args:
        prediction: (N, H, W) integers, classes in ``0..K-1``.
        mask: (N, H, W) integers, classes in ``0..K-1`` or ``ignore_index``; what is neither counts for no class.
        num_classes: K.
        ignore_index: mask value that is left out.
        squared_radius: of the disc that a counterpart has to lie in, at least 1.

    Returns:
        (N, K, 4) int64 as ``counting.boundary_per_image`` has them.

    Raises:
        ValueError: they do not fit.
    """
    if not fits(prediction, mask, num_classes, ignore_index) or squared_radius < 1:
        shapes = f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)}"
        raise ValueError(f"{shapes}, {num_classes} classes, squared radius {squared_radius}")
    radius = isqrt(int(squared_radius))
    num, height, width = mask.shape
    stride = -(-width // LANES) * LANES + 2 * radius
    labels = torch.full((2 * num, height + 2 * radius, stride), _NOTHING, dtype=torch.int16, device=mask.device)
    inside = labels.view(2, num, *labels.shape[1:])[..., radius : radius + height, radius : radius + width]
    truth = mask.to(torch.int16)
    is_counted, nothing = truth != ignore_index, labels.new_tensor(_NOTHING)
    for part, classes in zip(inside, (prediction.to(torch.int16), truth), strict=True):
        torch.where(is_counted, classes, nothing, out=part)
    edges, threads = torch.full_like(labels, _NOTHING), torch.get_num_threads()
    sizes = (num, height, width, radius, stride)
    machine.run(_edges(), (*sizes, labels.data_ptr(), edges.data_ptr()))
    steps = torch.tensor(_disc(squared_radius, stride), device=mask.device)
    counts = torch.zeros(threads, 2 * num, num_classes + 1, dtype=torch.int64, device=mask.device)
    more = (len(steps), num_classes, *(x.data_ptr() for x in (edges, steps, counts)))
    machine.run(_matches(), (*sizes, *more))
    found = counts.sum(dim=0)[:, :num_classes].view(2, num, num_classes)
    return torch.stack([found & ((1 << _MET) - 1), found >> _MET], dim=-1).permute(1, 2, 0, 3).flatten(2)


def _disc(squared_radius: float, stride: int) -> list[int]:
    """Steps in memory from a pixel to all those of the disc around it, the nearest first."""
    radius = isqrt(int(squared_radius))
    halves = {dy: isqrt(int(squared_radius - dy**2)) for dy in range(-radius, radius + 1)}
    disc = [(dy, dx) for dy, half in halves.items() for dx in range(-half, half + 1)]
    return [dy * stride + dx for dy, dx in sorted(disc, key=lambda step: step[0] ** 2 + step[1] ** 2)]


class _Rows(NamedTuple):
    """What both loops are told of the maps, and the thread's part of their rows."""

    num: Any  # of images
    height: Any
    width: Any
    radius: Any
    stride: Any  # of rows
    thread: Any
    start: Any
    end: Any

    @classmethod
    def written(cls, to: Writer) -> _Rows:
        """Reads the first arguments."""
        num, height, width, radius, stride = (to.argument() for _ in range(5))
        share = to.share(to.builder.mul(to.builder.mul(num, to.int64(2)), height))
        return cls(num, height, width, radius, stride, *share)

    def plane_size(self, to: Writer) -> Any:
        """Of one image with its margins."""
        build = to.builder
        return build.mul(build.add(self.height, build.mul(self.radius, to.int64(2))), self.stride)

    def place(self, to: Writer, number: Any) -> tuple[Any, Any]:
        """Of a row of all maps: the map it belongs to, and where its first pixel lies."""
        build = to.builder
        plane, y = build.sdiv(number, self.height), build.srem(number, self.height)
        row = build.mul(build.add(y, self.radius), self.stride)
        return plane, build.add(build.mul(plane, self.plane_size(to)), build.add(row, self.radius))


def _is_class(to: Writer, labels: Any) -> Any:
    return to.builder.icmp_signed(">=", labels, to.constant(0, to.half))


@cache
def _edges() -> int:
    """Address of the function that leaves of all maps what has a neighbour of another class."""
    to = Writer("edges")
    build, zero = to.builder, to.int64(0)
    rows = _Rows.written(to)
    labels, edges = to.pointer(to.half), to.pointer(to.half)
    with to.loop(rows.start, rows.end, to.int64(1)) as row:
        first = rows.place(to, row.number)[1]
        with to.loop(zero, rows.width, to.int64(LANES)) as x:
            at = build.add(first, x.number)
            own = to.load(labels, at)
            is_edge = to.constant(0, to.ir.IntType(1))
            for step in (to.int64(-1), to.int64(1), rows.stride, build.sub(zero, rows.stride)):
                other = to.load(labels, build.add(at, step))
                differs = build.and_(build.icmp_signed("!=", own, other), _is_class(to, other))
                is_edge = build.or_(is_edge, differs)
            to.store(build.select(is_edge, own, to.constant(_NOTHING, to.half)), edges, at)
    return machine.compiled(to.finish(), "edges")


def _has_counterpart(to: Writer, own: Any, edges: Any, around: Any, steps: Any, num_steps: Any) -> Any:
    """Where a boundary pixel's class lies at one of the steps around the same place in the other map.

    Some steps at a time, for as long as a boundary pixel has none.
    """
    build, none = to.builder, to.constant(0, to.half)
    is_settled = build.sext(build.not_(_is_class(to, own)), to.vector(to.half))
    with to.loop(to.int64(0), num_steps, to.int64(_STEPS), [is_settled]) as some:
        is_open = to.any(build.icmp_signed("==", some.carried[0], none))
        last = to.least(build.add(some.number, to.int64(_STEPS)), num_steps)
        with to.loop(some.number, build.select(is_open, last, to.int64(0)), to.int64(1), some.carried) as step:
            other = to.load(edges, build.add(around, build.load(build.gep(steps, [step.number]))))
            is_met = build.sext(build.icmp_signed("==", own, other), to.vector(to.half))
            step.carried = [build.or_(step.carried[0], is_met)]
        some.carried = step.carried
    return build.icmp_signed("!=", some.carried[0], none)


@cache
def _matches() -> int:
    """Address of the function that counts for its thread: pixels, and by ``1 << 32`` those with a counterpart."""
    to = Writer("matches")
    build, zero, one = to.builder, to.int64(0), to.int64(1)
    rows = _Rows.written(to)
    num_steps, classes = to.argument(), to.argument()
    edges, steps, counts = to.pointer(to.half), to.pointer(to.int64), to.pointer(to.int64)
    planes = build.mul(rows.num, to.int64(2))
    to_truth = build.mul(rows.num, rows.plane_size(to))
    row_of_counts = build.add(classes, one)
    behind = to.spread(build.trunc(classes, to.int32))  # of what is no boundary
    with to.loop(rows.start, rows.end, one) as row:
        plane, first = rows.place(to, row.number)
        is_truth = build.icmp_signed(">=", plane, rows.num)
        to_other = build.select(is_truth, build.sub(zero, to_truth), to_truth)
        at_counts = build.mul(build.add(build.mul(rows.thread, planes), plane), row_of_counts)
        with to.loop(zero, rows.width, to.int64(LANES)) as x:
            at = build.add(first, x.number)
            own = to.load(edges, at)
            with to.loop(zero, build.zext(to.any(_is_class(to, own)), to.int64), one):  # once, or not at all
                met = _has_counterpart(to, own, edges, build.add(at, to_other), steps, num_steps)
                number = build.sext(own, to.vector(to.int32))
                # What is no class must not be counted anywhere, wherever it comes from.
                cells = build.select(build.icmp_unsigned("<", number, behind), number, behind)
                once, twice = (to.constant(amount, to.int64) for amount in (1, 1 + (1 << _MET)))
                to.count(cells, counts, at_counts, build.select(met, twice, once))
    return machine.compiled(to.finish(), "matches")
