"""The contract of a loss, for every file in conf/loss; the weighted sum; weights of classes."""

import math

import pytest
import torch
import torch.nn.functional as F

from segsweep import config, losses
from segsweep.types import SegmenterOutput
from tests.conftest import batch_of, loss_overrides, options

IGNORED = 255
SUPERVISED = [name for name in options("loss") if name != "ncut"]  # which looks at the image alone


@pytest.fixture
def make(composer):
    return lambda *overrides: config.make(config.settle(composer("trainer=cpu", *overrides))["loss"])


@pytest.fixture(params=SUPERVISED)
def loss(request, make):
    return make(*loss_overrides(request.param))


@pytest.fixture(params=options("loss"))
def any_loss(request, make):
    return make(*loss_overrides(request.param))


def test_total_is_the_weighted_sum(any_loss, example):
    logits, mask = example
    image = torch.randn(2, 1, 6, 5)
    terms = any_loss(SegmenterOutput(logits, image + 1), batch_of(mask, image))
    expected = sum(any_loss.factors[name] * value for name, value in terms.items() if name != "total")
    assert terms["total"] == pytest.approx(expected.item())
    assert terms["reconstruction"] == pytest.approx(1.0)


def test_models_that_do_not_reconstruct_skip_that_term(any_loss, example):
    logits, mask = example
    assert {"reconstruction", "kl"}.isdisjoint(any_loss(SegmenterOutput(logits), batch_of(mask)))


def test_ignored_pixels_change_nothing(loss, example):
    logits, mask = example
    mask[:, 2] = IGNORED
    changed = logits.clone()
    changed[:, :, 2] = 50 * torch.randn(2, 11, 5)
    values = [loss(SegmenterOutput(x), batch_of(mask))["total"].item() for x in (logits, changed)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_ignored_pixels_get_no_gradient(loss, example):
    logits, mask = example
    mask[:, 2] = IGNORED
    logits.requires_grad_()
    loss(SegmenterOutput(logits), batch_of(mask))["total"].backward()
    assert not logits.grad[:, :, 2].any()
    assert logits.grad.isfinite().all()


def test_an_unlabelled_batch_gives_zero_and_no_gradient(loss, example):
    logits, mask = example
    logits.requires_grad_()
    total = loss(SegmenterOutput(logits), batch_of(torch.full_like(mask, IGNORED)))["total"]
    total.backward()
    assert total.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_an_unlabelled_image_among_labelled_ones_changes_nothing(loss, example):
    logits, mask = example
    mask[1] = IGNORED
    logits.requires_grad_()
    both = loss(SegmenterOutput(logits), batch_of(mask))["total"]
    both.backward()
    assert both.item() == pytest.approx(loss(SegmenterOutput(logits[:1]), batch_of(mask[:1]))["total"].item(), rel=1e-5)
    assert not logits.grad[1].any()


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


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("num_shown", [1, 2])
def test_extreme_logits_and_few_classes_give_finite_gradients(any_loss, example, scale, num_shown):
    logits, mask = example
    logits = (scale * logits).requires_grad_()
    any_loss(SegmenterOutput(logits), batch_of(mask % num_shown))["total"].backward()
    assert logits.grad.isfinite().all()


def test_half_precision_logits_are_computed_in_float32(any_loss, example):
    logits, mask = example
    image = torch.randn(2, 1, 6, 5)
    low = any_loss(SegmenterOutput(logits.bfloat16()), batch_of(mask, image))["total"]
    assert low.dtype == torch.float32
    assert low.item() == any_loss(SegmenterOutput(logits.bfloat16().float()), batch_of(mask, image))["total"].item()


def test_gradients_are_those_of_the_value(any_loss, example):
    """Against finite differences: a term that hides its value from autograd still tells the truth."""
    logits, mask = (x[:1, ..., :3, :3] for x in example)
    image = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(2))

    def total(logits):
        return any_loss(SegmenterOutput(logits), batch_of(mask, image))["total"]

    logits.requires_grad_()
    total(logits).backward()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        slope = (total(logits + 5e-3 * direction) - total(logits - 5e-3 * direction)) / 1e-2
    assert slope.item() == pytest.approx((logits.grad * direction).sum().item(), rel=2e-2, abs=2e-4)


def test_a_term_without_a_factor_is_not_computed(make, example):
    logits, mask = example
    assert set(make("loss=sum", "loss.terms.focal=2")(SegmenterOutput(logits), batch_of(mask))) == {"total", "focal"}
    assert set(make("loss.terms.dice=0")(SegmenterOutput(logits), batch_of(mask))) == {"total", "cross_entropy"}


def test_settings_come_from_the_command_line(make):
    assert make("loss=focal", "loss.focal.gamma=3").terms["focal"].gamma == 3
    assert make("loss.cross_entropy.weights=enet").terms["cross_entropy"].class_weights.weighting == "enet"


