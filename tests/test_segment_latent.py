"""What is particular to a segmenter on a code; the contract of all segmenters is in test_models.py."""

import pytest
import torch

from segsweep import cost
from segsweep.models.blocks import ConvEncoder
from segsweep.models.segment_latent import SegmentLatent
from segsweep.models.vae import VAE
from segsweep.models.wnet import WNet
from segsweep.objectives import Reconstruct
from segsweep.run import read_record
from segsweep.train import train
from segsweep.types import Batch, DataSpec
from tests.conftest import TINY

SPEC = DataSpec(("a", "b", "c"), 1, 255, (0.5,), (0.25,), (48, 48))


def make(stride=4, channels=2, in_channels=1):
    torch.manual_seed(0)
    widths = {4: (4, 6, 8), 8: (4, 6, 8, 10)}[stride]
    return SegmentLatent(in_channels, 3, widths, channels, hidden_size=8, num_convs=2)


@pytest.mark.parametrize(
    ("in_channels", "stride", "channels", "reduction"),
    [(1, 4, 4, 4), (1, 4, 2, 8), (1, 4, 1, 16), (1, 8, 4, 16), (1, 8, 2, 32), (1, 8, 1, 64),
     (3, 4, 12, 4), (3, 4, 6, 8), (3, 4, 3, 16), (3, 8, 6, 32), (3, 8, 3, 64)],
)  # fmt: skip
def test_the_code_is_as_small_as_its_options_say(in_channels, stride, channels, reduction):
    code = cost.code_size(make(stride, channels, in_channels).eval(), torch.randn(2, in_channels, 48, 48))
    assert code == {"values": in_channels * 48 * 48 // reduction, "reduction": reduction}


def test_nothing_but_the_code_reaches_the_logits():
    model = make().eval()
    image, other = torch.randn(2, 1, 1, 48, 48)
    with torch.inference_mode():
        code = model.encoder(image)[-1]
        assert torch.equal(model(image).latent, code)
        assert torch.equal(model.decode(code, other).logits, model(image).logits)


@pytest.mark.parametrize("size", [(33, 47), (48, 48), (5, 4)])
def test_logits_of_a_cell_lie_on_its_own_pixels(size):
    model = make().eval()
    model.head.weight.data.zero_()
    model.head.bias.data.copy_(torch.arange(48.0))  # 3 classes of 4 x 4 places
    logits = model(torch.randn(1, 1, *size)).logits
    rows, columns = torch.meshgrid(*(torch.arange(side) % 4 for side in size), indexing="ij")
    assert torch.equal(logits[0], torch.stack([16 * k + 4 * rows + columns for k in range(3)]).float())


def test_weights_of_the_shared_encoder_pass_into_it():
    shared = ConvEncoder(1, (4, 6, 8))
    missing, unexpected = make().encoder.load_state_dict(shared.state_dict(), strict=False)
    assert set(missing) == {"bottleneck.weight", "bottleneck.bias"}
    assert not unexpected


@pytest.mark.parametrize("mask_ratio", [0.0, 0.5])
def test_pretraining_rebuilds_the_image_from_the_code_itself(mask_ratio):
    model, objective = make(channels=2), Reconstruct(0.0, mask_ratio, 8)
    objective.prepare(model, SPEC, {})
    seen = []
    objective.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    batch = Batch(torch.randn(2, 1, 48, 48), torch.zeros(2, 48, 48).long(), torch.arange(2))
    terms = objective(model, batch, None)[1]
    terms["total"].backward()
    assert seen == [(2, 2, 12, 12)]
    assert model.encoder.bottleneck.weight.grad.abs().sum() > 0
    assert model.head.weight.grad is None
    view = objective.eval().view(model.eval(), batch.image)
    assert view.reconstruction.shape == batch.image.shape


def test_a_hidden_cell_is_the_bias_of_the_bottleneck():
    model, visible = make().eval(), torch.ones(1, 1, 48, 48)
    visible[..., :8, :8] = 0
    code = model.encoder(torch.randn(1, 1, 48, 48), visible)[-1]
    assert torch.equal(code[0, :, 0, 0], model.encoder.bottleneck.bias)
    assert not torch.equal(code[0, :, 5, 5], model.encoder.bottleneck.bias)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(VAE(1, 3, (4, 6, 8), 4), {"values": 4 * 12 * 12, "reduction": 4.0}),
     (VAE(1, 3, (4, 6, 8), 16), None),  # as many values as the image
     (WNet(3, 2, (4, 6)), None)],  # its latent, class probabilities, has a place for each pixel
)  # fmt: skip
def test_a_latent_is_a_code_if_it_is_smaller_than_the_image(model, expected):
    assert cost.code_size(model.eval(), torch.randn(1, 1 if isinstance(model, VAE) else 3, 48, 48)) == expected


def test_a_run_says_how_small_its_code_is_and_computes_it_once(composer, tmp_path, caplog):
    caplog.set_level("INFO")
    overrides = ["model=segment_latent", "model.widths=[4,8,8]", "augment=none", "regime=pretrain_frozen"]
    train(composer(*TINY, *overrides), tmp_path, {"choices": {}, "overrides": [], "sweep": None})
    record = read_record(tmp_path)
    assert record["code"] == {"values": 4 * 12 * 12, "reduction": 4.0}
    assert record["images_per_s"].keys() == {"train", "inference", "from_code"}
    assert "features of the frozen encoder: computed once" in caplog.text
