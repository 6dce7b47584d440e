from collections import Counter

import pytest

from segsweep.regime import Regime, Stage


def test_stages_divide_the_steps():
    regime = Regime([Stage("a", 0.25, "all"), Stage("b", 0.75, "labelled")])
    steps = [regime.stage_at(step, 40).name for step in range(40)]
    assert steps == ["a"] * 10 + ["b"] * 30


def test_every_stage_has_a_step():
    regime = Regime([Stage("a", 0.01, "all"), Stage("b", 0.01, "all"), Stage("c", 0.98, "labelled")])
    assert Counter(regime.stage_at(step, 5).name for step in range(5)) == {"a": 1, "b": 1, "c": 3}


@pytest.mark.parametrize("shares", [[], [0.5], [0.7, 0.7]])
def test_shares_must_add_up(shares):
    with pytest.raises(ValueError, match="add up to"):
        Regime([Stage("s", share, "all") for share in shares])
