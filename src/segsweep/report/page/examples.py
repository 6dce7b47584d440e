"""Test images with what each configuration makes of them: the same images for all, and the hardest of each."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segsweep.report.charts.plot import Mark
from segsweep.report.page.board import badge
from segsweep.report.page.pictures import Budget, Panes, read_panes
from segsweep.report.runs import Comparison, Configuration

_MOST_CONFIGURATIONS = 6
_NUM_FIXED = 4
_NUM_WORST = 8
_FILE = re.compile(r"(fixed|worst-(\d+))-(\d+)\.png")


@dataclass(frozen=True)
class Shown:
    """What one configuration makes of an image; ``rank`` among its worst, None if it is not one of them."""

    prediction: str
    error: str
    rank: int | None


@dataclass(frozen=True)
class ExampleRow:
    """One test image, truth and what the configurations make of it; None where a run did not keep it."""

    position: int
    image: str
    truth: str
    cells: list[Shown | None]


@dataclass(frozen=True)
class Examples:
    """Rows of images under the configurations that are shown."""

    heads: list[tuple[Mark, str, int]]
    fixed: list[ExampleRow]
    worst: list[ExampleRow]
    notes: list[str]


@dataclass(frozen=True)
class _Kept:
    """Files of one run: by position, and ranks of its worst."""

    fixed: dict[int, Path]
    worst: dict[int, tuple[int, Path]]

    def file(self, position: int) -> Path | None:
        found = self.worst.get(position)
        return found[1] if found else self.fixed.get(position)


def examples(comparison: Comparison, marks: Mapping[str, Mark], budget: Budget) -> Examples | None:
    """Pictures of the best configurations, each by its run with the lowest seed; None if no run has any."""
    kept: list[tuple[Configuration, int, _Kept]] = []
    with_pictures = 0
    for row in comparison.configurations:
        found = next(((run["seed"], k) for run in row.completed if (k := _kept(run)) is not None), None)
        if found:
            with_pictures += 1
            if len(kept) < _MOST_CONFIGURATIONS:
                kept.append((row, *found))
        if with_pictures > _MOST_CONFIGURATIONS:
            break
    if not kept:
        return None
    columns = [files for *_, files in kept]
    refused = budget.refused
    fixed = _rows(_shared(columns)[:_NUM_FIXED], columns, budget)
    worst = _rows(_hardest(columns), columns, budget)
    notes = []
    if with_pictures > len(kept):
        notes.append(f"the best {len(kept)} configurations are shown")
    if budget.refused > refused:
        notes.append(f"{budget.refused - refused} images were left out to keep the page small")
    heads = [(marks[row.name], badge(marks[row.name]), seed) for row, seed, _ in kept]
    return Examples(heads, fixed, worst, notes) if fixed or worst else None


def _kept(run: dict[str, str]) -> _Kept | None:
    files = _Kept({}, {})
    try:
        paths = sorted((Path(run["folder"]) / "test_examples").iterdir())
    except OSError:
        return None
    for path in paths:
        match = _FILE.fullmatch(path.name)
        if match and match[2]:
            files.worst[int(match[3])] = (int(match[2]), path)
        elif match:
            files.fixed[int(match[3])] = path
    return files if files.fixed or files.worst else None


def _shared(columns: list[_Kept]) -> list[int]:
    """Fixed images, those that all have first."""
    count: dict[int, int] = defaultdict(int)
    for files in columns:
        for position in files.fixed:
            count[position] += 1
    return sorted(count, key=lambda position: (-count[position], position))


def _hardest(columns: list[_Kept]) -> list[int]:
    """The worst image of each, then those that are among the worst of many."""
    firsts = [min(files.worst, key=lambda p: files.worst[p][0]) for files in columns if files.worst]
    ranks: dict[int, list[int]] = defaultdict(list)
    for files in columns:
        for position, (rank, _) in files.worst.items():
            ranks[position].append(rank)
    shared = sorted(ranks, key=lambda p: (-len(ranks[p]), sum(ranks[p]) / len(ranks[p]), p))
    chosen = list(dict.fromkeys([*firsts, *shared]))[:_NUM_WORST]
    return [position for position in shared if position in chosen]


def _rows(positions: list[int], columns: list[_Kept], budget: Budget) -> list[ExampleRow]:
    rows = []
    for position in positions:
        panes = [read_panes(file) if (file := files.file(position)) else None for files in columns]
        first = next((each for each in panes if each), None)
        if first is None:
            continue
        shown = [uri for each in panes if each for uri in (each.prediction, each.error)]
        if budget.take([first.image, first.truth, *shown]):
            cells = [_shown(each, files, position) for each, files in zip(panes, columns, strict=True)]
            rows.append(ExampleRow(position, first.image, first.truth, cells))
    return rows


def _shown(panes: Panes | None, files: _Kept, position: int) -> Shown | None:
    if panes is None:
        return None
    rank = files.worst.get(position)
    return Shown(panes.prediction, panes.error, rank[0] if rank else None)
