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
            figures.append(_figure(comparison, key, name, Axis(y_name, [], limits=limits), lines, marks))
    return figures


def _figure(
    comparison: Comparison,
    key: str,
    name: str,
    y: Axis,
    lines: Mapping[str, list[tuple[int, float, float, float]]],
    marks: Mapping[str, Mark],
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
    return Figure(name, plot.render(f"{name} by epoch of {len(lines)} configurations"), _caption(comparison, lines))


def _caption(comparison: Comparison, lines: Mapping[str, object]) -> str:
    shown = [row for row in comparison.configurations if row.name in lines]
    seeds = sorted({len(row.runs) for row in shown})
    spread = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    runs = "run" if spread == "1" else "runs"
    band = "" if seeds[-1] == 1 else "; line: mean, band: lowest to highest run"
    num = len(comparison.configurations)
    left_out = f" The best {len(shown)} of {num} configurations." if len(shown) < num else ""
    return f"{spread} {runs} each{band}.{left_out}"


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
