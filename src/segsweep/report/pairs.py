"""Every two configurations of a comparison: their difference, how sure it is, and a verdict."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segsweep.report.crossed import Crossed, Spread, crossed
from segsweep.report.intervals import CONFIDENCE, Interval
from segsweep.report.judgement import Pair, Verdict
from segsweep.report.signed_ranks import holm, signed_ranks

Array = NDArray[np.float64]
_Ranks = tuple[float | None, Array | None]
_Result = tuple[Interval | None, Interval | None, float | None, int]

LIKELY = 0.75  # a smaller P(A > B) is no meaningful difference: Bouthillier et al. 2021, arXiv:2103.03098
MIN_SEEDS = 3  # with 2, one in ten of equal pairs would be called different
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
    by_block = [_by_block(rows, batch) if batch.has_images else None for batch in batches]
    p_values = np.full(len(rows) * (len(rows) - 1) // 2, np.nan)
    for batch, values in zip(batches, by_block, strict=True):
        if values is not None:
            p_values[batch.numbers] = signed_ranks(values)
    p_values = holm(p_values)
    found: dict[int, Pair] = {}
    for batch, values in zip(batches, by_block, strict=True):
        wilcoxon = [None if isnan(p) else p for p in p_values[batch.numbers].tolist()]
        ranks = list(zip(wilcoxon, [None] * len(wilcoxon) if values is None else values, strict=True))
        found |= zip(batch.numbers.tolist(), _compare(rows, batch, num_judged, ranks), strict=True)
    return [found[number] for number in sorted(found)]


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


def _compare(rows: Sequence[Scored], batch: _Batch, num_judged: int, ranks: Sequence[_Ranks]) -> Iterator[Pair]:
    """The pairs of a batch; ``ranks`` are their last two attributes."""
    results = _results(rows, batch, num_judged)
    for i, j, result, (wilcoxon, by_block) in zip(batch.first, batch.second, results, ranks, strict=True):
        difference, simultaneous, probability, extra = result
        verdict, needed = decide(simultaneous, probability, extra)
        names, num = (rows[i].name, rows[j].name), len(batch.seeds)
        yield Pair(*names, num, difference, simultaneous, probability, verdict, needed, wilcoxon, by_block)


def _results(rows: Sequence[Scored], batch: _Batch, num_judged: int) -> list[_Result]:
    """Of each pair of a batch."""
    num = len(batch.seeds)
    if num == 0:
        return [(None, None, None, 2)] * len(batch.numbers)
    values = _differences(rows, batch)
    likely = _probability(rows, batch).tolist()
    if num == 1:
        alone = [Interval(mean, None, None, 1) for mean in values.mean(axis=(1, 2)).tolist()]
        known = likely if batch.has_images else [None] * len(alone)  # of one comparison there is no share
        return [(mean, mean, p, MIN_SEEDS - 1) for mean, p in zip(alone, known, strict=True)]
    # The spread of two seeds is small by chance too often to be set against that of blocks: they are taken alone.
    layout = crossed(values if num >= MIN_SEEDS else values.mean(axis=-1, keepdims=True))
    spread = layout.spread()
    own, wide = (intervals(layout.mean, spread, num, at_once) for at_once in (1, num_judged))
    return list(zip(own, wide, likely, seeds_needed(layout, num_judged).tolist(), strict=True))


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
    wins = [np.count_nonzero(own[i] > own[j]) + np.count_nonzero(own[i] >= own[j]) for i, j in pairs]
    return np.array(wins) / (2 * next(iter(own.values())).size)


def _by_block(rows: Sequence[Scored], batch: _Batch) -> Array:
    """(P, B) mean differences over the shared seeds."""
    places = sorted({*batch.first.tolist(), *batch.second.tolist()})
    scores = np.stack([np.mean([rows[i].blocks[seed] for seed in batch.seeds], axis=0) for i in places])
    return np.asarray(scores[np.searchsorted(places, batch.first)] - scores[np.searchsorted(places, batch.second)])


def intervals(means: Array, spread: Spread, n: int, num: int = 1) -> list[Interval]:
    """Of each of the means (P,) of ``n`` values, wide enough that ``num`` of them hold at once.

    Differences of scores: no end is beyond -1 or 1.
    """
    below, above = spread.reach(CONFIDENCE, num)
    low, high = np.maximum(means - below, -1), np.minimum(means + above, 1)
    ends = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(mean, low, high, n) for mean, low, high in ends]


def seeds_needed(layout: Crossed, num: int) -> NDArray[np.int64]:
    """(P,) how many more seeds would exclude 0 if means and components stayed; 0: none, -1: not even 20 would."""
    result = np.full(layout.mean.shape, -1)
    for extra in range(MOST_SEEDS, -1, -1):
        below, above = layout.spread(layout.num_seeds + extra).reach(CONFIDENCE, num)
        result[(layout.mean > below) | (layout.mean < -above)] = extra
    return result


def decide(simultaneous: Interval | None, probability: float | None, extra: int) -> tuple[Verdict, int | None]:
    """The verdict on a pair, and how many more seeds would settle it.

    Args:
        simultaneous: the interval that decides, without ends if the pair has fewer than two seeds.
        probability: that the first is better.
        extra: seeds that would be enough for the interval; -1 if none would.
    """
    if simultaneous is None or simultaneous.low is None or simultaneous.high is None or probability is None:
        return Verdict.TOO_FEW_SEEDS, extra
    if simultaneous.n < MIN_SEEDS:
        return Verdict.TOO_FEW_SEEDS, max(extra, MIN_SEEDS - simultaneous.n)
    if simultaneous.low > 0 and probability > LIKELY:
        return Verdict.BETTER, None
    if simultaneous.high < 0 and probability < 1 - LIKELY:
        return Verdict.WORSE, None
    if extra > 0 and not 1 - LIKELY <= probability <= LIKELY:
        return Verdict.TOO_FEW_SEEDS, extra
    return Verdict.NO_EVIDENCE, None
