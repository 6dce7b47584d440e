"""Every two configurations of a comparison: their difference, how sure it is, and a verdict."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isnan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segsweep.report.crossed import Crossed, crossed, student
from segsweep.report.intervals import CONFIDENCE, Interval
from segsweep.report.judgement import Pair, Verdict
from segsweep.report.signed_ranks import holm, signed_ranks

Array = NDArray[np.float64]

LIKELY = 0.75  # a smaller P(A > B) is no meaningful difference: Bouthillier et al. 2021, arXiv:2103.03098
MOST_SEEDS = 20  # that anybody would add
_CHUNK = 500  # pairs at a time: tens of megabytes


@dataclass(frozen=True)
class Scored:
    """A configuration, by seed.

    Attributes:
        name: of the configuration.
        scores: mIoU of every run; the others lack the runs without matrices.
        values: (B,) what each block is worth: their mean is the score, their spread says how sure it is over images.
        blocks: (B,) mIoU of each block alone, NaN where nothing in its truth is labelled.
        draws: (R,) mIoU of samples of the blocks.
    """

    name: str
    scores: dict[int, float]
    values: dict[int, Array]
    blocks: dict[int, Array]
    draws: dict[int, NDArray[np.float32]]


class _Batch(NamedTuple):
    """Pairs that share the same seeds.

    Attributes:
        numbers: (P,) places among all pairs.
        first: (P,) places of configurations.
        second: the same.
        seeds: that they share.
        has_images: whether the runs of these seeds have matrices.
    """

    numbers: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    seeds: tuple[int, ...]
    has_images: bool


def compare_pairs(rows: Sequence[Scored]) -> list[Pair]:
    """All pairs of configurations, in the order given.

    A pair whose shared runs all have matrices is compared over seeds and blocks of images, another over seeds alone.
    """
    batches = list(_batches(rows))
    num_judged = sum(len(batch.numbers) for batch in batches if len(batch.seeds) > 1)
    found: dict[int, Pair] = {}
    p_values = np.full(len(rows) * (len(rows) - 1) // 2, np.nan)
    for batch in batches:
        pairs = _compare(rows, batch, num_judged)
        if batch.has_images:
            by_block = _by_block(rows, batch)
            p_values[batch.numbers] = signed_ranks(by_block)
            pairs = [replace(pair, by_block=values) for pair, values in zip(pairs, by_block, strict=True)]
        found |= zip(batch.numbers.tolist(), pairs, strict=True)
    corrected = holm(p_values).tolist()
    return [replace(found[number], wilcoxon=None if isnan(p) else p) for number, p in enumerate(corrected)]


def _batches(rows: Sequence[Scored]) -> Iterator[_Batch]:
    alike: dict[tuple[tuple[int, ...], bool], list[tuple[int, int, int]]] = defaultdict(list)
    for number, (i, j) in enumerate(combinations(range(len(rows)), 2)):
        seeds = tuple(sorted(rows[i].scores.keys() & rows[j].scores.keys()))
        has_images = bool(seeds) and all(seed in row.values for row in (rows[i], rows[j]) for seed in seeds)
        alike[seeds, has_images].append((number, i, j))
    for (seeds, has_images), members in alike.items():
        for start in range(0, len(members), _CHUNK):
            numbers, first, second = np.array(members[start : start + _CHUNK]).T
            yield _Batch(numbers, first, second, seeds, has_images)


def _compare(rows: Sequence[Scored], batch: _Batch, num_judged: int) -> list[Pair]:
    """The pairs of a batch, without their p values."""
    names = [(rows[i].name, rows[j].name) for i, j in zip(batch.first, batch.second, strict=True)]
    if not batch.seeds:
        return [Pair(*name, 0, None, None, None, Verdict.TOO_FEW_SEEDS, 2, None) for name in names]
    values = _differences(rows, batch)
    likely = _probability(rows, batch).tolist()
    num = len(batch.seeds)
    if num == 1:
        alone = [Interval(mean, None, None, 1) for mean in values.mean(axis=(1, 2)).tolist()]
        return [
            Pair(*name, 1, mean, mean, p, Verdict.TOO_FEW_SEEDS, 1, None)
            for name, mean, p in zip(names, alone, likely, strict=True)
        ]
    layout = crossed(values)
    own, wide = intervals(layout, 1), intervals(layout, num_judged)
    more = seeds_needed(layout, num_judged).tolist()
    pairs = []
    for name, difference, simultaneous, p, extra in zip(names, own, wide, likely, more, strict=True):
        verdict, needed = decide(simultaneous, p, extra)
        pairs.append(Pair(*name, num, difference, simultaneous, p, verdict, needed, None))
    return pairs


def _differences(rows: Sequence[Scored], batch: _Batch) -> Array:
    """(P, S, B) of values, or (P, S, 1) of scores."""
    places = sorted({*batch.first.tolist(), *batch.second.tolist()})
    if batch.has_images:
        values = np.stack([np.stack([rows[i].values[seed] for seed in batch.seeds]) for i in places])
    else:
        values = np.array([[[rows[i].scores[seed]] for seed in batch.seeds] for i in places])
    return np.asarray(values[np.searchsorted(places, batch.first)] - values[np.searchsorted(places, batch.second)])


def _probability(rows: Sequence[Scored], batch: _Batch) -> Array:
    """(P,) share of seeds, and of samples of blocks, in which the first scores higher; ties count half."""
    own: dict[int, NDArray[np.floating]] = {}
    for i in {*batch.first.tolist(), *batch.second.tolist()}:
        by_seed = rows[i].draws if batch.has_images else rows[i].scores
        own[i] = np.stack([np.asarray(by_seed[seed]) for seed in batch.seeds])
    pairs = zip(batch.first.tolist(), batch.second.tolist(), strict=True)
    return np.array([(np.mean(own[i] > own[j]) + np.mean(own[i] >= own[j])) / 2 for i, j in pairs])


def _by_block(rows: Sequence[Scored], batch: _Batch) -> Array:
    """(P, B) mean differences over the shared seeds."""
    places = sorted({*batch.first.tolist(), *batch.second.tolist()})
    scores = np.stack([np.mean([rows[i].blocks[seed] for seed in batch.seeds], axis=0) for i in places])
    return np.asarray(scores[np.searchsorted(places, batch.first)] - scores[np.searchsorted(places, batch.second)])


def intervals(layout: Crossed, num: int) -> list[Interval]:
    """Of each mean of a layout of shape (P,), wide enough that ``num`` of them hold at once."""
    error, freedom = layout.spread()
    reach = student(freedom, CONFIDENCE, num) * error
    ends = zip(layout.mean.tolist(), (layout.mean - reach).tolist(), (layout.mean + reach).tolist(), strict=True)
    return [Interval(mean, low, high, layout.num_seeds) for mean, low, high in ends]


def seeds_needed(layout: Crossed, num: int) -> NDArray[np.int64]:
    """(P,) how many more seeds would exclude 0 if means and components stayed; 0: none, -1: not even 20 would."""
    result = np.full(layout.mean.shape, -1)
    for extra in range(MOST_SEEDS, -1, -1):
        error, freedom = layout.spread(layout.num_seeds + extra)
        result[np.abs(layout.mean) > student(freedom, CONFIDENCE, num) * error] = extra
    return result


def decide(simultaneous: Interval, probability: float, extra: int) -> tuple[Verdict, int | None]:
    """The verdict on a pair with two seeds or more, and how many more seeds would settle it."""
    low, high = simultaneous.low or 0.0, simultaneous.high or 0.0
    if low > 0 and probability > LIKELY:
        return Verdict.BETTER, None
    if high < 0 and probability < 1 - LIKELY:
        return Verdict.WORSE, None
    is_likely = not 1 - LIKELY <= probability <= LIKELY
    if extra > 0 and is_likely:
        return Verdict.TOO_FEW_SEEDS, extra
    return Verdict.NO_EVIDENCE, None
