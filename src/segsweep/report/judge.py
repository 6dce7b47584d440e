"""Judges the configurations of a comparison: who is better, how sure that is, and what would make it surer."""

from collections.abc import Mapping
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from segsweep.report import resampling
from segsweep.report.crossed import crossed, over_blocks
from segsweep.report.intervals import Interval, mean_interval
from segsweep.report.judgement import Judgement, Standing
from segsweep.report.pairs import MIN_SEEDS, Scored, compare_pairs, intervals
from segsweep.report.pooled import influence, miou
from segsweep.report.runs import Comparison
from segsweep.report.sample import Sample, read_sample, scores_of

Array = NDArray[np.float64]


def judge(comparison: Comparison) -> Judgement:
    """Who is better, from records and per-image matrices alone; docs/statistics.md says how.

    Every two configurations are compared on the seeds and test images that both have.
    """
    standings, rows, sample = score(comparison)
    text = sample.blocks.text if sample.blocks else "no per-image matrices: intervals are over seeds alone"
    return Judgement(standings, compare_pairs(rows), text, tuple(sample.notes))


def score(comparison: Comparison) -> tuple[list[Standing], list[Scored], Sample]:
    """Scores of the configurations with completed runs, best first, and the images that they were tested on."""
    found = [(row, scores) for row in comparison.configurations if (scores := scores_of(row))]
    found.sort(key=lambda pair: -mean(pair[1].values()))
    sample = read_sample([row for row, _ in found])
    num_blocks = sample.blocks.num if sample.blocks else 0
    weights = resampling.draw(num_blocks) if num_blocks > 1 else None
    standings, rows = [], []
    for (row, scores), counts in zip(found, sample.counts, strict=True):
        one = _scored(row.name, scores, counts, weights)
        rows.append(one)
        standings.append(Standing(row, _of_scores(mean_interval(list(scores.values()))), *_over_images(one)))
    return standings, rows, sample


def _scored(name: str, scores: dict[int, float], counts: Mapping[int, Array], weights: Array | None) -> Scored:
    if weights is None or not counts:  # one block says nothing about others
        return Scored(name, scores, {}, {}, {})
    stacked = np.stack(list(counts.values()))
    parts = (
        miou(stacked.sum(axis=1))[:, None] + stacked.shape[1] * influence(stacked),
        miou(stacked),
        resampling.scores(weights, stacked).astype(np.float32),
    )
    return Scored(name, scores, *(dict(zip(counts, part, strict=True)) for part in parts))


def _over_images(one: Scored) -> tuple[Interval | None, Interval | None]:
    """Over images, and over images and seeds; None if a run has no matrices: it would be another mean."""
    if one.values.keys() != one.scores.keys():
        return None, None
    values = np.stack(list(one.values.values()))
    of_block = values.mean(axis=0)[None]
    images = _of_scores(intervals(of_block.mean(axis=1), over_blocks(of_block), len(values[0]))[0])
    if len(values) < MIN_SEEDS:
        return images, None
    layout = crossed(values[None])
    return images, _of_scores(intervals(layout.mean, layout.spread(), len(values))[0])


def _of_scores(interval: Interval) -> Interval:
    """Scores lie between 0 and 1, and so do the ends of their intervals."""
    low, high = interval.low, interval.high
    return interval._replace(low=low and max(low, 0.0), high=high and min(high, 1.0))
