"""How many times fewer labels one curve needs to reach what another one reaches."""

from collections.abc import Mapping
from math import exp, log
from typing import NamedTuple

Curve = Mapping[float, float]  # labelled fraction -> score


class Saving(NamedTuple):
    """Labels of the reference over labels needed for the same score.

    Attributes:
        factor: above 1 fewer labels are needed, below 1 more; None if the score is not reached at all.
        is_bound: the smallest fraction that was tried already reaches the score: the factor is at least this.
    """

    factor: float | None
    is_bound: bool = False

    def __str__(self) -> str:
        if self.factor is None:
            return "not reached"
        return f"{'at least ' if self.is_bound else ''}{self.factor:.1f}x"


def labels_saved(curve: Curve, reference: Curve, fraction: float) -> Saving | None:
    """Times fewer labels with which ``curve`` reaches what ``reference`` reaches at a fraction; 1 for equal curves.

    Both curves are first made monotone (isotonic regression: more labels do not hurt, a dip is noise), so that a lucky
    bump does not pass for a saving. Between fractions the score is linear in the logarithm of the fraction; beyond
    those that were tried nothing is assumed.

    Returns:
        None where the reference has no score at the fraction, or the curve is empty.

    >>> str(labels_saved({0.1: 0.6, 0.4: 0.8}, {0.1: 0.5, 0.4: 0.7}, fraction=0.4))
    '2.0x'
    """
    if fraction not in reference or not curve:
        return None
    reference, curve = _monotone(reference), _monotone(curve)
    target = reference[fraction]
    needed = _first_fraction(curve, target)
    if needed is None:
        return Saving(None)
    # The reference, too, may reach its score with fewer labels than this: where its curve is flat.
    spent = _first_fraction(reference, target)
    return Saving((spent or fraction) / needed, is_bound=curve[min(curve)] >= target)


def _monotone(curve: Curve) -> Curve:
    from scipy.optimize import isotonic_regression  # here, because it takes 0.2 s to import

    fractions = sorted(curve)
    return dict(zip(fractions, isotonic_regression([curve[f] for f in fractions]).x.tolist(), strict=True))


def _first_fraction(curve: Curve, target: float) -> float | None:
    """The smallest fraction at which a monotone curve reaches a score, None if it does not."""
    before: float | None = None
    for fraction in sorted(curve):
        if curve[fraction] >= target:
            if before is None:
                return fraction
            share = (target - curve[before]) / (curve[fraction] - curve[before])
            return exp(log(before) + share * (log(fraction) - log(before)))
        before = fraction
    return None
