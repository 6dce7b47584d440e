import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from segsweep import metrics, tally
from segsweep.counting import boundary_per_image, confusion_per_image
from segsweep.metrics import Counts
from segsweep.tally import ImageCounts

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
    return metrics.summarise(Counts(confusion_per_image(prediction, mask, 3, IGNORED).numpy()), NAMES)


def test_miou_against_an_independent_implementation(pair):
    prediction, mask = pair
    reference = MulticlassJaccardIndex(3, average="macro", ignore_index=IGNORED)
    recall = MulticlassAccuracy(3, average="macro", ignore_index=IGNORED)
    pixels = MulticlassAccuracy(3, average="micro", ignore_index=IGNORED)
    values = score(prediction, mask)
    assert values["miou"] == pytest.approx(reference(prediction, mask).item(), abs=1e-6)
    assert values["class_accuracy"] == pytest.approx(recall(prediction, mask).item(), abs=1e-6)
    assert values["pixel_accuracy"] == pytest.approx(pixels(prediction, mask).item(), abs=1e-6)


def test_miou_of_torchmetrics_is_another_number():
    """A mean over pairs of image and class, without ignore index: one bad image of two takes it from 0.75 to 0.5."""
    mask = torch.zeros(2, 1, 100).long()
    prediction = mask.clone()
    prediction[0, 0, :50] = 1
    other = MeanIoU(num_classes=2, include_background=True, input_format="index")
    assert other(prediction, mask).item() == pytest.approx((0.5 + 0 + 1) / 3)
    assert score(prediction, mask)["miou"] == pytest.approx(150 / 200)


def test_all_metrics_by_hand():
    # Truth: 4 pixels a, 4 pixels b. Predicted: 3 a right, 1 a as b, 2 b right, 1 b as a, 1 b as c.
    matrix = np.array([[[3, 1, 0], [1, 2, 1], [0, 0, 0]]])
    values = metrics.summarise(Counts(matrix), NAMES)
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
    values = metrics.summarise(Counts(np.stack([small, large])), ["a", "b"])
    assert values["miou_image"] == pytest.approx((0.25 + 1) / 2)
    assert values["miou"] == pytest.approx((99 / 100 + 98 / 99) / 2)


def test_a_class_that_is_never_predicted_has_precision_zero():
    values = metrics.summarise(Counts(np.array([[[5, 0], [5, 0]]])), ["a", "b"])
    assert values["precision"] == pytest.approx(0.25)


def test_nothing_but_ignored_pixels_is_not_a_number():
    values = score(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), IGNORED))
    assert all(np.isnan(value) for value in values.values())


def test_ignored_pixels_are_no_false_positives():
    mask = torch.tensor([[[0, 0, IGNORED, IGNORED]]])
    prediction = torch.tensor([[[0, 0, 1, 0]]])
    assert score(prediction, mask)["miou"] == 1


def test_accumulation_keeps_the_order_of_the_split():
    metric = ImageCounts(2, IGNORED)
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    mask = torch.tensor([[[0]], [[0]]])
    metric.update(logits[1:], mask[1:], torch.tensor([1]))
    metric.update(logits[:1], mask[:1], torch.tensor([0]))
    counts = metric.compute()
    assert counts.confusion.tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]]]
    confidence = 1 / (1 + np.exp(-1))  # of both, in the eleventh bin of fifteen
    assert counts.calibration[:, 10].tolist() == [[1, pytest.approx(confidence), 1], [1, pytest.approx(confidence), 0]]
    assert counts.calibration.sum() == pytest.approx(3 + 2 * confidence)
    assert [array.dtype for array in counts] == [np.int32, np.int32, np.float64]


def test_nothing_scored_has_the_shapes_of_something():
    counts = ImageCounts(2, IGNORED)
    with pytest.warns(UserWarning, match="compute"):
        assert [array.shape for array in counts.compute()] == [(0, 2, 2), (0, 2, 4), (0, 15, 3)]


def test_training_keeps_one_matrix(pair):
    prediction, mask = pair
    metric = tally.Confusion(3)
    assert metric.compute() is None
    for part in (slice(0, 3), slice(3, 4)):
        metric.update(torch.nn.functional.one_hot(prediction[part], 3).movedim(-1, 1).float(), mask[part])
    assert np.array_equal(metric.compute().confusion[0], confusion_per_image(*pair, 3, IGNORED).sum(dim=0).numpy())
    scores = metrics.summarise(metric.compute(), NAMES)
    assert {"boundary_f1", "ece"}.isdisjoint(scores)


