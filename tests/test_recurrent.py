"""The RNN family: scans against plain loops, and recurrence that can be switched off."""

import pytest
import torch
from torch import nn

from segsweep import config
from segsweep.models.cells import MinGRU, Sequences
from segsweep.models.gated_sweep import GatedSweep, LineSweep
from segsweep.models.scan import linear_scan, sweep_matrix
from segsweep.models.superpixels import patches, region_means, spread, superpixels

CELLS = ["elman", "elman_relu", "gru", "lstm", "mingru"]
BOUNDS = [(torch.float64, 1e-10), (torch.float32, 1e-4)]


def loop(a, b):
    """h_t = a_t h_(t-1) + b_t, one step after another; (..., T, D)."""
    h, states = torch.zeros_like(b[..., 0, :]), []
    for t in range(b.shape[-2]):
        h = a[..., t, :] * h + b[..., t, :]
        states.append(h)
    return torch.stack(states, dim=-2)


def close(found, expected, bound):
    return (found - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 64, 129])
def test_doubling_equals_the_loop(dtype, bound, steps):
    torch.manual_seed(0)
    a = torch.rand(3, steps, 5, dtype=dtype, requires_grad=True)
    b = torch.randn(3, steps, 5, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, steps, 5, dtype=dtype)
    found, expected = linear_scan(a, b), loop(a, b)
    assert close(found, expected, bound)
    inputs = (a, b) if steps > 1 else (b,)  # the first factor has nothing to act on
    for x, y in zip(*(torch.autograd.grad((h * weight).sum(), inputs) for h in (found, expected)), strict=True):
        assert close(x, y, bound)


