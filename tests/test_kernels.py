"""Compiled loops against torch: what is read and written, sums, functions, rounding, and what is left to torch."""

import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode

from segsweep import counting
from segsweep.hardware import pick_precision
from segsweep.kernels import (
    boundaries,
    channel_pass,
    channels,
    classes,
    confusion,
    is_available,
    machine,
    resample,
    scores,
    standardise,
    tiles,
    where_positive,
)
from segsweep.kernels.confusion import confusion_of
from segsweep.kernels.functions import exp, larger, log

if not is_available():  # another system than Linux
    pytest.skip("no loops are compiled here", allow_module_level=True)

CHANNELS = 64


@channel_pass(maps=2, writes=True, sums=2)
def mixed(x, y, scale):
    return x * scale + y, x * y, y


@channel_pass(maps=1, writes=True)
def written(x, value):
    return x + value


def value_of(function):
    """The function of (64,) float32, in float64: the sum over one pixel."""

    @channel_pass(maps=1, sums=1)
    def one(x, value):
        return (function(value),)

    return lambda values: one([maps(CHANNELS, 1, 1, 1)], [values])[1][0]


def maps(channels, num, height, width, seed=0):
    values = torch.randn(num, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("channels", "size"),
    [(1, (1, 8, 4)), (11, (2, 8, 16)), (16, (3, 5, 4)), (20, (1, 2, 4)), (64, (2, 7, 5)), (96, (1, 1, 1))],
)
def test_a_pass_is_what_torch_makes_of_the_expression(channels, size, threads, dtype):
    x, y = (maps(channels, *size, seed=i).to(dtype) for i in range(2))
    scale = torch.randn(channels, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result, sums = mixed([x, y], [scale])
    finally:
        torch.set_num_threads(before)
    expected = torch.addcmul(y.double(), x.double(), scale.double().view(-1, 1, 1))
    torch.testing.assert_close(result.double(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = torch.stack([(x.double() * y.double()).sum((0, 2, 3)), y.double().sum((0, 2, 3))])
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=1e-6)


def test_a_map_that_lies_otherwise_is_turned_around():
    x, y = maps(32, 2, 3, 4), maps(32, 2, 3, 4, seed=1)
    expected, _ = mixed([x, y], [torch.ones(32)])
    for other in (y.contiguous(), y.float(), y[:, :1].expand(-1, 32, -1, -1)):
        result, _ = mixed([x, other], [torch.ones(32)])
        assert torch.equal(result, mixed([x, other.bfloat16().clone()], [torch.ones(32)])[0])
    assert torch.equal(mixed([x, y.contiguous()], [torch.ones(32)])[0], expected)


def test_sums_of_many_pixels_are_as_exact_as_those_of_few():
    """Of a million a channel, where float32 alone would keep five digits."""
    x = (100 + maps(32, 4, 256, 1024)).contiguous(memory_format=torch.channels_last)
    _, (products, plain) = mixed([x, x], [torch.ones(32)])
    assert plain.tolist() == pytest.approx(x.double().sum((0, 2, 3)).tolist(), rel=5e-6)
    assert products.tolist() == pytest.approx(x.double().square().sum((0, 2, 3)).tolist(), rel=5e-6)


def test_values_are_rounded_as_torch_rounds_them():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (2000, CHANNELS), generator=generator, dtype=torch.int64).int()
    bits[:500] &= -(2**15)  # halfway between two, or exactly one
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 3.4e38, -3.4e38, 1e-45, -1e-39])
    values = torch.cat([bits.view(torch.float32), special.repeat(7)[:CHANNELS][None]])
    zero = -maps(CHANNELS, 1, 1, 1).mul(0).abs()  # -0, which adds nothing to -0 either
    found = torch.cat([written([zero], [row])[0].flatten()[None] for row in values])
    expected = values.bfloat16()
    assert torch.equal(found.isnan(), expected.isnan())
    is_number = ~expected.isnan()
    assert torch.equal(found[is_number].view(torch.int16), expected[is_number].view(torch.int16))


