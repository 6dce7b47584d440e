"""The statistics of reports against values worked out by hand and against scipy."""

import numpy as np
import pytest
from scipy import stats

from segsweep.report.intervals import Interval, mean_interval, paired_interval, verdict
from segsweep.report.labels_saved import Saving, labels_saved


def test_the_interval_of_three_values():
    # Mean 0.6, SD 0.1, t(2, 0.975) = 4.302653: half the interval is 4.302653 * 0.1 / sqrt(3).
    interval = mean_interval([0.5, 0.6, 0.7])
    assert interval.mean == pytest.approx(0.6)
    assert (interval.low, interval.high) == pytest.approx((0.3515862, 0.8484138), abs=1e-6)
    assert interval.n == 3


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) == Interval(0.5, None, None, 1)
    assert mean_interval([0.5]).low is None


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_paired_intervals_agree_with_scipy(n):
    rng = np.random.default_rng(n)
    a, b = rng.random(n), rng.random(n)
    found = paired_interval(dict(enumerate(a.tolist())), dict(enumerate(b.tolist())))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_pairs_are_those_of_equal_seeds():
    # Seeds differ by far more than arms: only paired by seed is the difference plain.
    arm, reference = {2: 0.52, 0: 0.12, 1: 0.93, 7: 0.0}, {0: 0.1, 1: 0.9, 2: 0.5, 8: 1.0}
    difference = paired_interval(arm, reference)
    assert difference.n == 3
    assert difference.mean == pytest.approx((0.02 + 0.03 + 0.02) / 3)
    assert verdict(difference) == "helps"
    assert paired_interval({0: 0.5}, {1: 0.5}) is None


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (Interval(0.02, 0.01, 0.03, 3), "helps"),
        (Interval(-0.02, -0.03, -0.01, 3), "hurts"),
        (Interval(0.02, -0.01, 0.05, 3), "no difference shown"),
        (Interval(-0.02, -0.05, 0.01, 3), "no difference shown"),
        (Interval(0.0, 0.0, 0.0, 3), "no difference shown"),
        (Interval(0.5, None, None, 1), "too few seeds"),
        (None, "too few seeds"),
    ],
)
def test_verdicts(difference, expected):
    assert verdict(difference) == expected


REFERENCE = {0.01: 0.2, 0.1: 0.4, 1.0: 0.6}


def test_labels_saved_between_two_fractions():
    # 0.6 is a third of the way from 0.5 at 10 % to 0.8 at 100 %, on a logarithmic axis 10 ** (-1 + 1/3): 4.64 x fewer.
    saving = labels_saved({0.01: 0.3, 0.1: 0.5, 1.0: 0.8}, REFERENCE, 1.0)
    assert saving.factor == pytest.approx(10 ** (2 / 3))
    assert not saving.is_bound
    assert str(saving) == "4.6x"


def test_more_labels_needed_is_below_one():
    assert labels_saved({0.1: 0.2, 1.0: 0.4}, REFERENCE, 0.1).factor == pytest.approx(0.1)


def test_equal_curves_save_nothing():
    assert [labels_saved(REFERENCE, REFERENCE, f).factor for f in REFERENCE] == pytest.approx([1, 1, 1])
    dip = {0.01: 0.2, 0.1: 0.7, 1.0: 0.6}
    assert [labels_saved(dip, dip, f).factor for f in dip] == pytest.approx([1, 1, 1])


def test_nothing_is_assumed_below_the_smallest_fraction():
    saving = labels_saved({0.01: 0.5, 0.1: 0.7}, REFERENCE, 0.1)
    assert saving == Saving(pytest.approx(10), is_bound=True)
    assert str(saving) == "at least 10.0x"


def test_nothing_is_assumed_above_the_largest_fraction():
    assert str(labels_saved({0.01: 0.3, 0.1: 0.59}, REFERENCE, 1.0)) == "not reached"


def test_without_a_point_there_is_no_figure():
    assert labels_saved({0.01: 0.3}, REFERENCE, 0.5) is None
    assert labels_saved({}, REFERENCE, 0.1) is None


def test_a_lucky_bump_is_no_saving():
    # The bump at 10 % reaches 0.6, but with its neighbour it averages 0.55: the crossing lies beyond.
    bump = {0.01: 0.3, 0.1: 0.6, 0.3: 0.5, 1.0: 0.7}
    needed = 0.3 * (1.0 / 0.3) ** ((0.6 - 0.55) / (0.7 - 0.55))
    assert labels_saved(bump, REFERENCE, 1.0).factor == pytest.approx(1 / needed)
