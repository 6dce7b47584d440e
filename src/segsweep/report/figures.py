"""Ranking and accuracy against cost, drawn as PNG for TensorBoard."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from segsweep.report.pareto import front
from segsweep.report.runs import RANK_BY, Comparison, Configuration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ROWS = 40  # configurations of a ranking
_MOST_NAMED = 20  # configurations in a legend
_DPI = 100
_INK, _SEED, _FRONT = "#333333", "#88aacc", "#cc4466"
# Paul Tol's "bright" scheme, told apart with any colour vision.
_COLORS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccaa33", "#66ccee", "#4d4d4d")
_STYLE: Any = {
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9, "axes.titlesize": 10, "axes.edgecolor": "#999999", "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
_COSTS = (  # key of a record, divisor, what it is called, whether more of it is better
    ("parameters", 1e6, "million parameters", False),
    ("flops", 1e9, "GFLOPs for an image", False),
    ("wall_s", 60.0, "minutes of a run", False),
    ("images_per_s.inference", 1.0, "inference images per second", True),
)


@dataclass(frozen=True)
class Drawn:
    """A PNG file and its size in pixels."""

    png: bytes
    height: int
    width: int


def ranking(comparison: Comparison) -> Drawn | None:
    """Each configuration's mean with its standard deviation, and each seed; best on top. None: nothing is completed."""
    rows = _ranked(comparison)[:_MOST_ROWS]
    if not rows:
        return None
    with _figure(6.0, 1.1 + 0.3 * len(rows)) as (figure, drawn):
        axes = figure.subplots()
        for place, row in enumerate(rows):
            values = row.values(RANK_BY)
            axes.plot(values, [place] * len(values), "o", color=_SEED, markersize=5)
            axes.errorbar([mean(values)], [place], xerr=row.deviation(RANK_BY) or 0, fmt="D", color=_INK, markersize=4)
        axes.set_yticks(range(len(rows)), [f"{_short(row.name, 40)}  {i}" for i, row in enumerate(rows, start=1)])
        axes.invert_yaxis()
        axes.set_xlabel("test mIoU: seeds (dots), their mean and standard deviation")
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    return drawn[0]


def pareto(comparison: Comparison) -> dict[str, Drawn]:
    """Test mIoU against each cost that is known; a line joins the configurations that no other beats in both."""
    rows = _ranked(comparison)
    pictures = {}
    for key, divisor, label, is_gain in _COSTS:
        if any(row.average(key) for row in rows):
            with _figure(5.0, 3.6 + 0.17 * min(len(rows), _MOST_NAMED)) as (figure, drawn):
                axes = figure.subplots()
                _draw_front(axes, rows, key, divisor, is_gain)
                axes.set_xlabel(label)
                axes.set_ylabel("test mIoU, mean and SD over seeds")
                figure.legend(loc="outside lower left", frameon=False, fontsize=8, labelspacing=0.2)
            pictures[label] = drawn[0]
    return pictures


def _draw_front(axes: "Axes", rows: Sequence[Configuration], key: str, divisor: float, is_gain: bool) -> None:
    points, others = [], []
    for i, row in enumerate(rows):
        cost, score = row.average(key), row.average(RANK_BY)
        if not cost or score is None:
            continue
        x, color = cost / divisor, _COLORS[i % len(_COLORS)]
        points.append((row.name, x, score))
        if i >= _MOST_NAMED:  # a dot: hundreds of whiskers and numbers are neither read nor quickly drawn
            others.append((x, score))
            continue
        label = f"{i + 1}  {_short(row.name)}"
        axes.errorbar(x, score, yerr=row.deviation(RANK_BY) or 0, fmt="o", color=color, markersize=5, elinewidth=1)
        axes.plot([], [], "o", color=color, label=label)
        axes.annotate(str(i + 1), (x, score), (5, 4), textcoords="offset points", fontsize=8)
    axes.plot([x for x, _ in others], [y for _, y in others], "o", color=_SEED, markersize=3, zorder=0)
    line = front(points, is_gain)
    axes.plot([x for _, x, _ in line], [y for *_, y in line], color=_FRONT, linewidth=1.2, zorder=0)
    xs = [x for _, x, _ in points]
    if xs and max(xs) > 10 * min(xs):
        axes.set_xscale("log")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _ranked(comparison: Comparison) -> list[Configuration]:
    return [row for row in comparison.configurations if row.average(RANK_BY) is not None]


def _short(name: str, longest: int = 64) -> str:
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


@contextlib.contextmanager
def _figure(width: float, height: float) -> Iterator[tuple["Figure", list[Drawn]]]:
    """A figure to draw into; what was drawn is in the list afterwards."""
    import matplotlib as mpl  # here, because it takes 0.3 s
    from matplotlib.figure import Figure  # without pyplot: no window, no state, nothing to close
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import Image

    drawn: list[Drawn] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
        yield figure, drawn
        file = io.BytesIO()
        figure.savefig(file, format="png", facecolor="white")
    with Image.open(file) as picture:
        drawn.append(Drawn(file.getvalue(), picture.height, picture.width))