def test_exponentials_and_logarithms_are_exact_to_some_units():
    generator = torch.Generator().manual_seed(0)
    small = torch.cat([-88 * torch.rand(63, generator=generator), torch.zeros(1)])
    assert value_of(exp)(small).tolist() == pytest.approx(small.double().clamp(min=-87).exp().tolist(), rel=3e-7)
    large = torch.cat([1 + torch.rand(31), 10 ** (4 * torch.rand(32, generator=generator)), torch.ones(1)])
    assert value_of(log)(large).tolist() == pytest.approx(large.double().log().tolist(), rel=3e-7, abs=1e-7)


def test_what_is_no_number_stays_so():
    bad = torch.full((CHANNELS,), torch.nan)
    bad.view(torch.int32)[1:] += torch.arange(1, CHANNELS, dtype=torch.int32) * 12345  # of any bits
    assert bad.isnan().all()
    for function in (exp, log, lambda x: larger(x, 0.0), lambda x: where_positive(x, x)):
        assert value_of(function)(bad).isnan().all()
    assert torch.equal(value_of(exp)(torch.full((CHANNELS,), -torch.inf)) > 0, torch.ones(CHANNELS, dtype=bool))


def test_only_what_is_positive_passes():
    x = torch.cat([torch.tensor([0.0, -0.0, 1e-30, -1e-30, torch.inf, -torch.inf]), torch.randn(CHANNELS - 6)])
    found = value_of(lambda x: where_positive(x, x))(x)
    assert torch.equal(found, torch.relu(x).double())


@pytest.mark.parametrize(
    ("why", "x"),
    [
        ("float64", torch.zeros(1, 32, 2, 2, dtype=torch.float64).contiguous(memory_format=torch.channels_last)),
        ("float16", torch.zeros(1, 32, 2, 2, dtype=torch.float16).contiguous(memory_format=torch.channels_last)),
        ("class by class", torch.zeros(2, 32, 2, 2, dtype=torch.bfloat16)),
        ("pixels that fill no row", maps(16, 1, 3, 3)),
        ("no batch", torch.zeros(32, 2, 2, dtype=torch.bfloat16)),
        ("no image", torch.zeros(0, 32, 2, 2, dtype=torch.bfloat16)),
        ("no values", torch.zeros(1, 32, 2, 2, dtype=torch.bfloat16, device="meta")),
    ],
)
def test_other_maps_do_not_fit(why, x):
    assert not channels.fits(x)


def logits_and_mask(dtype=torch.float32, size=(2, 3, 5, 7)):
    num, _, *sides = size
    return torch.zeros(size, dtype=dtype), torch.zeros(num, *sides, dtype=torch.int64)


def test_logits_fit_class_by_class():
    assert all(tiles.fits(*logits_and_mask(dtype)) for dtype in (torch.float32, torch.bfloat16))
    logits, mask = logits_and_mask()
    others = [
        logits_and_mask(torch.float64),
        logits_and_mask(size=(1, 3, 5, 6)),  # fewer pixels than a tile
        logits_and_mask(size=(0, 3, 5, 7)),
        logits_and_mask(size=(1, 2**15 + 1, 4, 8)),  # more pairs of classes than int32 numbers
        (logits[0], mask),
        (logits.contiguous(memory_format=torch.channels_last), mask),
        *((logits, mask.to(dtype)) for dtype in (torch.uint8, torch.int32, torch.bool)),
        *((logits, other) for other in (mask[:1], mask[:, None], mask.flatten(), mask[:, :4], mask.to("meta"))),
    ]
    assert not any(tiles.fits(*each) for each in others)
    for each in others:
        with pytest.raises(ValueError, match="logits"):
            classes.sums_of(*each, 255)
        with pytest.raises(ValueError, match="logits"):
            classes.gradient_of(*each, 255, torch.ones(4, 3))


def test_what_belongs_not_together_is_refused():
    x, vector = maps(32, 2, 4, 4), torch.ones(32)
    for given in (
        ([x, x[:1]], [vector]),
        ([x], [vector]),
        ([x, x], []),
        ([x, x], [vector[:1]]),
        ([x.half(), x], [vector]),
    ):
        with pytest.raises(ValueError, match="2 maps of one shape and 1 vectors"):
            mixed(*given)