def sequential(line, x):
    """What LineSweep computes, head by head and step by step."""
    y = line.norm(x)
    v, a = line.value(y), torch.sigmoid(-line.gate(y))
    heads = []
    for k, part in enumerate(v.chunk(line.num_heads, dim=-1)):
        factor = a[..., k : k + 1]
        enter = (1 - factor**2).sqrt() * part
        if line.reverse[k]:
            heads.append(loop(factor.flip(1), enter.flip(1)).flip(1))
        else:
            heads.append(loop(factor, enter))
    return line.out(torch.cat(heads, dim=-1) * nn.functional.silu(line.read(y)))


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("steps", [1, 5, 16, 17, 60, 128])  # shorter and longer than a chunk
def test_a_sweep_equals_the_loop_forward_and_backward(dtype, bound, steps):
    torch.manual_seed(0)
    line = LineSweep(16, 4, "on").to(dtype)
    nn.init.normal_(line.out.weight, std=0.3)
    x = torch.randn(6, steps, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(6, steps, 16, dtype=dtype)
    inputs = (x, *line.parameters())
    found, expected = line(x), sequential(line, x)
    assert close(found, expected, bound)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        assert close(a, b, bound)


def test_a_sweep_of_gates_near_one_and_zero_stays_finite():
    log_a = torch.tensor([[-1e-9, -80.0] * 32] * 2, requires_grad=True)
    matrix = sweep_matrix(log_a, torch.tensor([False, True]))
    matrix.sum().backward()
    assert torch.isfinite(log_a.grad).all()
    assert matrix.max() <= 1


@pytest.mark.parametrize("size", [(5, 9), (12, 7)])
def test_sweeps_start_as_the_identity_and_then_reach_everywhere(size):
    sweep = GatedSweep(16, 4, "on")
    x = torch.randn(1, 16, *size, requires_grad=True)
    assert torch.equal(sweep(x), x)
    for line in (sweep.rows, sweep.columns):
        nn.init.normal_(line.out.weight)
    for y, column in ((0, 0), (size[0] - 1, size[1] - 1)):
        gradient = torch.autograd.grad(sweep(x)[0, :, y, column].sum(), x)[0]
        assert (gradient.abs().sum(1) > 0).all()


def test_without_recurrence_a_sweep_takes_each_place_by_itself():
    sweep = GatedSweep(16, 4, "off")
    for line in (sweep.rows, sweep.columns):
        nn.init.normal_(line.out.weight)
    x = torch.randn(1, 16, 4, 5, requires_grad=True)
    gradient = torch.autograd.grad(sweep(x)[0, :, 1, 2].sum(), x)[0].abs().sum(1)[0]
    assert gradient[1, 2] > 0
    assert gradient.count_nonzero() == 1
    on = GatedSweep(16, 4, "on")
    assert on.state_dict().keys() == sweep.state_dict().keys()


def test_mingru_equals_the_loop():
    torch.manual_seed(0)
    cell = MinGRU(4, 3).double()
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    z, c = cell.gate(x).sigmoid(), cell.candidate(x)
    forward = loop(1 - z[..., :3], (z * c)[..., :3])
    backward = loop((1 - z[..., 3:]).flip(1), (z * c)[..., 3:].flip(1)).flip(1)
    torch.testing.assert_close(cell(x), torch.cat([forward, backward], dim=-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_recurrence_off_keeps_the_weights_and_stops_the_travel(cell):
    torch.manual_seed(0)
    layers = {r: Sequences(4, 3, cell, r) for r in ("on", "off")}
    layers["off"].load_state_dict(layers["on"].state_dict())
    x = torch.randn(2, 6, 4, requires_grad=True)
    moved = {r: torch.autograd.grad(layer(x)[:, 2].sum(), x)[0].abs().sum(-1) > 0 for r, layer in layers.items()}
    assert moved["on"].all()
    assert moved["off"].sum() == 2
    assert moved["off"][:, 2].all()
    alone = layers["on"](x[:, 2:3])
    torch.testing.assert_close(layers["off"](x)[:, 2:3], alone)


@pytest.mark.parametrize("cell", ["gru", "lstm", "mingru"])
def test_gates_start_remembering(cell):
    """What was seen 20 steps ago still moves a freshly made gated cell; torch's own start leaves next to nothing."""
    torch.manual_seed(0)
    layer = Sequences(8, 64, cell, "on")
    x = torch.randn(16, 24, 8, requires_grad=True)
    gradient = torch.autograd.grad(layer(x)[:, 20, :64].sum(), x)[0].norm(dim=-1).mean(0)
    assert gradient[0] > 0.05 * gradient[20]


@pytest.mark.parametrize(
    ("name", "cell"),
    [  # reseg reads any cell as the others do
        pytest.param(name, cell, marks=[pytest.mark.slow] * (name != "reseg" and cell != "gru"))
        for name in ("reseg", "renet", "region_rnn")
        for cell in CELLS
    ],
)
def test_models_of_every_cell_see_the_whole_image_or_only_their_place(composer, name, cell):
    for recurrence in ("on", "off"):
        overrides = [f"model={name}", f"model.cell={cell}", f"model.recurrence={recurrence}", "trainer=cpu"]
        model = config.build_model(config.settle(composer(*overrides))).double().eval()
        image = torch.randn(1, 1, 48, 48, dtype=torch.float64, requires_grad=True)
        model(image).logits[0, :, 0, 0].sum().backward()
        assert (image.grad[0, 0, -4:, -4:].abs().sum() > 0) == (recurrence == "on")


def test_patches_are_numbered_in_reading_order():
    region = patches(torch.zeros(2, 1, 3, 5), 2)
    assert region[1].tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_means_over_regions_by_hand_and_back():
    features = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    region = torch.tensor([[[0, 0], [2, 0]]])
    means = region_means(features, region, 3)
    assert means.flatten().tolist() == pytest.approx([11 / 3, 0, 5])
    assert spread(means, region).flatten().tolist() == pytest.approx([11 / 3, 11 / 3, 5, 11 / 3])


def test_superpixels_follow_an_edge_that_patches_cross():
    image = torch.zeros(1, 1, 24, 24)
    image[..., 9:] = 4.0  # not on the grid of 6 pixels
    region = superpixels(image, 6, compactness=0.5)
    assert region.shape == (1, 24, 24)
    left, right = set(region[0, :, :9].unique().tolist()), set(region[0, :, 9:].unique().tolist())
    assert not left & right
    square = patches(image, 6)
    assert set(square[0, :, :9].unique().tolist()) & set(square[0, :, 9:].unique().tolist())
    assert len(left | right) >= 12


def test_the_published_reseg_has_the_published_parts(composer):
    plain = config.settle(composer("model=reseg_vgg", "data=camvid", "data.root=x", "trainer=cpu"))
    model = config.build_model(plain)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert (round(total / 1e6, 2), round(trained / 1e6, 2)) == (2.54, 0.81)
    assert round(sum(p.numel() for p in model.encoder.parameters()) / 1e6, 3) == 1.735


def test_missing_weights_say_where_to_put_them(monkeypatch, tmp_path):
    from segsweep.models.vgg import VGG16Trunk

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af.pth and put it into .*model.trunk_weights=null"):
        VGG16Trunk(3, "imagenet", is_frozen=True)


def refuse(*_, **__):
    from urllib.error import URLError

    raise URLError("no network")
