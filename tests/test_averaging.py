"""trainer.ema: what is validated, kept and tested is the average."""

import pytest
import torch
from safetensors.torch import load_file

from segsweep.averaging import ema_mistake
from segsweep.checkpoints import HashedCheckpointIO, newest_whole
from segsweep.compiling import compile_mistake
from segsweep.task import Task
from tests.conftest import history

MODEL = ["model=unet", "model.widths=[4,6]", "trainer.ema=0.7"]
DECAY = 0.7


@pytest.fixture
def steps(monkeypatch):
    """Weights after each step, and those that each validation saw."""
    seen = {"trained": [], "validated": []}
    after, before = Task.on_train_batch_end, Task.on_validation_epoch_start

    def state(task):
        return {name: value.clone() for name, value in task.model.state_dict().items()}

    def on_train_batch_end(task, *args):
        after(task, *args)
        seen["trained"].append(state(task))

    def on_validation_epoch_start(task):
        before(task)
        seen["validated"].append(state(task))

    monkeypatch.setattr(Task, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr(Task, "on_validation_epoch_start", on_validation_epoch_start)
    return seen


def average(states):
    """Of weights and statistics; it begins with the first."""
    mean = dict(states[0])
    for state in states[1:]:
        for name, value in state.items():
            mean[name] = (mean[name] * DECAY + value * (1 - DECAY)).to(value.dtype)
    return mean


def test_the_average_is_validated_and_kept(start, steps):
    folder = start("run", *MODEL)
    per_epoch = len(steps["trained"]) // 2
    expected = [average(steps["trained"][: per_epoch * (epoch + 1)]) for epoch in range(2)]
    floats = [name for name, value in expected[0].items() if value.is_floating_point()]
    for mean, seen in zip(expected, steps["validated"], strict=True):
        for name in floats:
            torch.testing.assert_close(seen[name], mean[name])
    last = HashedCheckpointIO().load_checkpoint(newest_whole(folder / "checkpoints"))
    best = load_file(folder / "checkpoints" / "best.safetensors")
    lines = history(folder)
    chosen = max(range(2), key=lambda epoch: lines[epoch]["val/miou"])
    for name in floats:
        torch.testing.assert_close(last["state_dict"][f"model.{name}"], expected[1][name])
        torch.testing.assert_close(last["current_model_state"][f"model.{name}"], steps["trained"][-1][name])
        torch.testing.assert_close(best[name], expected[chosen][name])


def test_a_stage_begins_a_new_average(start, steps):
    """An encoder that the second stage freezes is kept as the first has left it."""
    folder = start("run", "model=conv_autoencoder", "model.widths=[4,6]", "trainer.ema=0.7", "regime=pretrain_frozen")
    last = HashedCheckpointIO().load_checkpoint(newest_whole(folder / "checkpoints"))["state_dict"]
    encoder = [
        name for name, value in steps["trained"][-1].items() if name.startswith("encoder") and value.is_floating_point()
    ]
    assert encoder
    for name in encoder:
        assert torch.equal(last[f"model.{name}"], steps["trained"][-1][name])


@pytest.mark.slow
def test_a_continued_run_has_the_same_average(start, monkeypatch):
    straight = start("straight", *MODEL)
    ends = Task.on_train_epoch_start

    def dies(task):
        ends(task)
        if task.current_epoch == 1:
            raise RuntimeError("killed")

    monkeypatch.setattr(Task, "on_train_epoch_start", dies)
    with pytest.raises(RuntimeError, match="killed"):
        start("broken", *MODEL)
    monkeypatch.setattr(Task, "on_train_epoch_start", ends)
    again = start("broken", *MODEL)
    assert history(again) == history(straight)
    states = [load_file(folder / "checkpoints" / "best.safetensors") for folder in (straight, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("decay", [0, 1, 1.0, 2.5, "high", True])
def test_a_decay_that_is_no_share_is_named(decay):
    assert "trainer.ema" in ema_mistake({"ema": decay})


def test_what_cannot_be_averaged_or_compiled_is_named(monkeypatch):
    assert ema_mistake({"ema": None}) is None
    assert "fsdp" in ema_mistake({"ema": 0.9, "strategy": "fsdp"})
    once = {"accumulate_grad_batches": 1, "on_oom": "fail"}
    assert compile_mistake({**once, "compile": None}) is None
    assert "use null, default" in compile_mistake({**once, "compile": "fast"})
    assert "CUDA graphs" in compile_mistake({**once, "compile": "reduce-overhead", "accumulate_grad_batches": 2})
    assert "CUDA graphs" in compile_mistake({**once, "compile": "max-autotune", "on_oom": "halve"})
    monkeypatch.setenv("PATH", "/nowhere")
    assert "C++ compiler" in compile_mistake({**once, "compile": "default"})


@pytest.mark.slow
def test_a_compiled_model_trains_alike(start):
    plain = start("plain", *MODEL[:2], "trainer.max_epochs=1")
    compiled = start("compiled", *MODEL[:2], "trainer.max_epochs=1", "trainer.compile=default")
    for one, other in zip(history(plain), history(compiled), strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-3)  # it rounds differently
    keys = [set(load_file(folder / "checkpoints" / "best.safetensors")) for folder in (plain, compiled)]
    assert keys[0] == keys[1]
