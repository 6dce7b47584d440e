"""Critical-difference diagram: mean ranks on a line, bars over those that cannot be told apart."""

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.svg import clipped, element, text
from segsweep.report.ranks import Ranks

_WIDTH = 640.0  # user units
_MARGIN = 160.0  # for the names
_LINE = 16.0  # user units, height of a name's line
_BAR = 8.0  # between two bars
_LETTERS = 26
_AXIS_Y = 52.0


def rank_diagram(ranks: Ranks, num_datasets: int) -> Figure:
    """The diagram of Demsar 2006, figure 1: best rank to the left, names below, half of them on each side."""
    names = list(ranks.mean)
    k = len(names)
    parts = [*_axis(k), *_ruler(ranks.critical_difference, k)]
    for level, group in enumerate(ranks.alike):
        y = _AXIS_Y + 8 + level * _BAR
        ends = (_x(ranks.mean[group[0]], k) - 3, _x(ranks.mean[group[-1]], k) + 3)
        parts.append(element("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_="alike"))
    top = _AXIS_Y + 8 + len(ranks.alike) * _BAR
    half = (k + 1) // 2
    for place, name in enumerate(names):
        row = place if place < half else k - 1 - place
        parts += _named(name, ranks.mean[name], k, top + 14 + row * _LINE, is_left=place < half)
    height = top + 14 + half * _LINE
    label = f"Mean ranks over {num_datasets} datasets: " + ", ".join(f"{n} {r:.2f}" for n, r in ranks.mean.items())
    svg = element("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {height:.0f}", role="img", aria_label=label, class_="plot")
    friedman = "" if ranks.friedman is None else f" Friedman's test that all are alike: p = {ranks.friedman:.3g}."
    caption = (
        f"Over {num_datasets} datasets, best to the left. Bars join what lies within the critical difference "
        f"{ranks.critical_difference:.2f} of Nemenyi's test at 95 %.{friedman}"
    )
    return Figure("Mean ranks", svg, caption, is_wide=True)


def _x(rank: float, k: int) -> float:
    return _MARGIN + (rank - 1) / (k - 1) * (_WIDTH - 2 * _MARGIN)


def _axis(k: int) -> list[str]:
    step = -(-k // 12)
    line = element("line", x1=_x(1, k), x2=_x(k, k), y1=_AXIS_Y, y2=_AXIS_Y, class_="axis")
    ticks = [
        part
        for rank in range(1, k + 1, step)
        for part in (
            element("line", x1=_x(rank, k), x2=_x(rank, k), y1=_AXIS_Y - 5, y2=_AXIS_Y, class_="axis"),
            text(str(rank), _x(rank, k), _AXIS_Y - 9, "tick", "middle"),
        )
    ]
    return [line, *ticks]


def _ruler(critical: float, k: int) -> list[str]:
    """How long the critical difference is; cut off where all ranks lie within it."""
    end = _x(1 + min(critical, k - 1), k)
    return [
        element("line", x1=_x(1, k), x2=end, y1=22.0, y2=22.0, class_="axis"),
        *(element("line", x1=x, x2=x, y1=18.0, y2=26.0, class_="axis") for x in (_x(1, k), end)),
        text(f"critical difference {critical:.2f}", _x(1, k), 13, "tick"),
    ]


def _named(name: str, rank: float, k: int, y: float, *, is_left: bool) -> list[str]:
    x, side = _x(rank, k), 8.0 if is_left else _WIDTH - 8.0
    corner = f"M{x:.1f},{_AXIS_Y:.1f}V{y:.1f}H{side:.1f}"
    label = clipped(f"{name} {rank:.2f}", _LETTERS)
    return [
        element("path", d=corner, class_="leader"),
        text(label, side, y - 3, "tick", "start" if is_left else "end", f"{name}: mean rank {rank:.3f}"),
    ]
