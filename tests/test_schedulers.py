import math

import pytest
import torch

from segsweep import schedulers


def rates(make, steps, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make(optimizer, steps, **arguments)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_constant():
    assert rates(schedulers.constant, 5) == [2.0] * 5


def test_step_falls_at_shares_of_the_training():
    assert rates(schedulers.step, 10, milestones=[0.5, 0.8], gamma=0.1) == pytest.approx(
        [2.0] * 5 + [0.2] * 3 + [0.02] * 2
    )


def test_poly():
    assert rates(schedulers.poly, 4, power=2.0) == pytest.approx([2 * (1 - t / 4) ** 2 for t in range(4)])


def test_cosine_rises_and_falls():
    seen = rates(schedulers.cosine, 20, warmup=0.25, floor=0.1)
    assert seen[:5] == pytest.approx([2 * k / 6 for k in range(1, 6)])
    assert seen[5] == pytest.approx(2.0)
    halfway = 0.1 + 0.9 * (1 + math.cos(math.pi * 8 / 15)) / 2
    assert seen[13] == pytest.approx(2 * halfway)
    assert seen == sorted(seen[:6]) + sorted(seen[6:], reverse=True)


def test_one_cycle_starts_and_ends_low():
    seen = rates(schedulers.one_cycle, 20, rise=0.3, start_factor=10.0, end_factor=100.0)
    assert seen[0] == pytest.approx(0.2)
    assert max(seen) == pytest.approx(2.0)
    assert seen[-1] == pytest.approx(0.002)
