"""Memory that does not suffice: the batch is divided, and what a step learns from stays the same."""

import json

import pytest
import torch

from segsweep.config import build_data, settle
from segsweep.fitting import MemoryTooSmallError
from segsweep.models.unet import UNet
from segsweep.run import read_record
from segsweep.task import Task
from tests.conftest import TINY, history

HALVE = "trainer.on_oom=halve"
SMALL = ["model.widths=[4,8]", "trainer.max_epochs=3"]


@pytest.fixture
def memory_for(monkeypatch):
    """``memory_for(2)``: a model that takes more images at a time is out of memory."""

    def limit(most, from_step=0):
        forward, step = UNet.forward, Task.training_step
        now = [0]

        def noting(self, batch, batch_idx):
            now[0] = self.global_step
            return step(self, batch, batch_idx)

        def limited(self, image):
            if not image.is_meta and image.dtype != torch.float64 and len(image) > most and now[0] >= from_step:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(self, image)

        monkeypatch.setattr(Task, "training_step", noting)
        monkeypatch.setattr(UNet, "forward", limited)

    return limit


def batches(composer, pieces, *overrides):
    data = build_data(settle(composer(*TINY, "augment=strong", "data.batch_size=5", *overrides)))
    data.pieces = pieces
    return list(data.train_dataloader())


@pytest.mark.parametrize("pieces", [2, 3, 5])
@pytest.mark.parametrize("regime", ["supervised", "joint"])
def test_pieces_are_the_batch(composer, regime, pieces):
    overrides = [f"regime={regime}", "data.labelled_fraction=0.5"]
    whole, divided = batches(composer, 1, *overrides), batches(composer, pieces, *overrides)
    assert len(divided) == len(whole) * pieces
    for i, batch in enumerate(whole):
        parts = [piece.divide() for piece in divided[i * pieces : (i + 1) * pieces]]
        assert max(len(labelled.image) for labelled, _ in parts) == -(-5 // pieces)
        for kind, expected in enumerate(batch.divide()):
            if expected is not None:
                for name in ("image", "mask", "index"):
                    joined = torch.cat([getattr(part[kind], name) for part in parts])
                    assert torch.equal(joined, getattr(expected, name)), name


def test_weights_of_pieces_make_the_mean_over_images(composer):
    data = build_data(settle(composer(*TINY, "data.batch_size=5")))
    data.pieces = 3
    pieces = list(data.train_dataloader())[:3]
    assert [len(piece.image) for piece in pieces] == [2, 2, 1]
    assert [data.weight(piece) / 3 for piece in pieces] == pytest.approx([2 / 5, 2 / 5, 1 / 5])


@pytest.mark.parametrize(
    ("most", "effective", "overrides"),
    [
        (2, {"batch_size": 2, "accumulate_grad_batches": 2}, []),
        pytest.param(
            1,
            {"batch_size": 1, "accumulate_grad_batches": 8},
            ["trainer.accumulate_grad_batches=2"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2,
            {"batch_size": 2, "accumulate_grad_batches": 2},
            ["regime=pretrain", "regime.stages.pretrain.share=0.4", "scheduler=one_cycle"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2,
            {"batch_size": 2, "accumulate_grad_batches": 2},
            ["trainer.limit_train_batches=0.7", "trainer.val_check_interval=0.5", "trainer.max_steps=5"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_goes_on_with_smaller_batches(start, memory_for, caplog, most, effective, overrides):
    before = start("whole", *SMALL, *overrides)
    memory_for(most)
    with caplog.at_level("WARNING"):
        folder = start("halved", *SMALL, HALVE, *overrides)
    record, whole = read_record(folder), read_record(before)
    assert record["status"] == "completed"
    assert record["effective_batch"] == effective
    assert "effective_batch" not in whole
    assert f"going on with {effective['batch_size']} images at a time" in caplog.text
    for key in ("steps", "epochs", "images_seen", "fingerprint"):
        assert record[key] == whole[key], key
    rates = [[line["lr"] for line in history(run)] for run in (before, folder)]
    assert rates[0] == rates[1]
    assert record["config"]["data"]["batch_size"] == 4


@pytest.mark.slow
def test_without_batch_statistics_the_divided_batch_learns_the_same(start, memory_for, monkeypatch):
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: x)
    overrides = [*SMALL, "loss=mse", "data.batch_size=5", "augment=none", "optimizer=sgd", "optimizer.lr=0.01"]
    overrides += ["trainer.max_epochs=2"]
    before = start("whole", *overrides)
    memory_for(2)
    after = start("halved", *overrides, HALVE)
    assert read_record(after)["effective_batch"] == {"batch_size": 2, "accumulate_grad_batches": 3}
    for a, b in zip(history(before), history(after), strict=True):
        for key in ("train/loss", "val/loss", "val/pixel_accuracy"):
            assert a[key] == pytest.approx(b[key], rel=1e-3)


@pytest.mark.slow
def test_it_goes_on_from_the_last_checkpoint_and_stays_divided(start, memory_for, monkeypatch, interrupted):
    overrides = [*SMALL, HALVE, "trainer.checkpoint_every_steps=1"]
    memory_for(2, from_step=5)  # the third step of the second epoch
    starts = []
    original = Task.on_train_start
    monkeypatch.setattr(Task, "on_train_start", lambda self: starts.append(self.global_step) or original(self))
    with interrupted(before_epoch=2):
        start("run", *overrides)
    folder = start("run", *overrides)
    assert starts == [0, 5, 6]
    record = read_record(folder)
    assert record["effective_batch"] == {"batch_size": 2, "accumulate_grad_batches": 2}
    assert (record["steps"], record["images_seen"]) == (9, 36)
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [3, 6, 9]


@pytest.mark.parametrize("how", ["fail", "halve"])
def test_what_does_not_fit_at_all_is_a_failure_with_advice(start, memory_for, tmp_path, how):
    memory_for(0)
    with pytest.raises(MemoryTooSmallError) as error:
        start("run", *SMALL, f"trainer.on_oom={how}", "data.size=[48,48]")
    record = read_record(tmp_path / "run")
    assert (record["status"], record["error"]["class"]) == ("failed", "oom")
    for key in ("data.batch_size", "data.crop", "trainer.precision", "trainer.on_oom"):
        assert key in str(error.value)
    what, advice = str(error.value).split("). ")
    assert f"with {4 if how == 'fail' else 1} image" in what
    assert ("trainer.on_oom=halve" in advice) == (how == "fail")
