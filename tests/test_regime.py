from collections import Counter

import pytest

from segsweep.objectives import Segment
from segsweep.regime import Regime, Stage


def regime(*shares):
    return Regime({f"stage {i}": Stage(share, "all", "trained", Segment()) for i, share in enumerate(shares)})


def test_stages_divide_the_steps():
    divided = regime(0.25, 0.75)
    assert [divided.index_at(step, 40) for step in range(40)] == [0] * 10 + [1] * 30
    assert divided.bounds(40) == [(0, 10), (10, 40)]


def test_an_open_share_is_what_the_others_leave():
    assert regime(0.25, None, 0.25).bounds(8) == [(0, 2), (2, 6), (6, 8)]


def test_every_stage_has_a_step():
    short = regime(0.01, 0.01, 0.98)
    assert Counter(short.index_at(step, 5) for step in range(5)) == {0: 1, 1: 1, 2: 3}


def test_a_stage_is_found_by_its_step():
    divided = regime(0.5, None)
    assert divided.stage_at(3, 8) is divided.stages["stage 0"]
    assert divided.stage_at(4, 8) is divided.stages["stage 1"]


@pytest.mark.parametrize("shares", [[], [0.5], [0.7, 0.7], [0.7, 0.3, None], [None, None]])
def test_shares_must_add_up(shares):
    with pytest.raises(ValueError, match=r"stages: .*(add up to|only one of them)"):
        regime(*shares)
