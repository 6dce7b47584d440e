"""A panel of a section, curves with intervals over a logarithmic x, as a chart."""

from collections.abc import Mapping, Sequence
from math import log

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.plot import Axis, Mark, Plot
from segsweep.report.curve import Panel
from segsweep.report.intervals import Interval


def draw_panel(panel: Panel, marks: Mapping[str, Mark]) -> Figure:
    """The chart; ``marks`` holds the names of its lines."""
    points = [(x, y) for line in panel.lines for x, y in line.points]
    xs = sorted({x for x, _ in points})
    values = [end for _, y in points for end in (y.mean, y.low, y.high) if end is not None]
    if panel.level:
        values.append(panel.level[0])
    longest = max((len(marks[line.name].label) for line in panel.lines), default=0) if len(panel.lines) > 1 else 0
    ticks = tuple((x, panel.x_text(x)) for x in xs) if len(xs) <= 12 else None
    plot = Plot(
        Axis(panel.x_label, xs, is_log=True, ticks=ticks), Axis(panel.y_label, values, limits=panel.y_limits), longest
    )
    if panel.level:
        plot.level(*panel.level)
    span = log(xs[-1] / xs[0]) if xs else 0
    for order, line in enumerate(panel.lines):
        mark = marks[line.name]
        # Side by side, because intervals on top of each other cannot be told apart.
        shift = (1 + 0.008 * span) ** (order - (len(panel.lines) - 1) / 2)
        plot.line(mark, [(x * shift, y.mean) for x, y in line.points], is_named=len(panel.lines) > 1)
        for x, y in line.points:
            whisker = None if y.low is None or y.high is None else (y.low, y.high)
            ends = f" [{whisker[0]:.4f}, {whisker[1]:.4f}]" if whisker else ""
            plot.point(
                mark, x * shift, y.mean, f"{line.name}, {panel.x_text(x)}: {y.mean:.4g}{ends} (n={y.n})", whisker
            )
    return Figure(panel.title, plot.render(f"{panel.title}: {panel.y_label}"), _caption([y for _, y in points]))


def _caption(values: Sequence[Interval]) -> str:
    counts = sorted({y.n for y in values})
    if not counts or counts[-1] == 1:
        return "One value each."
    num = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"Means of {num} values; whiskers: 95 % interval."
