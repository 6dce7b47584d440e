"""What a run leaves for TensorBoard's Projector tab."""

import re

import pytest
import torch
from PIL import Image

from segsweep.projector import main_classes
from segsweep.train import train
from tests.conftest import TINY


def run(composer, folder, *overrides):
    train(composer(*TINY, "model.widths=[4,8]", *overrides), folder, {"choices": {}, "overrides": [], "sweep": None})


def test_latents_of_test_images_with_thumbnail_class_and_name(composer, tmp_path):
    run(composer, tmp_path, "model=vae", "model.latent_channels=3")
    config = (tmp_path / "projector_config.pbtxt").read_text()
    named = dict(re.findall(r'(\w+_path): "(.*)"', config))
    assert named.keys() == {"tensor_path", "metadata_path", "image_path"}
    vectors = [line.split("\t") for line in (tmp_path / named["tensor_path"]).read_text().splitlines()]
    assert len(vectors) == 5
    assert {len(vector) for vector in vectors} == {3 * 2 * 2}
    header, *labels = [line.split("\t") for line in (tmp_path / named["metadata_path"]).read_text().splitlines()]
    assert header == ["class", "image"]
    assert len({name for _, name in labels}) == 5
    assert {label for label, _ in labels} <= set("0123456789")  # no background
    with Image.open(tmp_path / named["image_path"]) as sprites:
        assert sprites.size == (3 * 48, 3 * 48)  # the smallest square that holds five


@pytest.mark.slow
def test_an_end_that_was_interrupted_is_not_shown_twice(composer, tmp_path):
    (tmp_path / "projector_config.pbtxt").write_text('embeddings { tensor_name: "old" }\n')
    (tmp_path / "00000" / "latent").mkdir(parents=True)
    run(composer, tmp_path, "model=vae")
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert config.count("tensor_name") == 1
    assert "old" not in config


@pytest.mark.parametrize(
    "overrides", [["model=unet"], pytest.param(["model=vae", "data.tile=[32,32]"], marks=pytest.mark.slow)]
)
def test_without_a_latent_of_whole_images_nothing_is_written(composer, tmp_path, overrides):
    run(composer, tmp_path, *overrides)
    assert not (tmp_path / "projector_config.pbtxt").exists()


def test_the_main_class_is_not_the_background():
    counts = torch.tensor([[90, 6, 4], [100, 0, 0], [50, 20, 30]])
    assert main_classes(counts) == [1, 0, 2]
