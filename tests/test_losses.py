import pytest
import torch

from segsweep import config, losses
from segsweep.types import Batch, SegmenterOutput
from tests.conftest import options

IGNORED = 255


def batch_of(mask, image=None):
    return Batch(torch.zeros(len(mask), 1, *mask.shape[1:]) if image is None else image, mask, torch.arange(len(mask)))


@pytest.fixture(params=options("loss"))
def loss(request, composer):
    return config.make(config.settle(composer(f"loss={request.param}", "trainer=cpu"))["loss"])


@pytest.fixture
def example():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 11, 6, 5, generator=generator)
    mask = torch.randint(0, 11, (2, 6, 5), generator=generator)
    return logits, mask


def test_total_is_the_weighted_sum(loss, example):
    logits, mask = example
    image = torch.randn(2, 1, 6, 5)
    terms = loss(SegmenterOutput(logits, image + 1), batch_of(mask, image))
    expected = sum(loss.weights[name] * value for name, value in terms.items() if name != "total")
    assert terms["total"] == pytest.approx(expected.item())
    assert terms["reconstruction"] == pytest.approx(1.0)


def test_models_that_do_not_reconstruct_skip_that_term(loss, example):
    logits, mask = example
    assert "reconstruction" not in loss(SegmenterOutput(logits), batch_of(mask))


def test_ignored_pixels_change_nothing(loss, example):
    logits, mask = example
    mask[:, 2] = IGNORED
    changed = logits.clone()
    changed[:, :, 2] = 50 * torch.randn(2, 11, 5)
    values = [loss(SegmenterOutput(x), batch_of(mask))["total"].item() for x in (logits, changed)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_an_unlabelled_batch_gives_zero_and_no_gradient(loss, example):
    logits, mask = example
    logits.requires_grad_()
    total = loss(SegmenterOutput(logits), batch_of(torch.full_like(mask, IGNORED)))["total"]
    total.backward()
    assert total.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_step_against_the_gradient_raises_the_true_class(loss, example):
    logits, mask = example
    logits.requires_grad_()
    loss(SegmenterOutput(logits), batch_of(mask))["total"].backward()
    towards_truth = logits.grad.gather(1, mask[:, None])
    assert (towards_truth < 0).all()


def test_a_perfect_prediction_is_better_than_any(loss, example):
    logits, mask = example
    perfect = torch.full_like(logits, -30.0).scatter(1, mask[:, None], 30.0)
    best = loss(SegmenterOutput(perfect), batch_of(mask))["total"].item()
    assert best == pytest.approx(0, abs=1e-5)
    assert loss(SegmenterOutput(logits), batch_of(mask))["total"].item() > 0.05


def test_half_precision_logits_are_computed_in_float32(loss, example):
    logits, mask = example
    total = loss(SegmenterOutput(logits.bfloat16()), batch_of(mask))["total"]
    assert total.dtype == torch.float32


def test_bce_by_hand():
    logits = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1)
    value = losses.BCE(IGNORED)(SegmenterOutput(logits), batch_of(torch.tensor([[[1]]])))
    assert value.item() == pytest.approx(0.693147, abs=1e-6)  # ln 2 for each of the two classes


@pytest.mark.parametrize(("kind", "expected"), [("mse", (0.75**2 + 3 * 0.25**2) / 4), ("mae", (0.75 + 3 * 0.25) / 4)])
def test_probability_error_by_hand(kind, expected):
    logits = torch.zeros(1, 4, 1, 1)  # p = 1/4 each
    value = losses.ProbabilityError(kind, IGNORED)(SegmenterOutput(logits), batch_of(torch.tensor([[[0]]])))
    assert value.item() == pytest.approx(expected)


def test_dice_uses_squared_denominators_and_present_classes_only():
    probability = torch.tensor([[0.5, 0.5], [0.8, 0.2]])  # pixel x class
    logits = probability.log().T.reshape(1, 2, 1, 2)
    value = losses.Dice(IGNORED)(SegmenterOutput(logits), batch_of(torch.tensor([[[0, 0]]])))
    overlap, sizes = 0.5 + 0.8, (0.25 + 0.64) + 2
    assert value.item() == pytest.approx(1 - 2 * overlap / sizes, abs=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [("mse", 4.0), ("mae", 2.0)])
def test_reconstruction_in_standardised_units(kind, expected):
    image = torch.ones(1, 1, 2, 2)
    term = losses.Reconstruction(kind, mean=(0.5,), std=(0.2,))
    assert term(SegmenterOutput(image, image - 2), batch_of(torch.zeros(1, 2, 2).long(), image)) == pytest.approx(
        expected
    )


def test_reconstruction_bce_compares_intensities():
    image = (torch.tensor([0.0, 1.0]).view(1, 1, 1, 2) - 0.5) / 0.2
    term = losses.Reconstruction("bce", mean=(0.5,), std=(0.2,))
    right = torch.tensor([-20.0, 20.0]).view(1, 1, 1, 2)
    batch = batch_of(torch.zeros(1, 1, 2).long(), image)
    assert term(SegmenterOutput(right, right), batch).item() == pytest.approx(0, abs=1e-6)
    assert term(SegmenterOutput(right, -right), batch).item() == pytest.approx(20, rel=1e-3)


def test_terms_and_weights_must_agree():
    with pytest.raises(ValueError, match="same names"):
        losses.WeightedSum({"dice": losses.Dice(IGNORED)}, {"dise": 1.0})
