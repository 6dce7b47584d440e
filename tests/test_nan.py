"""A loss or a gradient that is not finite never reaches weights that are kept."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file

from segsweep import losses
from segsweep.checkpoints import HashedCheckpointIO, newest_whole
from segsweep.guard import NotFiniteError, UpdateGuard
from segsweep.run import read_record

BATCH = {"total": torch.tensor(1.0)}, torch.tensor([0, 1])
OPTIMIZERS = [name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer"]
OPTIMIZERS = [name for name in OPTIMIZERS if name not in ("LBFGS", "SparseAdam")]  # closures; sparse gradients
BAD = {"total": torch.tensor(math.nan)}, torch.tensor([2, 3])


class _Spoil(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.fixture
def spoiled(monkeypatch):
    """``spoiled("loss", 4)``: that of the fifth training batch is not finite."""

    def spoil(what, step):
        count = iter(range(10**6))

        class Spoiled(losses.WeightedSum):
            def forward(self, output, batch):
                terms = super().forward(output, batch)
                if not torch.is_grad_enabled() or next(count) != step:
                    return terms
                spoilt = terms["total"] * math.nan if what == "loss" else _Spoil.apply(terms["total"])
                return {**terms, "total": spoilt}

        monkeypatch.setattr(losses, "WeightedSum", Spoiled)

    return spoil


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Has the CPU take the path of an accelerator."""
    monkeypatch.setattr("segsweep.task.UpdateGuard", lambda name_of, looks_at_once: UpdateGuard(name_of, False))


def is_finite(folder):
    newest = newest_whole(folder / "checkpoints")
    states = [] if newest is None else [HashedCheckpointIO().load_checkpoint(newest)["state_dict"]]
    if (folder / "checkpoints" / "best.safetensors").exists():
        states.append(load_file(folder / "checkpoints" / "best.safetensors"))
    return all(torch.isfinite(value).all() for state in states for value in state.values())


def stopped(start, tmp_path, *overrides):
    with pytest.raises(NotFiniteError) as error:
        start("run", "trainer.max_epochs=3", "model.widths=[4,8]", *overrides)
    record = read_record(tmp_path / "run")
    assert (record["status"], record["error"]["class"]) == ("failed", "nan")
    assert is_finite(tmp_path / "run")
    return str(error.value)


@pytest.mark.parametrize(
    ("what", "step"),
    [
        *(("loss", 0), ("gradient", 4), ("loss", 8)),
        *(pytest.param(*where, marks=pytest.mark.slow) for where in (("gradient", 0), ("loss", 4), ("gradient", 8))),
    ],
)
def test_a_run_stops_before_its_weights_are_spoilt(start, tmp_path, spoiled, what, step):
    spoiled(what, step)
    message = stopped(start, tmp_path)
    assert re.search(rf"the {what} is .* at step {step}, epoch {step // 3}, training images \d{{5}}, ", message)
    assert "Lower optimizer.lr, or set trainer.gradient_clip_val=1" in message


@pytest.mark.parametrize(
    ("what", "step", "overrides"),
    [
        ("loss", 4, ["trainer.checkpoint_every_steps=1"]),
        ("gradient", 5, ["trainer.checkpoint_every_steps=1"]),
        pytest.param("loss", 0, ["optimizer=rmsprop"], marks=pytest.mark.slow),
        pytest.param("gradient", 3, ["optimizer=rmsprop", "trainer.gradient_clip_val=1"], marks=pytest.mark.slow),
        pytest.param("gradient", 4, ["trainer.accumulate_grad_batches=2"], marks=pytest.mark.slow),
        pytest.param("loss", 8, ["optimizer=sgd", "trainer.check_val_every_n_epoch=5"], marks=pytest.mark.slow),
    ],
)
def test_an_accelerator_is_looked_at_before_anything_is_saved(
    start, tmp_path, spoiled, as_on_a_gpu, what, step, overrides
):
    spoiled(what, step)
    message = stopped(start, tmp_path, *overrides)
    number = 2 if "trainer.accumulate_grad_batches=2" in overrides else step
    assert f"the {what} is " in message
    assert f" at step {number}, epoch {step // 3}, training images " in message


