"""Each term that compares with labels by hand and against other implementations."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import brier_score_loss, jaccard_score, matthews_corrcoef

from segsweep import losses
from segsweep.types import SegmenterOutput
from tests.conftest import batch_of

IGNORED = 255
CROSS_ENTROPY = {"num_classes": 11, "ignore_index": IGNORED, "weights": "none", "label_smoothing": 0.0}


def value(term, logits, mask, image=None):
    return term(SegmenterOutput(logits), batch_of(mask, image))


def cross_entropy(**changed):
    return losses.CrossEntropy(**{**CROSS_ENTROPY, "hard_fraction": 1.0, **changed})


def sparse(example):
    """The example with a fifth of its pixels ignored."""
    logits, mask = example
    return logits, mask.masked_fill(torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.2, IGNORED)


def test_cross_entropy_weighted_and_smoothed_against_torch(example):
    logits, mask = sparse(example)
    weights = tuple((torch.arange(11) / 4 + 0.25).tolist())
    for smoothing, own in itertools.product((0.0, 0.1), ("none", weights)):
        weight = None if own == "none" else torch.tensor(own)
        expected = F.cross_entropy(logits, mask, weight, ignore_index=IGNORED, label_smoothing=smoothing)
        got = value(cross_entropy(weights=own, label_smoothing=smoothing), logits, mask)
        assert got.item() == pytest.approx(expected.item(), rel=1e-6)


def test_weights_that_add_up_to_little_still_make_a_mean():
    term = cross_entropy(num_classes=2, weights=(0.001, 0.0))
    assert value(term, torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long()).item() == pytest.approx(math.log(2))


def test_pixels_of_a_class_with_weight_zero_count_for_nothing():
    term = cross_entropy(num_classes=2, weights=(0.0, 1.0))
    assert value(term, torch.randn(1, 2, 3, 3), torch.zeros(1, 3, 3).long()).item() == 0


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.99])
def test_hard_pixels_are_those_with_the_highest_loss(example, fraction):
    logits, mask = sparse(example)
    each = F.cross_entropy(logits, mask, ignore_index=IGNORED, reduction="none")[mask != IGNORED]
    expected = each.sort(descending=True).values[: math.ceil(fraction * len(each))].mean()
    logits.requires_grad_()
    got = value(cross_entropy(hard_fraction=fraction), logits, mask)
    got.backward()
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad.any(dim=1).sum() == math.ceil(fraction * len(each))


def test_among_equally_hard_pixels_the_share_is_kept():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    value(cross_entropy(num_classes=2, hard_fraction=0.5), logits, torch.zeros(1, 2, 2).long()).backward()
    assert logits.grad.any(dim=1).sum() == 2


def test_bce_by_hand():
    assert value(losses.BCE(IGNORED), torch.zeros(1, 2, 1, 1), torch.tensor([[[1]]])).item() == pytest.approx(
        0.693147, abs=1e-6
    )  # ln 2 for each of the two classes


def test_focal_by_hand_and_as_cross_entropy(example):
    logits = torch.tensor([0.9, 0.1]).log().view(1, 2, 1, 1)
    mask = torch.zeros(1, 1, 1).long()
    assert value(losses.Focal(2.0, IGNORED), logits, mask).item() == pytest.approx(0.1**2 * -math.log(0.9), rel=1e-4)
    assert value(losses.Focal(0.5, IGNORED), logits, 1 - mask).item() == pytest.approx(0.9**0.5 * -math.log(0.1))
    logits, mask = sparse(example)
    expected = F.cross_entropy(logits, mask, ignore_index=IGNORED)
    assert value(losses.Focal(0.0, IGNORED), logits, mask).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [("mse", (0.75**2 + 3 * 0.25**2) / 4), ("mae", (0.75 + 3 * 0.25) / 4)])
def test_probability_error_by_hand(kind, expected):
    logits = torch.zeros(1, 4, 1, 1)  # p = 1/4 each
    assert value(losses.ProbabilityError(kind, IGNORED), logits, torch.tensor([[[0]]])).item() == pytest.approx(
        expected
    )


def test_mse_is_the_brier_score_divided_by_the_classes(example):
    logits, mask = sparse(example)
    valid = mask != IGNORED
    probability = logits.softmax(dim=1).movedim(1, -1)[valid].double()
    probability /= probability.sum(dim=1, keepdim=True)
    expected = brier_score_loss(mask[valid].numpy(), probability.numpy(), labels=range(11), scale_by_half=False) / 11
    assert value(losses.ProbabilityError("mse", IGNORED), logits, mask).item() == pytest.approx(expected, rel=1e-5)


def test_dice_uses_squared_denominators_and_present_classes_only():
    probability = torch.tensor([[0.5, 0.5], [0.8, 0.2]])  # pixel x class
    logits = probability.log().T.reshape(1, 2, 1, 2)
    overlap, sizes = 0.5 + 0.8, (0.25 + 0.64) + 2
    assert value(losses.Dice(IGNORED), logits, torch.tensor([[[0, 0]]])).item() == pytest.approx(
        1 - 2 * overlap / sizes, abs=1e-6
    )


def test_jaccard_and_tversky_by_hand():
    logits = torch.tensor([[0.5, 0.5], [0.8, 0.2], [0.4, 0.6]]).log().T.reshape(1, 2, 1, 3)
    mask = torch.tensor([[[0, 0, 1]]])
    # Class 0: TP 1.3, FP 0.4, FN 0.7. Class 1: TP 0.6, FP 0.7, FN 0.4.
    jaccard = 1 - (1.3 / 2.4 + 0.6 / 1.7) / 2
    tversky = 1 - (1.3 / (1.3 + 0.12 + 0.49) + 0.6 / (0.6 + 0.21 + 0.28)) / 2
    assert value(losses.Jaccard(IGNORED), logits, mask).item() == pytest.approx(jaccard, abs=1e-6)
    assert value(losses.Tversky(0.3, 0.7, IGNORED), logits, mask).item() == pytest.approx(tversky, abs=1e-6)


def test_region_terms_of_hard_predictions_are_the_metrics(example):
    logits, mask = sparse(example)
    mask = torch.where(mask == IGNORED, IGNORED, mask % 3)
    prediction = logits[:, :3].argmax(dim=1)
    hard = 60.0 * F.one_hot(prediction, 3).movedim(-1, 1)
    valid = mask != IGNORED
    pair = mask[valid].numpy(), prediction[valid].numpy()
    iou, mcc = jaccard_score(*pair, average="macro"), matthews_corrcoef(*pair)
    assert value(losses.Jaccard(IGNORED), hard, mask).item() == pytest.approx(1 - iou, abs=1e-5)
    assert value(losses.Lovasz(IGNORED), hard, mask).item() == pytest.approx(1 - iou, abs=1e-5)
    assert value(losses.MCC(IGNORED), hard, mask).item() == pytest.approx(1 - mcc, abs=1e-5)


def test_mcc_of_two_classes_is_matthews_coefficient():
    probability = torch.tensor([0.9, 0.6, 0.3, 0.2])  # of class 1
    logits = torch.stack([1 - probability, probability]).log().view(1, 2, 1, 4)
    tp, fp, fn, tn = 0.9 + 0.3, 0.6 + 0.2, 0.1 + 0.7, 0.4 + 0.8
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert value(losses.MCC(IGNORED), logits, torch.tensor([[[1, 0, 1, 0]]])).item() == pytest.approx(1 - expected)


@pytest.mark.parametrize("seed", range(5))
def test_mcc_of_a_single_class_is_one_without_gradient(seed):
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    loss = value(losses.MCC(IGNORED), logits, torch.ones(1, 2, 2).long())
    loss.backward()
    assert loss.item() == 1
    assert not logits.grad.any()


@pytest.mark.parametrize("side", [29, 30, 31, 32])
def test_mcc_of_one_class_predicted_is_one(side):
    """1 - R_K is then 1 and its gradient small, whatever rounding makes of a variance that is next to nothing."""
    mask = (torch.arange(side * side) % 2).view(1, side, side)
    logits = torch.zeros(1, 2, side, side)
    logits[:, 0] = 16.0
    loss = value(losses.MCC(IGNORED), logits.requires_grad_(), mask)
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-3)
    assert logits.grad.abs().max() < 2e-6


def lovasz_by_definition(probability_PK, truth_P):
    """The sum over pixels in the order of their errors, each times what it adds to 1 - IoU of the set before it."""
    result = []
    for k in np.unique(truth_P):
        error = np.abs((truth_P == k) - probability_PK[:, k])
        order = np.argsort(-error)
        is_class = truth_P[order] == k
        before = total = 0.0
        for i in range(1, len(order) + 1):
            wrong = is_class[:i]
            now = 1 - (is_class.sum() - wrong.sum()) / (is_class.sum() + (~wrong).sum())
            total += error[order[i - 1]] * (now - before)
            before = now
        result.append(total)
    return np.mean(result)


def test_lovasz_against_its_definition(example):
    logits, mask = sparse(example)
    valid = mask != IGNORED
    probability = logits.softmax(dim=1).movedim(1, -1)[valid].double().numpy()
    expected = lovasz_by_definition(probability, mask[valid].numpy())
    assert value(losses.Lovasz(IGNORED), logits, mask).item() == pytest.approx(expected, rel=1e-5)


def test_lovasz_keeps_its_precision_on_many_pixels():
    """Its slopes add up to the largest 1 - IoU, which is 1."""
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(1, 2_000_000, generator=generator) < 0.1).float()
    slopes = losses.lovasz._slopes(truth)
    assert slopes.double().sum().item() == pytest.approx(1, abs=1e-6)
    size = truth.sum().item()
    assert slopes[0, -1].item() == pytest.approx(0, abs=1e-12)  # all of the class is wrong by then
    first = 1 / size if truth[0, 0] else 1 / (size + 1)
    assert slopes[0, 0].item() == pytest.approx(first, rel=1e-6)
