"""Going up a level: the quick way against the plain one, and gradients in the layout in which torch is quick."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.profiler import profile

from segsweep import config
from segsweep.models import repetition
from segsweep.models.repetition import conv_of_repeated, repeat, with_own_gradient
from segsweep.models.smp import quick as quick_blocks

MODELS = {
    "unet": [],
    "gated_sweep": [],
    "conv_autoencoder": [],
    "smp": ["model.arch=Unet", "model.encoder_name=resnet18"],
}


@pytest.fixture
def always(monkeypatch):
    """Takes the quick way for the smallest maps, and counts how often."""
    monkeypatch.setattr(repetition, "_LEAST_PIXELS", 0)
    monkeypatch.setattr(repetition, "_LEAST_PRODUCTS", 0)
    calls, apply = [], repetition._Interleaved.apply

    def counted(*args):
        calls.append(len(args))
        return apply(*args)

    monkeypatch.setattr(repetition._Interleaved, "apply", counted)
    return calls


def random(*shape, dtype=torch.float64):
    made = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))
    return made.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("skip_channels", [0, 3])
@pytest.mark.parametrize("has_bias", [False, True])
def test_output_and_gradients_are_those_of_the_plain_way(always, skip_channels, has_bias):
    conv = nn.Conv2d(4 + skip_channels, 5, 3, padding=1, bias=has_bias).double()
    x = random(2, 4, 3, 6)
    skip = random(2, skip_channels, 6, 12) if skip_channels else None
    inputs = [x, *([] if skip is None else [skip]), *conv.parameters()]
    expected, found = conv(repeat(x, skip)), conv_of_repeated(conv, x, skip)
    assert always
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    of_result = torch.randn_like(expected)
    gradients = [torch.autograd.grad(result, inputs, of_result) for result in (found, expected)]
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_a_gradient_in_another_layout(always):
    conv, x = nn.Conv2d(2, 3, 3, padding=1).double(), random(1, 2, 4, 4)
    of_result = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    ours, plain = (torch.autograd.grad(way, x, of_result)[0] for way in (conv_of_repeated(conv, x), conv(repeat(x))))
    assert len(always) == 1
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 3, 1),
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(2, 3, 3, padding=2, dilation=2),
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3, padding=1)),
        nn.Conv2d(2, 3, 3, padding=1).eval(),
    ],
)
def test_any_other_convolution_goes_the_plain_way(always, conv):
    x = random(1, 2, 4, 4, dtype=torch.float32)
    assert torch.equal(conv_of_repeated(conv, x), conv(repeat(x)))
    assert not always


@pytest.mark.parametrize("hook", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_sees_the_convolution(always, hook):
    conv, seen = nn.Conv2d(2, 3, 3, padding=1), []
    getattr(conv, f"register_{hook}")(lambda *_: seen.append(1))
    conv_of_repeated(conv, random(1, 2, 4, 4, dtype=torch.float32)).sum().backward()
    assert seen
    assert not always


def test_a_skip_of_an_odd_size_goes_the_plain_way(always):
    conv, x, skip = nn.Conv2d(3, 3, 3, padding=1).double(), random(1, 2, 4, 4), random(1, 1, 7, 8)
    assert torch.equal(conv_of_repeated(conv, x, skip), conv(repeat(x, skip)))
    assert not always


def test_a_skip_of_one_channel(always):
    conv, x, skip = nn.Conv2d(3, 3, 3, padding=1).double(), random(1, 2, 4, 4), random(1, 1, 8, 8)
    torch.testing.assert_close(conv_of_repeated(conv, x, skip), conv(repeat(x, skip)), rtol=1e-12, atol=1e-12)
    assert len(always) == 1


def test_maps_of_two_precisions_go_the_plain_way(always):
    conv, x, skip = nn.Conv2d(3, 3, 3, padding=1).double(), random(1, 2, 4, 4), random(1, 1, 8, 8, dtype=torch.float32)
    assert torch.equal(conv_of_repeated(conv, x, skip), conv(repeat(x, skip)))
    assert not always


def test_a_stack_goes_the_plain_way(always):
    convs = [nn.Conv2d(2, 3, 3, padding=1) for _ in range(2)]
    parameters, _ = stack_module_state(convs)
    x = torch.randn(2, 1, 2, 4, 4)
    found = vmap(lambda own, x: functional_call(Up(convs[0]), {f"conv.{k}": v for k, v in own.items()}, (x,)))(
        parameters, x
    )
    expected = torch.stack([conv(repeat(one)) for conv, one in zip(convs, x, strict=True)])
    torch.testing.assert_close(found, expected)
    assert not always


class Up(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return conv_of_repeated(self.conv, x)


def test_small_maps_go_the_plain_way():
    conv, x = nn.Conv2d(2, 3, 3, padding=1), random(1, 2, 4, 4, dtype=torch.float32)
    assert torch.equal(conv_of_repeated(conv, x), conv(repeat(x)))


@pytest.mark.parametrize("name", MODELS)
def test_a_network_trains_alike_both_ways(always, monkeypatch, composer, name):
    model = build(composer, name).double()
    image = torch.randn(2, model_channels(composer, name), 64, 64).double().to(memory_format=torch.channels_last)
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def gradients():
        model.load_state_dict(state)
        model.zero_grad()
        model(image).logits.square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    quick, calls = gradients(), len(always)
    for module in (repetition, quick_blocks):
        monkeypatch.setattr(module, "pays", lambda *_: False)
    plain = gradients()
    assert calls
    assert len(always) == calls
    for ours, theirs in zip(quick, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def build(composer, name):
    plain = config.settle(composer("trainer=cpu", f"model={name}", *MODELS[name]))
    return config.build_model(plain).to(memory_format=torch.channels_last).train()


def model_channels(composer, name):
    return composer(f"model={name}", *MODELS[name]).data.in_channels


@pytest.mark.filterwarnings("ignore:The profiler")
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_turned_around_in_memory_on_the_way_back(composer, name):
    image = torch.randn(2, model_channels(composer, name), 64, 64).to(memory_format=torch.channels_last)
    logits = build(composer, name)(image).logits
    with profile() as found:
        logits.square().mean().backward()
    resized = [event for event in found.events() if event.name.startswith("aten::upsample")]
    assert resized
    assert {child.name for event in resized for child in event.cpu_children}.isdisjoint(
        {"aten::contiguous", "aten::copy_", "aten::clone"}
    )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_is_the_same(layout):
    def gradient(wrap):
        x = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=layout).requires_grad_()
        up = wrap(torch.nn.functional.interpolate(x, scale_factor=2.0))
        both = torch.cat([up, torch.ones(1, 3, 6, 8).contiguous(memory_format=layout)], dim=1)
        (both * torch.arange(240.0).view(1, 5, 6, 8)).sum().backward()
        return x.grad

    assert torch.equal(gradient(with_own_gradient), gradient(lambda x: x))
