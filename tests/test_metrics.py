import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from segsweep import metrics

IGNORED = 9
NAMES = ["a", "b", "c"]


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randint(0, 3, (4, 7, 5), generator=generator)
    mask = torch.randint(0, 3, (4, 7, 5), generator=generator)
    mask[torch.rand(4, 7, 5, generator=generator) < 0.2] = IGNORED
    return prediction, mask


def score(prediction, mask):
    return metrics.summarise(metrics.confusion_per_image(prediction, mask, 3, IGNORED).numpy(), NAMES)


def test_confusion_against_a_slow_loop(pair):
    prediction, mask = pair
    expected = np.zeros((4, 3, 3), int)
    for n, row, column in np.ndindex(4, 7, 5):
        if mask[n, row, column] != IGNORED:
            expected[n, mask[n, row, column], prediction[n, row, column]] += 1
    assert np.array_equal(metrics.confusion_per_image(prediction, mask, 3, IGNORED).numpy(), expected)


def test_miou_against_an_independent_implementation(pair):
    prediction, mask = pair
    reference = MulticlassJaccardIndex(3, average="macro", ignore_index=IGNORED)
    recall = MulticlassAccuracy(3, average="macro", ignore_index=IGNORED)
    pixels = MulticlassAccuracy(3, average="micro", ignore_index=IGNORED)
    values = score(prediction, mask)
    assert values["miou"] == pytest.approx(reference(prediction, mask).item(), abs=1e-6)
    assert values["class_accuracy"] == pytest.approx(recall(prediction, mask).item(), abs=1e-6)
    assert values["pixel_accuracy"] == pytest.approx(pixels(prediction, mask).item(), abs=1e-6)


def test_all_metrics_by_hand():
    # Truth: 4 pixels a, 4 pixels b. Predicted: 3 a right, 1 a as b, 2 b right, 1 b as a, 1 b as c.
    matrix = np.array([[[3, 1, 0], [1, 2, 1], [0, 0, 0]]])
    values = metrics.summarise(matrix, NAMES)
    assert values["iou/a"] == pytest.approx(3 / 5)
    assert values["iou/b"] == pytest.approx(2 / 5)
    assert np.isnan(values["iou/c"])  # predicted, but absent from the truth: in no mean
    assert values["miou"] == pytest.approx((3 / 5 + 2 / 5) / 2)
    assert values["dice"] == pytest.approx((6 / 8 + 4 / 7) / 2)
    assert values["precision"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert values["recall"] == values["class_accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert values["pixel_accuracy"] == pytest.approx(5 / 8)


def test_miou_is_pooled_and_miou_image_is_not():
    small = np.array([[1, 0], [1, 0]])  # 2 pixels: iou a 1/2, b 0
    large = np.array([[98, 0], [0, 98]])
    values = metrics.summarise(np.stack([small, large]), ["a", "b"])
    assert values["miou_image"] == pytest.approx((0.25 + 1) / 2)
    assert values["miou"] == pytest.approx((99 / 100 + 98 / 99) / 2)


def test_a_class_that_is_never_predicted_has_precision_zero():
    values = metrics.summarise(np.array([[[5, 0], [5, 0]]]), ["a", "b"])
    assert values["precision"] == pytest.approx(0.25)


def test_nothing_but_ignored_pixels_is_not_a_number():
    values = score(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), IGNORED))
    assert all(np.isnan(value) for value in values.values())


def test_ignored_pixels_are_no_false_positives():
    mask = torch.tensor([[[0, 0, IGNORED, IGNORED]]])
    prediction = torch.tensor([[[0, 0, 1, 0]]])
    assert score(prediction, mask)["miou"] == 1


def test_accumulation_keeps_the_order_of_the_split():
    metric = metrics.Confusion(2, IGNORED, per_image=True)
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    mask = torch.tensor([[[0]], [[0]]])
    metric.update(logits[1:], mask[1:], torch.tensor([1]))
    metric.update(logits[:1], mask[:1], torch.tensor([0]))
    assert metric.compute().tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]]]


@pytest.mark.parametrize(("name", "end"), [("val/miou", "max"), ("val/loss", "min"), ("val/loss/dice", "min")])
def test_a_metric_knows_its_direction(name, end):
    assert metrics.best_is(name) == end


def test_per_class_metrics_know_their_direction():
    assert metrics.best_is("test/iou/road") == "max"


@pytest.mark.parametrize("name", ["miou", "val/mIoU", "valid/miou"])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(ValueError, match="is not a metric"):
        metrics.best_is(name)
