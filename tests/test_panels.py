"""Panels of TensorBoard that depend on the stage of training and on the model."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segsweep.models.vae import VAE
from segsweep.train import train
from tests.conftest import TINY


def images(composer, folder, *overrides):
    """Tag -> optimisation steps at which it was drawn, of a run of two epochs of three steps."""
    train(composer(*TINY, *overrides), folder, {"choices": {}, "overrides": [], "sweep": None})
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (
            ["model=unet", "model.widths=[4,8]"],
            [2],
        ),  # a plain U-Net rebuilds images while it is pretrained, then no more
        pytest.param(  # this one has an image decoder of its own
            ["model=conv_autoencoder", "model.widths=[4,8]"], [2, 5], marks=pytest.mark.slow
        ),
    ],
)
def test_reconstructions_are_shown_as_long_as_there_are_any(composer, tmp_path, overrides, steps):
    shown = images(composer, tmp_path, "regime=pretrain", "regime.stages.pretrain.share=0.5", *overrides)
    assert shown["val/image_reconstruction"] == steps
    assert shown["val/predictions"] == [2, 5]  # where the metrics of the two validations stand


def test_interpolation_goes_straight_from_mean_to_mean():
    model = VAE(1, 3, (4, 6, 8), 5).eval()
    first, second = torch.randn(2, 2, 1, 30, 33)
    decoded = []
    model.image_decoder.register_forward_pre_hook(lambda _, args: decoded.append(args[0]))
    with torch.inference_mode():
        between = model.interpolate(first, second, 5)
        ends = model(first), model(second)
    assert between.shape == (2, 5, 1, 30, 33)
    torch.testing.assert_close(between[:, 0], ends[0].reconstruction)
    torch.testing.assert_close(between[:, -1], ends[1].reconstruction)
    latent = decoded[0].unflatten(0, (5, 2))
    torch.testing.assert_close(latent[1], 0.75 * ends[0].latent + 0.25 * ends[1].latent)


def test_a_single_image_has_nothing_to_go_to(composer, tmp_path):
    shown = images(composer, tmp_path, "model=vae", "model.widths=[4,8]", "data.num_val=1")
    assert "val/interpolations" not in shown
    assert "val/samples" in shown
