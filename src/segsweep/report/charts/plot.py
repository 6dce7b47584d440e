"""A pair of axes on which lines, bands, points and whiskers are put; what they are called stands beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from segsweep.report.charts.scale import Scale, spanning, tick_texts
from segsweep.report.charts.svg import clipped, element, escaped, path, text, title

WIDTH, HEIGHT = 372.0, 252.0  # user units, about pixels on the page
_TOP, _BOTTOM, _LEFT, _RIGHT = 12.0, 40.0, 28.0, 14.0
_LETTER = 6.2  # user units, of the labels
_LINE_HEIGHT = 13.0
CHART_LETTERS = 17  # of a name beside a line
NUM_COLORS = 8  # of the palette; beyond, lines are dashed and points hollow
NUM_LOOKS = 3 * NUM_COLORS  # what comes later is grey


@dataclass(frozen=True)
class Mark:
    """How something is called and looks wherever it is drawn.

    Attributes:
        name: in full, as the records have it.
        label: short, for tables and sentences.
        short: shorter still, for charts.
        slot: its number among all that share a page; gives colour, dash and shape.
    """

    name: str
    label: str
    short: str
    slot: int

    @property
    def classes(self) -> str:
        """CSS classes that carry colour and dash."""
        if self.slot >= NUM_LOOKS:
            return "kx"
        return f"k{self.slot % NUM_COLORS} d{self.slot // NUM_COLORS}"


@dataclass(frozen=True)
class Axis:
    """What one direction shows.

    Attributes:
        name: with its unit.
        values: that must fit.
        is_log: whether equal distances are equal factors.
        limits: values that cannot be exceeded.
        ticks: places and texts, if they are no numbers.
    """

    name: str
    values: Sequence[float]
    is_log: bool = False
    limits: tuple[float, float] = (float("-inf"), float("inf"))
    ticks: tuple[tuple[float, str], ...] | None = None


class Plot:
    """One chart in the making.

    Args:
        x: the axis below.
        y: the axis at the left.
        label_length: letters to keep free at the right for names of lines.
        size: width and height in user units.
    """

    def __init__(self, x: Axis, y: Axis, label_length: int = 0, size: tuple[float, float] = (WIDTH, HEIGHT)) -> None:
        self.width, self.height = size
        right = self.width - max(_RIGHT, min(label_length, CHART_LETTERS) * _LETTER + 10)
        self.y = spanning(y.values, self.height - _BOTTOM, _TOP, is_log=y.is_log, limits=y.limits)
        self._y_ticks = y.ticks or _ticks(self.y, 6)
        left = _LEFT + 5.5 * max((len(label) for _, label in self._y_ticks), default=0)
        self.x = spanning(x.values, left, right, is_log=x.is_log, limits=x.limits)
        self._axes = (x, y)
        self._back: list[str] = []
        self._marks: list[str] = []
        self._names: list[str] = []
        self._labels: list[tuple[float, Mark, str]] = []

    def level(self, value: float, name: str) -> None:
        """A dashed horizontal line, if it lies within the axis."""
        if self.y.low <= value <= self.y.high:
            y = self.y(value)
            self._back.append(element("line", x1=self.x.start, x2=self.x.end, y1=y, y2=y, class_="level"))
            self._names.append(text(clipped(name, 44), self.x.end - 2, y - 4, "note", "end", name))

    def band(self, mark: Mark, points: Sequence[tuple[float, float, float]]) -> None:
        """The area between lows and highs: ``(x, low, high)``."""
        upper = [(self.x(x), self.y(high)) for x, _, high in points]
        lower = [(self.x(x), self.y(low)) for x, low, _ in reversed(points)]
        self._back.append(element("path", d=path(upper + lower) + "Z", class_=f"band {mark.classes}", data_c=mark.slot))

    def line(self, mark: Mark, points: Sequence[tuple[float, float]], hover: str = "", is_named: bool = True) -> None:
        """A line through values, its name at its right end."""
        pixels = [(self.x(x), self.y(y)) for x, y in points]
        hover = hover or mark.name
        self._marks.append(
            element("path", title(hover), d=path(pixels), class_=f"line {mark.classes}", data_c=mark.slot)
        )
        if is_named:
            self._labels.append((pixels[-1][1], mark, hover))

    def step(self, points: Sequence[tuple[float, float]], is_rising: bool) -> None:
        """A front: the best of all that cost as much, between corners ``(x, y)`` by rising x."""
        corners = [(self.x(points[0][0]), self.y(points[0][1]))]
        for x, y in points[1:]:
            before = corners[-1]
            pixel = (self.x(x), self.y(y))
            corners += [(pixel[0], before[1]) if is_rising else (before[0], pixel[1]), pixel]
        self._back.append(element("path", d=path(corners), class_="front"))

    def point(
        self,
        mark: Mark,
        x: float,
        y: float,
        hover: str,
        whisker: tuple[float, float] | None = None,
        kind: str = "point",
    ) -> None:
        """A value, with an interval if there is one."""
        px, py = self.x(x), self.y(y)
        parts = [title(hover)]
        if whisker:
            ends = (min(max(end, self.y.low), self.y.high) for end in whisker)
            y1, y2 = (self.y(end) for end in ends)
            parts.append(element("line", x1=px, x2=px, y1=y1, y2=y2, class_="whisker"))
        parts.append(shape(mark.slot, px, py, 3.6 if kind == "point" else 2.4))
        self._marks.append(element("g", *parts, class_=f"{kind} {mark.classes}", data_c=mark.slot))

    def name_points(self, named: Sequence[tuple[Mark, float, float]], others: Sequence[tuple[float, float]]) -> None:
        """Writes names beside points where there is room: right, left, above, below, or not at all."""
        taken = [(self.x(x) - 4, self.y(y) - 4, self.x(x) + 4, self.y(y) + 4) for x, y in others]
        taken += [(self.x(x) - 4, self.y(y) - 4, self.x(x) + 4, self.y(y) + 4) for _, x, y in named]
        for mark, x, y in named:
            label = clipped(mark.short, 18)
            found = _free_place(self.x(x), self.y(y), len(label) * _LETTER, taken, self.x.start, self.width)
            if found:
                left, base = found
                taken.append((left, base - 9, left + len(label) * _LETTER, base + 2))
                self._names.append(
                    element("text", escaped(label), title(mark.name), x=left, y=base, class_=f"name {mark.classes}",
                            data_c=mark.slot)
                )  # fmt: skip

    def render(self, label: str) -> str:
        """The chart as SVG; ``label`` says what it shows to those who cannot see it."""
        return element(
            "svg", *self._frame(), *self._back, *self._marks, *self._names, *self._ends(),
            viewBox=f"0 0 {self.width:g} {self.height:g}", role="img", aria_label=label, class_="plot",
        )  # fmt: skip

    def _frame(self) -> list[str]:
        x, y = self._axes
        parts = []
        for value, label in self._y_ticks:
            place = self.y(value)
            parts.append(element("line", x1=self.x.start, x2=self.x.end, y1=place, y2=place, class_="grid"))
            parts.append(text(label, self.x.start - 6, place + 3.5, "tick", "end"))
        bottom = self.y.start
        most = int((self.x.end - self.x.start) / 44)
        last_end = float("-inf")
        for value, label in x.ticks or _ticks(self.x, most):
            place, half = self.x(value), len(label) * _LETTER / 2
            if place - half > last_end:  # texts never touch
                parts.append(element("line", x1=place, x2=place, y1=bottom, y2=bottom + 4, class_="axis"))
                parts.append(text(label, place, bottom + 15, "tick", "middle"))
                last_end = place + half + 4
        parts.append(element("line", x1=self.x.start, x2=self.x.end, y1=bottom, y2=bottom, class_="axis"))
        parts.append(text(x.name, (self.x.start + self.x.end) / 2, self.height - 8, "title", "middle"))
        if y.name:
            middle = (self.y.start + self.y.end) / 2
            turned = f"rotate(-90 11 {middle:.1f})"
            parts.append(
                element(
                    "text", escaped(y.name), x=11.0, y=middle, class_="title", text_anchor="middle", transform=turned
                )
            )
        return parts

    def _ends(self) -> list[str]:
        """Names of lines at their right ends, moved apart where they would lie on each other."""
        ordered = sorted(self._labels, key=lambda each: each[0])
        places = spread([y for y, _, _ in ordered], _LINE_HEIGHT, _TOP, self.height - 4)
        parts = []
        for (y, mark, hover), place in zip(ordered, places, strict=True):
            x = self.x.end
            leader = [(x + 1, y), (x + 6, place)]
            parts.append(element("path", d=path(leader), class_=f"leader {mark.classes}", data_c=mark.slot))
            parts.append(
                element("text", escaped(clipped(mark.short, CHART_LETTERS)), title(hover), x=x + 8, y=place + 3.5,
                        class_=f"name {mark.classes}", data_c=mark.slot)
            )  # fmt: skip
        return parts


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves rising places as little as needed to lie ``gap`` apart within limits.

    >>> spread([10, 11, 50], 10, 0, 100)
    [5.5, 15.5, 50.0]
    """
    groups: list[list[float]] = []  # sum of wished starts, number of members
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1 and _start(groups[-2], gap) + groups[-2][1] * gap > _start(groups[-1], gap):
            wished, count = groups.pop()
            groups[-1][0] += wished - count * groups[-1][1] * gap
            groups[-1][1] += count
    result: list[float] = []
    for group in groups:
        first = _start(group, gap)
        result += [first + i * gap for i in range(int(group[1]))]
    shift = min(0.0, high - result[-1]) if result else 0.0
    shift = max(shift, low - result[0]) if result and result[0] + shift < low else shift
    return [place + shift for place in result]


