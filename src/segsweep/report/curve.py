"""Draws curves with intervals as one self-contained SVG. The only module of the report that knows matplotlib."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING, Any

from segsweep.report.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "bright" scheme, told apart with any colour vision; the reference stands first and is grey.
_COLORS = ("#4d4d4d", "#4477aa", "#ee6677", "#228833", "#aa3377", "#ccaa33", "#66ccee")
_MARKERS = "osD^vP*"
_INK = "#333333"
_STYLE: Any = {
    "svg.fonttype": "path",  # looks the same where its fonts are missing
    "svg.hashsalt": "segsweep",  # the same runs give the same file
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 10, "axes.titlesize": 11, "axes.edgecolor": "#999999", "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One curve: ``(x, value with its interval)`` by rising x."""

    name: str
    points: list[tuple[float, Interval]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes, x logarithmic.

    Attributes:
        title: above it.
        x_label: below it.
        y_label: beside it.
        x_text: how an x is written at its tick.
        lines: the reference first.
        y_limits: values that cannot be exceeded, e.g. (0, 1).
        level: value and name of a dashed horizontal line, if there is one.
    """

    title: str
    x_label: str
    y_label: str
    x_text: Callable[[float], str]
    lines: list[Line]
    y_limits: tuple[float, float] = (0.0, 1.0)
    level: tuple[float, str] | None = None


def draw(panels: Sequence[Panel], columns: int) -> bytes:
    """Panels side by side, one legend for all of them, as SVG; vertical bars are the intervals.

    Args:
        panels: at least one; lines of equal name look alike in all.
        columns: panels in a row.
    """
    import matplotlib as mpl  # here, because it takes 0.3 s and most reports have no curve
    from matplotlib.figure import Figure  # without pyplot: no window, no state, nothing to close
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(columns, len(panels))
    rows = ceil(len(panels) / columns)
    levels = [panel.level[1] for panel in panels if panel.level]  # grey, like a reference
    names = list(dict.fromkeys(levels + [line.name for panel in panels for line in panel.lines]))
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)  # inches
    with mpl.rc_context(_STYLE):
        width = 7.2 if columns == 1 else 4.6 * columns  # inches
        entries = max(1, int(width * 14 / (max(map(len, names)) + 5)))  # of the legend in a row, from its letters
        figure = Figure(figsize=(width, 4.2 * rows + 0.2 * ceil(len(names) / entries)), layout=layout)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel, names)
        for axes in grid[len(panels) :]:
            axes.remove()
        _legend(figure, entries)
        file = io.BytesIO()
        figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _draw_panel(axes: "Axes", panel: Panel, names: list[str]) -> None:
    axes.set_xscale("log")
    ticks = sorted({x for line in panel.lines for x, _ in line.points})
    span = max(log(ticks[-1] / ticks[0]), 0.1)
    for order, line in enumerate(panel.lines):
        # Side by side, because intervals on top of each other cannot be told apart.
        shift = (1 + 0.011 * span) ** (order - (len(panel.lines) - 1) / 2)
        look = _look(names.index(line.name))
        xs = [x * shift for x, _ in line.points]
        axes.plot(xs, [y.mean for _, y in line.points], label=line.name, **look)
        axes.errorbar(
            xs,
            [y.mean for _, y in line.points],
            yerr=_reach([y for _, y in line.points]),
            fmt="none", ecolor=look["color"], elinewidth=1.1, capsize=2.2, alpha=0.65,
        )  # fmt: skip
    if panel.level:
        value, name = panel.level
        axes.axhline(value, label=name, color="#888888", linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(ticks[0] * (1 - 0.06 * span), ticks[-1] * (1 + 0.06 * span))
    shown = _spread(ticks, span)
    axes.set_xticks(shown, [panel.x_text(x) for x in shown])
    axes.set_xticks([], minor=True)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, panel.y_limits[0]), min(high, panel.y_limits[1]))


def _reach(values: Sequence[Interval]) -> list[list[float]]:
    """How far each interval reaches below and above its mean; 0 where that is unknown."""
    return [
        [0.0 if y.low is None else y.mean - y.low for y in values],
        [0.0 if y.high is None else y.high - y.mean for y in values],
    ]


def _look(index: int) -> dict[str, Any]:
    """Colour and marker of a line; beyond seven lines the colours return, dashed."""
    return {
        "color": _COLORS[index % len(_COLORS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": "-" if index < len(_COLORS) else "--",
        "linewidth": 1.8,
        "markersize": 5,
    }


def _legend(figure: "Figure", entries: int) -> None:
    """One entry for each name, whatever number of panels it is in."""
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    found = {name: handle for handles, names in drawn for handle, name in zip(handles, names, strict=True)}
    figure.legend(
        list(found.values()), list(found), loc="outside upper left", ncols=min(entries, len(found)), frameon=False,
        fontsize=9, handlelength=2.2, columnspacing=1.4,
    )  # fmt: skip


def _spread(ticks: list[float], span: float) -> list[float]:
    """Leaves out ticks whose labels would overlap."""
    shown: list[float] = []
    for tick in ticks:
        if not shown or log(tick / shown[-1]) > 0.07 * span:
            shown.append(tick)
    return shown
