"""The mean of values of seeds crossed with blocks of images, both of which are samples, and how sure it is."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Spread(NamedTuple):
    """Standard error of a mean, and the degrees of freedom that it is known with."""

    error: Array
    freedom: Array


@dataclass(frozen=True)
class Crossed:
    """Mean and mean squares of a two-way layout.

    Attributes:
        mean: (...) over seeds and blocks.
        seed: (...) mean square of the seeds.
        block: (...) that of the blocks.
        rest: (...) that of what neither explains.
        num_seeds: 2 or more.
        num_blocks: 1 or more; 1 if only the seeds are a sample.
    """

    mean: Array
    seed: Array
    block: Array
    rest: Array
    num_seeds: int
    num_blocks: int

    def spread(self, num_seeds: int | None = None) -> Spread:
        """Of the mean over this many seeds (by default those that there are), were the components to stay.

        Returns:
            Of shape (...); freedom is 1 or more.
        """
        s, b = num_seeds or self.num_seeds, self.num_blocks
        # Components below zero are chance: a mean square is then taken for the rest's.
        of_seed = np.maximum(self.seed - self.rest, 0) / (s * b)
        of_block = np.maximum(self.block - self.rest, 0) / (self.num_seeds * b)
        of_rest = self.rest / (s * b)
        variance = of_seed + of_block + of_rest
        squares = (
            (of_seed + of_rest) ** 2 * (of_seed > 0) / (s - 1)
            + (of_block + self.rest / (self.num_seeds * b)) ** 2 * (of_block > 0) / max(b - 1, 1)
            + of_rest**2 / ((s - 1) * max(b - 1, 1))
        )
        freedom = np.divide(variance**2, squares, out=np.full(variance.shape, float(s - 1)), where=squares > 0)
        return Spread(np.sqrt(variance), np.maximum(freedom, 1))


def crossed(values: Array) -> Crossed:
    """Takes values (..., S, B) apart, by seeds and blocks; with B = 1 only the seeds are a sample."""
    s, b = values.shape[-2:]
    if b == 1:
        none = np.zeros(values.shape[:-2])
        return Crossed(values.mean(axis=(-2, -1)), values[..., 0].var(axis=-1, ddof=1), none, none, s, b)
    of_seed, of_block = values.mean(axis=-1), values.mean(axis=-2)
    mean = of_seed.mean(axis=-1)
    rest = values - of_seed[..., None] - of_block[..., None, :] + mean[..., None, None]
    return Crossed(
        mean,
        b * of_seed.var(axis=-1, ddof=1),
        s * of_block.var(axis=-1, ddof=1),
        np.square(rest).sum(axis=(-2, -1)) / ((s - 1) * (b - 1)),
        s,
        b,
    )


def student(freedom: Array, confidence: float, num: int = 1) -> Array:
    """How many standard errors an interval reaches to either side if ``num`` of them shall hold at once (Sidak)."""
    from scipy.special import stdtrit

    alone = -np.expm1(np.log(confidence) / num) / 2  # of one tail
    return np.asarray(-stdtrit(freedom, alone))
