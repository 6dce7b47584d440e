"""Each term that looks at distances or at the image, by hand and against other implementations."""

from math import log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import nn

from segsweep import losses
from segsweep.types import SegmenterOutput
from tests.conftest import batch_of

IGNORED = 255


def value(term, logits, mask, image=None):
    return term(SegmenterOutput(logits), batch_of(mask, image))


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_border_distance_against_scipy(limit):
    mask = torch.randint(0, 3, (2, 3, 4), generator=torch.Generator().manual_seed(4))
    mask = mask.repeat_interleave(5, 1).repeat_interleave(4, 2)
    mask[:, 4:9, 3] = IGNORED
    mask[1] = mask[1] * 0 + 1  # an image of one class
    truth = mask[:, None] == torch.arange(4).view(1, -1, 1, 1)
    expected = np.full(truth.shape, float(limit))
    for n, k in np.ndindex(2, 4):
        inside, others = truth[n, k].numpy(), truth[n].any(dim=0).numpy() & ~truth[n, k].numpy()
        if inside.any():
            expected[n, k] = np.where(inside, expected[n, k], distance_transform_edt(~inside).clip(max=limit))
        if others.any():
            expected[n, k] = np.where(inside, distance_transform_edt(~others).clip(max=limit), expected[n, k])
    np.testing.assert_allclose(losses.boundary.border_distance(truth, limit).numpy(), expected, rtol=1e-6)


def test_boundary_has_the_gradient_of_the_paper_s_integral():
    """Without a cut-off: the sum of phi p, phi negative inside."""
    mask = torch.zeros(1, 8, 9).long()
    mask[:, 2:6, 3:7] = 1
    logits = torch.randn(1, 2, 8, 9, generator=torch.Generator().manual_seed(5), requires_grad=True)
    value(losses.Boundary(50, IGNORED), logits, mask).backward()
    own = logits.grad.clone()
    logits.grad = None
    inside = (mask[0] == 1).numpy()
    outside = distance_transform_edt(~inside), distance_transform_edt(inside)
    phi = torch.from_numpy(np.stack([outside[1] - outside[0], outside[0] - outside[1]])).float()
    ((phi * logits.softmax(dim=1)).sum(dim=1).mean() / (2 * 50)).backward()
    torch.testing.assert_close(own, logits.grad)


def test_far_errors_cost_more():
    mask = torch.zeros(1, 1, 12).long()
    mask[..., 6:] = 1
    costs = []
    for wrong in range(6):
        logits = 60.0 * F.one_hot(mask, 2).movedim(-1, 1)
        logits[:, :, 0, wrong] = logits[:, :, 0, wrong].flip(1)
        costs.append(value(losses.Boundary(4, IGNORED), logits, mask).item() * 12 * 4)
    assert costs == pytest.approx([4, 4, 4, 3, 2, 1], abs=1e-4)


@pytest.mark.parametrize(("kind", "expected"), [("mse", 4.0), ("mae", 2.0)])
def test_reconstruction_in_standardised_units(kind, expected):
    image = torch.ones(1, 1, 2, 2)
    term = losses.Reconstruction(kind, mean=(0.5,), std=(0.2,))
    assert term(SegmenterOutput(image, image - 2), batch_of(torch.zeros(1, 2, 2).long(), image)) == pytest.approx(
        expected
    )


def bce_of(intensity, shown):
    """Image and reconstruction are given as intensities in 0..1; the term sees them standardised."""
    image, reconstruction = (((torch.tensor([[[x]]]) - 0.5) / 0.2) for x in (intensity, shown))
    reconstruction.requires_grad_()
    term = losses.Reconstruction("bce", mean=(0.5,), std=(0.2,))
    batch = batch_of(torch.zeros(1, 1, len(intensity)).long(), image)
    value = term(SegmenterOutput(image, reconstruction), batch)
    value.backward()
    return value.item(), reconstruction.grad.flatten().tolist()


