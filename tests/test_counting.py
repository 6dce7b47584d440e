"""Counts against slow implementations."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from segsweep import counting
from segsweep.counting import best_class, boundary_per_image, calibration_per_image, confusion_per_image

IGNORED = 255


def patches(num_classes, size, side, seed):
    """(2, H, W) masks of square patches, a strip ignored."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-length // side) for length in size)
    mask = torch.randint(0, num_classes, (2, height, width), generator=generator)
    return mask.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : size[0], : size[1]].contiguous()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("num_classes", [1, 5, 40])
def test_the_best_class_is_the_first_of_the_largest(num_classes, dtype, memory_format):
    logits = torch.randint(-3, 3, (2, num_classes, 9, 31), generator=torch.Generator().manual_seed(0))  # many are equal
    logits = logits.to(dtype, memory_format=memory_format)
    logits[0, :, 0, 0] = -torch.inf
    values, classes = best_class(logits)
    assert torch.equal(values, logits.amax(dim=1))
    assert torch.equal(classes, logits.argmax(dim=1))


def test_no_image_has_no_best_class():
    assert [found.shape for found in best_class(torch.zeros(0, 3, 2, 4))] == [(0, 2, 4), (0, 2, 4)]


def test_confusion_against_a_slow_loop():
    prediction, mask = patches(3, (7, 5), 2, 0), patches(3, (7, 5), 1, 1)
    mask[0, 2] = IGNORED
    expected = np.zeros((2, 3, 3), int)
    for n, row, column in np.ndindex(2, 7, 5):
        if mask[n, row, column] != IGNORED:
            expected[n, mask[n, row, column], prediction[n, row, column]] += 1
    assert np.array_equal(confusion_per_image(prediction, mask, 3, IGNORED).numpy(), expected)


def slow_edge(labels, ignored):
    """Pixels with a neighbour of another class, one by one."""
    edge = np.zeros(labels.shape, bool)
    for row, column in np.ndindex(*labels.shape):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            y, x = row + dy, column + dx
            inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
            if inside and not ignored[row, column] and not ignored[y, x]:
                edge[row, column] |= labels[row, column] != labels[y, x]
    return edge


def slow_boundary(prediction, mask, num_classes, tolerance):
    counts = np.zeros((num_classes, 4), int)
    ignored = mask == IGNORED
    edges = [slow_edge(labels, ignored) for labels in (prediction, mask)]
    for k in range(num_classes):
        predicted, true = (edge & (labels == k) for edge, labels in zip(edges, (prediction, mask), strict=True))
        for i, (own, other) in enumerate(((predicted, true), (true, predicted))):
            near = distance_transform_edt(~other) <= tolerance if other.any() else np.zeros_like(own)
            counts[k, 2 * i : 2 * i + 2] = own.sum(), (own & near).sum()
    return counts


SIZES = [((20, 30), 1), ((240, 320), 3), ((5, 600), 4.5), ((1, 7), 1), ((1, 1), 1)]


@pytest.mark.parametrize(
    ("size", "tolerance", "num_classes"),
    [  # pixel by pixel the large one takes seconds
        pytest.param(*size, num, marks=[pytest.mark.slow] * (size[0] == (240, 320) and num != 11))
        for size in SIZES
        for num in (2, 11, 40)
    ],
)
def test_boundary_against_distance_transforms(num_classes, size, tolerance):
    prediction, mask = patches(num_classes, size, 11, 3), patches(num_classes, size, 12, 4)
    mask[:, size[0] // 2 : size[0] // 2 + 3, : size[1] // 3] = IGNORED
    expected = [
        slow_boundary(p, m, num_classes, tolerance) for p, m in zip(prediction.numpy(), mask.numpy(), strict=True)
    ]
    assert np.array_equal(boundary_per_image(prediction, mask, num_classes, IGNORED).numpy(), expected)


def test_the_tolerance_is_a_share_of_the_diagonal_in_pixels():
    """4.5 pixels at 360x480: a boundary that is 4 off is found, one that is 5 off is not."""
    mask = (torch.arange(480) >= 240).long().expand(1, 360, 480)
    for shift, num_met in ((4, 360), (5, 0)):
        prediction = (torch.arange(480) >= 240 + shift).long().expand(1, 360, 480)
        assert boundary_per_image(prediction, mask, 2, IGNORED)[0, 0].tolist() == [360, num_met, 360, num_met]


def test_ignored_pixels_and_the_image_s_edge_are_no_boundary():
    mask = torch.zeros(1, 4, 6).long()
    mask[..., 3:] = 1
    mask[..., 2] = IGNORED  # between the classes
    prediction = torch.zeros(1, 4, 6).long()
    prediction[..., 2:] = 1
    assert not boundary_per_image(prediction, mask, 2, IGNORED).any()


def test_bins_hold_their_upper_end():
    confidence = torch.tensor([[[1 / 15, 0.07, 1.0, 0.99, 0.2]]])
    valid = torch.tensor([[[True, True, True, True, False]]])
    counts = calibration_per_image(confidence, torch.tensor([[[True, False, True, False, True]]]), valid)
    assert counts.shape == (1, counting.NUM_BINS, 3)
    assert counts[0, [0, 1, 14], 0].tolist() == [1, 1, 2]
    assert counts[0, 14].tolist() == pytest.approx([2, 1.99, 1])
    assert counts[0, :, 0].sum() == 4