class Followed(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated")
def test_tensors_that_are_not_what_they_hold_are_not_read():
    x = maps(32, 2, 4, 4)
    seen = []
    vmap(lambda one: seen.append(channels.fits(one)) or one)(x[None])
    vmap(lambda one: seen.append(channels.fits(x)) or one)(torch.ones(3))  # what follows may be one with the batch
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
    seen.append(channels.fits(fake))
    seen.append(channels.fits(torch._neg_view(x)))
    seen.append(machine.reads(torch._efficientzerotensor(x.shape)))
    seen.append(channels.fits(torch._to_functional_tensor(x)))
    torch.jit.trace(lambda one: seen.append(channels.fits(one)) or one, x, check_trace=False)
    with Followed():
        seen.append(channels.fits(x))
    with forward_ad.dual_level():
        seen.append(channels.fits(x))
    assert seen == [False] * 9
    assert channels.fits(x)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64, "meta"])
def test_defaults_decide_nothing(default):
    x, (logits, mask) = maps(16, 2, 4, 4), logits_and_mask()
    of_sums = torch.ones(4, 3)
    expected = *mixed([x, x], [torch.ones(16)]), classes.sums_of(logits, mask, 255)
    vector = torch.ones(16)
    before = torch.get_default_dtype()
    try:
        if isinstance(default, torch.dtype):
            torch.set_default_dtype(default)
        with torch.device("meta" if default == "meta" else "cpu"):
            found = *mixed([x, x], [vector]), classes.sums_of(logits, mask, 255)
            gradient = classes.gradient_of(logits, mask, 255, of_sums)
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (1, 40, 6, 6), (3, 1, 8, 4), (2, 11, 33, 32)])
def test_pairs_of_truth_and_best_class_are_counted(size, dtype, threads):
    generator = torch.Generator().manual_seed(0)
    num, num_classes, *sides = size
    logits = torch.randn(size, generator=generator).mul(2).round().to(dtype)  # many are equal
    mask = torch.randint(-1, num_classes + 2, (num, *sides), generator=generator)
    mask[0, 0, :3] = torch.tensor([255, 2**40, -(2**40)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = confusion_of(logits, mask)
    finally:
        torch.set_num_threads(before)
    is_class = (mask >= 0) & (mask < num_classes)
    pairs = mask[is_class] * num_classes + logits.float().max(dim=1).indices[is_class]
    expected = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    assert torch.equal(found, expected)


def test_the_class_of_what_is_no_number_is_such_a_one():
    logits, mask = torch.zeros(1, 4, 4, 8), torch.zeros(1, 4, 8, dtype=torch.int64)
    logits[:, 3], logits[:, 1] = torch.inf, torch.nan
    assert confusion_of(logits, mask)[0].tolist() == [0, 32, 0, 0]
    logits[:, 0], logits[:, 1] = torch.nan, 0.0
    assert confusion_of(logits, mask)[0].tolist() == [32, 0, 0, 0]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("most_counts", [1, 1 << 20])  # one image at a time, all together
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (1, 40, 6, 6), (3, 1, 8, 4), (3, 11, 33, 32)])
def test_an_image_is_scored_as_by_torch(monkeypatch, size, dtype, most_counts, threads):
    monkeypatch.setattr(scores, "_MOST_COUNTS", most_counts)
    generator = torch.Generator().manual_seed(0)
    num, num_classes, *sides = size
    logits = torch.randn(size, generator=generator).mul(2).to(dtype)
    mask = torch.randint(0, num_classes, (num, *sides), generator=generator)
    mask[0, 0, :3] = mask[-1, -1, -2:] = 255
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        best, pairs, calibration = scores.scores_of(logits, mask, 255, counting.NUM_BINS)
    finally:
        torch.set_num_threads(before)
    exact = logits.double().softmax(dim=1)
    confidence, prediction = exact.max(dim=1)
    assert torch.equal(best.long(), prediction)
    assert torch.equal(pairs, counting.confusion_per_image(prediction, mask, num_classes, 255))
    expected = counting.calibration_per_image(confidence.float(), prediction == mask, mask != 255)
    assert torch.equal(calibration[..., [0, 2]], expected[..., [0, 2]])
    torch.testing.assert_close(calibration[..., 1], expected[..., 1], rtol=1e-6, atol=0)


