"""Signals: what is half done is finished, the run is marked, the exit code is the one that shells expect."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from segsweep import signals
from segsweep.endings import ExitError
from segsweep.files import write_hashed
from segsweep.run import read_record
from segsweep.signals import Interrupted
from segsweep.task import Task
from tests.conftest import TINY, history

SMALL = ["model.widths=[4,8]"]


@pytest.fixture(autouse=True)
def _ctrl_c():
    """What a shell starts in the background ignores Ctrl-C, and so would everything below it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_at_once(number, code):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as stopped, signals.handled():
        send(number)
    assert stopped.value.code == code
    assert stopped.value.kind in str(stopped.value)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert not signals.is_requested()


def test_a_signal_is_found_behind_another_error():
    def fail_while_cleaning_up():
        try:
            send()
        finally:
            raise ValueError("cleaning up")

    with pytest.raises(Interrupted), signals.handled():
        fail_while_cleaning_up()
    with pytest.raises(ValueError, match="of its own"), signals.handled():
        raise ValueError("of its own")


def test_an_error_in_the_place_of_a_signal_is_none(start, tmp_path, monkeypatch):
    """OmegaConf, interrupted, has failed while it put its flags back, and made an error of its own of that."""

    def interrupted(self):
        try:
            try:
                send()
            finally:
                self.nothing.reset()
        except AttributeError:
            raise KeyError("class_names") from None

    monkeypatch.setattr(Task, "on_train_start", interrupted)
    with pytest.raises(Interrupted) as stopped:
        start("run", *SMALL)
    assert stopped.value.code == 143
    record = read_record(tmp_path / "run")
    assert (record["status"], record["error"]["class"]) == ("interrupted", "SIGTERM")


def test_a_file_is_finished_first(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(os, "fsync", lambda _: send() if not written else None)
    monkeypatch.setattr(os, "replace", lambda *paths: written.append(paths[1].name))
    with pytest.raises(Interrupted), signals.handled():
        write_hashed(tmp_path / "a", b"x")
    assert written == ["a.sha256", "a"]


def test_a_step_is_finished_first():
    with signals.handled():
        signals.set_in_step(True)
        send()
        signals.set_in_step(False)
        with pytest.raises(Interrupted):
            signals.check()


def test_what_is_swallowed_comes_again():
    with signals.handled():
        with contextlib.suppress(BaseException):
            send()
        with pytest.raises(Interrupted):
            signals.check()


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals.handled():
        send(signal.SIGINT)
        signals.check()


def test_another_thread_is_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with signals.handled():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(("wait", "code"), [(0.0, 0), (1.1, 143)])
def test_the_second_signal_ends_at_once(wait, code):
    script = f"""
        import os, signal, time
        from segsweep import signals
        with signals.handled():
            signals.set_in_step(True)
            for wait in (0, {wait}):
                time.sleep(wait)
                os.kill(os.getpid(), signal.SIGTERM)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60).returncode == code


QUICK = ["setup", "training_step", "validation_step"]
SLOW = ["on_train_start", "on_validation_epoch_start", "test_step"]


@pytest.mark.parametrize("where", [*QUICK, *(pytest.param(where, marks=pytest.mark.slow) for where in SLOW)])
def test_a_run_is_marked_and_goes_on_wherever_it_was(start, monkeypatch, tmp_path, where):
    straight = None if where != "training_step" else start("straight", *SMALL)
    original, steps = getattr(Task, where), []

    def interrupted(self, *arguments, **named):
        if self.current_epoch == 1 or where in ("setup", "on_train_start", "test_step"):
            send(signal.SIGINT)
        result = original(self, *arguments, **named)
        steps.append(self.global_step)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Task, where, interrupted)
        with pytest.raises(Interrupted) as stopped:
            start("run", *SMALL)
    assert stopped.value.code == 130
    record = read_record(tmp_path / "run")
    assert (record["status"], record["error"]["class"]) == ("interrupted", "SIGINT")
    if straight:
        assert steps[-1] == 3  # the step in which the signal came was finished
    folder = start("run", *SMALL)
    assert read_record(folder)["status"] == "completed"
    if straight:
        assert history(folder) == history(straight)


def test_a_signal_saves_where_checkpoints_within_epochs_are_wanted(start, monkeypatch, tmp_path):
    original = Task.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 3:
            send()
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", interrupted)
        with pytest.raises(Interrupted):
            start("run", *SMALL, "trainer.checkpoint_every_steps=1000")
    assert (tmp_path / "run" / "checkpoints" / "last-1-4.ckpt").exists()
    assert read_record(start("run", *SMALL))["status"] == "completed"  # the key is no part of the identity


def test_a_model_that_exits_has_failed(start, monkeypatch, tmp_path):
    monkeypatch.setattr(Task, "training_step", lambda *_: sys.exit(3))
    with pytest.raises(ExitError, match=r"sys.exit\(3\)"):
        start("run", *SMALL)
    record = read_record(tmp_path / "run")
    assert (record["status"], record["error"]["class"]) == ("failed", "exit")


def launch(folder, *overrides):
    command = [sys.executable, "-m", "segsweep", *TINY, *SMALL, "trainer.max_epochs=10000", "name=long", *overrides]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def assert_interrupted(process, run, code, number):
    begin = time.monotonic()
    process.send_signal(number)
    try:
        assert process.wait(60) == code
    finally:
        process.kill()  # one that does not obey must not stay
    assert time.monotonic() - begin < 10
    assert read_record(run)["status"] == "interrupted"


@pytest.mark.slow
def test_sigterm_ends_a_process(tmp_path):
    run = tmp_path / "outputs" / "runs" / "long"
    process = launch(tmp_path)
    wait_for(lambda: (run / "checkpoints" / "last-0.ckpt").exists(), process)
    assert_interrupted(process, run, 143, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ten_signals_at_any_moment(tmp_path, number, code):
    run = tmp_path / "outputs" / "runs" / "long"
    for i in range(10):
        process = launch(tmp_path)
        watched = run / ("record.json" if i < 3 else "metrics.jsonl")  # in set-up; in training and what follows
        before = changes(watched)
        wait_for(lambda watched=watched, before=before: changes(watched) > before, process)
        time.sleep(0.037 * i)
        assert_interrupted(process, run, code, number)
    epochs = [line["epoch"] for line in history(run)]
    assert epochs == list(range(len(epochs)))


def changes(file):
    return file.stat().st_mtime_ns if file.exists() else 0
