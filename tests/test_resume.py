"""A run that was stopped ends as if it had not been: weights, optimizer and metrics equal to the last bit on a CPU."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segsweep.callbacks import RunLogger
from segsweep.checkpoints import BestWeights, HashedCheckpointIO
from segsweep.config import NON_SEMANTIC, build_data, fingerprint, settle
from segsweep.run import read_record
from segsweep.task import Task
from segsweep.train import train
from tests.conftest import ORIGIN, TINY, history, timeless

# Dropout, drawn augmentation that mixes images, a shuffled order; three steps an epoch.
DENSE = ["model=fc_densenet", "model.layers=[1,1]", "model.growth_rate=4", "model.first_channels=4"]
RANDOM = [*DENSE, "model.dropout=0.3", "augment=strong", "trainer.max_epochs=4"]
OTHER = ["augment=strong", "trainer.max_epochs=4", "model.widths=[4,8]"]
FEW = "data.labelled_fraction=0.5"
EVERY = "trainer.checkpoint_every_steps=1"


@pytest.fixture
def stopped_at(monkeypatch, start):
    """``stopped_at("folder", epoch, batch, *overrides)`` ends a run there as a kill would, and then continues it."""

    def run(name, epoch, batch, *overrides):
        original = Task.on_train_batch_start

        def stop(self, data, batch_idx):
            if (self.current_epoch, batch_idx) == (epoch, batch):
                raise KeyboardInterrupt
            original(self, data, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(Task, "on_train_batch_start", stop)
            with pytest.raises(SystemExit):
                start(name, *overrides)
        return start(name, *overrides)

    return run


@pytest.fixture(scope="module")
def whole(composer, tmp_path_factory):
    """What ``start("straight", *RANDOM)`` leaves, for all that compare with it. Not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "straight"
    folder.mkdir()
    train(composer(*TINY, *RANDOM), folder, ORIGIN)
    return folder


def state(folder):
    """The last checkpoint without what is a matter of time."""
    newest = max((folder / "checkpoints").glob("last-*.ckpt"), key=lambda path: int(path.stem.split("-")[1]))
    checkpoint = HashedCheckpointIO().load_checkpoint(newest)
    checkpoint["callback_metrics"].pop("train/images_per_s")
    return checkpoint


