"""Whole runs on a handful of images: folders, records, repeatability, continuing, failing."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segsweep import losses
from segsweep.run import ConfigError, read_record
from segsweep.train import redact_overrides, train
from tests.conftest import FOLDER, ORIGIN, TINY, history, loss_overrides, quick_ones, timeless
from tests.narrow import NARROW

FROZEN = ["model=reseg_vgg", *NARROW["reseg_vgg"], "augment=none"]


@pytest.mark.slow
def test_features_of_a_frozen_encoder_are_computed_once_and_change_nothing(start, monkeypatch):
    from segsweep.models.vgg import VGG16Trunk

    seen, forward = [], VGG16Trunk.forward

    def counted(self, image):
        if self.training and not image.is_meta:
            seen.append(len(image))
        return forward(self, image)

    monkeypatch.setattr(VGG16Trunk, "forward", counted)
    once = history(start("once", *FROZEN))
    assert sum(seen) == 12
    seen.clear()
    monkeypatch.setattr("segsweep.staged.frozen_features", lambda *_: None)
    anew = history(start("anew", *FROZEN))
    assert sum(seen) == 2 * 12  # in each of two epochs
    for a, b in zip(once, anew, strict=True):
        assert a == pytest.approx(b, abs=1e-4, nan_ok=True)


@pytest.mark.slow
def test_features_are_computed_anew_where_images_change(start, caplog):
    with caplog.at_level("INFO"):
        start("augmented", *FROZEN, "augment=light")
        assert "features of the frozen encoder" not in caplog.text
        start("still", *FROZEN)
        assert "features of the frozen encoder: computed once" in caplog.text


@pytest.mark.parametrize("model", quick_ones("model", "unet", "vae"))
def test_a_run_leaves_a_whole_folder(start, model):
    folder = start("run", f"model={model}", *NARROW.get(model, ()))
    record = read_record(folder)
    assert record["status"] == "completed"
    for key in (
        "fingerprint", "fingerprint_without_seed", "git", "versions", "device", "precision", "threads", "parameters",
        "flops", "images_per_s", "peak_memory_mb", "wall_s", "best_epoch", "metric_version", "floors",
    ):  # fmt: skip
        assert key in record, key
    assert record["steps"] == 6
    assert record["images_seen"] == 24
    assert record["epochs"] == 2
    assert record["data"]["split_sizes"] == {"train": 12, "val": 4, "test": 5}
    for stage, metric in itertools.product(("val", "test"), ("miou", "boundary_f1", "ece")):
        assert 0 <= record["metrics"][f"{stage}/{metric}"] <= 1
    for stage in ("val", "test"):
        assert f"{stage}/iou/background" in record["metrics"]
    assert [line["epoch"] for line in history(folder)] == [0, 1]
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["num_classes"] == "${data.num_classes}"
    with np.load(folder / "test_confusion.npz", allow_pickle=False) as stored:
        assert stored["confusion"].shape == (5, 11, 11)
        assert stored["confusion"].dtype == np.int32
        assert stored["confusion"].sum(axis=(1, 2)).tolist() == [48 * 48] * 5
        assert (stored["boundary"].shape, stored["boundary"].dtype) == ((5, 11, 4), np.int32)
        assert (stored["calibration"].shape, stored["calibration"].dtype) == ((5, 15, 3), np.float64)
        assert stored["calibration"][..., 0].sum(axis=1).tolist() == [48 * 48] * 5
        assert stored["names"].tolist() == [f"{i:05d}" for i in range(5)]
    examples = sorted(path.name for path in (folder / "test_examples").iterdir())
    assert len(examples) == 10  # five test images, each fixed and each among the worst
    with Image.open(folder / "test_examples" / examples[0]) as strip:
        assert strip.size == (4 * 96, 96)
    best = json.loads((folder / "checkpoints" / "best.json").read_text())
    assert best["epoch"] == record["best_epoch"]
    weights = load_file(folder / "checkpoints" / "best.safetensors")
    assert sum(weight.numel() for weight in weights.values()) >= record["parameters"]
    assert len(list((folder / "checkpoints").glob("last-*.ckpt"))) == 2


def test_nothing_in_a_run_folder_names_a_place(whole_run):
    for file in whole_run.rglob("*"):
        if file.is_file() and file.suffix != ".ckpt":
            assert str(whole_run.parent).encode() not in file.read_bytes(), file


def test_tensorboard_holds_curves_pictures_config_and_one_final_row(whole_run):
    assert len(list(whole_run.glob("events.out.*"))) == 2  # what grows while the run does, and the row of the table
    events = EventAccumulator(str(whole_run)).Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "val/miou", "val/iou/background", "test/miou", "lr", "train/images_per_s"} <= set(scalars)
    assert len(events.Scalars("val/miou")) == 2
    assert len(events.Images("val/predictions")) == 2
    assert "config/text_summary" in events.Tags()["tensors"]
    assert not any(name == "hp_metric" for name in scalars)
    final = events.Scalars("table/best_test_miou")
    assert [point.value for point in final] == pytest.approx([read_record(whole_run)["metrics"]["test/miou"]], abs=1e-6)


def test_the_same_run_twice_is_equal_to_the_last_digit(whole_run, start):
    first, second = whole_run, start("b")
    assert history(first) == history(second)
    assert timeless(read_record(first)["metrics"]) == timeless(read_record(second)["metrics"])
    weights = [load_file(folder / "checkpoints" / "best.safetensors") for folder in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_another_seed_is_another_run(whole_run, start):
    assert history(whole_run) != history(start("b", "seed=1"))


def test_a_completed_run_is_not_trained_again(start):
    folder = start("run")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.name != ".lock"}
    start("run")
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.name != ".lock"} == before


def test_another_config_does_not_continue_a_run(start):
    start("run")
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.005 -> 0.02"):
        start("run", "optimizer.lr=0.02")


def test_what_failed_is_recorded(start, monkeypatch, tmp_path):
    monkeypatch.setattr(losses.Dice, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start("run")
    record = read_record(tmp_path / "run")
    assert record["status"] == "failed"
    assert record["error"] == {"class": "ZeroDivisionError", "message": "division by zero"}


def test_a_model_that_cannot_take_the_size_stops_before_data_is_read(start, monkeypatch):
    monkeypatch.setattr("segsweep.data.datamodule.open_store", None)
    with pytest.raises(ValueError, match="dense_cnn was built for 48x48 images and got 32x32"):
        start("run", "model=dense_cnn", "data.crop=[32,32]")


def test_early_stopping_by_patience(start):
    record = read_record(start("run", "trainer.max_epochs=60", "trainer.early_stopping.patience=2"))
    assert record["epochs"] == record["best_epoch"] + 3
    assert record["epochs"] < 60


def test_early_stopping_by_threshold(start):
    record = read_record(start("run", "trainer.max_epochs=20", "trainer.early_stopping.threshold=-0.1"))
    assert record["epochs"] == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=sgd", "scheduler=plateau"],
        pytest.param(["optimizer=rmsprop", "scheduler=step"], marks=pytest.mark.slow),
        pytest.param(["optimizer=adam", "scheduler=one_cycle"], marks=pytest.mark.slow),
        ["scheduler=constant", "augment=standard"],
    ],
)
def test_other_optimizers_and_schedules_train(start, overrides):
    lines = history(start("run", "model.widths=[4,8]", *overrides))
    assert all(math.isfinite(line["train/loss"]) for line in lines)


@pytest.mark.parametrize("loss", quick_ones("loss", "ce_dice", "ncut"))
def test_every_loss_trains_an_autoencoder(start, loss):
    lines = history(start("run", "model=conv_autoencoder", "model.widths=[4,8]", *loss_overrides(loss)))
    assert "val/loss/reconstruction" in lines[0]
    assert lines[1]["train/loss"] < lines[0]["train/loss"]


def test_the_best_epoch_is_the_best_by_the_monitored_metric(start):
    folder = start("run", "monitor=val/loss", "trainer.max_epochs=3")
    values = [line["val/loss"] for line in history(folder)]
    assert read_record(folder)["best_epoch"] == int(np.argmin(values))


def test_epochs_without_validation_do_not_count_as_best(start):
    folder = start("run", "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2")
    values = {line["epoch"]: line["val/miou"] for line in history(folder) if "val/miou" in line}
    assert list(values) == [1, 3]
    assert read_record(folder)["best_epoch"] == max(values, key=values.get)


def test_a_limited_test_names_the_images_it_scored(start):
    folder = start("run", "trainer.limit_test_batches=1")
    with np.load(folder / "test_confusion.npz") as stored:
        assert len(stored["confusion"]) == len(stored["names"]) == 4
    assert read_record(folder)["images_tested"] == 4


def test_a_monitored_metric_that_the_model_lacks_stops_the_run(start):
    with pytest.raises(ValueError, match="monitor=val/loss/reconstruction was not logged"):
        start("run", "monitor=val/loss/reconstruction")


def test_labelled_fraction_keeps_the_number_of_steps(start):
    record = read_record(start("run", "data.labelled_fraction=0.25"))
    assert record["steps"] == 6
    assert record["data"]["labelled_fraction"] == 0.25


def test_own_images_are_scored_at_their_own_size(composer, image_tree, tmp_path):
    keys = [*FOLDER, f"data.root='{image_tree}'", "data.size=[16,16]"]
    train(composer(*keys, "model.widths=[4,8]"), tmp_path, ORIGIN)
    with np.load(tmp_path / "test_confusion.npz") as stored:
        assert stored["confusion"].sum(axis=(1, 2)).tolist() == [24 * 32 - 3, 24 * 32 - 3, 20 * 30 - 3]
        assert stored["groups"].tolist() == stored["names"].tolist()


def test_secrets_typed_on_the_command_line_are_not_kept():
    assert redact_overrides(["optimizer.lr=1", "+data.api_key=abc"]) == ["optimizer.lr=1", "+data.api_key=<redacted>"]


@pytest.mark.slow
def test_a_sweep_from_the_command_line(tmp_path):
    """Readable folders, a ledger, a log for each job."""
    command = [sys.executable, "-m", "segsweep", "-m", *TINY, "model.widths=[4,8]", "seed=0,1", "name=two"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "sweep: 2 of 2 jobs completed" in result.stderr
    sweep = tmp_path / "outputs" / "sweeps" / "two"
    jobs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert jobs == ["seed=0", "seed=1"]
    records = [read_record(sweep / job) for job in jobs]
    assert [record["sweep"] for record in records] == ["two", "two"]
    assert records[0]["fingerprint_without_seed"] == records[1]["fingerprint_without_seed"]
    ledger = [json.loads(line) for line in (sweep / "ledger.jsonl").read_text().splitlines()]
    for job in jobs:  # side by side
        assert [line["status"] for line in ledger if line["job"] == job] == ["running", "completed"]
    assert "test: mIoU" in (sweep / "seed=0" / "log.txt").read_text()
