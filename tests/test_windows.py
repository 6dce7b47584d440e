import numpy as np
import pytest
import torch

import segsweep.data.windows as windows_module
from segsweep.data.storage import open_store
from segsweep.data.windows import Windows, rare_classes
from tests.sources import Arrays, scenes, spec, three_splits

CPU = torch.device("cpu")
SIZES = [(16, 20), (9, 31), (3, 2), (1, 1)]


@pytest.fixture(scope="module")
def mixed():
    parts = {
        name: [scenes(1, size, seed=10 * i + k)[0] for k, size in enumerate(SIZES)]
        for i, name in enumerate(("train", "val", "test"))
    }
    source = Arrays(**parts)
    return source.samples["train"], Windows(open_store(source, spec(), "stretch").splits["train"], CPU, "memory")


def slow_cut(sample, corner, size, ignore_index):
    """The definition, pixel by pixel: a mirror at each border, its own pixel repeated."""
    height, width = sample.mask.shape
    image = np.zeros((*size, 3), np.uint8)
    mask = np.full(size, ignore_index, np.uint8)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = corner[0] + i, corner[1] + j
            if 0 <= y < height and 0 <= x < width:
                mask[i, j] = sample.mask[y, x]
            while not 0 <= y < height:
                y = -1 - y if y < 0 else 2 * height - 1 - y
            while not 0 <= x < width:
                x = -1 - x if x < 0 else 2 * width - 1 - x
            image[i, j] = sample.image[y, x]
    return image, mask


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (7, 12), (40, 33)])
def test_cut_against_its_definition(mixed, monkeypatch, size, is_large):
    monkeypatch.setattr(windows_module, "_LARGE", 0 if is_large else 10_000)
    samples, windows = mixed
    corners = np.random.default_rng(0).integers(-25, 30, (24, 2))
    index = torch.arange(24) % len(samples)
    images, masks = windows.cut(index, torch.from_numpy(corners), size, 200)
    assert (images.dtype, masks.dtype) == (torch.uint8, torch.uint8)
    for n, (i, corner) in enumerate(zip(index.tolist(), corners.tolist(), strict=True)):
        image, mask = slow_cut(samples[i], corner, size, 200)
        assert np.array_equal(images[n].numpy(), image)
        assert np.array_equal(masks[n].numpy(), mask)


def test_an_inner_window_is_a_slice(mixed):
    samples, windows = mixed
    images, masks = windows.cut(torch.tensor([1]), torch.tensor([[2, 5]]), (4, 6), 255)
    assert np.array_equal(images[0].numpy(), samples[1].image[2:6, 5:11])
    assert np.array_equal(masks[0].numpy(), samples[1].mask[2:6, 5:11])


def test_whole_images_of_one_size():
    source = three_splits(4)
    windows = Windows(open_store(source, spec(), "stretch").splits["train"], CPU, "auto")
    images, masks = windows.whole(torch.tensor([3, 1, 3]))
    for n, i in enumerate((3, 1, 3)):
        assert np.array_equal(images[n].numpy(), source.samples["train"][i].image)
        assert np.array_equal(masks[n].numpy(), source.samples["train"][i].mask)
    images.zero_()  # a copy: what is kept stays as it is
    assert windows.whole(torch.tensor([3]))[0].any()


def test_images_of_several_sizes_have_no_common_window(mixed):
    with pytest.raises(ValueError, match=r"images of different sizes have no common window; cut one"):
        mixed[1].whole(torch.tensor([0]))


def test_classes_at_single_pixels(mixed):
    samples, windows = mixed
    y, x = torch.tensor([[15, 0], [8, 3]]), torch.tensor([[19, 4], [30, 0]])
    found = windows.classes_at(torch.tensor([0, 1]), y, x)
    expected = [[samples[i].mask[row, column] for row, column in zip(y[i], x[i], strict=True)] for i in (0, 1)]
    assert found.tolist() == expected


@pytest.mark.parametrize(("storage", "is_resident"), [("device", True), ("auto", True), ("memory", False)])
def test_where_pixels_are_kept(storage, is_resident):
    split = open_store(three_splits(4), spec(), "stretch").splits["val"]
    assert Windows(split, CPU, storage).is_resident is is_resident


def test_rare_classes_are_those_below_half_of_an_equal_share():
    counts = np.array([[60, 30, 2, 0, 500], [0, 0, 8, 0, 0]])  # the last column are ignored pixels
    weight, is_rare = rare_classes(counts)
    assert is_rare.tolist() == [False, False, True, False]  # shares .6, .3, .1 and none; half an equal share is 1/6
    assert weight[:4].tolist() == pytest.approx([1 / 0.6, 1 / 0.3, 10, 0])
    assert weight.shape == (256,)
    assert weight[4:].sum() == 0


def test_without_a_single_class_nothing_is_rare():
    weight, is_rare = rare_classes(np.array([[0, 0, 9]]))
    assert weight.sum() == 0
    assert not is_rare.any()
