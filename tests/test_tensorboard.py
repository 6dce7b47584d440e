"""What the event files of runs hold, read as TensorBoard reads them."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_recall_curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from segsweep.board import Board
from segsweep.confusion import confusion_picture
from segsweep.curves import NUM_THRESHOLDS, ScoreCounts, curve
from segsweep.guard import UpdateGuard
from segsweep.layout import layout
from segsweep.run import read_record
from segsweep.table import hyperparameters, write_row
from segsweep.task import Task
from tests.narrow import NARROW

SMALL = ["model.widths=[4,8]"]
DENSE = ["model=fc_densenet", "model.layers=[1,1]", "model.growth_rate=4", "model.first_channels=4"]


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def row(folder):
    """Hyperparameters, tags of the columns, results: as the HParams tab has them."""
    events = read(folder)

    def content(tag):
        return events.SummaryMetadata(tag).plugin_data.content

    start = metadata.parse_session_start_info_plugin_data(content(metadata.SESSION_START_INFO_TAG))
    table = metadata.parse_experiment_plugin_data(content(metadata.EXPERIMENT_TAG))
    values = {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}
    tags = [info.name.tag for info in table.metric_infos]
    found = {tag: events.Scalars(tag) for tag in tags if tag in events.Tags()["scalars"]}
    assert all(len(points) == 1 for points in found.values())
    assert {info.name for info in table.hparam_infos} == set(values)
    return values, tags, {tag: points[0].value for tag, points in found.items()}


# The HParams table.


@pytest.fixture
def mixed(start, whole_run):
    """A CNN, an RNN over features and an autoencoder."""
    options = {"reseg": NARROW["reseg"], "conv_autoencoder": SMALL}
    return [whole_run, *(start(model, f"model={model}", *overrides) for model, overrides in options.items())]


def test_every_family_has_the_same_columns_and_none_is_empty(mixed):
    rows = [row(folder) for folder in mixed]
    assert len({frozenset(values) for values, _, _ in rows}) == 1
    for folder, (values, tags, results) in zip(mixed, rows, strict=True):
        record = read_record(folder)
        assert results.keys() == set(tags)
        assert values["status"] == "completed"
        assert (values["seed"], values["family"]) == (record["seed"], record["family"])
        assert results["table/best_test_miou"] == pytest.approx(record["metrics"]["test/miou"], abs=1e-6)
        assert results["table/final_test_miou"] == pytest.approx(record["metrics_last"]["test/miou"], abs=1e-6)
        assert results["table/parameters"] == record["parameters"]
        assert all(np.isfinite(value) for value in results.values())


def test_a_run_that_failed_has_a_row_with_what_it_has(start, whole_run, monkeypatch, tmp_path):
    completed = row(whole_run)
    original = Task.training_step
    monkeypatch.setattr(
        Task, "training_step", lambda self, *a: 1 / 0 if self.current_epoch == 1 else original(self, *a)
    )
    with pytest.raises(ZeroDivisionError):
        start("failed", *SMALL)
    values, tags, results = row(tmp_path / "failed")
    assert (values.keys(), tags) == (completed[0].keys(), completed[1])
    assert values["status"] == "failed (ZeroDivisionError)"
    line = json.loads((tmp_path / "failed" / "metrics.jsonl").read_text())
    assert results["table/final_val_miou"] == pytest.approx(line["val/miou"], abs=1e-6)
    assert results["table/epochs"] == 1
    assert not any("test" in tag for tag in results)


def test_a_run_that_goes_on_has_one_row_that_of_its_end(start, interrupted, tmp_path):
    with interrupted(before_epoch=1):
        start("run", *SMALL)
    assert row(tmp_path / "run")[0]["status"] == "interrupted"
    values, tags, results = row(start("run", *SMALL))
    assert values["status"] == "completed"
    assert results.keys() == set(tags)
    assert len(list((tmp_path / "run").glob("events.out.*.row"))) == 1


def test_a_job_that_never_reached_its_run_has_all_columns(tmp_path):
    record = {"status": "failed", "error": {"class": "killed", "message": "x"}, "choices": {"model": "unet"}}
    write_row(tmp_path, record)
    values, _, results = row(tmp_path)
    assert (values["status"], values["model"], values["loss"]) == ("failed (killed)", "unet", "none")
    assert set(results) <= {"table/minutes"}


def test_numbers_stay_numbers():
    config = {"seed": 3, "optimizer": {"lr": 1e-3}, "data": {"batch_size": "${x}"}, "trainer": {"max_epochs": None}}
    values = hyperparameters({"status": "running", "config": config})
    assert (values["seed"], values["lr"], values["batch_size"], values["max_epochs"]) == (3.0, 1e-3, 0.0, 0.0)
    assert hyperparameters({"status": "paused"}).keys() == values.keys()


def test_a_full_disk_does_not_hide_how_a_run_has_ended(tmp_path, caplog):
    write_row(tmp_path / "nowhere", {"status": "failed", "error": {"class": "oom"}})
    assert "was not written" in caplog.text


# Curves.


def test_gradient_norm_memory_and_speed_are_curves_of_one_point_an_epoch(start):
    events = read(start("run", *SMALL, "trainer.max_epochs=3"))
    for tag in ("train/grad_norm", "train/grad_norm_max", "memory/host_mb", "train/images_per_s", "train/loss"):
        assert [point.step for point in events.Scalars(tag)] == [2, 5, 8], tag
    means, largest = ([p.value for p in events.Scalars(f"train/grad_norm{end}")] for end in ("", "_max"))
    assert all(0 < mean <= most for mean, most in zip(means, largest, strict=True))


def test_the_norm_is_that_before_clipping(start):
    clipped = read(start("clipped", *SMALL, "trainer.max_epochs=1", "trainer.gradient_clip_val=1e-6"))
    free = read(start("free", *SMALL, "trainer.max_epochs=1"))
    assert clipped.Scalars("train/grad_norm_max")[0].value > 1e-3
    assert free.Scalars("train/grad_norm")[0].value > 1e-3


def test_norms_of_scaled_gradients_are_those_of_the_loss_and_infinite_ones_are_left_out():
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    guard = UpdateGuard(str, looks_at_once=False)
    for step, value in enumerate((8.0, float("inf"), 16.0)):
        weight.grad = torch.full_like(weight, value)
        guard.see({"total": torch.ones(())}, torch.arange(1), 0, step)
        guard.before_update(optimizer, 0, step, is_scaled=True, scale=torch.tensor(4.0))
        if step == 1:  # as at a checkpoint
            before, guard = guard.norms, UpdateGuard(str, looks_at_once=False)
            guard.take_up(before)
    assert guard.take_norms() == {"grad_norm": 6.0, "grad_norm_max": 8.0}
    assert guard.take_norms() == {}


@pytest.mark.parametrize("every", [pytest.param(None, marks=pytest.mark.slow), 1])
def test_nothing_doubles_or_is_lost_where_a_run_was_stopped(start, monkeypatch, tmp_path, every):
    """Killed within the second of three epochs; with checkpoints within epochs, and without."""
    story = [*DENSE, "model.dropout=0.3", "trainer.max_epochs=3", f"trainer.checkpoint_every_steps={every or 'null'}"]
    straight = read(start("straight", *story))
    original = Task.on_train_batch_start

    def stop(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            raise KeyboardInterrupt
        original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_train_batch_start", stop)
        with pytest.raises(SystemExit):
            start("continued", *story)
    continued = read(start("continued", *story))
    for kind, points in (("scalars", EventAccumulator.Scalars), ("images", EventAccumulator.Images)):
        tags = straight.Tags()[kind]
        assert sorted(continued.Tags()[kind]) == sorted(tags)
        for tag in tags:
            steps = [[point.step for point in points(events, tag)] for events in (straight, continued)]
            assert steps[0] == steps[1], tag
    for tag in ("train/grad_norm", "train/grad_norm_max", "val/miou"):
        values = [[point.value for point in events.Scalars(tag)] for events in (straight, continued)]
        assert values[0] == values[1], tag
    for tag in ("config/text_summary", "custom_scalars__config__"):
        assert len(continued.Tensors(tag)) == 1


def test_a_validation_between_gathered_batches_has_a_step_of_its_own(start):
    """Three batches an epoch, the last one alone: the first validation of an epoch follows no step of it."""
    gathered = ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=1"]
    events = read(start("run", *SMALL, *gathered))
    for points in (events.Scalars("val/miou"), events.Images("val/predictions")):
        assert [point.step for point in points] == [0, 0, 1, 2, 2, 3]
    assert [point.step for point in events.Scalars("train/miou")] == [1, 3]


def test_a_trial_run_of_lightnings_shows_no_training_and_ends(start):
    folder = start("run", *SMALL, "trainer.fast_dev_run=true")
    assert read_record(folder)["status"] == "completed"
    assert read(folder).Tags()["images"] == ["test/confusion"]


def test_training_and_validation_share_a_chart(start):
    events = read(start("run", *SMALL, "trainer.max_epochs=1"))
    (found,) = events.Tensors("custom_scalars__config__")
    proto = layout_pb2.Layout.FromString(make_ndarray(found.tensor_proto).item())
    charts = {chart.title: list(chart.multiline.tag) for category in proto.category for chart in category.chart}
    assert charts["mIoU"] == ["^train/miou$", "^val/miou$"]
    assert charts["IoU of background"] == ["^train/iou/background$", "^val/iou/background$"]
    tags = {tag.strip("^$").replace("\\", "") for found in charts.values() for tag in found}
    assert tags - set(events.Tags()["scalars"]) <= {"memory/device_mb"}


def test_names_of_classes_are_no_patterns():
    charts = layout(["a+b (c)"])["Each class, training and validation"]
    assert charts["IoU of a+b (c)"][1][0] == r"^train/iou/a\+b\ \(c\)$"
    assert [len(charts) for charts in layout([str(k) for k in range(150)]).values()] == [6, 24, 4]


# Precision against recall.


def test_curves_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 9, 7, generator=generator)
    mask = torch.randint(0, 4, (3, 9, 7), generator=generator)
    mask[0, :2] = 255
    counts = ScoreCounts(4, 255)
    for i in range(3):
        counts.update(logits[i : i + 1], mask[i : i + 1])
    found = counts.compute()
    valid = (mask != 255).numpy()
    assert found.sum(axis=(1, 2)).tolist() == [valid.sum()] * 4
    for k in range(4):
        truth = (mask == k).numpy()[valid]
        score = logits.softmax(dim=1)[:, k].numpy()[valid]
        binned = np.floor(score * (NUM_THRESHOLDS - 1)) / (NUM_THRESHOLDS - 1)
        precision, recall, thresholds = precision_recall_curve(truth, binned)
        values = curve(found[k])
        places = np.round(thresholds * (NUM_THRESHOLDS - 1)).astype(int)
        np.testing.assert_allclose(values.precision[places], precision[:-1])
        np.testing.assert_allclose(values.recall[places], recall[:-1])
        totals = sum(values[:4])
        np.testing.assert_array_equal(totals, np.full(NUM_THRESHOLDS, valid.sum()))


def test_a_large_image_costs_no_more_than_a_small_one():
    counts = ScoreCounts(2, 255)
    counts.update(torch.zeros(1, 2, 512, 512), torch.zeros(1, 512, 512, dtype=torch.int64))
    assert counts.compute().sum() <= 2**14


def test_probabilities_that_are_no_numbers_count_as_none():
    counts = ScoreCounts(2, 255)
    counts.update(torch.full((1, 2, 3, 3), torch.nan), torch.zeros(1, 3, 3, dtype=torch.int64))
    assert counts.compute()[:, :, 0].tolist() == [[0, 9], [9, 0]]


def test_every_class_of_the_test_has_a_curve(whole_run):
    events = read(whole_run)
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("test/")]
    with np.load(whole_run / "test_confusion.npz") as stored:
        shown = stored["confusion"].sum(axis=(0, 2)) > 0
    assert len(tags) == shown.sum()
    values = make_ndarray(events.Tensors("test/background")[0].tensor_proto)
    assert values.shape == (6, NUM_THRESHOLDS)
    assert values[5, 0] == 1  # at threshold 0 everything is found
    assert (np.diff(values[5]) <= 1e-6).all()


# Pictures and the graph.


def test_rows_of_the_confusion_are_shares_and_absent_classes_are_grey():
    counts = np.array([[8, 2, 0], [0, 0, 0], [0, 50, 50]])
    picture = confusion_picture(counts, ["sky", "a name that is much too long", "road"])
    assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert (228, 228, 228) in colours
    larger = confusion_picture(counts * 1000, ["sky", "a name that is much too long", "road"])
    np.testing.assert_array_equal(picture, larger)


@pytest.mark.parametrize("num", [1, 2, 11, 40, 150])
def test_the_confusion_of_many_classes_stays_small(num):
    picture = confusion_picture(np.eye(num, dtype=np.int64), [f"class {k}" for k in range(num)])
    assert max(picture.shape) <= 1000


def test_pictures_are_shown_as_often_as_asked_for(start):
    events = read(start("seldom", *SMALL, "trainer.max_epochs=5", "trainer.tensorboard.pictures_every=3"))
    for tag in ("val/predictions", "val/confusion"):
        assert [image.step for image in events.Images(tag)] == [8, 14]  # the third epoch and the last
    never = read(start("never", *SMALL, "trainer.tensorboard.pictures_every=0", "trainer.tensorboard.pr_curves=false"))
    assert never.Tags()["images"] == ["test/confusion"]
    assert not [tag for tag in never.Tags()["tensors"] if tag.startswith("test/")]


def test_the_panel_says_what_it_shows(whole_run):
    events = read(whole_run)
    with Image.open(io.BytesIO(events.Images("val/predictions")[0].encoded_image_string)) as picture:
        assert picture.width == 5 * 96
        assert picture.height > 4 * 98 + 14


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "model", [["model=unet", *SMALL], slow(["model=vae", *SMALL]), slow(["model=reseg"]), slow(DENSE)]
)
def test_the_graph_is_there_on_request_alone_and_changes_nothing(start, model):
    brief = [*model, "trainer.max_epochs=1"]
    without, asked = start("without", *brief), start("with", *brief, "trainer.tensorboard.graph=true")
    assert (read(without).Tags()["graph"], read(asked).Tags()["graph"]) == (False, True)
    records = [read_record(folder) for folder in (without, asked)]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]
    assert records[0]["metrics"]["val/loss"] == records[1]["metrics"]["val/loss"]


def test_a_model_that_cannot_be_traced_trains_without_its_graph(start, monkeypatch, caplog):
    monkeypatch.setattr("segsweep.board.Segmenter.forward", lambda self, image: 1 / 0)
    folder = start("run", *SMALL, "trainer.max_epochs=1", "trainer.tensorboard.graph=true")
    assert read_record(folder)["status"] == "completed"
    assert "cannot trace" in caplog.text


def test_the_switches_are_those_of_the_config(composer):
    assert Board(**composer()["trainer"]["tensorboard"]) == Board()