def test_a_term_derived_from_one_of_ours_is_asked_itself(example):
    class Twice(losses.Dice):
        def forward(self, output, batch):
            return 2 * super().forward(output, batch)

    logits, mask = example
    terms = {"twice": Twice(IGNORED), "dice": losses.Dice(IGNORED), "jaccard": losses.Jaccard(IGNORED)}
    values = losses.WeightedSum(dict.fromkeys(terms, 1.0), **terms)(SegmenterOutput(logits), batch_of(mask))
    assert values["twice"].item() == pytest.approx(2 * values["dice"].item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_alone_and_among_others_a_term_has_the_same_value(make, example, smoothing):
    logits, mask = example
    mask[:, 2] = IGNORED
    both = make(f"loss.cross_entropy.label_smoothing={smoothing}", "loss.cross_entropy.weights=enet")
    losses.adapt(both, torch.arange(22).view(2, 11))
    together = both(SegmenterOutput(logits), batch_of(mask))
    for name in ("cross_entropy", "dice"):
        alone = both.terms[name](SegmenterOutput(logits), batch_of(mask))
        assert alone.item() == pytest.approx(together[name].item(), rel=1e-6)


class Own(torch.nn.Module):
    """A user's term, as docs/losses.md shows it."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, output, batch):
        return self.scale * output.logits.softmax(dim=1).square().mean()


def test_a_term_of_one_s_own_joins_by_its_yaml(make, example):
    logits, mask = example
    node = f"+loss.own={{_target_:{__name__}.Own,scale:2}}"
    values = make(node, "+loss.terms.own=0.5")(SegmenterOutput(logits), batch_of(mask))
    expected = values["cross_entropy"] + values["dice"] + 0.5 * values["own"]
    assert values["total"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"dise": 1.0}, "terms.dise=1.0: no term .* Did you mean 'dice'"),
        ({"xyz": 1.0}, "Defined: dice, reconstruction"),
        ({"dice": 1.0}, "reconstruction: is defined but has no factor"),
        ({"dice": -1.0, "reconstruction": 0}, "terms.dice=-1.0: a factor is 0 or more"),
        ({"dice": math.nan, "reconstruction": 0}, "terms.dice=nan"),
        ({"dice": 0, "reconstruction": 1.0}, "none of those that train the logits.*loss.terms.dice=1"),
    ],
)
def test_terms_and_definitions_must_agree(terms, message):
    definitions = {"dice": losses.Dice(IGNORED), "reconstruction": losses.Reconstruction("mse", (0.5,), (0.2,))}
    with pytest.raises(ValueError, match=message):
        losses.WeightedSum(terms, **definitions)


COUNTS = torch.tensor([[6, 2, 0, 0], [0, 8, 0, 0], [1, 1, 2, 0]])


def test_median_frequency_by_hand():
    freq = [7 / 12, 11 / 20, 2 / 4]  # pixels of the class / pixels of the images that show it
    expected = [(11 / 20) / f for f in freq]
    assert losses.class_weights.median_frequency(COUNTS).tolist() == pytest.approx([*expected, 0])


def test_enet_by_hand():
    expected = [1 / math.log(1.02 + pixels / 20) for pixels in (7, 11, 2)]
    assert losses.class_weights.enet(COUNTS).tolist() == pytest.approx([*expected, 0])


# Pixels of CamVid's 367 training masks; with all shares from one image, freq is the global one.
CAMVID = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967]


def test_weights_of_camvid_are_the_known_ones():
    counts = torch.tensor([CAMVID])
    enet = [5.603, 4.295, 33.574, 3.335, 15.486, 8.739, 31.542, 32.012, 12.829, 38.014, 43.907]
    assert losses.class_weights.enet(counts).tolist() == pytest.approx(enet, abs=1e-3)
    by_median = [0.2663, 0.1929, 4.5642, 0.1417, 1, 0.4614, 3.8248, 3.9814, 0.7648, 7.0182, 15.3816]
    assert losses.class_weights.median_frequency(counts).tolist() == pytest.approx(by_median, abs=1e-4)
    published = losses.class_weights.ClassWeights(11, "segnet")()
    assert published[6].item() == pytest.approx(9.6446)  # the sign's, which no count gives


def test_the_published_list_is_for_camvid_alone():
    with pytest.raises(ValueError, match="list for CamVid's 11 classes and the data has 3"):
        losses.CrossEntropy(3, IGNORED, label_smoothing=0.0, hard_fraction=1.0, weights="segnet")


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 0.0, 0.0)])
def test_a_list_needs_a_number_for_each_class(weights):
    with pytest.raises(ValueError, match="give one for each of the 3 classes, at least one above 0"):
        losses.CrossEntropy(3, IGNORED, label_smoothing=0.0, hard_fraction=1.0, weights=weights)


@pytest.mark.parametrize("weights", ["median_frequency", "enet"])
def test_weights_come_from_the_training_images(make, example, weights):
    loss = make("loss=cross_entropy", f"loss.cross_entropy.weights={weights}")
    logits, mask = example
    with pytest.raises(RuntimeError, match=f"weights={weights} need the class counts of the training images"):
        loss(SegmenterOutput(logits), batch_of(mask))
    counts = torch.randint(0, 9, (5, 11), generator=torch.Generator().manual_seed(0))
    losses.adapt(loss, counts)
    weight = getattr(losses.class_weights, weights)(counts)
    expected = F.cross_entropy(logits, mask, weight)
    assert loss(SegmenterOutput(logits), batch_of(mask))["total"].item() == pytest.approx(expected.item())
    assert not any("weights" in key for key in loss.state_dict())  # they are computed again, not loaded
    with pytest.raises(ValueError, match="counts of 3 classes; the loss has 11"):
        losses.adapt(loss, counts[:, :3])


def test_a_loss_that_is_a_function_needs_nothing():
    losses.adapt(lambda output, batch: {}, COUNTS)
