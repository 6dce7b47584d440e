import json

import numpy as np
import pytest

from segsweep.floors import floors
from tests.sources import open_data, open_folder


def test_floors_against_a_slow_computation(image_tree):
    source = open_folder(image_tree)
    data = open_data(source, size=(24, 32))
    found = floors(data.store, data.spec)
    pooled = np.concatenate([source.read("train", i).mask.ravel() for i in range(5)])
    most = np.bincount(pooled[pooled != 255], minlength=3).argmax()
    truth = np.concatenate([source.read("test", i).mask.ravel() for i in range(3)])
    truth = truth[truth != 255]
    assert found["most_frequent"]["test/pixel_accuracy"] == pytest.approx((truth == most).mean())
    assert found["most_frequent"]["test/miou"] == pytest.approx((truth == most).mean() / 3)
    assert found["location_prior"]["test/miou"] >= 0
    (kept,) = data.store.folder.glob("floors-*.json")
    assert json.loads(kept.read_text()) == found


def test_floors_are_computed_once(image_tree, monkeypatch):
    data = open_data(open_folder(image_tree), size=(24, 32))
    first = floors(data.store, data.spec)
    monkeypatch.setattr("segsweep.floors._compute", None)  # computing again would fail
    assert floors(data.store, data.spec) == first