def test_sums_of_confidences_are_exact():
    logits = torch.randn(2, 12, 90, 90, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = logits.max(dim=1).indices
    calibration = scores.scores_of(logits, mask, 255, counting.NUM_BINS)[2]
    assert not torch.equal(calibration, calibration.float().double())  # float32 has too few digits
    confidence = logits.double().softmax(dim=1).amax(dim=1).sum(dim=(1, 2))
    torch.testing.assert_close(calibration[..., 1].sum(dim=1), confidence, rtol=1e-7, atol=0)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(scores.scores_of(logits, mask, 255, counting.NUM_BINS)[2], calibration)
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_is_no_number_shows_in_the_scores_of_its_image_alone():
    logits, mask = torch.zeros(2, 4, 4, 8), torch.zeros(2, 4, 8, dtype=torch.int64)
    logits[1, 2, 3, 7] = torch.nan
    _, pairs, calibration = scores.scores_of(logits, mask, 255, counting.NUM_BINS)
    assert pairs[:, 0].tolist() == [[32, 0, 0, 0], [31, 0, 1, 0]]
    assert calibration[0, 3].tolist() == [32, 8, 32]  # 0.25 lies in the fourth of 15 bins
    assert calibration[1, :, 1].isnan().all()
    mask[1, 3, 7] = 255
    assert scores.scores_of(logits, mask, 255, counting.NUM_BINS)[2][1, 3].tolist() == [31, 7.75, 31]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("smoothness", [1, 8])  # boundaries everywhere, or here and there
@pytest.mark.parametrize(
    "size",
    [
        (1, 1, 1),
        (2, 5, 7),
        (1, 3, 1000),
        (2, 700, 2),
        (3, 33, 32),
        (2, 40, 100),
        (1, 90, 31),
        (2, 3, 300),
        (1, 400, 500),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 19])
def test_boundaries_are_those_of_torch(size, num_classes, smoothness, threads):
    generator = torch.Generator().manual_seed(0)
    num, *sides = size
    coarse = [max(1, side // smoothness) for side in sides]
    noise = torch.randn(2, num, num_classes, *coarse, generator=generator)
    prediction, mask = (F.interpolate(x, size=sides).argmax(dim=1) for x in (noise[0], noise.sum(dim=0)))
    mask[0, 0, : sides[1] // 2] = mask[-1, sides[0] // 2 :, -1] = 255
    expected = counting.boundary_per_image(prediction, mask, num_classes, 255)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        radius = counting.squared_tolerance(sides)
        for kind in (torch.int16, torch.int64):
            found = boundaries.boundaries_of(prediction.to(kind), mask, num_classes, 255, radius)
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_boundaries_need_integers_and_a_reach():
    classes = torch.zeros(1, 8, 8, dtype=torch.int64)
    for wrong in ((classes.float(), classes, 2, 255, 1.0), (classes, classes[0], 2, 255, 1.0)):
        with pytest.raises(ValueError, match=r"prediction \(1, 8, 8\) and mask"):
            boundaries.boundaries_of(*wrong)
    with pytest.raises(ValueError, match=r"squared radius 0\.5"):
        boundaries.boundaries_of(classes, classes, 2, 255, 0.5)


def test_what_is_no_class_is_no_boundary_of_one():
    prediction, mask = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    prediction[0, 2, 2:4] = torch.tensor([2**15 - 1, -7])
    mask[0, 5, 5:7] = torch.tensor([9, -3])
    counts = boundaries.boundaries_of(prediction, mask, 2, 255, 1.0)
    assert counts[0, 1].tolist() == [0, 0, 0, 0]
    assert counts[0, 0, 0] == 3  # above, below and to the left of the one; what is negative is nobody's neighbour


def sampled(images, masks, positions, out, ignore_index):
    """The same by torch's resampling, in float64."""
    size = torch.tensor(masks.shape[1:], dtype=torch.float64)
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in out)
    begin, by_row, by_column = positions.double()[:, None, None].unbind(-1)
    at = begin + by_row * rows[:, None, None] + by_column * columns[:, None]  # (N, h, w, 2)
    grid = ((2 * at + 1) / size - 1).flip(-1)
    image = images.permute(0, 3, 1, 2).double()
    image = F.grid_sample(image, grid, "bilinear", "reflection", align_corners=False) / 255
    mask = F.grid_sample(masks[:, None].double() - ignore_index, grid, "nearest", "zeros", align_corners=False)
    is_tie = (((at - 0.5) - (at - 0.5).round()).abs() < 1e-3).any(dim=-1)  # either neighbour is right
    return image, (mask[:, 0] + ignore_index).long(), is_tie


@pytest.mark.parametrize("num_channels", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "out"), [((12, 17), (9, 40)), ((2, 2), (3, 33)), ((1, 4), (1, 32)), ((50, 40), (40, 50))]
)
def test_bytes_are_resampled_as_torch_does(num_channels, size, out):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, *size, num_channels), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    positions = 2 * torch.randn(3, 2, 3, generator=generator)
    positions[0] = torch.tensor([[0.0, 1, 0], [0.0, 0, 1]])  # as it is
    positions[1] = torch.tensor([[size[0] - 1.0, -1, 0], [size[1] - 1.0, 0, -1]])  # turned by half
    image, mask = resample.resampled(images, masks, positions, out, 250)
    right_image, right_mask, is_tie = sampled(images, masks, positions, out, 250)
    torch.testing.assert_close(
        image.double(), right_image, rtol=0, atol=2e-4
    )  # places of float32, up to 1000 pixels away
    assert torch.equal(mask[~is_tie], right_mask[~is_tie])
    assert is_tie.float().mean() < 0.3
    rows, columns = (min(pair) for pair in zip(size, out, strict=True))
    assert torch.equal(image[0, :, :rows, :columns], images[0].permute(2, 0, 1)[:, :rows, :columns].float() / 255)
    assert torch.equal(mask[0, :rows, :columns], masks[0, :rows, :columns].long())


@pytest.mark.parametrize("far", [torch.nan, torch.inf, -torch.inf, 1e30, -3e9])
def test_no_place_is_outside_memory(far):
    images, masks = torch.full((1, 5, 6, 3), 51, dtype=torch.uint8), torch.zeros(1, 5, 6, dtype=torch.uint8)
    for i in range(6):
        positions = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
        positions[i] = far
        image, mask = resample.resampled(images, masks, positions.view(1, 2, 3), (4, 40), 255)
        assert ((image - 0.2).abs() < 1e-6).all()
        assert set(mask.unique().tolist()) <= {0, 255}


def test_what_is_resampled_belongs_together():
    images, masks, positions = torch.zeros(2, 5, 6, 3).byte(), torch.zeros(2, 5, 6).byte(), torch.zeros(2, 2, 3)
    given = [
        (images.float(), masks, positions, (4, 32)),
        (images, masks.long(), positions, (4, 32)),
        (images, masks[:1], positions, (4, 32)),
        (images, masks, positions[:1], (4, 32)),
        (images, masks, positions, (4, 31)),
        (torch.zeros(2, 5, 6, 4).byte(), masks, positions, (4, 32)),
        (torch.zeros(1, 1, 3, 1).byte(), torch.zeros(1, 1, 3).byte(), positions[:1], (4, 32)),  # less than a word
    ]
    given += [(images, masks, other, (4, 32)) for other in (positions.to("meta"), torch._neg_view(positions))]
    for size in ((2**16, 2**15), (1, 2**24)):  # places and lengths that int32 and float32 do not know
        large = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, *size)
        given.append((large[..., None], large, positions[:1], (4, 32)))
    for each in given:
        with pytest.raises(ValueError, match=r"images .* masks .* positions"):
            resample.resampled(*each, 255)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(1, 4, 8), (3, 5, 7), (2, 33, 31), (5, 64, 64)])