def test_reconstruction_bce_is_in_the_units_of_the_image():
    entropy = -(0.3 * log(0.3) + 0.7 * log(0.7))
    value, gradient = bce_of([0.3], [0.3])
    assert value == pytest.approx(entropy, rel=1e-5)
    assert gradient == pytest.approx([0], abs=1e-5)  # least where the reconstruction is the image
    value, gradient = bce_of([0.3], [0.6])
    assert value == pytest.approx(-(0.3 * log(0.6) + 0.7 * log(0.4)), rel=1e-5)
    assert gradient == pytest.approx([0.2 * (0.6 - 0.3) / (0.6 * 0.4)], rel=1e-4)


def test_reconstruction_bce_brings_back_what_is_beyond_black_and_white():
    value, (below, above) = bce_of([0.3, 0.3], [-2.0, 3.0])
    assert value < 5
    assert below < 0 < above  # a step downhill leads into the range
    assert bce_of([0.0, 1.0], [-2.0, 3.0])[1] == pytest.approx([0, 0], abs=1e-5)  # black and white cannot be bettered


def test_divergence_warms_up_in_training_alone():
    term = losses.Divergence(warmup_steps=4)
    batch = batch_of(torch.zeros(2, 2, 2).long())
    output = SegmenterOutput(torch.zeros(2, 3, 2, 2), divergence=torch.tensor([2.0, 6.0]))  # mean 4, over 4 values

    def values(term):
        for _ in range(3):
            yield [term(output, batch).item() for _ in range(2)]  # passing twice in one batch counts once
            losses.count_batch(losses.warming_terms(nn.ModuleList([term])))

    assert list(values(term)) == [[0, 0], [0.25, 0.25], [0.5, 0.5]]
    assert term.eval()(output, batch).item() == 1
    resumed = losses.Divergence(warmup_steps=4)
    resumed.load_state_dict(term.state_dict())
    assert list(values(resumed)) == [[0.75, 0.75], [1, 1], [1, 1]]


def test_divergence_is_skipped_for_models_without_one():
    assert losses.Divergence(0)(SegmenterOutput(torch.zeros(1, 2, 1, 1)), batch_of(torch.zeros(1, 1, 1).long())) is None


def ncut_by_matrix(probability_KHW, image_CHW, radius, sigma_intensity, sigma_distance):
    """The formula with the whole matrix of ties, in float64."""
    num_classes, height, width = probability_KHW.shape
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).view(-1, 2)
    distance = torch.cdist(places.double(), places.double())
    colours = 255 * image_CHW.double().flatten(1).T
    ties = torch.exp(-((torch.cdist(colours, colours) / sigma_intensity) ** 2) - (distance / sigma_distance) ** 2)
    ties = ties * (distance < radius)
    p = probability_KHW.double().flatten(1)
    return num_classes - sum((x @ ties @ x) / (x @ ties.sum(dim=1)) for x in p)


@pytest.mark.parametrize("size", [(7, 9), (3, 12), (1, 1)])
def test_ncut_against_the_whole_matrix(size):
    generator = torch.Generator().manual_seed(6)
    intensity = 0.1 * torch.rand(2, 3, *size, generator=generator)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    image = (intensity - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    logits = torch.randn(2, 4, *size, generator=generator, requires_grad=True)
    own = value(losses.NormalisedCut(5, 10.0, 4.0, mean, std), logits, torch.zeros(2, *size).long(), image)
    (gradient,) = torch.autograd.grad(own, logits)
    probability = logits.softmax(dim=1)
    expected = sum(ncut_by_matrix(p, i, 5, 10.0, 4.0) for p, i in zip(probability, intensity, strict=True)) / 2
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert own.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-6)


def test_ncut_prefers_a_cut_along_the_edge():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1
    term = losses.NormalisedCut(5, 10.0, 4.0, (0.0,), (1.0,))
    costs = []
    for edge in (4, 2):
        mask = (torch.arange(8) >= edge).long().expand(1, 8, 8)
        costs.append(value(term, 60.0 * F.one_hot(mask, 2).movedim(-1, 1), mask, image).item())
    assert costs[0] == pytest.approx(0, abs=1e-5)
    assert costs[1] > 0.2
