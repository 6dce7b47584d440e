"""Mean ranks of configurations over datasets: Friedman's test and Nemenyi's critical difference."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from segsweep.report.intervals import CONFIDENCE


@dataclass(frozen=True)
class Ranks:
    """What a critical-difference diagram shows.

    Attributes:
        mean: configuration -> mean rank over datasets, best (lowest) first; ties share their ranks.
        friedman: p of Friedman's test that all are alike; None for two configurations, which it cannot judge.
        critical_difference: mean ranks that are further apart than this differ, over all pairs at once.
        alike: the largest groups of configurations that lie within it, by rank.
    """

    mean: dict[str, float]
    friedman: float | None
    critical_difference: float
    alike: list[tuple[str, ...]]


def rank(scores: Mapping[str, Mapping[str, float]]) -> Ranks:
    """Ranks two configurations or more on each dataset, the highest score first.

    Args:
        scores: configuration -> dataset -> score; all on the same datasets.

    Reference:
        Demsar 2006, Statistical comparisons of classifiers over multiple data sets, JMLR 7.
    """
    from scipy.stats import friedmanchisquare, rankdata

    table = np.array([list(by_dataset.values()) for by_dataset in scores.values()])  # (k, N)
    k, num = table.shape
    ranks = rankdata(-table, axis=0).mean(axis=1)
    mean = {name: value for value, name in sorted(zip(ranks.tolist(), scores, strict=True))}
    # The same score everywhere: scipy divides by zero, and nothing could be more alike.
    is_flat = bool((table == table[0]).all())
    friedman = None if k < 3 else 1.0 if is_flat else float(friedmanchisquare(*table).pvalue)
    critical = critical_difference(k, num)
    return Ranks(mean, friedman, critical, _alike(mean, critical))


def critical_difference(num_configurations: int, num_datasets: int) -> float:
    """Nemenyi's, at 95 %.

    >>> round(critical_difference(5, 10), 2)
    1.93
    """
    from scipy.stats import studentized_range

    q = studentized_range.ppf(CONFIDENCE, num_configurations, inf) / sqrt(2)
    return float(q * sqrt(num_configurations * (num_configurations + 1) / (6 * num_datasets)))


def _alike(mean: Mapping[str, float], critical: float) -> list[tuple[str, ...]]:
    """Runs of neighbours within the critical difference that are part of no longer one."""
    names, values = list(mean), list(mean.values())
    groups: list[tuple[str, ...]] = []
    reached = 0
    for start, value in enumerate(values):
        end = max(i for i in range(start, len(values)) if values[i] - value <= critical) + 1
        if end - start > 1 and end > reached:
            groups.append(tuple(names[start:end]))
        reached = max(reached, end)
    return groups