@pytest.mark.parametrize("most_waiting", [0, 200, 1 << 18])
def test_batches_that_are_counted_together_are_those_that_came(monkeypatch, most_waiting):
    """One by one, a few at a time, all at the end; of two sizes, and with logits that are written over afterwards."""
    monkeypatch.setattr(tally, "_MOST_WAITING", most_waiting)
    generator = torch.Generator().manual_seed(0)
    metric, expected = tally.Confusion(3), np.zeros((3, 3), int)
    for num, side in [(2, 4), (1, 4), (2, 6), (2, 4)] * 2:
        logits = torch.randn(num, 3, side, side, generator=generator)
        mask = torch.randint(0, 3, (num, side, side), generator=generator)
        mask[:, 0] = IGNORED
        metric.update(logits, mask)
        expected += confusion_per_image(logits.argmax(dim=1), mask, 3, IGNORED).sum(dim=0).numpy()
        logits.zero_()
    assert np.array_equal(metric.compute().confusion[0], expected)
    assert np.array_equal(metric.compute().confusion[0], expected)
    metric.reset()
    assert metric.compute() is None


def test_names_are_those_of_the_metrics(pair):
    prediction, mask = pair
    metric = ImageCounts(3, IGNORED)
    metric.update(torch.nn.functional.one_hot(prediction, 3).movedim(-1, 1).float(), mask, torch.arange(4))
    assert list(metrics.summarise(metric.compute(), NAMES)) == metrics.names(NAMES)


def test_boundary_f1_is_a_mean_over_the_classes_of_an_image_then_over_images():
    # Image 0 shows a and b, image 1 only a, image 2 nothing valid.
    confusion = np.zeros((3, 3, 3), int)
    confusion[0, 0, 0] = confusion[0, 1, 1] = confusion[1, 0, 0] = 5
    boundary = np.zeros((3, 3, 4), int)
    boundary[0, 0] = 4, 2, 4, 4  # precision 1/2, recall 1: F1 2/3
    boundary[0, 1] = 0, 0, 4, 0  # missed: 0
    boundary[0, 2] = 9, 0, 0, 0  # absent from the truth: in no mean
    values = metrics.summarise(Counts(confusion, boundary), NAMES)
    assert values["boundary_f1"] == pytest.approx(((2 / 3 + 0) / 2 + 1) / 2)  # a fills image 1, and so it is predicted


def test_a_perfect_prediction_has_perfect_boundaries(pair):
    _, mask = pair
    prediction = torch.where(mask == IGNORED, 0, mask)
    counts = [count(prediction, mask, 3, IGNORED).numpy() for count in (confusion_per_image, boundary_per_image)]
    assert metrics.summarise(Counts(*counts), NAMES)["boundary_f1"] == 1


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_ece_against_an_independent_implementation(sharpness):
    generator = torch.Generator().manual_seed(2)
    logits = sharpness * torch.randn(3, 4, 20, 30, generator=generator)
    mask = torch.randint(0, 4, (3, 20, 30), generator=generator)
    mask[:, :5] = IGNORED
    metric = ImageCounts(4, IGNORED)
    for n in range(3):
        metric.update(logits[n : n + 1], mask[n : n + 1], torch.tensor([n]))
    reference = MulticlassCalibrationError(4, n_bins=15, norm="l1", ignore_index=IGNORED)
    valid = mask != IGNORED
    expected = reference(logits.movedim(1, -1)[valid], mask[valid])
    assert metrics.calibration_error(metric.compute().calibration) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("val/miou", "max"),
        ("val/loss", "min"),
        ("val/loss/dice", "min"),
        ("val/boundary_f1", "max"),
        ("test/ece", "min"),
    ],
)
def test_a_metric_knows_its_direction(name, end):
    assert metrics.best_is(name) == end


def test_per_class_metrics_know_their_direction():
    assert metrics.best_is("test/iou/road") == "max"


@pytest.mark.parametrize("name", ["miou", "val/mIoU", "valid/miou"])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(ValueError, match="is not a metric"):
        metrics.best_is(name)
