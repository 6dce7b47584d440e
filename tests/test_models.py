"""The contract of a segmenter, for every file in conf/model."""

import pytest
import torch

from segsweep import config
from segsweep.types import SegmenterOutput
from tests.conftest import options

MODELS = options("model")
ANY_SIZE = [name for name in MODELS if name != "dense_cnn"]  # its fully connected layers fix the size


@pytest.fixture
def make(composer):
    def build(name, num_classes=3, in_channels=3, size=(32, 32)):
        plain = config.settle(composer(f"model={name}", "trainer=cpu", f"data.size={list(size)}"))
        node = config.arguments(plain, "model")
        changed = {"num_classes": num_classes, "in_channels": in_channels}
        torch.manual_seed(0)
        return config.make(node | changed)

    return build


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("num_classes", "in_channels"), [(2, 1), (7, 3)])
def test_logits_have_the_size_of_the_image(make, name, num_classes, in_channels):
    output = make(name, num_classes, in_channels)(torch.randn(2, in_channels, 32, 32))
    assert isinstance(output, SegmenterOutput)
    assert output.logits.shape == (2, num_classes, 32, 32)
    assert output.logits.dtype == torch.float32
    if output.reconstruction is not None:
        assert output.reconstruction.shape == (2, in_channels, 32, 32)


@pytest.mark.parametrize("name", ANY_SIZE)
@pytest.mark.parametrize("size", [(33, 47), (8, 64), (49, 49)])
def test_any_size_passes(make, name, size):
    model = make(name).eval()
    assert model(torch.randn(1, 3, *size)).logits.shape == (1, 3, *size)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_finite_gradient(make, name):
    model = make(name)
    output = model(torch.randn(2, 3, 32, 32))
    loss = output.logits.square().mean()
    if output.reconstruction is not None:
        loss = loss + output.reconstruction.square().mean()
    loss.backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path
        assert parameter.grad.abs().sum() > 0, path


@pytest.mark.parametrize("name", MODELS)
def test_an_image_is_segmented_alone_as_in_a_batch(make, name):
    model = make(name).eval()
    image = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(image[:1]).logits, model(image).logits[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_weights_survive_a_round_trip(make, name):
    model, other = make(name).eval(), make(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(image).logits, other.eval()(image).logits)


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_can_be_learnt(make, name):
    model = make(name)
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (2, 4, 4), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = torch.nn.functional.one_hot(mask, 3).permute(0, 3, 1, 2).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(image).logits, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_yields_maps_from_fine_to_coarse(make, name):
    model = make(name)
    if not hasattr(model, "encoder"):
        pytest.skip(f"{name} has no encoder to pretrain")
    maps = model.encoder(torch.randn(1, 3, 32, 32))
    assert [m.shape[1] for m in maps] == list(model.encoder.out_channels)
    assert [m.shape[-1] for m in maps] == sorted((m.shape[-1] for m in maps), reverse=True)


def test_the_three_families_have_comparable_sizes(composer):
    sizes = []
    for name in ("unet", "reseg", "conv_autoencoder"):
        plain = config.settle(composer(f"model={name}", "trainer=cpu"))
        sizes.append(sum(p.numel() for p in config.build_model(plain).parameters()))
    assert max(sizes) <= 1.2 * min(sizes), sizes


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_reseg_sees_the_whole_image(make, cell, composer):
    plain = config.settle(composer("model=reseg", f"model.cell={cell}", "trainer=cpu"))
    model = config.make(config.arguments(plain, "model")).eval()
    image = torch.randn(1, 1, 48, 48, requires_grad=True)
    model(image).logits[0, 0, 0, 0].backward()
    assert image.grad[0, 0, -4:, -4:].abs().sum() > 0  # the far corner moves this one


def test_dense_cnn_refuses_another_size(make):
    with pytest.raises(ValueError, match=r"built for 32x32 images and got 40x32.*data\.size=\[40,32\]"):
        make("dense_cnn")(torch.randn(1, 3, 40, 32))


def test_unet_needs_two_levels(make):
    from segsweep.models.unet import UNet

    with pytest.raises(ValueError, match="two or more"):
        UNet(1, 2, (16,))
