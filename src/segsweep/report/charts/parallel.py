"""Parallel coordinates: one line for each configuration through its settings to its score."""

from collections.abc import Sequence
from dataclasses import dataclass

from segsweep.report.charts.plot import Mark
from segsweep.report.charts.scale import spanning, tick_texts
from segsweep.report.charts.svg import clipped, element, path, text, title

_HEIGHT, _TOP, _BOTTOM, _SIDE, _GAP = 320.0, 34.0, 18.0, 84.0, 132.0
_LETTERS = 16


@dataclass(frozen=True)
class Setting:
    """One upright axis of choices, evenly spaced.

    Attributes:
        name: of the key.
        choices: as text, from bottom to top.
    """

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Way:
    """One line.

    Attributes:
        mark: whose it is.
        choices: one number of a choice for each setting, None where it has no such key.
        score: at the last axis.
    """

    mark: Mark
    choices: tuple[int | None, ...]
    score: float


def parallel(settings: Sequence[Setting], score_name: str, ways: Sequence[Way], label: str) -> str:
    """The chart; lines are the stronger, the higher their score, and the best three have their own colour.

    Args:
        settings: at least one.
        score_name: of the last axis.
        ways: best first.
        label: what it shows to those who cannot see it.
    """
    width = 2 * _SIDE + _GAP * len(settings)
    xs = [_SIDE + _GAP * i for i in range(len(settings) + 1)]
    scale = spanning([way.score for way in ways], _HEIGHT - _BOTTOM, _TOP)
    parts = []
    for order, way in reversed(list(enumerate(ways))):
        share = (way.score - scale.low) / (scale.high - scale.low)
        parts.append(_line(way, order, share, settings, xs, scale(way.score)))
    for x, setting in zip(xs, settings, strict=False):
        parts.append(_upright(x, setting.name))
        for i, choice in enumerate(setting.choices):
            parts.append(text(clipped(choice, _LETTERS), x + 6, _place(i, len(setting.choices)) + 3.5, "tick chip"))
    parts.append(_upright(xs[-1], score_name))
    ticks = scale.ticks(6)
    parts += [
        text(tick, xs[-1] + 6, scale(v) + 3.5, "tick chip") for v, tick in zip(ticks, tick_texts(ticks), strict=True)
    ]
    return element(
        "svg", *parts, viewBox=f"0 0 {width:g} {_HEIGHT:g}", role="img", aria_label=label, class_="plot wide",
        style=f"min-width:{width:.0f}px;max-width:{width * 1.25:.0f}px",
    )  # fmt: skip


def _line(way: Way, order: int, share: float, settings: Sequence[Setting], xs: Sequence[float], end: float) -> str:
    points = [
        (x, _place(choice, len(setting.choices)) if choice is not None else _HEIGHT - 4)
        for x, setting, choice in zip(xs, settings, way.choices, strict=False)
    ]
    look = f"way {way.mark.classes}" if order < 3 else "way heat-line"
    return element(
        "path", title(f"{way.mark.name}: {way.score:.4f}"), d=path([*points, (xs[-1], end)]), class_=look,
        style=f"--v:{15 + 85 * share:.0f}%", data_c=way.mark.slot,
    )  # fmt: skip


def _upright(x: float, name: str) -> str:
    return element("line", x1=x, x2=x, y1=_TOP - 8, y2=_HEIGHT - _BOTTOM + 8, class_="axis") + text(
        clipped(name, 20), x, _TOP - 16, "title", "middle", name
    )


def _place(choice: int, count: int) -> float:
    bottom, top = _HEIGHT - _BOTTOM, _TOP
    return (bottom + top) / 2 if count == 1 else bottom - (bottom - top) * choice / (count - 1)