def test_images_are_standardised_to_the_last_bit_as_torch_does(size, threads):
    image = torch.rand(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(0))
    image[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -0.0])
    mean, scale = torch.tensor([0.485, 0.456, 0.406]), 1 / torch.tensor([0.229, 0.224, 0.225])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = standardise.standardised(image, mean, scale)
    finally:
        torch.set_num_threads(before)
    expected = (image - mean.view(3, 1, 1)) * scale.view(3, 1, 1)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def test_what_is_standardised_are_images_in_colour():
    image, three = torch.zeros(2, 3, 8, 8), torch.ones(3)
    given = [
        (image.double(), three, three),
        (image[:, :1], three, three),
        (image[0], three, three),
        (image.contiguous(memory_format=torch.channels_last), three, three),
        (image[..., :4], three, three),
        (torch.zeros(2, 3, 5, 6), three, three),  # fewer pixels than a row of lanes
        (image, three[:1], three),
        (image, three, three.double()),
        (image, three.to("meta"), three),
    ]
    for each in given:
        with pytest.raises(ValueError, match=r"images .* means and .* scales"):
            standardise.standardised(*each)
    assert not standardise.pays(image)  # too little to do
    assert standardise.pays(torch.zeros(2, 3, 256, 256))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of other CPUs of one kind")
