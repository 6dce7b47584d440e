"""Sums by class against plain operations, in every layout and precision, by compiled loops and by torch."""

import pytest
import torch
import torch.nn.functional as F

from segsweep.kernels import is_available, tiles
from segsweep.losses.class_sums import ClassSums, class_sums

IGNORED = 255
NUM, CLASSES, HEIGHT, WIDTH = 3, 5, 9, 11  # of pixels that fill three tiles and three quarters


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(NUM, CLASSES, HEIGHT, WIDTH, generator=generator)
    mask = torch.randint(0, CLASSES, (NUM, HEIGHT, WIDTH), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORED
    mask[1] = IGNORED
    return logits, mask


def plainly(logits, mask):
    """The same by one operation after another, as autograd sees them."""
    valid = (mask != IGNORED)[:, None]
    truth = F.one_hot(torch.where(mask == IGNORED, 0, mask), CLASSES).movedim(-1, 1) * valid
    p = logits.softmax(dim=1) * valid
    values = truth, -logits.log_softmax(dim=1) * truth, p * truth, p, p.square()
    return ClassSums(*(value.sum((0, 2, 3)) for value in values))


def gradient(function, logits, mask, names=ClassSums._fields[1:]):
    """Of a mixture of the sums, of other weight for each class."""
    logits = logits.detach().requires_grad_()
    sums = function(logits, mask)
    weights = torch.randn(len(ClassSums._fields), CLASSES, generator=torch.Generator().manual_seed(1))
    sum((getattr(sums, name) * weights[i]).sum() for i, name in enumerate(names)).backward()
    return logits.grad


def fused(logits, mask):
    return class_sums(logits, mask, IGNORED)


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways for maps of any size, and whether the right one was taken."""
    is_compiled = request.param == "compiled"
    if is_compiled and not is_available():
        pytest.skip("no loops are compiled here")
    monkeypatch.setattr(tiles, "LEAST_VALUES", 0 if is_compiled else 1 << 60)
    return request.param


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_and_gradients_are_those_of_plain_operations(maps, layout):
    logits, mask = maps
    logits = logits.contiguous(memory_format=layout)
    for found, expected in zip(fused(logits, mask), plainly(logits, mask), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)
    found = gradient(fused, logits, mask)
    torch.testing.assert_close(found, gradient(plainly, logits, mask), rtol=1e-5, atol=1e-6)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", ClassSums._fields[1:])
def test_each_sum_has_its_own_gradient(maps, name):
    torch.testing.assert_close(
        gradient(fused, *maps, names=(name,)), gradient(plainly, *maps, names=(name,)), rtol=1e-5, atol=1e-6
    )


def test_what_is_true_has_no_gradient(maps):
    logits, mask = maps
    assert not fused(logits.requires_grad_(), mask).truth.requires_grad


def test_low_precision_is_rounded_once(maps):
    logits, mask = maps
    low = logits.bfloat16()
    for found, expected in zip(fused(low, mask), fused(low.float(), mask), strict=True):
        assert torch.equal(found, expected)
    found = gradient(fused, low, mask)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, gradient(fused, low.float(), mask).bfloat16())


def test_large_logits_neither_overflow_nor_vanish(maps):
    logits, mask = maps
    large = 1e4 * logits
    entropy = -(large.log_softmax(dim=1).gather(1, torch.where(mask == IGNORED, 0, mask)[:, None])[:, 0])
    total = entropy[mask != IGNORED].double().sum()
    assert fused(large, mask).entropy.sum().item() == pytest.approx(total.item(), rel=1e-5)
    assert gradient(fused, large, mask).isfinite().all()


def test_sums_of_many_pixels_are_as_exact_as_those_of_few():
    """What nearly all pixels agree on: a Dice loss is the small difference of two large sums."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (4, 512, 512), generator=generator)
    logits = 12.0 * F.one_hot(mask, 2).movedim(-1, 1) + 0.5 * torch.randn(4, 2, 512, 512, generator=generator)
    p = logits.double().softmax(dim=1)
    truth = F.one_hot(mask, 2).movedim(-1, 1)
    sums = class_sums(logits, mask, IGNORED)
    exact = p.sum((0, 2, 3)) - (p * truth).sum((0, 2, 3))
    assert (sums.predicted - sums.overlap).tolist() == pytest.approx(exact.tolist(), abs=0.1)  # of 500,000 each
    entropy = -(logits.double().log_softmax(dim=1) * truth).sum((0, 2, 3))
    assert sums.entropy.tolist() == pytest.approx(entropy.tolist(), rel=1e-4)


def test_what_is_added_to_all_logits_changes_nothing(maps):
    logits, mask = ((8 * maps[0]).round() / 8, maps[1])  # so that the sum below is exact
    shifted = logits + 2.0**14
    for found, expected in zip(fused(shifted, mask), fused(logits, mask), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(gradient(fused, shifted, mask), gradient(fused, logits, mask))


def test_what_is_not_finite_is_not_hidden(maps):
    logits, mask = maps
    mask[0, 0, 0] = 0
    for bad in (torch.nan, torch.inf):
        logits[0, 0, 0, 0] = bad
        assert not fused(logits, mask).squared.isfinite().all()


@pytest.mark.parametrize("bad", [CLASSES, -1])
def test_a_number_that_is_no_class_is_refused(maps, bad):
    logits, mask = maps
    mask[0, 0, 0] = bad
    with pytest.raises(RuntimeError, match="out of bounds"):
        fused(logits, mask)


def test_a_class_may_have_the_number_that_is_left_out(maps):
    logits, mask = maps
    mask = torch.where(mask == IGNORED, 2, mask)
    assert class_sums(logits, mask, 2).truth.tolist() == [
        float((mask == k).sum()) if k != 2 else 0.0 for k in range(CLASSES)
    ]


def test_no_image_has_sums_of_zero():
    sums = class_sums(torch.zeros(0, CLASSES, 2, 2), torch.zeros(0, 2, 2, dtype=torch.int64), IGNORED)
    assert all(torch.equal(found, torch.zeros(CLASSES)) for found in sums)


def test_no_map_of_all_classes_is_kept_for_the_backward_pass(maps):
    logits, mask = maps
    logits.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        fused(logits, mask)
    maps_of_classes = [x for x in kept if x.numel() > mask.numel()]
    assert [x.data_ptr() for x in maps_of_classes] == [logits.data_ptr()]


@pytest.mark.parametrize("classes", [1, 2, 40])
def test_any_number_of_classes(classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 8, 8, generator=generator).requires_grad_()
    mask = torch.randint(0, classes, (2, 8, 8), generator=generator)
    sums = class_sums(logits, mask, IGNORED)
    assert sums.truth.sum() == mask.numel()
    (sums.entropy.sum() + (2 - sums.overlap).square().sum()).backward()
    found, logits.grad = logits.grad, None
    p = logits.softmax(dim=1)
    q = F.one_hot(mask, classes).movedim(-1, 1)
    (-(logits.log_softmax(dim=1) * q).sum() + (2 - (p * q).sum((0, 2, 3))).square().sum()).backward()
    torch.testing.assert_close(found, logits.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_which_way_is_taken(way, maps, layout):
    logits, mask = maps
    logits = logits.contiguous(memory_format=layout).requires_grad_()
    name = type(fused(logits, mask).entropy.grad_fn).__name__
    assert name == ("_CompiledSumsBackward" if way == "compiled" else "_SumsBackward")
    assert type(fused(logits.double(), mask).entropy.grad_fn).__name__ == "_SumsBackward"


def test_a_mask_of_another_type(maps):
    logits, mask = maps
    for found, expected in zip(fused(logits, mask.int()), fused(logits, mask), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cut", [lambda mask: mask[:1], lambda mask: mask[:, :4], lambda mask: mask.flatten()])
def test_a_mask_of_another_size_is_refused(maps, cut):
    logits, mask = maps
    with pytest.raises(ValueError, match=r"mask .* does not fit logits"):
        fused(logits, cut(mask))


def test_kept_tensors_may_come_back_in_another_layout_and_type(maps):
    logits, mask = maps
    expected = gradient(fused, logits, mask)

    def pack(x):
        if x.dtype == torch.int64:
            return x.int()
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x.long() if x.dtype == torch.int32 else x):
        assert torch.equal(gradient(fused, logits, mask), expected)
