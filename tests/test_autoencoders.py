"""What is particular to each autoencoder; the contract of all segmenters is in test_models.py."""

import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributions import Independent, Normal, kl_divergence

from segsweep import config
from segsweep.check import mistakes
from segsweep.losses import Reconstruction
from segsweep.models.blocks import ConvEncoder
from segsweep.models.corruption import Corruption
from segsweep.models.vae import divergence
from segsweep.pictures import photos
from segsweep.train import train
from segsweep.types import Batch, DataSpec
from tests.conftest import TINY

CONVOLUTIONAL = ["conv_autoencoder", "denoising_autoencoder", "masked_autoencoder", "vae", "wnet"]
WIDTHS = [4, 6, 8]


@pytest.fixture
def make(composer):
    """``make("vae", latent_channels=3)`` -> a narrow model for RGB images and 3 classes."""

    def build(name, seed=0, **changes):
        plain = config.settle(composer(f"model={name}", "trainer=cpu", "data.size=[32,32]"))
        narrow = {} if name == "dense_autoencoder" else {"widths": WIDTHS}
        torch.manual_seed(seed)
        return config.make(config.arguments(plain, "model") | {"in_channels": 3, "num_classes": 3} | narrow | changes)

    return build


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# The dense one.


def test_784_256_784_has_402448_parameters(make):
    model = make("dense_autoencoder", in_channels=1, num_classes=10, size=[28, 28], hidden_size=256)
    assert count(model.encoder) + count(model.image_decoder) == 402_448
    assert count(model.mask_decoder) == 257 * 10 * 28 * 28
    assert count(model) == 402_448 + count(model.mask_decoder)


def test_the_dense_one_refuses_another_size(make):
    with pytest.raises(
        ValueError, match=r"built for 32x32 images and got 40x32.*data\.size=\[40,32\].*model=conv_auto"
    ):
        make("dense_autoencoder")(torch.randn(1, 3, 40, 32))


def test_a_dense_unit_sees_every_pixel(make):
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    make("dense_autoencoder")(image).logits[0, 0, 0, 0].backward()
    assert (image.grad != 0).all()


def test_the_dense_one_runs_on_channels_last(make):
    model, image = make("dense_autoencoder").eval(), torch.randn(2, 3, 32, 32)
    other = model(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other.reconstruction, model(image).reconstruction)


# Sizes, encoders, controls.


@pytest.mark.parametrize(
    ("name", "expected"),
    [("conv_autoencoder", 504_412), ("denoising_autoencoder", 504_412), ("masked_autoencoder", 504_412),
     ("vae", 385_564), ("wnet", 977_036), ("dense_autoencoder", 7_695_616)],
)  # fmt: skip
def test_parameters_are_those_that_the_file_names(composer, name, expected):
    model = config.build_model(config.settle(composer(f"model={name}", "trainer=cpu")))
    assert count(model) == expected
    header = (config_file := config_path(name)).read_text().split("\n_target_")[0].split("\ndefaults")[0]
    assert f"{expected / 1e6:.2g}" in header.replace("0.50", "0.5"), config_file


def config_path(name):
    from segsweep import CONF_DIR

    return CONF_DIR / "model" / f"{name}.yaml"


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("target", ["unet", "reseg"])
def test_a_pretrained_encoder_goes_straight_into_a_segmenter(make, name, target):
    source, segmenter = make(name, seed=1), make(target, seed=2)
    assert type(source.encoder) is type(segmenter.encoder) is ConvEncoder
    segmenter.encoder.load_state_dict(source.encoder.state_dict(), strict=True)
    image = torch.randn(2, 3, 20, 20)
    for ours, theirs in zip(source.eval().encoder(image), segmenter.eval().encoder(image), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "name", ["conv_autoencoder", "denoising_autoencoder", "masked_autoencoder", "dense_autoencoder"]
)
def test_the_control_is_the_same_network_without_the_image_decoder(make, name):
    model, control = make(name).eval(), make(name, reconstruct=False).eval()
    assert count(model) - count(control) == count(model.image_decoder) > 0
    image = torch.randn(2, 3, 32, 32)
    assert control(image).reconstruction is None
    assert torch.equal(control(image).logits, model(image).logits)  # the same initial weights, too


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("size", [(33, 47), (7, 64), (4, 4)])
def test_what_they_return_has_the_size_of_the_image(make, name, size):
    model = make(name)
    output = model(torch.randn(2, 3, *size))
    assert output.logits.shape == (2, 3, *size)
    assert output.reconstruction.shape == (2, 3, *size)
    cells = size if name == "wnet" else [math.ceil(side / 4) for side in size]
    assert list(output.latent.shape[2:]) == list(cells)


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "dense_autoencoder"])
def test_bfloat16_stays_finite_and_close(make, name):
    image = torch.randn(2, 3, 32, 32)
    model = make(name).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        low = model(image)
    with torch.inference_mode():
        high = model(image)
    for ours, exact in zip(low, high, strict=True):
        if exact is not None:
            assert torch.isfinite(ours).all()
            assert (ours - exact).abs().mean() < 0.03 * exact.abs().mean() + 0.01
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(image)
        loss = output.logits.float().square().mean() + output.reconstruction.float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [("model.noise=-0.1", "greater than or equal to 0"), ("model.mask_ratio=1.0", "less than 1"),
     ("model.mask_patch=0", "greater than or equal to 1"), ("model.reconstruct=2", "boolean")],
)  # fmt: skip
def test_wrong_options_are_named_before_anything_runs(composer, override, complaint):
    lines = mistakes(composer(*TINY, "model=masked_autoencoder", override), {"model": "masked_autoencoder"})
    assert len(lines) == 1
    assert lines[0].startswith(override)
    assert complaint in lines[0]


