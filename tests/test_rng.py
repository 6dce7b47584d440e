import pytest
import torch

from segsweep.rng import mix, permutation, uniform


def test_a_row_depends_on_its_index_alone():
    alone = uniform(mix(0, "a"), torch.tensor([7]), 5)
    among_others = uniform(mix(0, "a"), torch.tensor([3, 7, 1]), 5)
    assert torch.equal(alone[0], among_others[1])
    assert not torch.equal(among_others[0], among_others[1])


def test_other_keys_give_other_numbers():
    index = torch.arange(100)
    assert not torch.equal(uniform(mix(0, 0), index, 2), uniform(mix(0, 1), index, 2))
    assert not torch.equal(permutation(50, 0, "order", 0), permutation(50, 0, "order", 1))


def test_numbers_are_uniform_and_uncorrelated():
    draws = uniform(mix(1), torch.arange(20_000), 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    # Standard errors at n = 20,000: 0.002 for the mean, 0.0005 for the variance, 0.007 for a correlation; six of each.
    assert draws.mean(0).numpy() == pytest.approx([0.5] * 4, abs=0.0123)
    assert draws.var(0).numpy() == pytest.approx([1 / 12] * 4, abs=0.0032)
    assert (torch.corrcoef(draws.T) - torch.eye(4)).abs().max() < 0.043


def test_permutation_holds_every_number_once():
    assert sorted(permutation(31, 5, "x").tolist()) == list(range(31))