@pytest.mark.parametrize("cpu", ["haswell", "x86-64"])  # AVX2, SSE2
def test_a_cpu_with_narrower_registers_computes_the_same(monkeypatch, cpu):
    x, (logits, mask) = maps(CHANNELS, 2, 4, 4), logits_and_mask()
    logits, mask = torch.randn_like(logits), torch.randint_like(mask, 3)
    images, masks = torch.arange(240).byte().view(1, 8, 10, 3), torch.arange(80).byte().view(1, 8, 10)
    statistics = torch.tensor([[0.485, 0.456, 0.406], [4.367, 4.464, 4.444]])
    places = torch.tensor([[[0.317, 0.2031, 0.1013], [0.4159, -0.0917, 0.2123]]])

    def everything():
        channel_sums = channel_pass(maps=2, writes=True, sums=2)(mixed.expression)([x, x], [torch.ones(CHANNELS)])
        image, seen = resample.resampled(images, masks, places, (6, 32), 255)
        return *channel_sums, seen, confusion_of(logits, mask), standardise.standardised(image, *statistics)

    expected, functions = everything(), (resample._resample, confusion._confusion, standardise._standardise)
    monkeypatch.setattr(machine, "_processor", lambda: {"cpu": cpu, "features": ""})
    for function in functions:
        function.cache_clear()
    found = everything()
    for function in functions:
        function.cache_clear()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_compiled_is_left_to_torch(monkeypatch, caplog):
    def refuse(*_):
        raise OSError("no executable memory")

    monkeypatch.setattr(machine, "compiled", refuse)
    assert not machine.is_available.__wrapped__()
    assert "torch's operations take their place: no executable memory" in caplog.text


def test_elsewhere_nothing_is_compiled(monkeypatch):
    ask = machine.is_available.__wrapped__
    assert ask()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not ask()
    monkeypatch.undo()
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert not ask()
    monkeypatch.undo()
    monkeypatch.setattr(machine, "_torch", lambda: object())
    assert not ask()


@pytest.mark.slow
def test_the_server_that_jobs_are_forked_from_compiles_for_all_of_them():
    imports = "from segsweep.sweep import warm; from segsweep.kernels.classes import _sums"
    command = [sys.executable, "-c", f"{imports}; print(_sums.cache_info().currsize, flush=True)"]
    found = [
        subprocess.run([*command, argument], capture_output=True, text=True, check=True).stdout.split()
        for argument in ("multiprocessing.forkserver", "another process")
    ]
    assert found == [["1" if pick_precision("cpu") == "bf16-mixed" else "0"], ["0"]]