# Corruption.


def test_nothing_is_corrupted_in_evaluation():
    image = torch.randn(2, 3, 16, 16)
    corrupted, visible = Corruption(0.5, 0.5, 4).eval()(image)
    assert corrupted is image
    assert visible is None


def test_noise_has_the_standard_deviation_asked_for():
    image = torch.randn(4, 3, 64, 64)
    corrupted, visible = Corruption(0.3, 0.0, 8)(image)
    assert visible is None
    assert (corrupted - image).std().item() == pytest.approx(0.3, rel=0.02)
    assert (corrupted - image).mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("size", "patch"), [((32, 48), 8), ((33, 47), 8), ((16, 16), 4), ((9, 9), 1)])
def test_whole_patches_are_hidden_and_as_many_as_asked_for(size, patch):
    image = torch.rand(3, 2, *size) + 1
    corrupted, visible = Corruption(0.0, 0.6, patch)(image)
    assert visible.shape == (3, 1, *size)
    assert torch.equal(corrupted, image * visible)
    cells = visible[:, 0, ::patch, ::patch]
    whole = cells.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, : size[0], : size[1]]
    assert torch.equal(visible[:, 0], whole)
    assert (cells == 0).flatten(1).sum(1).tolist() == [round(0.6 * cells[0].numel())] * 3
    assert not torch.equal(cells[0], cells[1])  # each image has its own


def test_corruption_is_drawn_from_the_global_generator():
    image, corruption = torch.randn(2, 3, 16, 16), Corruption(0.5, 0.5, 4)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(corruption(image)[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("name", ["denoising_autoencoder", "masked_autoencoder", "vae"])
def test_training_is_random_and_evaluation_is_not(make, name):
    model, image = make(name), torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(image).logits, model(image).logits)
    model.eval()
    assert torch.equal(model(image).logits, model(image).logits)


@pytest.mark.parametrize("name", ["denoising_autoencoder", "masked_autoencoder"])
def test_the_target_stays_the_clean_image(make, name):
    """The model sees something else than the batch that the loss compares its reconstruction with."""
    model, image = make(name), torch.randn(2, 3, 32, 32)
    clean, seen = image.clone(), []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output = model(image)
    assert torch.equal(image, clean)
    assert not torch.equal(seen[0], clean)
    term = Reconstruction("mse", (0.5,) * 3, (0.2,) * 3)
    mask = torch.zeros(2, 32, 32, dtype=torch.long)
    expected = (output.reconstruction - clean).square().mean()
    torch.testing.assert_close(term(output, Batch(image, mask, torch.arange(2))), expected)


def test_the_noise_alone_control_has_noise_and_no_reconstruction(make):
    control, image = make("denoising_autoencoder", reconstruct=False), torch.randn(2, 3, 32, 32)
    assert control(image).reconstruction is None
    assert not torch.equal(control(image).logits, control(image).logits)


# Hidden patches do not leak.


def visible_at(visible, level, size):
    """The mask of a level for patches that its stride divides: one pixel of each cell says it."""
    return visible[..., :: 2**level, :: 2**level][..., : size[0], : size[1]]


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_features_are_zero_where_hidden_at_every_level(make, size):
    model, seen = make("masked_autoencoder", mask_ratio=0.6, mask_patch=4), []
    model.encoder.register_forward_hook(lambda _, args, maps: seen.append((args[1], maps)))
    model(torch.randn(2, 3, *size))
    visible, maps = seen[0]
    for level, features in enumerate(maps):
        mask = visible_at(visible, level, features.shape[-2:]).expand_as(features) > 0
        assert (features[~mask] == 0).all(), level
        assert (features[mask] != 0).any(), level
        assert 0.3 < mask.float().mean() < 0.5  # the share that 0.6 hides


def test_pixels_under_the_mask_change_nothing(make):
    model, outputs = make("masked_autoencoder", mask_patch=4), []
    image, seen = torch.randn(2, 3, 32, 32), []
    model.corruption.register_forward_hook(lambda _, __, result: seen.append(result[1]))
    torch.manual_seed(1)
    outputs.append(model(image))
    torch.manual_seed(1)
    outputs.append(model(torch.where(seen[0] > 0, image, 100.0)))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    torch.manual_seed(1)
    assert not torch.equal(model(torch.where(seen[0] > 0, 100.0, image)).logits, outputs[0].logits)


def test_what_arises_under_the_mask_goes_no_further():
    """Whatever a level computes at hidden places, the next level does not see it."""
    torch.manual_seed(0)
    encoder, image = ConvEncoder(3, WIDTHS).eval(), torch.randn(1, 3, 32, 32)
    visible = Corruption(0.0, 0.5, 8)._draw_visible(image)
    clean = encoder(image * visible, visible)
    for level, module in enumerate(encoder.levels):

        def disturb(_, __, features, level=level):
            hidden = visible_at(visible, level, features.shape[-2:]) == 0
            return features + 100 * hidden

        module.register_forward_hook(disturb)
    for ours, theirs in zip(encoder(image * visible, visible), clean, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(encoder(image * visible)[-1], clean[-1])


def test_a_cell_that_is_partly_visible_counts_as_visible():
    visible = torch.zeros(1, 1, 8, 8)
    visible[..., 0, 0] = 1
    maps = ConvEncoder(3, WIDTHS)(torch.randn(1, 3, 8, 8), visible)
    assert [(m != 0).any(dim=1).nonzero().tolist() for m in maps] == [[[0, 0, 0]]] * 3


# The variational one.


def test_the_divergence_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 3)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 3)
    torch.testing.assert_close(divergence(mean, log_variance), kl_divergence(posterior, prior))


