"""The test images that the runs of a comparison share, as counts of blocks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segsweep.report.blocks import Blocks, blocks_of
from segsweep.report.matrices import read_matrices
from segsweep.report.pooled import margins, miou
from segsweep.report.records import Record
from segsweep.report.runs import Configuration

METRIC = "test/miou"
_AGREES = 1e-6  # between a record and its matrices


@dataclass(frozen=True)
class Sample:
    """Of one comparison.

    Attributes:
        blocks: None without any matrices.
        counts: for each configuration: seed -> (B, 3, K) pixels in the truth, in the prediction, in both. Runs without
            matrices, or with those of other images than most runs, are not in it.
        notes: which runs that are, and why.
    """

    blocks: Blocks | None
    counts: list[dict[int, NDArray[np.float64]]]
    notes: list[str]


def scores_of(row: Configuration) -> dict[int, float]:
    """Seed -> mIoU of the completed runs that have one."""
    found = {run["seed"]: run["metrics"].get(METRIC) for run in row.completed}
    return {seed: float(value) for seed, value in found.items() if value is not None and isfinite(value)}


def read_sample(rows: Sequence[Configuration]) -> Sample:
    """Reads the matrices of all completed runs with a score; a run without, or with damaged ones, is noted."""
    blocks: dict[int, Blocks] = {}
    found: list[dict[int, tuple[int, NDArray[np.float64]]]] = []
    problems: list[str] = []
    for row in rows:
        own: dict[int, tuple[int, NDArray[np.float64]]] = {}
        scores = scores_of(row)
        for run in row.completed:
            if run["seed"] not in scores:
                continue
            try:
                key, counts = _read(run, scores[run["seed"]], blocks)
            except ValueError as error:
                problems.append(str(error))
            else:
                own[run["seed"]] = key, counts
        found.append(own)
    seen = Counter(key for own in found for key, _ in own.values())
    if not seen:
        return Sample(None, [{} for _ in rows], _brief(problems, "without per-image matrices"))
    common = seen.most_common(1)[0][0]
    others = [f"{row.name} seed={seed}" for row, own in zip(rows, found, strict=True)
              for seed, (key, _) in own.items() if key != common]  # fmt: skip
    shared = [{seed: counts for seed, (key, counts) in own.items() if key == common} for own in found]
    notes = _brief(problems, "without per-image matrices") + _brief(others, "scored on other test images than most")
    return Sample(blocks[common], shared, [*notes, *blocks[common].caveats])


def _read(run: Record, recorded: float, blocks: dict[int, Blocks]) -> tuple[int, NDArray[np.float64]]:
    """Which images a run was tested on, and its counts of blocks of them."""
    folder = Path(run["folder"])
    matrices = read_matrices(folder)
    # Matrices of few classes and of many are never set beside each other, whatever the names of the images.
    key = hash((matrices.names.tobytes(), matrices.groups.tobytes(), matrices.confusion.shape))
    if key not in blocks:
        blocks[key] = blocks_of(matrices.groups)
    counts = margins(blocks[key].sums(matrices.confusion))
    score = float(miou(counts.sum(axis=0)))
    if not isclose(score, recorded, abs_tol=_AGREES):
        raise ValueError(f"{folder}: mIoU of its matrices {score:.6f}, of its record {recorded:.6f}")
    return key, counts


def _brief(items: Sequence[str], what: str) -> list[str]:
    """One note, with the first of the items."""
    if not items:
        return []
    num = "1 run" if len(items) == 1 else f"{len(items)} runs"
    return [f"{num} {what}, compared over seeds alone: {items[0]}" + (", ..." if len(items) > 1 else "")]
