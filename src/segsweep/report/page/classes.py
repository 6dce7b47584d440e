"""Class by class: a heat map of the IoU, and confusion matrices of the best configurations."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.matrix import share_matrix
from segsweep.report.charts.plot import Mark
from segsweep.report.page.board import badge
from segsweep.report.runs import Comparison, Configuration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ROWS = 20
_MOST_MATRICES = 3
_MOST_CLASSES = 24  # in a confusion matrix


@dataclass(frozen=True)
class HeatCell:
    """A mean over seeds in 0 to 1, its text and what the pointer shows."""

    text: str
    percent: int | None
    hover: str


@dataclass(frozen=True)
class HeatRow:
    """One configuration: its IoU of each class."""

    mark: Mark
    badge: str
    cells: list[HeatCell]


def class_rows(comparison: Comparison, marks: Mapping[str, Mark]) -> list[HeatRow]:
    """IoU of each class, of the best configurations."""
    names = class_names(comparison)
    rows = []
    for row in comparison.configurations[:MOST_ROWS]:
        values = [row.values(f"test/iou/{name}") for name in names]
        if any(values):
            mark = marks[row.name]
            cells = [_heat(mark.label, name, found) for name, found in zip(names, values, strict=True)]
            rows.append(HeatRow(mark, badge(mark), cells))
    return rows


def class_names(comparison: Comparison) -> list[str]:
    """In the order of their numbers."""
    return [str(name) for name in (comparison.data or {}).get("class_names", [])]


def confusions(comparison: Comparison, marks: Mapping[str, Mark]) -> list[Figure]:
    """Confusion matrices of the best configurations, pooled over seeds, each row a share of its true pixels."""
    figures = []
    for row in comparison.configurations[:_MOST_MATRICES]:
        pooled, num_runs = _pooled(row, len(class_names(comparison)))
        if pooled is not None:
            figures.append(_confusion(marks[row.name], pooled, class_names(comparison), num_runs))
    return figures


def _heat(label: str, name: str, values: list[float]) -> HeatCell:
    if not values:
        return HeatCell("-", None, f"{label}, {name}: not in the truth of the test images")
    value = mean(values)
    spread = f" ({min(values):.4f} to {max(values):.4f} over {len(values)} seeds)" if len(values) > 1 else ""
    return HeatCell(
        f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0",
        round(value * 100),
        f"{label}, {name}: {value:.4f}{spread}",
    )


def _pooled(row: Configuration, num_classes: int) -> tuple[NDArray[np.int64] | None, int]:
    """The sum of its runs' matrices (K, K) and their number; runs without a readable one are passed over."""
    import numpy as np  # here, because the command line must answer at once

    total, num_runs = None, 0
    for run in row.completed:
        try:
            # Opened here: numpy leaves a file open that it finds damaged.
            file = (Path(run["folder"]) / "test_confusion.npz").open("rb")
            with file, np.load(file, allow_pickle=False) as arrays:
                matrix = arrays["confusion"].sum(axis=0, dtype=np.int64)
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
            continue
        if matrix.shape == (num_classes, num_classes) and matrix.min() >= 0 and matrix.sum() > 0:
            total, num_runs = matrix if total is None else total + matrix, num_runs + 1
    return total, num_runs


def _confusion(mark: Mark, pooled: NDArray[np.int64], names: list[str], num_runs: int) -> Figure:
    import numpy as np

    wrong = pooled.sum(axis=1) + pooled.sum(axis=0) - 2 * np.diag(pooled)
    kept = np.sort(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
    rows = pooled.sum(axis=1)
    shares = pooled / np.maximum(rows, 1)[:, None]
    chosen = [names[i] for i in kept]

    def hover(i: int, j: int) -> str:
        true, predicted = kept[i], kept[j]
        return (
            f"{chosen[i]} taken for {chosen[j]}: {shares[true, predicted]:.2%} of its "
            f"{rows[true]:,} pixels ({pooled[true, predicted]:,})"
        )

    drawn = shares[np.ix_(kept, kept)].tolist()
    few = f" The {len(kept)} of {len(names)} classes with most errors." if len(kept) < len(names) else ""
    runs = f"{num_runs} run{'' if num_runs == 1 else 's'}"
    return Figure(
        mark.label,
        share_matrix(drawn, chosen, f"Confusion matrix of {mark.label}, pooled over {runs}", hover),
        f"{pooled.sum():,} test pixels of {runs}; each row sums to 1, the diagonal is the recall.{few}",
    )