def shape(slot: int, x: float, y: float, size: float) -> str:
    """A circle, square, diamond or triangle, so that colour is never all that tells two apart."""
    kind = slot % 4
    if kind == 0:
        return element("circle", cx=x, cy=y, r=size)
    if kind == 1:
        half = size * 0.9
        return element("rect", x=x - half, y=y - half, width=2 * half, height=2 * half)
    reach = size * 1.3
    corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
    if kind == 3:
        corners = [(x, y - reach), (x + reach, y + reach * 0.75), (x - reach, y + reach * 0.75)]
    return element("path", d=path(corners) + "Z")


def _start(group: list[float], gap: float) -> float:
    """First place of a group whose members are centred on where they wished to be."""
    return group[0] / group[1]


def _ticks(scale: Scale, most: int) -> list[tuple[float, str]]:
    ticks = scale.ticks(most)
    return list(zip(ticks, tick_texts(ticks), strict=True))


def _free_place(
    x: float, y: float, width: float, taken: list[tuple[float, float, float, float]], left: float, right: float
) -> tuple[float, float] | None:
    wished = ((x + 7, y + 3.5), (x - 7 - width, y + 3.5), (x - width / 2, y - 8), (x - width / 2, y + 16))
    for start, base in (*wished, (x + 6, y - 6), (x + 6, y + 13), (x - 6 - width, y - 6), (x - 6 - width, y + 13)):
        box = (start, base - 9, start + width, base + 2)
        is_inside = box[0] >= left + 2 and box[2] <= right - 2 and box[1] >= 2
        if is_inside and not any(_overlap(box, other) for other in taken):
            return start, base
    return None


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
