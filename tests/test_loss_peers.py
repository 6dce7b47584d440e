"""Terms against segmentation_models_pytorch, and the differences that docs/losses.md names."""

import math

import pytest
import torch
import torch.nn.functional as F

from segsweep import losses
from segsweep.types import SegmenterOutput
from tests.conftest import batch_of

peers = pytest.importorskip("segmentation_models_pytorch.losses", reason="segmentation-models-pytorch is not installed")
IGNORED = 255
MODE = peers.MULTICLASS_MODE


@pytest.fixture
def pair(example):
    """Logits of 11 classes, a mask that shows two of them, and ignored pixels."""
    logits, mask = example
    mask = mask % 2
    mask[:, 1] = IGNORED
    return logits, mask


def value(term, pair):
    return term(SegmenterOutput(pair[0]), batch_of(pair[1])).item()


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (losses.Jaccard(IGNORED), peers.JaccardLoss(MODE, ignore_index=IGNORED)),
        (losses.Tversky(0.3, 0.7, IGNORED), peers.TverskyLoss(MODE, alpha=0.3, beta=0.7, ignore_index=IGNORED)),
        (losses.Tversky(0.5, 0.5, IGNORED), peers.DiceLoss(MODE, ignore_index=IGNORED)),
    ],
)
def test_smp_averages_absent_classes_in_as_solved(pair, own, peer):
    """Two classes of eleven are shown: its loss is 2/11 of the mean over those two."""
    assert peer(*pair).item() == pytest.approx(value(own, pair) * 2 / 11, rel=1e-5)


def test_smp_lovasz_is_the_same(pair):
    peer = peers.LovaszLoss(MODE, ignore_index=IGNORED)
    assert value(losses.Lovasz(IGNORED), pair) == pytest.approx(peer(*pair).item(), rel=1e-5)


def test_smp_lovasz_of_nothing_is_no_number(example):
    logits, mask = example
    assert peers.LovaszLoss(MODE, ignore_index=IGNORED)(logits, torch.full_like(mask, IGNORED)).shape == (0, 11)


def test_smp_focal_is_one_sigmoid_per_class(pair):
    """Softmax does not change when all logits of a pixel grow by the same; that loss does, and more than twofold."""
    logits, mask = pair
    peer = peers.FocalLoss(MODE, ignore_index=IGNORED)
    first, moved = peer(logits, mask).item(), peer(logits + 2, mask).item()
    assert moved > 2 * first
    own = losses.Focal(2.0, IGNORED)
    assert value(own, (logits + 2, mask)) == pytest.approx(value(own, pair), rel=1e-5)
    assert math.isnan(peer(logits, torch.full_like(mask, IGNORED)).item())


def test_smp_mcc_knows_two_classes_as_probabilities():
    generator = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(2, 2, 6, 5, generator=generator), torch.randint(0, 2, (2, 6, 5), generator=generator)
    expected = peers.MCCLoss()(logits.softmax(dim=1)[:, 1], mask).item()
    assert value(losses.MCC(IGNORED), (logits, mask)) == pytest.approx(expected, rel=1e-5)


def test_smp_cross_entropy_divides_by_ignored_pixels(pair):
    """A sixth of the pixels is ignored: its loss is 5/6 of the mean over the valid ones."""
    logits, mask = pair
    peer = peers.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=IGNORED)(logits, mask).item()
    expected = F.cross_entropy(logits, mask, ignore_index=IGNORED).item()
    assert peer == pytest.approx(expected * 5 / 6, rel=1e-5)
    own = losses.CrossEntropy(11, IGNORED, "none", 0.0, 1.0)
    assert value(own, pair) == pytest.approx(expected, rel=1e-6)
