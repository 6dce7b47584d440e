import itertools

import numpy as np
import pytest

from segsweep.data.labelled import label_order
from tests.sources import open_data, scenes, three_splits


def dataset(num=200, seed=0):
    """Which of six classes occur in which image: the first in all, the last in every fiftieth."""
    rng = np.random.default_rng(seed)
    return rng.random((num, 6)) < np.array([1.0, 0.7, 0.4, 0.2, 0.08, 0.02])


def order(num=200, seed=0):
    return np.random.default_rng(seed + 100).permutation(num)


@pytest.mark.parametrize("seed", range(3))
def test_a_longer_list_begins_with_the_shorter_one(seed):
    present = dataset(seed=seed)
    longest = label_order(present, order(seed=seed), 199)
    assert len(set(longest.tolist())) == 199
    for num in (1, 2, 10, 20, 100, 198):
        assert np.array_equal(label_order(present, order(seed=seed), num), longest[:num])


@pytest.mark.parametrize("seed", range(5))
def test_every_class_gets_an_image_first(seed):
    present = dataset(seed=seed)
    occurring = present.any(axis=0)
    chosen = label_order(present, order(seed=seed), 6)
    assert np.array_equal(present[chosen].any(axis=0), occurring)


@pytest.mark.parametrize("num", [20, 40, 100])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_the_whole(num, seed):
    present = dataset(seed=seed)
    share, chosen = present.mean(axis=0), label_order(present, order(seed=seed), num)
    miss, random_miss = (np.abs(present[some].mean(axis=0) - share) for some in (chosen, order(seed=seed)[:num]))
    assert (miss <= 1 / num + 0.01).all()
    assert miss.mean() < random_miss.mean() / 2


def test_one_image_shows_the_rarest_class():
    present = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 0]], bool)
    assert label_order(present, np.array([0, 1, 3, 4, 2]), 1).tolist() == [2]


def test_of_images_with_the_rarest_class_the_one_with_most_classes_is_taken():
    present = np.array([[0, 0, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 0]], bool)
    assert label_order(present, np.arange(5), 1).tolist() == [1]


def test_images_without_any_class_can_be_chosen_last():
    present = np.zeros((4, 2), bool)
    assert sorted(label_order(present, np.array([2, 0, 3, 1]), 3).tolist()) == [0, 2, 3]


def test_only_images_of_the_order_are_chosen():
    present = dataset()
    candidates = order()[:50]
    assert set(label_order(present, candidates, 30).tolist()) <= set(candidates.tolist())
    assert np.array_equal(label_order(present, candidates, 50), candidates)


@pytest.fixture(scope="module")
def source():
    """Sixty scenes, of which some lack classes, and three have no mask at all."""
    found = three_splits(0)
    found.samples["train"] = [
        *scenes(30, (8, 8), seed=5, num_classes=1),
        *scenes(20, (8, 8), seed=6, num_classes=2),
        *scenes(10, (8, 8), seed=7),
    ]
    for i in (1, 31, 55):
        found.samples["train"][i] = found.samples["train"][i]._replace(mask=None)
    return found


def budget(source, share, seed=0):
    return set(open_data(source, labelled_fraction=share, seed=seed).labelled().tolist())


@pytest.mark.parametrize("seed", [0, 1])
def test_budgets_are_nested_and_as_large_as_they_say(source, seed):
    shares = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    found = [budget(source, share, seed) for share in shares]
    assert [len(chosen) for chosen in found] == [max(1, round(57 * share)) for share in shares]
    for small, large in itertools.pairwise(found):
        assert small < large
    assert found[-1] == set(range(60)) - {1, 31, 55}  # what has no mask is never labelled


def test_a_budget_follows_from_the_seed(source):
    assert budget(source, 0.1) == budget(source, 0.1)
    assert len({tuple(sorted(budget(source, 0.1, seed))) for seed in range(5)}) == 5


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_shows_every_class(source, seed):
    masks = [source.samples["train"][i].mask for i in budget(source, 0.05, seed)]
    assert set(np.unique(np.concatenate([mask.ravel() for mask in masks]))) == {0, 1, 2}
