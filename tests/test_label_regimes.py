"""Whole runs of the regimes that make up labels: a teacher's, or a generator's."""

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segsweep.checkpoints import HashedCheckpointIO, newest_whole
from segsweep.config import build, build_model, settle
from segsweep.run import read_record
from segsweep.train import train
from tests.conftest import ORIGIN, TINY, history

SMALL = ["model.widths=[4,8]", "data.labelled_fraction=0.5"]
GENERATOR = "regime.stages.generate.objective.widths=[4,8]"
REGIMES = {
    "self_training": [*SMALL, "regime=self_training", "regime.stages.self_training.objective.threshold=0.05"],
    "synthetic": [*SMALL, "regime=synthetic", "regime.stages.generate.share=0.5", GENERATOR],
}


@pytest.fixture(scope="module")
def synthetic(composer, tmp_path_factory):
    """A run with made up pairs. Not to be written to."""
    folder = tmp_path_factory.mktemp("synthetic")
    train(composer(*TINY, *REGIMES["synthetic"]), folder, ORIGIN)
    return folder


def test_a_run_of_self_training(start):
    folder = start("run", *REGIMES["self_training"])
    lines = history(folder)
    assert read_record(folder)["status"] == "completed"
    for line in lines:
        assert line["train/loss/consistency"] > 0
        assert 0 < line["train/loss/pseudo_share"] <= 1
        assert "val/loss/consistency" not in line
    events = EventAccumulator(str(folder)).Reload()
    assert len(events.Images("train/image_pseudo_label")) == 2
    assert "train/pair_generated_pair" not in events.Tags()["images"]
    weights = load_file(folder / "checkpoints" / "best.safetensors")
    assert not any("teacher" in key for key in weights)


def test_a_run_with_made_up_pairs(synthetic):
    first, second = history(synthetic)
    assert first["train/loss/pair_image"] > 0
    assert first["val/loss/pair_mask"] > 0
    assert second["train/loss/cross_entropy"] > 0
    assert "train/miou" not in second  # of images that are no training images
    record = read_record(synthetic)
    assert (record["status"], record["best_epoch"]) == ("completed", 1)
    events = EventAccumulator(str(synthetic)).Reload()
    assert len(events.Images("train/pair_generated_pair")) == 2
    assert [point.step for point in events.Scalars("train/loss/pair_image")] == [2]  # the first epoch alone


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["self_training", "synthetic"])
def test_a_run_continues_to_the_same_end(start, interrupted, regime):
    overrides = [*REGIMES[regime], "trainer.max_epochs=3"]
    straight = start("straight", *overrides)
    with interrupted(before_epoch=2):
        start("stopped", *overrides)
    folder = start("stopped", *overrides)
    assert history(folder) == history(straight)
    states = [HashedCheckpointIO().load_checkpoint(newest_whole(run / "checkpoints")) for run in (straight, folder)]
    mine, other = (state["state_dict"] for state in states)
    assert any(part in key for key in mine for part in ("teacher", "generator"))
    assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_no_generator_appears_twice_and_the_second_stage_leaves_it(synthetic):
    first, last = (
        HashedCheckpointIO().load_checkpoint(synthetic / "checkpoints" / f"last-{epoch}.ckpt")["state_dict"]
        for epoch in (0, 1)
    )
    keys = [key for key in last if "generator" in key]
    assert keys
    assert all(key.startswith("objectives.generate.generator.") for key in keys)
    assert all(torch.equal(first[key], last[key]) for key in keys)


def test_the_segmenter_starts_from_the_weights_it_would_have_without_a_generator(composer, tmp_path):
    plain = settle(composer(*TINY, *REGIMES["synthetic"]))
    model = build_model(plain)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    build(plain, model, tmp_path, None)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "model", ["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("segnet_basic", "vae"))]
)
def test_any_model_has_a_teacher(composer, tmp_path, model):
    plain = settle(composer(*TINY, f"model={model}", "regime=self_training"))
    task = build(plain, build_model(plain), tmp_path, None).task
    assert list(task.objective.teacher.state_dict()) == list(task.model.state_dict())
