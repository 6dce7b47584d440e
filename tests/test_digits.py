import numpy as np
import pytest

from segsweep.data import digits
from segsweep.data.digits import Digits

SETTINGS = {
    "size": (48, 48), "num_train": 60, "num_val": 30, "num_test": 30, "max_digits": 3, "digit_size": (18, 28),
    "max_strokes": 3, "noise": 0.04, "scene_seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    source = Digits(**SETTINGS)
    return [source.read("train", i) for i in range(60)]


def test_a_scene_is_a_pure_function_of_seed_split_and_position(scenes):
    again = Digits(**{**SETTINGS, "num_train": 500})
    image, mask, _ = again.read("train", 7)
    assert np.array_equal(image, scenes[7][0])
    assert np.array_equal(mask, scenes[7][1])
    others = [again.read("val", 7), Digits(**{**SETTINGS, "scene_seed": 1}).read("train", 7), scenes[8]]
    assert not any(np.array_equal(image, other[0]) for other in others)


def test_no_source_digit_is_in_two_splits():
    scans = {split: {scan.tobytes() for scan in digits._scans(split)[0]} for split in ("train", "val", "test")}
    counts = {split: len(digits._scans(split)[0]) for split in scans}
    assert sum(counts.values()) == 1797
    assert not scans["train"] & scans["val"]
    assert not scans["train"] & scans["test"]
    assert not scans["val"] & scans["test"]


def test_scenes_hold_one_to_three_digits_on_background(scenes):
    present = [set(np.unique(mask).tolist()) - {0} for _, mask, _ in scenes]
    assert all(1 <= len(labels) <= 3 for labels in present)
    assert set.union(*present) == set(range(1, 11))
    share = np.mean([np.mean(mask == 0) for _, mask, _ in scenes])
    assert 0.6 < share < 0.95


def test_images_are_grey_bytes_and_ink_is_lighter_than_its_surroundings(scenes):
    contrast = []
    for image, mask, _ in scenes:
        assert image.shape == (48, 48, 1)
        assert image.dtype == mask.dtype == np.uint8
        contrast.append(image[mask > 0].mean() - image[mask == 0].mean())
    assert np.mean(contrast) > 10


def test_digits_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"digit_size=\[18, 28\] must rise from 8 or more and fit data.size=\[20, 48\]"
    ):
        Digits(**{**SETTINGS, "size": (20, 48)})