@pytest.mark.slow
def test_the_same_weights_whether_the_host_looks_or_not(start, whole_run, monkeypatch):
    one = whole_run
    monkeypatch.setattr("segsweep.task.UpdateGuard", lambda name_of, looks_at_once: UpdateGuard(name_of, False))
    other = start("other", "model.widths=[4,8]")
    weights = [load_file(folder / "checkpoints" / "best.safetensors") for folder in (one, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_without_the_guard_weights_are_spoilt(start, tmp_path, spoiled, monkeypatch):
    for name in ("see", "before_update"):
        monkeypatch.setattr(UpdateGuard, name, lambda *_: None)
    spoiled("gradient", 4)
    start("run", "model.widths=[4,8]")
    assert not is_finite(tmp_path / "run")


def update(guard, optimizer, weight, gradient, batch=BATCH, is_scaled=False, step=0):
    guard.see(*batch, 0, step)
    weight.grad = torch.full_like(weight, gradient)
    guard.before_update(optimizer, 0, step, is_scaled)
    optimizer.step()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_fused_optimizer_leaves_the_update_out(name):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(torch.optim, name)([weight], lr=0.1, fused=True, weight_decay=0.1)
    guard = UpdateGuard(str, looks_at_once=False)
    update(guard, optimizer, weight, 1.0)
    before = weight.detach().clone()
    assert not torch.equal(before, torch.ones(3))
    for gradient, batch in ((math.inf, BATCH), (math.nan, BATCH), (1.0, BAD)):
        update(guard, optimizer, weight, gradient, batch)
        assert torch.equal(weight, before)
    update(guard, optimizer, weight, 1.0)
    assert not torch.equal(weight, before)
    with pytest.raises(NotFiniteError, match="the gradient is not finite at step 0, epoch 0, training images 0, 1"):
        guard.read()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_lets_it_through(name):
    kind = getattr(torch.optim, name)
    weight = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = kind([weight])
    guard = UpdateGuard(str, looks_at_once=False)
    for gradient in (1.0, math.inf, 1.0, math.nan, 1.0):
        update(guard, optimizer, weight, gradient)
        assert torch.isfinite(weight).all()


def test_the_host_looks_every_50_steps():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    guard = UpdateGuard(lambda position: f"im{position}.png", looks_at_once=False)
    guard.read()
    for step in range(49):
        update(guard, optimizer, weight, 1.0, BAD if step == 7 else BATCH, step=step)
    with pytest.raises(NotFiniteError, match=r"the loss is {'total': nan} at step 7, .*images im2.png, im3.png\. "):
        update(guard, optimizer, weight, 1.0)


def test_a_gradient_scaler_may_skip_a_step_but_not_all():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    guard = UpdateGuard(str, looks_at_once=False)
    for gradient in [math.inf] * 20 + [1.0] + [math.inf] * 20:
        guard.see(*BATCH, 0, 0)
        weight.grad = torch.full_like(weight, gradient)
        guard.before_update(optimizer, 0, 0, is_scaled=True)
    guard.read()
    for _ in range(6):
        guard.see(*BATCH, 0, 0)
        guard.before_update(optimizer, 0, 0, is_scaled=True)
    with pytest.raises(NotFiniteError, match="the gradient is not finite"):
        guard.read()


def test_of_many_images_some_are_named():
    guard = UpdateGuard(str, looks_at_once=True)
    with pytest.raises(NotFiniteError, match=r"training images 0, 1, 2, 3, 4, 5, 6, 7 and 12 more\. "):
        guard.see({"total": torch.tensor(math.inf)}, torch.arange(20), 0, 0)
