"""Means and paired differences over seeds, with Student t intervals.

A percentile bootstrap over 3 seeds covers the truth 74 times in 100, over 5 seeds 84 times, when 95 are promised;
Student's t keeps its promise at any number of seeds if the scores are about normal.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import NamedTuple

CONFIDENCE = 0.95
NO_CELLS = ("-", "-", "-", "0")  # of no interval, in a CSV file


class Interval(NamedTuple):
    """A mean and how sure it is.

    Attributes:
        mean: of the values.
        half: half the width of its interval, None for one value alone, whose spread is unknown.
        n: number of values.
    """

    mean: float
    half: float | None
    n: int

    @property
    def low(self) -> float | None:
        """Lower end."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end."""
        return None if self.half is None else self.mean + self.half

    def text(self, form: str) -> str:
        """For a table: ``0.7123 ± 0.0210``, the mean in a format of its own."""
        return format(self.mean, form) + ("" if self.half is None else f" ± {self.half:.4f}")

    def cells(self) -> tuple[str, str, str, str]:
        """For a CSV file: mean, low, high, n."""
        low, high = ("-" if end is None else f"{end:.6f}" for end in (self.low, self.high))
        return f"{self.mean:.6f}", low, high, str(self.n)


def half_width(n: int) -> float:
    """Half the width of the interval of a mean of ``n`` values, in their standard deviations.

    >>> round(half_width(3), 2), round(half_width(10), 2)
    (2.48, 0.72)
    """
    from scipy.special import stdtrit  # here, because a report without intervals need not wait for it

    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) / sqrt(n)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of one or more values with its Student t interval."""
    half = half_width(len(values)) * stdev(values) if len(values) > 1 else None
    return Interval(mean(values), half, len(values))


def paired_interval(scores: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """Mean of ``scores - reference`` over the seeds that both have, with its interval; None if they share no seed.

    Pairing takes out what a seed does to both alike: the same labelled subset, the same order of images.
    """
    shared = sorted(scores.keys() & reference.keys())
    return mean_interval([scores[seed] - reference[seed] for seed in shared]) if shared else None


def verdict(difference: Interval | None) -> str:
    """What a difference from a reference, higher being better, allows one to say.

    >>> verdict(Interval(0.03, 0.01, 3)), verdict(Interval(-0.03, 0.01, 3)), verdict(Interval(0.03, 0.05, 3))
    ('helps', 'hurts', 'no difference shown')
    """
    if difference is None or difference.half is None:
        return "too few seeds"
    if abs(difference.mean) <= difference.half:
        return "no difference shown"
    return "helps" if difference.mean > 0 else "hurts"
