"""Batch normalisation with its ReLU against torch's two operations."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from segsweep import config
from segsweep.kernels import is_available
from segsweep.models import normalisation
from segsweep.models.normalisation import BatchNorm2d, Layers, in_turn

if not is_available():  # another system than Linux
    pytest.skip("no loops are compiled here", allow_module_level=True)

CHANNELS = 16


@pytest.fixture
def always(monkeypatch):
    """Takes the own way for the smallest maps, and counts how often."""
    monkeypatch.setattr(normalisation, "_LEAST_VALUES", 0)
    calls, apply = [], normalisation._Normalisation.apply

    def counted(*args):
        calls.append(args)
        return apply(*args)

    monkeypatch.setattr(normalisation._Normalisation, "apply", counted)
    return calls


def norm_and_twin(kind=nn.BatchNorm2d, **settings):
    """Ours, and torch's with the same weights."""
    twin = kind(CHANNELS, **settings)
    nn.init.uniform_(twin.weight, -1.0, 2.0)
    nn.init.normal_(twin.bias)
    ours = BatchNorm2d(CHANNELS, **settings)
    ours.load_state_dict(twin.state_dict())
    return ours, twin


def maps(seed=0, mean=1.0, channels=CHANNELS):
    values = mean + 2 * torch.randn(3, channels, 6, 8, generator=torch.Generator().manual_seed(seed))
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def exactly(norm, x, of_y, rectifies):
    """y and gradients in float64."""
    x, weight, bias = (value.detach().double().requires_grad_() for value in (x, norm.weight, norm.bias))
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=norm.eps)
    y = F.relu(y) if rectifies else y
    return y, *torch.autograd.grad(y, (x, weight, bias), of_y.double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rectifies", [False, True])
@pytest.mark.parametrize("mean", [0.0, 1.0, 200.0])
def test_it_is_batch_normalisation(always, rectifies, mean, dtype):
    norm, _ = norm_and_twin()
    x, of_y = maps(mean=mean).to(dtype).requires_grad_(), maps(seed=1).to(dtype)
    y = norm.rectified(x) if rectifies else norm(x)
    gradients = torch.autograd.grad(y, (x, norm.weight, norm.bias), of_y)
    assert len(always) == 1
    expected = exactly(norm, x, of_y, rectifies)
    for found, right in zip((y, *gradients), expected, strict=True):
        # Rounded once where it is bf16; the mean itself is rounded to float32.
        tolerance = 2**-8 if found.dtype == torch.bfloat16 else 2e-6 + 1e-7 * mean
        assert (found.double() - right).norm() <= tolerance * right.norm()


def test_sums_over_many_pixels_are_more_exact_than_torchs(always):
    """Of 200,000: torch adds float32 to float32."""
    norm, twin = norm_and_twin()
    x, of_y = (torch.randn(2, CHANNELS, 320, 320).contiguous(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_()
    *_, right, _ = exactly(norm, x, of_y, True)
    ours, torchs = (
        torch.autograd.grad(layer(x), layer_weight, of_y)[0]
        for layer, layer_weight in ((norm.rectified, norm.weight), (lambda x: F.relu(twin(x)), twin.weight))
    )
    ours_error, torchs_error = ((found - right).norm() / right.norm() for found in (ours, torchs))
    assert ours_error < 2e-6
    assert ours_error < torchs_error


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"momentum": 0.5}, {"track_running_stats": False}])
def test_statistics_are_remembered_as_torch_does(always, settings):
    ours, twin = norm_and_twin(**settings)
    for seed in range(3):
        ours(maps(seed))
        twin(maps(seed).float())
    assert len(always) == 3
    assert ours.state_dict().keys() == twin.state_dict().keys()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.eval()(maps(3)), twin.eval()(maps(3)))
    assert len(always) == 3


def test_what_is_not_finite_is_not_hidden(always):
    for bad in (torch.nan, torch.inf):
        norm, _ = norm_and_twin()
        x = maps()
        x[1, 3, 2, 2] = bad
        y = norm.rectified(x.requires_grad_())
        y.float().sum().backward()
        assert y[:, 3].isnan().all()
        assert y[:, :3].isfinite().all()
        assert norm.weight.grad[3].isnan()
        assert x.grad[:, 3].isnan().any()


def test_a_gradient_in_another_layout_or_precision_is_the_same(always):
    norm, _ = norm_and_twin()
    x, of_y = maps().requires_grad_(), maps(seed=1)
    y = norm.rectified(x)
    expected = torch.autograd.grad(y, x, of_y, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, x, of_y.contiguous(), retain_graph=True)[0], expected)
    spread = of_y[:, :, :1, :1].expand_as(of_y)
    whole = torch.autograd.grad(y, x, spread.clone(), retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, x, spread)[0], whole)