def test_the_divergence_is_summed_over_the_latent():
    """One nat and a half in each of 2 x 3 x 4 dimensions: (e^0 + 3 - 1 - 0) / 2 = 1.5."""
    assert divergence(torch.full((5, 2, 3, 4), math.sqrt(3)), torch.zeros(5, 2, 3, 4)).tolist() == pytest.approx(
        [36.0] * 5
    )
    assert divergence(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_returns_the_divergence_of_its_posterior(make, training):
    model, image = make("vae").train(training), torch.randn(3, 3, 32, 32)
    output, (mean, log_variance) = model(image), model.posterior(image)
    torch.testing.assert_close(output.divergence, divergence(mean, log_variance))
    assert output.divergence.shape == (3,)
    assert output.latent.shape == mean.shape
    assert torch.equal(output.latent, mean) == (not training)


def test_samples_of_the_posterior_have_its_moments(make):
    model = make("vae").train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # a batch of equal images is to be normalised as one of them
    image = torch.randn(1, 3, 8, 8)
    mean, log_variance = model.posterior(image)
    latent = model(image.expand(4000, -1, -1, -1)).latent
    torch.testing.assert_close(latent.mean(0), mean[0], atol=0.1, rtol=0)
    torch.testing.assert_close(latent.std(0), (log_variance[0] / 2).exp(), atol=0, rtol=0.06)


def test_a_wild_log_variance_stays_finite_and_can_come_back(make):
    model = make("vae")
    with torch.no_grad():
        model.moments.bias[model.latent_channels :] = 40.0
    output = model(torch.randn(2, 3, 16, 16))
    assert torch.isfinite(output.divergence).all()
    output.divergence.sum().backward()
    assert (model.moments.bias.grad[model.latent_channels :] > 0).all()


def test_the_divergence_is_in_float32_under_autocast(make):
    with torch.autocast("cpu", torch.bfloat16):
        output = make("vae")(torch.randn(2, 3, 32, 32))
    assert output.divergence.dtype == torch.float32


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (4, 9)])
def test_samples_have_the_size_asked_for(make, size):
    with torch.inference_mode():
        assert make("vae").eval().sample(5, size).shape == (5, 3, *size)


def test_samples_are_decoded_from_the_prior(make):
    model, seen = make("vae", latent_channels=5).eval(), []
    model.image_decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        first = model.sample(64, (32, 24))
        second = model.sample(64, (32, 24))
    assert seen[0].shape == (64, 5, 8, 6)
    assert seen[0].mean().item() == pytest.approx(0, abs=0.03)
    assert seen[0].std().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(first, second)
    with torch.inference_mode():
        torch.testing.assert_close(first, model.image_decoder(seen[0]))


# W-Net.


