"""The mean of values of seeds crossed with blocks of images, both of which are samples, and how sure it is.

Estimated as a two-way layout with random effects of both: the variance of the mean is (MS seed + MS block - MS rest) /
(S B). How many standard errors an interval reaches was settled by simulation, scripts/simulate_intervals.py; what else
was tried stands in docs/statistics.md.

- Student's t with Satterthwaite's degrees of freedom covers 93 to 94 % with 5 seeds where these matter: the degrees are
  themselves an estimate, and too high more often than not. A fifth less covers 94 to 96 %.
- Far out that is not enough: of four equal configurations any was called different in up to 7 % of experiments instead
  of 5 %. Of several intervals at once each gives every component the t of its own degrees of freedom: 1 to 5 %.
- Over 30 blocks t covers 92 to 93 % if one model fails badly on a few images, so the end on that side is moved out as
  far as Hall's transformation says; no end is ever moved in.

Reference:
    Satterthwaite 1946, An approximate distribution of estimates of variance components, Biometrics Bulletin 2; Burdick
    and Graybill 1992, Confidence Intervals on Variance Components (components with quantiles of their own); Owen 2007,
    The pigeonhole bootstrap, Annals of Applied Statistics 1; Hall 1992, On the removal of skewness by transformation,
    Journal of the Royal Statistical Society B 54.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_FREEDOM = 0.8  # of Satterthwaite's degrees of freedom are counted, but never fewer than seeds or blocks have


class Spread(NamedTuple):
    """How sure a mean is.

    Attributes:
        error: its standard error.
        freedom: the degrees of freedom that the error is known with, 1 or more.
        skewness: third cumulant of the mean over the third power of its error; 0 over seeds, of which there are too few
            to tell.
        parts: what the square of the error is the sum of, and the degrees of freedom of each.
    """

    error: Array
    freedom: Array
    skewness: Array
    parts: tuple[tuple[Array, float], ...]

    def reach(self, confidence: float, num: int = 1) -> tuple[Array, Array]:
        """How far an interval reaches below and above the mean, if ``num`` of them shall hold at once (Bonferroni)."""
        from scipy.special import stdtrit

        tail = (1 - confidence) / num / 2
        t = -stdtrit(self.freedom, tail)
        if num > 1:
            squares = sum(part * stdtrit(freedom, tail) ** 2 for part, freedom in self.parts)
            apart = np.sqrt(np.maximum(squares, 0))
            t = np.maximum(t, np.divide(apart, self.error, out=np.zeros(apart.shape), where=self.error > 0))
        below, above = _unskewed(self.skewness, t), -_unskewed(self.skewness, -t)
        return self.error * np.maximum(t, below), self.error * np.maximum(t, above)


@dataclass(frozen=True)
class Crossed:
    """Mean and mean squares of a two-way layout.

    Attributes:
        mean: (...) over seeds and blocks.
        seed: (...) mean square of the seeds.
        block: (...) that of the blocks.
        rest: (...) that of what neither explains.
        third: (...) third central moment of the blocks.
        num_seeds: 2 or more.
        num_blocks: 1 or more; 1 if only the seeds are a sample.
    """

    mean: Array
    seed: Array
    block: Array
    rest: Array
    third: Array
    num_seeds: int
    num_blocks: int

    def spread(self, num_seeds: int | None = None) -> Spread:
        """Of the mean over this many seeds (by default those that there are), if the components stay, (...) each."""
        s, b = num_seeds or self.num_seeds, self.num_blocks
        of_seed, of_block, of_rest = self.seed / (s * b), self.block / (self.num_seeds * b), self.rest / (s * b)
        repeated = self.rest / (self.num_seeds * b)  # is in the mean squares of the blocks as it was
        variance = np.maximum(of_seed + of_block - repeated, of_rest)
        # A component below zero is chance: its mean square is then the rest's, and adds nothing to the sum.
        freed = of_seed**2 * (self.seed > self.rest) / (s - 1) + of_rest**2 / ((s - 1) * max(b - 1, 1))
        freed += of_block**2 * (self.block > self.rest) / max(b - 1, 1)
        freedom = np.divide(variance**2, freed, out=np.full(variance.shape, s - 1.0), where=freed > 0)
        error = np.sqrt(variance)
        none = np.zeros(error.shape)
        skewness = np.divide(self.third / b**2, error**3, out=none, where=error > 0)
        few, many = s - 1, max(b - 1, 1)
        fewest = min(few, many) if b > 1 else few
        parts = ((of_seed, few), (of_block, many), (-repeated, few * many))
        return Spread(error, np.maximum(freedom * _FREEDOM, fewest), skewness, parts)


def crossed(values: Array) -> Crossed:
    """Takes values (..., S, B) apart, by seeds and blocks; with B = 1 only the seeds are a sample."""
    s, b = values.shape[-2:]
    if b == 1:
        none = np.zeros(values.shape[:-2])
        return Crossed(values.mean(axis=(-2, -1)), values[..., 0].var(axis=-1, ddof=1), none, none, none, s, b)
    of_seed, of_block = values.mean(axis=-1), values.mean(axis=-2)
    mean = of_seed.mean(axis=-1)
    from_mean = of_block - mean[..., None]
    rest = values - of_seed[..., None] - from_mean[..., None, :]
    return Crossed(
        mean,
        b * of_seed.var(axis=-1, ddof=1),
        s * np.square(from_mean).sum(axis=-1) / (b - 1),
        np.square(rest).sum(axis=(-2, -1)) / ((s - 1) * (b - 1)),
        np.power(from_mean, 3).sum(axis=-1) * b / ((b - 1) * max(b - 2, 1)),
        s,
        b,
    )


def over_blocks(values: Array) -> Spread:
    """Of the mean of values (..., B) of blocks alone, (...) each."""
    b = values.shape[-1]
    from_mean = values - values.mean(axis=-1, keepdims=True)
    error = np.sqrt(np.square(from_mean).sum(axis=-1) / (b - 1) / b)
    third = np.power(from_mean, 3).sum(axis=-1) / (b * (b - 1) * max(b - 2, 1))
    skewness = np.divide(third, error**3, out=np.zeros(error.shape), where=error > 0)
    return Spread(error, np.full(error.shape, b - 1.0), skewness, ((error**2, b - 1),))


def _unskewed(skewness: Array, t: Array) -> Array:
    """Where Hall's cubic transformation takes the quantile of a studentised mean; ``t`` itself without skewness."""
    is_none = np.abs(skewness) < 1e-4  # of the cubic nothing would be left but rounding errors
    some = np.where(is_none, 1, skewness)
    return np.where(is_none, t, 3 / some * (np.cbrt(1 + some * (t - some / 6)) - 1))
