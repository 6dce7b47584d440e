"""Wilcoxon's signed ranks over blocks of test images, with Holm's correction."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MIN_PAIRS = 6  # with 5 differences, even if all have one sign, p is 2 / 2**5 = 0.0625
_EXACT = 50  # pairs: scipy's own limit


def signed_ranks(differences: Array) -> Array:
    """The p of each row of differences (P, n), two-sided; NaN where fewer than 6 are other than zero.

    Columns with a NaN are left out.
    Zeros are left out, as Wilcoxon did. Exact up to 50 differences; with ties among them rounded to the safe side.
    """
    from scipy.stats import wilcoxon

    differences = differences[:, ~np.isnan(differences).any(axis=0)]
    enough = (differences != 0).sum(axis=1) >= MIN_PAIRS
    result = np.full(len(differences), np.nan)
    if enough.any():
        method = "exact" if differences.shape[1] <= _EXACT else "asymptotic"
        result[enough] = wilcoxon(differences[enough], axis=1, zero_method="wilcox", method=method).pvalue
    return result


def holm(values: Array) -> Array:
    """Holm's correction of p values (P,) over those that are not NaN.

    >>> holm(np.array([0.01, np.nan, 0.04, 0.03])).tolist()
    [0.03, nan, 0.06, 0.06]
    """
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    result = np.full(len(values), np.nan)
    result[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return result
