"""The gradient of a convolution's weights as a product of matrices, against torch's own."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from segsweep import config
from segsweep.models import narrow_maps
from segsweep.models.narrow_maps import Conv2d, gradient_of_weight

CASES = {  # out channels, kernel, stride, padding
    "3x3": (5, (3, 3), (1, 1), (1, 1)),
    "1x1 at every second pixel": (4, (1, 1), (2, 2), (0, 0)),
    "another one in every direction": (3, (4, 3), (1, 2), (0, 2)),
    "of one channel": (1, (3, 3), (2, 2), (1, 1)),
}


@pytest.fixture
def always(monkeypatch):
    """Takes the own way for the smallest maps, on any CPU, and counts how often."""
    monkeypatch.setattr(narrow_maps, "_LEAST_PRODUCTS", 0)
    monkeypatch.setattr(narrow_maps, "_has_matrix_units", lambda: True)
    calls, apply = [], narrow_maps._Convolution.apply

    def counted(*args):
        calls.append(args)
        return apply(*args)

    monkeypatch.setattr(narrow_maps._Convolution, "apply", counted)
    return calls


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_is_the_gradient(name, layout):
    out_channels, kernel, stride, padding = CASES[name]
    x = torch.randn(3, 2, 7, 9, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(out_channels, 2, *kernel, dtype=torch.float64, requires_grad=True)
    result = nn.functional.conv2d(x, weight, None, stride, padding)
    of_result = torch.randn_like(result).contiguous(memory_format=layout)
    (expected,) = torch.autograd.grad(result, weight, of_result)
    found = gradient_of_weight(x, of_result, kernel, stride, padding)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("of_input", [False, True])
def test_a_convolution_trains_as_torch_has_it(always, of_input):
    conv = Conv2d(8, 6, 3, stride=2, padding=1, bias=False)
    plain = nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 8, 10, 12).to(memory_format=torch.channels_last)
    found = []
    for layer in (conv, plain):
        one = x.clone().requires_grad_(of_input)
        with torch.autocast("cpu", torch.bfloat16):
            result = layer(one)
        result.square().sum().backward()
        assert result.dtype == torch.bfloat16
        assert layer.weight.grad.dtype == torch.float32
        found.append((result, layer.weight.grad, one.grad))
    assert len(always) == 1
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=2**-7, atol=2**-7)  # each rounds to bf16 once
    assert (found[0][2] is None) is (not of_input)
    if of_input:
        assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize(
    ("why", "conv", "size", "autocast"),
    [
        ("wide", Conv2d(2, 3, 3, padding=1, bias=False), (4, 13), torch.bfloat16),
        ("float32", Conv2d(2, 3, 3, padding=1, bias=False), (4, 4), None),
        ("float16", Conv2d(2, 3, 3, padding=1, bias=False).bfloat16(), (4, 4), torch.float16),
        ("bias", Conv2d(2, 3, 3, padding=1), (4, 4), torch.bfloat16),
        ("dilation", Conv2d(2, 3, 3, padding=1, dilation=2, bias=False), (6, 6), torch.bfloat16),
        ("groups", Conv2d(2, 4, 3, padding=1, groups=2, bias=False), (4, 4), torch.bfloat16),
        ("other padding", Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False), (4, 4), torch.bfloat16),
        ("padding by name", Conv2d(2, 3, 3, padding="same", bias=False), (4, 4), torch.bfloat16),
        ("frozen", Conv2d(2, 3, 3, padding=1, bias=False).requires_grad_(False), (4, 4), torch.bfloat16),
        ("no batch", Conv2d(2, 3, 3, padding=1, bias=False), (4, 4), torch.bfloat16),
    ],
)
def test_any_other_convolution_is_torchs(always, why, conv, size, autocast):
    x = torch.randn(2, 2, *size, dtype=conv.weight.dtype, requires_grad=True)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        result = conv(x[0] if why == "no batch" else x)
    result.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not always


@pytest.mark.parametrize("autocast", [False, True])
def test_precisions_that_torch_refuses_are_refused(always, autocast):
    conv = Conv2d(2, 3, 3, padding=1, bias=False).to(torch.float64 if autocast else torch.float32)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(RuntimeError, match="type"):
        conv(x)
    assert not always


@pytest.mark.parametrize(
    "limit", [("_LEAST_PRODUCTS", 2 * 4 * 4 * 2 * 9 * 3 + 1), ("_MOST_VALUES", 2 * 4 * 4 * 2 * 9 - 1)]
)
def test_with_too_little_or_too_much_to_do_it_is_torchs(always, monkeypatch, limit):
    conv, x = Conv2d(2, 3, 3, padding=1, bias=False).bfloat16(), torch.randn(2, 2, 4, 4).bfloat16()
    conv(x)
    assert len(always) == 1
    monkeypatch.setattr(narrow_maps, *limit)
    conv(x)
    assert len(always) == 1


def test_without_gradients_and_without_matrix_units_it_is_torchs(always, monkeypatch):
    conv, x = Conv2d(2, 3, 3, padding=1, bias=False).bfloat16(), torch.randn(2, 2, 4, 4).bfloat16()
    with torch.no_grad():
        assert not conv(x).requires_grad
    monkeypatch.setattr(narrow_maps, "_has_matrix_units", lambda: False)
    conv(x).sum().backward()
    assert not always


def test_a_stack_is_torchs(always):
    convs = [Conv2d(2, 3, 3, padding=1, bias=False).bfloat16() for _ in range(2)]
    parameters, _ = stack_module_state(convs)
    x = torch.randn(2, 1, 2, 4, 4).bfloat16()
    found = vmap(lambda own, x: functional_call(convs[0], own, (x,)))(parameters, x)
    found.sum().backward()
    expected = torch.stack([conv(one) for conv, one in zip(convs, x, strict=True)])
    torch.testing.assert_close(found, expected)
    assert len(always) == len(convs)  # each alone


@pytest.mark.parametrize("way", ["vmap", "per sample", "twice"])
def test_transforms_pass(always, way):
    ours = Conv2d(2, 3, 3, padding=1, bias=False).bfloat16()
    plain = nn.Conv2d(2, 3, 3, padding=1, bias=False).bfloat16()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(4, 1, 2, 4, 4).bfloat16()

    def result(conv):
        if way == "vmap":
            return vmap(conv)(x)
        if way == "per sample":
            own = dict(conv.named_parameters())
            loss = grad(lambda own, one: functional_call(conv, own, (one,)).square().sum())
            return vmap(loss, in_dims=(None, 0))(own, x)["weight"]
        image = x[0].clone().requires_grad_()
        (first,) = torch.autograd.grad(conv(image).square().sum(), image, create_graph=True)
        return torch.autograd.grad(first.square().sum(), conv.weight)[0]

    torch.testing.assert_close(result(ours), result(plain), rtol=2**-6, atol=2**-6)
    assert always


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiler_sees_one_graph():
    conv = Conv2d(2, 3, 3, padding=1, bias=False)
    graphs = []
    compiled = torch.compile(conv, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    with torch.autocast("cpu", torch.bfloat16):
        compiled(torch.randn(2, 2, 4, 4))
    assert len(graphs) == 1


@pytest.mark.parametrize("overrides", [["model=unet"], ["model=smp", "model.arch=Unet", "model.encoder_name=resnet18"]])
def test_models_have_it(composer, overrides):
    model = config.build_model(config.settle(composer("trainer=cpu", *overrides)))
    kinds = [type(module) for module in model.modules() if getattr(module, "kernel_size", None) == (3, 3)]
    assert kinds.count(Conv2d) >= 9
    assert nn.Conv2d not in kinds


def test_it_is_copied_and_pickled_as_torchs():
    conv = Conv2d(2, 3, 3, bias=False)
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert type(twin) is Conv2d
        assert torch.equal(twin.weight, conv.weight)
    assert repr(conv) == repr(nn.Conv2d(2, 3, 3, bias=False))