def differences(a, b, path=""):
    """Where two nested structures differ, tensors compared bit by bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys(), key=str)
        return [line for key in keys for line in differences(a.get(key), b.get(key), f"{path}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for i, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{path}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a.nan_to_num(nan=-1), b.nan_to_num(nan=-1)) else [path]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a!r} {b!r}"]


def assert_same(straight, continued):
    assert history(continued) == history(straight)
    assert differences(state(straight), state(continued)) == []
    weights = [load_file(folder / "checkpoints" / "best.safetensors") for folder in (straight, continued)]
    assert differences(*weights) == []
    records = [read_record(folder) for folder in (straight, continued)]
    assert {record["status"] for record in records} == {"completed"}
    for key in ("best_epoch", "epochs", "steps", "images_seen"):
        assert records[0][key] == records[1][key], key
    for key in ("metrics", "metrics_last"):
        assert timeless(records[0][key]) == timeless(records[1][key])
    points = [
        [(p.step, p.value) for p in EventAccumulator(str(f)).Reload().Scalars("val/miou")]
        for f in (straight, continued)
    ]
    assert points[0] == points[1]  # curves do not double


STORIES = {
    "plain": RANDOM,
    "loss": [*RANDOM, "loss.cross_entropy.weights=median_frequency", "monitor=val/loss"],
    "plateau": [*RANDOM, "scheduler=plateau", "scheduler.patience=0", "+scheduler.threshold=1.0"],
    "one_cycle": [*RANDOM, "scheduler=one_cycle", "optimizer=sgd"],
    "step": [*RANDOM, "scheduler=step", "optimizer=rmsprop"],
    "poly": [*RANDOM, "scheduler=poly", "optimizer=adam"],
    "constant": [*RANDOM, "scheduler=constant", "optimizer=adadelta"],
    "stopping": [*RANDOM, "trainer.early_stopping.patience=2", "trainer.max_epochs=9"],
    "seldom_validated": [*RANDOM, "trainer.early_stopping.patience=3", "trainer.check_val_every_n_epoch=2"],
    "gathered": [
        *RANDOM, "data.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5"
    ],
    "often_validated": [*RANDOM, "trainer.val_check_interval=0.34"],
    "steps": [*RANDOM, "trainer.max_steps=11", "trainer.max_epochs=9"],
    "two_stages": [*OTHER, FEW, "regime=denoise", "regime.stages.pretrain.share=0.4", "scheduler=one_cycle"],
    "teacher": [*OTHER, FEW, "regime=self_training"],
    "thawing": [*OTHER, FEW, "regime=joint", "regime.stages.joint.encoder=thawed"],
    "vae": [*OTHER, "model=vae"],
}  # fmt: skip
QUICK = ("plain",)  # the others are slow


def stories():
    return [pytest.param(STORIES[n], id=n, marks=[] if n in QUICK else pytest.mark.slow) for n in STORIES]


@pytest.mark.parametrize("story", stories())
def test_a_run_goes_on_from_within_an_epoch_as_if_nothing_had_been(whole, start, stopped_at, story):
    straight = whole if story is RANDOM else start("straight", *story)
    assert_same(straight, stopped_at("continued", 1, 2, *story, EVERY))


def test_a_continued_run_has_a_file_of_events_that_is_read_last(tmp_path):
    before = tmp_path / f"events.out.tfevents.{int(time.time()) + 1}.host.9.99"
    before.touch()
    logger = RunLogger(tmp_path, purge_step=3)
    logger.experiment.close()
    first, _ = sorted(tmp_path.iterdir())
    assert first == before


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("story", stories())
def test_a_run_goes_on_from_the_end_of_an_epoch_as_if_nothing_had_been(start, interrupted, story, epoch):
    straight = start("straight", *story)
    with interrupted(before_epoch=epoch):
        start("continued", *story)
    assert_same(straight, start("continued", *story))


def test_a_named_run_continues_to_the_same_end(start, interrupted):
    overrides = [*RANDOM, "trainer.max_epochs=3", "loss.cross_entropy.weights=median_frequency"]
    straight = start("straight", *overrides)
    with interrupted(before_epoch=2):
        start("continued", *overrides)
    folder = straight.parent / "continued"
    assert read_record(folder)["status"] == "interrupted"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "torn')  # what a kill in the middle of a line leaves
    assert_same(straight, start("continued", *overrides))


@pytest.mark.slow
def test_without_the_random_state_it_would_differ(whole, stopped_at, monkeypatch):
    monkeypatch.setattr(torch, "set_rng_state", lambda _: None)
    assert history(stopped_at("continued", 1, 2, *RANDOM, EVERY)) != history(whole)


@pytest.mark.slow
def test_checkpoints_within_an_epoch_change_nothing(whole, start, composer):
    assert "trainer.checkpoint_every_steps" in NON_SEMANTIC
    assert fingerprint(settle(composer(*TINY))) == fingerprint(settle(composer(*TINY, EVERY)))
    assert_same(whole, start("with", *RANDOM, EVERY))


def test_the_newest_of_both_kinds_is_kept(start, monkeypatch):
    seen = []
    original = Task.training_step

    def looked(self, batch, batch_idx):
        folder = Path(self.trainer.default_root_dir) / "checkpoints"
        seen.append(sorted(path.stem for path in folder.glob("last-*.ckpt")))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", looked)
    start("run", "model.widths=[4,8]", "trainer.max_epochs=3", "trainer.checkpoint_every_steps=2")
    assert seen[:3] == [[], [], ["last-0-2"]]
    assert seen[3:6] == [["last-0"], ["last-0", "last-1-4"], ["last-0", "last-1-4"]]
    assert seen[6:] == [["last-0", "last-1"], ["last-0", "last-1"], ["last-0", "last-1", "last-2-8"]]


def test_a_damaged_checkpoint_within_an_epoch_is_replaced(whole, start, monkeypatch, tmp_path):
    monkeypatch.setattr(Task, "on_train_epoch_end", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start("continued", *RANDOM, EVERY)
    monkeypatch.undo()
    newest = tmp_path / "continued" / "checkpoints" / "last-0-2.ckpt"
    newest.write_bytes(newest.read_bytes()[:-9])
    assert_same(whole, start("continued", *RANDOM, EVERY))


@pytest.mark.parametrize("batches", ["all", 2])
def test_an_iteration_may_start_within_an_epoch(composer, batches):
    limit = [] if batches == "all" else ["data.num_workers=2", "data.storage=memory"]
    plain = settle(composer(*TINY, "augment=strong", "data.labelled_fraction=0.5", "regime=joint", *limit))
    loader = build_data(plain).train_dataloader()
    loader.set_epoch(3)
    whole = list(loader)
    loader.start_at(2)
    rest = list(loader)
    assert len(rest) == len(whole) - 2
    assert differences(list(map(tuple, rest)), list(map(tuple, whole[2:]))) == []
    assert len(list(loader)) == len(whole)  # the next iteration starts from the beginning


@pytest.mark.slow
def test_a_run_that_early_stopping_has_ended_is_not_trained_on(start, monkeypatch):
    overrides = [*RANDOM, "trainer.early_stopping.threshold=-0.1"]
    straight = start("straight", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_test_epoch_start", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start("continued", *overrides)
    assert_same(straight, start("continued", *overrides))
    assert read_record(straight)["epochs"] == 1


@pytest.mark.slow
def test_best_weights_that_were_not_written_any_more_are_those_of_the_checkpoint(start, monkeypatch):
    overrides = [*RANDOM, "trainer.max_epochs=1"]
    straight = start("straight", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr(BestWeights, "write", lambda self, model: 1 / 0 if self.epoch == 0 else None)
        with pytest.raises(ZeroDivisionError):
            start("continued", *overrides)
    best = straight.parent / "continued" / "checkpoints" / "best.safetensors"
    assert not best.exists()
    Path(f"{best}.sha256").write_text("of the weights that were to be written")
    assert_same(straight, start("continued", *overrides))


@pytest.mark.slow
def test_a_folder_that_was_moved_and_renamed_is_continued(whole, start, monkeypatch, tmp_path):
    original = Task.on_train_batch_start
    monkeypatch.setattr(
        Task, "on_train_batch_start", lambda self, *a: 1 / 0 if self.global_step == 8 else original(self, *a)
    )
    with pytest.raises(ZeroDivisionError):
        start("before", *RANDOM)
    monkeypatch.undo()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "before").rename(tmp_path / "elsewhere" / "after")
    assert_same(whole, start("elsewhere/after", *RANDOM))
    for file in (tmp_path / "elsewhere").rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes(), file


def command(*overrides):
    return [sys.executable, "-m", "segsweep", *TINY, *RANDOM, "name=long", *overrides]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], ["trainer.checkpoint_every_steps=2"]])
def test_kills_at_any_moment_change_nothing(tmp_path, overrides):
    results = {}
    for name in ("straight", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        kills = 0
        while True:
            process = subprocess.Popen(
                command("trainer.max_epochs=12", *overrides), cwd=folder, stderr=subprocess.DEVNULL
            )
            run = folder / "outputs" / "runs" / "long"
            if name == "straight" or kills == 5:
                assert process.wait(300) == 0
                break
            wait_for_progress(run, process)
            time.sleep(0.13 * kills)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            assert read_record(run)["status"] in ("running", "completed")
        results[name] = run
    assert_same(results["straight"], results["killed"])
    assert not list(results["killed"].rglob(".*.unfinished"))
    assert read_record(results["killed"])["wall_s"] > read_record(results["straight"])["wall_s"] / 2


def wait_for_progress(run, process, more=1):
    """Waits until some more lines are in metrics.jsonl."""

    def lines():
        return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0

    before, deadline = lines(), time.monotonic() + 120
    while lines() < before + more and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_process_is_followed_by_the_next(tmp_path):
    quick = command("trainer.max_epochs=8")
    process = subprocess.Popen(quick, cwd=tmp_path, stderr=subprocess.DEVNULL)
    run = tmp_path / "outputs" / "runs" / "long"
    wait_for_progress(run, process, more=2)
    process.kill()
    process.wait()
    assert read_record(run)["status"] == "running"
    before = (run / "metrics.jsonl").read_text().splitlines()[:1]
    done = subprocess.run(quick, cwd=tmp_path, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = read_record(run)
    assert (record["status"], record["epochs"]) == ("completed", 8)
    assert (run / "metrics.jsonl").read_text().splitlines()[:1] == before
