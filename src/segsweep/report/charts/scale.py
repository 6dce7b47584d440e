"""From values to pixels, and the round numbers that are written along the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes:
        low: value at ``start``; above 0 if logarithmic.
        high: value at ``end``, above ``low``.
        start: pixel.
        end: pixel; below ``start`` for an axis that points up.
        is_log: whether equal distances are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = self._place(value) - self._place(self.low)
        return self.start + (self.end - self.start) * share / (self._place(self.high) - self._place(self.low))

    def ticks(self, most: int) -> list[float]:
        """Round values within the axis, about as many as asked for.

        >>> Scale(0.12, 0.83, 0, 100).ticks(5)
        [0.2, 0.4, 0.6, 0.8]
        >>> Scale(3e5, 4e6, 0, 100, is_log=True).ticks(5)
        [500000.0, 1000000.0, 2000000.0]
        """
        if not self.is_log:
            return _round_values(self.low, self.high, most)
        exponents = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**e for e in exponents for d in digits if self.low <= d * 10.0**e <= self.high]
            if len(found) <= most:
                break
        while len(found) > most:
            found = found[::2]
        return found if len(found) > 1 else _round_values(self.low, self.high, most)

    def _place(self, value: float) -> float:
        return log10(value) if self.is_log else value


def spanning(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    is_log: bool = False,
    limits: tuple[float, float] = (float("-inf"), float("inf")),
) -> Scale:
    """An axis with some air around values; ``limits`` are values that cannot be exceeded.

    >>> spanning([0.5, 0.99], 0, 1, limits=(0, 1)).high
    1
    """
    finite = [v for v in values if isfinite(v) and (v > 0 or not is_log)] or [1.0]
    low, high = min(finite), max(finite)
    if is_log:
        factor = max((high / low) ** 0.08, 1.15)
        return Scale(max(low / factor, limits[0]) or low, min(high * factor, limits[1]), start, end, is_log=True)
    air = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    bottom, top = max(low - air, limits[0]), min(high + air, limits[1])
    return Scale(bottom, top if top > bottom else bottom + 1, start, end)


def within_reach(scores: Sequence[float], ends: Sequence[float]) -> list[float]:
    """Scores with the ends of their intervals; an end so far away that it would squeeze all scores is moved nearer.

    >>> within_reach([0.5, 0.6], [0.45, -3.0])
    [0.5, 0.6, 0.45, 0.35]
    """
    low, high = min(scores), max(scores)
    reach = max(1.5 * (high - low), 0.02)
    return [*scores, *(round(min(max(end, low - reach), high + reach), 6) for end in ends)]


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """As many decimals as the ticks need to differ, thousands as k, M, G.

    >>> tick_texts([0.2, 0.25, 0.3]), tick_texts([1000.0, 20000.0]), tick_texts([0.0, 2500.0, 5000.0])
    (['0.20', '0.25', '0.30'], ['1k', '20k'], ['0', '2.5k', '5k'])
    """
    if max((abs(t) for t in ticks), default=0) >= 1000:
        return [compact(t) for t in ticks]
    for digits in range(7):
        texts = [f"{t:.{digits}f}" for t in ticks]
        if all(abs(float(text) - t) <= 1e-3 * abs(t) for text, t in zip(texts, ticks, strict=True)):
            break
    span = max(ticks, default=0) / (min((t for t in ticks if t > 0), default=1) or 1)
    return [f"{t:g}" for t in ticks] if span >= 50 else texts


def compact(value: float) -> str:
    """Three digits and a unit.

    >>> compact(487_883), compact(0.01234), compact(12)
    ('488k', '0.0123', '12')
    """
    for size, unit in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _round_values(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / max(most, 1)
    size = 10.0 ** floor(log10(raw))
    step = next(s * size for s in _STEPS if s * size >= raw * (1 - 1e-9))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