def test_second_derivatives_are_torchs(always):
    norm, twin = norm_and_twin()
    found = []
    for layer in (norm.rectified, lambda x: F.relu(twin(x))):
        x = maps().float().requires_grad_()
        (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert len(always) == 1


def test_hooks_of_a_second_derivative_are_called_once(always):
    norm, twin = norm_and_twin()
    found = []
    for layer in (norm, twin):
        x = maps().float().requires_grad_()
        calls = []
        layer.weight.register_hook(lambda gradient, calls=calls: calls.append(gradient) or 2 * gradient)
        gradients = torch.autograd.grad(layer(x).square().sum(), [layer.weight, layer.bias], create_graph=True)
        assert len(calls) == 1
        found.append(gradients)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-3)
    assert len(always) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kept_tensors_may_come_back_in_another_layout_and_precision(always, dtype):
    norm, _ = norm_and_twin()
    x, of_y = maps().requires_grad_(), maps(seed=1)
    expected = torch.autograd.grad(norm(x), (x, norm.weight), of_y)

    def pack(value):
        return value.contiguous().to(dtype) if value.dim() == 4 else value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        y = norm(x)
    for found, right in zip(torch.autograd.grad(y, (x, norm.weight), of_y), expected, strict=True):
        assert torch.equal(found, right)


def test_many_gradients_at_once_are_torchs(always):
    norm, _ = norm_and_twin()
    x = maps().float().requires_grad_()
    of_ys = torch.stack([maps(seed=i).float() for i in range(2)])
    y = norm(x)
    (found,) = torch.autograd.grad(y, x, of_ys, retain_graph=True, is_grads_batched=True)
    for one, of_y in zip(found, of_ys, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(y, x, of_y, retain_graph=True)[0], rtol=1e-4, atol=1e-5)


def test_a_first_pixel_that_is_far_from_all_others_costs_no_digits(always):
    norm, _ = norm_and_twin()
    x = (0.7 + 0.01 * torch.randn(8, CHANNELS, 64, 64)).contiguous(memory_format=torch.channels_last)
    x[0, :, 0, 0] = 100.0
    found, right = (
        norm(x),
        F.batch_norm(x.double(), None, None, norm.weight.double(), norm.bias.double(), training=True),
    )
    assert (found.double() - right).norm() < 1e-5 * right.norm()
    assert len(always) == 1


@pytest.mark.parametrize("what", ["weights", "image"])
def test_without_one_of_the_gradients(always, what):
    norm, _ = norm_and_twin()
    x = maps()
    if what == "image":
        norm(x.requires_grad_()).float().sum().backward()
        assert x.grad is not None
    else:
        norm(x).float().square().sum().backward()
        assert norm.weight.grad is not None
    assert len(always) == 1


@pytest.mark.parametrize(
    ("why", "settings", "x"),
    [
        ("layout", {}, maps().contiguous()),
        ("pixels that fill no row", {}, maps()[..., :3, :3].contiguous(memory_format=torch.channels_last)),
        ("no weights", {"affine": False}, maps()),
    ],
)
def test_other_maps_are_torchs(always, why, settings, x):
    norm = BatchNorm2d(CHANNELS, **settings)
    result = norm(x.clone().requires_grad_())
    assert torch.equal(result, nn.BatchNorm2d(CHANNELS, **settings)(x))
    assert not always


@pytest.mark.parametrize("lost", ["bias", "num_batches_tracked"])
def test_without_a_bias_or_a_count(always, lost):
    ours, twin = norm_and_twin()
    for norm in (ours, twin):
        setattr(norm, lost, None)
    torch.testing.assert_close(ours(maps().float()), twin(maps().float()))
    torch.testing.assert_close(ours.running_mean, twin.running_mean)


@pytest.mark.parametrize("way", ["channels", "eps", "one pixel"])
def test_what_torch_refuses_is_refused(always, way):
    norm, x = BatchNorm2d(32, track_running_stats=False), torch.randn(1, 32, 1, 1 if way == "one pixel" else 4)
    if way == "channels":
        norm = BatchNorm2d(1, track_running_stats=False)
    if way == "eps":
        norm.eps = 0.0
    with pytest.raises((ValueError, RuntimeError), match=r"weight|eps|more than 1 value"):
        norm(x)
    assert not always


