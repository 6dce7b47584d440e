"""Learning curves: each configuration's mean over seeds by epoch, with the range of its seeds."""

import json
from collections import defaultdict
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from statistics import mean

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.plot import Axis, Mark, Plot
from segsweep.report.runs import Comparison, Configuration

_MOST_LINES = 12
_MOST_POINTS = 200  # of a line: more are no wider than a pixel
_DOTTED_UP_TO = 30  # epochs
_METRICS = {
    "val/miou": ("Validation mIoU", "validation mIoU", (0.0, 1.0)),
    "train/loss": ("Training loss", "training loss", (float("-inf"), float("inf"))),
    "val/loss": ("Validation loss", "validation loss", (float("-inf"), float("inf"))),
}

History = list[dict[int, dict[str, float]]]  # of each run: epoch -> values


def learning_curves(comparison: Comparison, marks: Mapping[str, Mark]) -> list[Figure]:
    """Charts of validation mIoU and of the losses, by epoch; runs that are still going are in them."""
    histories: dict[str, History] = {}
    rows = comparison.configurations
    for row in rows:
        if len(histories) < _MOST_LINES and (history := _history(row)):
            histories[row.name] = history
    figures = []
    for key, (name, y_name, limits) in _METRICS.items():
        lines = {row: points for row, history in histories.items() if (points := _points(history, key))}
        if lines:
            counts = [len(histories[row]) for row in lines]
            caption = _caption(counts, len(rows))
            figures.append(_figure(comparison, key, name, Axis(y_name, [], limits=limits), lines, marks, caption))
    return figures


def _figure(
    comparison: Comparison,
    key: str,
    name: str,
    y: Axis,
    lines: Mapping[str, list[tuple[int, float, float, float]]],
    marks: Mapping[str, Mark],
    caption: str,
) -> Figure:
    epochs = [epoch for points in lines.values() for epoch, *_ in points]
    values = [value for points in lines.values() for _, *rest in points for value in rest]
    longest = max(len(marks[row].label) for row in lines)
    plot = Plot(Axis("epoch", epochs), Axis(y.name, values, limits=y.limits), longest)
    floor = comparison.floors.get("location_prior", {}).get(key)
    if floor is not None:
        plot.level(floor, f"floor: location prior {floor:.3f}")
    for row, points in lines.items():
        mark = marks[row]
        if any(low < high for _, _, low, high in points):
            plot.band(mark, [(epoch, low, high) for epoch, _, low, high in points])
        last = points[-1]
        plot.line(mark, [(epoch, value) for epoch, value, *_ in points], f"{row}: {last[1]:.4f} after epoch {last[0]}")
        if len(points) <= _DOTTED_UP_TO and len(lines) <= 6:
            for epoch, value, low, high in points:
                plot.point(
                    mark, epoch, value, f"{row}, epoch {epoch}: {value:.4f} ({low:.4f} to {high:.4f})", kind="dot"
                )
    return Figure(name, plot.render(f"{name} by epoch of {len(lines)} configurations"), caption)


def _caption(num_runs: list[int], num_configurations: int) -> str:
    low, high = min(num_runs), max(num_runs)
    each = f"{low} run{'' if low == 1 else 's'} each" if low == high else f"{low} to {high} runs each"
    band = "" if high == 1 else "; line: mean, band: lowest to highest run"
    left_out = f" The best {len(num_runs)} of {num_configurations} configurations."
    return f"{each}{band}.{left_out if len(num_runs) < num_configurations else ''}"


def _history(row: Configuration) -> History:
    """Of its completed runs, or of all if none is: one that goes on or failed has a curve, too."""
    runs = row.completed or row.runs
    return [epochs for run in runs if (epochs := read_history(Path(run["folder"])))]


def read_history(folder: Path) -> dict[int, dict[str, float]]:
    """Epoch, from 1 -> finite values, from ``metrics.jsonl``; lines that are half written are passed over."""
    found: dict[int, dict[str, float]] = {}
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            values = json.loads(line)
            epoch = int(values["epoch"]) + 1
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
        found[epoch] = {
            key: value for key in _METRICS if isinstance(value := values.get(key), int | float) and isfinite(value)
        }
    return found


def _points(history: History, key: str) -> list[tuple[int, float, float, float]]:
    """(epoch, mean, lowest, highest) by epoch."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for epochs in history:
        for epoch, values in epochs.items():
            if key in values:
                by_epoch[epoch].append(values[key])
    ordered = sorted(by_epoch)
    stride = max(1, -(-len(ordered) // _MOST_POINTS))
    kept = sorted({*ordered[::stride], *ordered[-1:]})
    return [(epoch, mean(by_epoch[epoch]), min(by_epoch[epoch]), max(by_epoch[epoch])) for epoch in kept]