def test_the_reconstruction_sees_the_image_through_the_softmax_alone(make):
    """Another image with the same probabilities is redrawn alike; other probabilities are not."""
    model = make("wnet").eval()
    image = torch.randn(1, 3, 16, 16)
    fixed = torch.randn(1, 3, 16, 16)
    hook = model.head.register_forward_hook(lambda *_: fixed)
    with torch.inference_mode():
        ours, theirs = model(image), model(torch.randn(1, 3, 16, 16))
        assert torch.equal(ours.reconstruction, theirs.reconstruction)
        hook.remove()
        hook = model.head.register_forward_hook(lambda *_: fixed + 3)  # softmax does not see a common constant
        torch.testing.assert_close(model(image).reconstruction, ours.reconstruction)
        hook.remove()
        assert not torch.allclose(model(image).reconstruction, ours.reconstruction)


def test_no_gradient_of_the_reconstruction_goes_round_the_softmax(make):
    model = make("wnet").eval()
    image = torch.randn(1, 3, 16, 16, requires_grad=True)
    model(image).reconstruction.sum().backward()
    assert image.grad.abs().sum() > 0
    image.grad = None
    model.head.register_forward_hook(lambda _, __, logits: logits.detach())
    output = model(image)
    assert not output.latent.requires_grad
    output.reconstruction.sum().backward()
    assert image.grad is None


def test_the_bottleneck_is_a_distribution_over_classes(make):
    output = make("wnet")(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(output.latent, output.logits.softmax(dim=1))
    torch.testing.assert_close(output.latent.sum(dim=1), torch.ones(2, 16, 16))


def test_the_first_half_of_wnet_is_a_unet(make):
    wnet, unet = make("wnet", seed=1).eval(), make("unet", seed=2).eval()
    missing = unet.load_state_dict(wnet.state_dict(), strict=False)
    assert missing.missing_keys == []
    assert all(key.startswith("image_decoder.") for key in missing.unexpected_keys)
    image = torch.randn(1, 3, 20, 20)
    assert torch.equal(unet(image).logits, wnet(image).logits)


# Pictures.


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vae", {"reconstruction", "samples", "interpolations"}),
        pytest.param("wnet", {"reconstruction"}, marks=pytest.mark.slow),
        ("unet", set()),
    ],
)
def test_tensorboard_holds_reconstructions_and_samples(composer, tmp_path, model, expected):
    origin = {"choices": {"model": model}, "overrides": [], "sweep": None}
    train(composer(*TINY, f"model={model}", "model.widths=[4,8]"), tmp_path, origin)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = {tag for tag in events.Tags()["images"] if not tag.endswith("confusion")}
    assert tags == {"val/predictions"} | {f"val/{'image_' * (e == 'reconstruction')}{e}" for e in expected}
    for tag in tags:
        assert len(events.Images(tag)) == 2  # one an epoch
    if "reconstruction" in expected:  # 4 images of 48 pixels, shown at 96, a line of 2 between them
        shown = events.Images("val/image_reconstruction")[0]
        assert (shown.height, shown.width) == (4 * 98, 2 * 96)
    if "samples" in expected:
        shown = events.Images("val/samples")[0]
        assert (shown.height, shown.width) == (4 * 98, 8 * 96)
    if "interpolations" in expected:  # two pairs of the four images, and what lies between them
        shown = events.Images("val/interpolations")[0]
        assert (shown.height, shown.width) == (2 * 98, (1 + 8 + 1) * 96)


def test_samples_are_the_same_draws_and_leave_the_random_state_alone(make):
    from types import SimpleNamespace

    from segsweep.panels import SamplePanel

    model, drawn = make("vae").eval(), []
    model.image_decoder.register_forward_pre_hook(lambda _, args: drawn.append(args[0].clone()))
    task = SimpleNamespace(model=model, device=torch.device("cpu"), spec=SPEC)
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(train_size=(16, 16)),
        precision_plugin=SimpleNamespace(forward_context=torch.no_grad),
        logger=SimpleNamespace(experiment=None),
        lightning_module=SimpleNamespace(logged_step=0),
    )
    before = torch.get_rng_state()
    SamplePanel().on_validation_epoch_end(trainer, task)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    SamplePanel().on_validation_epoch_end(trainer, task)
    half = len(drawn) // 2
    assert half > 0
    assert all(torch.equal(a, b) for a, b in zip(drawn[:half], drawn[half:], strict=True))


SPEC = DataSpec(("a", "b", "c"), 3, 255, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (16, 16))


def test_photos_stand_beside_each_other_in_their_own_colours():
    red = np.stack([np.full((100, 110), v, np.float32) for v in (2.0, -2.0, 9.0)])  # 1, 0 and beyond white
    broken = np.full((3, 100, 110), np.nan, np.float32)
    row = photos([red, broken], SPEC)
    assert row.shape == (100, 220, 3)
    assert row[0, 0].tolist() == [255, 0, 255]
    assert row[0, -1].tolist() == [0, 0, 0]