@pytest.mark.parametrize("way", ["evaluated", "frozen", "no gradients", "small", "bf16 weights"])
def test_nothing_to_train_or_little_to_do_is_torchs(always, monkeypatch, way):
    norm = BatchNorm2d(CHANNELS)
    if way == "evaluated":
        norm.eval()
    if way == "frozen":
        norm.requires_grad_(False)
    if way == "bf16 weights":
        norm.bfloat16()
    if way == "small":
        monkeypatch.setattr(normalisation, "_LEAST_VALUES", maps().numel() + 1)
    with torch.set_grad_enabled(way != "no gradients"):
        norm.rectified(maps())
    assert not always
    if way == "small":
        monkeypatch.setattr(normalisation, "_LEAST_VALUES", maps().numel())
        norm.rectified(maps())
        assert len(always) == 1


def test_a_normalisation_and_the_relu_behind_it_are_one(always):
    layers = Layers(nn.Identity(), BatchNorm2d(CHANNELS), nn.ReLU(inplace=True), BatchNorm2d(CHANNELS), nn.Dropout(0.0))
    plain = nn.Sequential(*copy.deepcopy(layers))
    found, expected = layers(maps()), nn.Sequential.forward(plain, maps())
    assert [args[-1] for args in always] == [True, False, False, False]
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("watched", [0, 1])
def test_what_somebody_looks_at_is_called(always, watched):
    pair = [BatchNorm2d(CHANNELS), nn.ReLU()]
    seen = []
    pair[watched].register_forward_hook(lambda module, args, output: seen.append(output))
    y = in_turn(pair, maps())
    assert [args[-1] for args in always] == [False]
    assert len(seen) == 1
    assert (y >= 0).all()


def test_what_somebody_looks_at_in_all_modules_is_called(always):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(type(module)))
    try:
        Layers(BatchNorm2d(CHANNELS), nn.ReLU())(maps())
    finally:
        handle.remove()
    assert seen == [BatchNorm2d, nn.ReLU, Layers]


def test_what_replaces_a_normalisation_keeps_its_relu(always):
    layers = Layers(BatchNorm2d(CHANNELS), nn.ReLU())
    replaced = nn.SyncBatchNorm.convert_sync_batchnorm(layers).eval()
    assert type(replaced[0]) is nn.SyncBatchNorm
    assert (replaced(maps().float()) >= 0).all()


def test_a_stack_is_torchs(always):
    norms = [BatchNorm2d(CHANNELS) for _ in range(2)]
    state = stack_module_state(norms)
    x = torch.stack([maps(seed=i) for i in range(2)])
    stacked = vmap(lambda parameters, buffers, x: functional_call(norms[0], (parameters, buffers), (x,)))
    expected = torch.stack([norm(one.float()) for norm, one in zip(norms, x, strict=True)])
    torch.testing.assert_close(stacked(*state, x.float()), expected)
    with pytest.raises(RuntimeError, match="expected scalar type"):  # torch's own, of bf16 maps and float32 weights
        stacked(*state, x)
    assert len(always) == len(norms)  # each alone


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiler_sees_one_graph(always):
    graphs = []
    layers = Layers(BatchNorm2d(CHANNELS), nn.ReLU())
    compiled = torch.compile(layers, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    compiled(maps())
    assert len(graphs) == 1
    assert not always


@pytest.mark.parametrize(
    "overrides", [["model=unet"], ["model=reseg"], ["model=smp", "model.arch=Unet", "model.encoder_name=resnet18"]]
)
def test_models_have_it(composer, monkeypatch, overrides):
    model = config.build_model(config.settle(composer("trainer=cpu", *overrides)))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {type(norm) for norm in norms} == {BatchNorm2d}
    rectified = []
    monkeypatch.setattr(BatchNorm2d, "rectified", lambda self, x: rectified.append(self) or F.relu(self(x)))
    image = torch.randn(2, 1 if "smp" not in overrides[0] else model.encoder.body.conv1.in_channels, 64, 64)
    found = model(image).logits
    num = len(norms) - len([norm for name, norm in model.named_modules() if name.endswith(("bn2", "downsample.1"))])
    assert len(rectified) == num
    assert found.isfinite().all()


def test_it_is_copied_and_pickled_as_torchs():
    layers = Layers(BatchNorm2d(CHANNELS), nn.ReLU())
    for twin in (copy.deepcopy(layers), pickle.loads(pickle.dumps(layers))):
        assert type(twin) is Layers
        assert type(twin[0]) is BatchNorm2d
    assert repr(layers[0]) == repr(nn.BatchNorm2d(CHANNELS))
