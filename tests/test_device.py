"""No step makes the host wait, on a pretended device and on CUDA; on the pretended one, runs are those of the CPU."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.strategies import SingleDeviceStrategy

import segsweep
from segsweep import config, counting, strategies
from segsweep.augment import geometry, intensity
from segsweep.curves import ScoreCounts
from segsweep.data import pixels
from segsweep.guard import UpdateGuard
from segsweep.kernels import machine
from segsweep.models import normalisation
from segsweep.predict import predictor
from segsweep.tally import Confusion
from segsweep.types import SegmenterOutput
from tests.conftest import batch_of, history, loss_overrides, options, quick_ones
from tests.pretended import THERE, Pretended
from tests.test_stack import trained

IGNORED = 255
QUICK_MODELS = ("conv_autoencoder", "dense_cnn", "reseg", "unet")
FEW_LABELS = ("model=conv_autoencoder", "data.labelled_fraction=0.5")
# A teacher and a run to prune are runs of their own: their regimes train as "supervised" does.
REGIMES = [name for name in options("regime") if name not in ("distill", "prune")]
RUNS = [
    *(f"augment={name}" for name in options("augment")),
    *("data.storage=memory", "data.tile=[32,32]", "data.crop=[32,32] data.crop_balance=0.5"),
    *("trainer.ema=0.9", "trainer.accumulate_grad_batches=2", "scheduler=plateau", "scheduler=one_cycle"),
]
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: see scripts/gpu_check.sh")


class PretendedDevice:
    """The pretended device, for tests that run on CUDA, too."""

    place = THERE
    trainer = ("trainer=cpu", "trainer.precision=32-true", "optimizer.fused=false")

    def __init__(self, mode):
        self.waits = mode.waits

    @contextmanager
    def forbids_waiting(self):
        before = len(self.waits)
        yield
        assert self.waits[before:] == []


class Cuda:
    """A GPU; torch says what a host waits for."""

    place = torch.device("cuda")
    trainer = ("trainer=gpu",)

    @contextmanager
    def forbids_waiting(self):
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert [str(one.message) for one in caught if "synchroniz" in str(one.message)] == []


def forget():
    """Drops what is kept for a device: another one takes its place."""
    for kept in (intensity._noise_bank, intensity._chroma_basis, pixels._statistics):
        kept.cache_clear()


@contextmanager
def pretended(monkeypatch):
    """The pretended device is there, and runs train on it."""
    forget()
    with monkeypatch.context() as patch, Pretended() as mode:
        patch.setattr(torch, "inference_mode", torch.no_grad)  # torch has no wrapped tensors in it
        patch.setattr(strategies, "strategy", lambda name: SingleDeviceStrategy(device=THERE))
        patch.setattr(CPUAccelerator, "setup_device", lambda self, device: None)
        try:
            yield PretendedDevice(mode)
        finally:
            forget()


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=NO_GPU)])
def device(request, monkeypatch):
    """What has tensors, and says whether a host waits for it."""
    if request.param == "cuda":
        yield Cuda()
        return
    with pretended(monkeypatch) as there:
        yield there


WAITING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "tolist": lambda x: x.tolist(),
    "to the host": lambda x: x.cpu(),
    "to the device": lambda x: torch.ones(3).to(THERE),
    "numbers sent": lambda x: torch.tensor([1.0, 2.0], device=THERE),
    "numbers like": lambda x: x.new_tensor([1.0, 2.0]),
    "nonzero": lambda x: x.nonzero(),
    "chosen by a mask": lambda x: x[x > 0],
    "put by a mask": lambda x: x.clone().__setitem__(x > 0, x[:2]),
    "positions of the host": lambda x: x[torch.tensor([0, 1])],
    "filled by a number there": lambda x: x.masked_fill(x > 0, x.sum()),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.abs().long().bincount(),
    "equal": lambda x: torch.equal(x, x),
    "copied to the host": lambda x: torch.zeros(4).copy_(x),
}
NOT_WAITING = {
    "arithmetic": lambda x: (x * 2 + torch.tensor(1.0)).softmax(0),
    "made there": lambda x: torch.zeros(3, device=x.device) + torch.arange(3, device=x.device),
    "sent without waiting": lambda x: torch.ones(4).to(x.device, non_blocking=True) + x,
    "positions": lambda x: x[torch.zeros(2, dtype=torch.int64, device=x.device)],
    "where one or the other": lambda x: torch.where(x > 0, x, 0.0),
    "in place": lambda x: x.clone().mul_(2).unsqueeze_(0).transpose_(0, 1),
}


@pytest.mark.parametrize("name", [*WAITING, *NOT_WAITING])
def test_the_pretended_device_knows_what_a_host_waits_for(monkeypatch, name):
    with pretended(monkeypatch) as device:
        x = torch.tensor([1.0, -2.0, 0.0, 3.0]).to(THERE)
        before = len(device.waits)
        {**WAITING, **NOT_WAITING}[name](x)
        assert bool(device.waits[before:]) == (name in WAITING)


def test_the_pretended_device_refuses_tensors_of_the_host(monkeypatch):
    with pretended(monkeypatch), pytest.raises(RuntimeError, match="one tensor is on the CPU"):
        torch.ones(3).to(THERE) + torch.ones(3)


def test_the_pretended_device_computes(monkeypatch):
    layer, image = torch.nn.Conv2d(2, 3, 3), torch.randn(1, 2, 8, 8)
    expected = torch.autograd.grad(layer(image).square().sum(), layer.weight)[0]
    with pretended(monkeypatch):
        layer.to(THERE)(image.to(THERE)).square().sum().backward()
        assert layer.weight.grad.device == THERE
        assert torch.equal(layer.weight.grad.cpu(), expected)


@pytest.mark.parametrize("option", options("loss"))
def test_a_loss_does_not_wait_for_the_device(composer, example, option, device):
    loss = config.make(config.settle(composer("trainer=cpu", *loss_overrides(option)))["loss"])
    logits, mask = example
    batch = batch_of(mask, torch.randn(2, 1, 6, 5))
    expected = loss(SegmenterOutput(logits), batch)["total"]
    loss, logits = loss.to(device.place), logits.to(device.place).requires_grad_()
    batch = type(batch)(*(x.to(device.place) for x in batch[:3]))
    with device.forbids_waiting():
        total = loss(SegmenterOutput(logits), batch)["total"]
        total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert logits.grad.device.type == device.place.type


@pytest.mark.parametrize("count", [counting.confusion_per_image, counting.boundary_per_image])
def test_counting_does_not_wait_for_the_device(example, count, device):
    logits, mask = example
    prediction = logits.argmax(dim=1)
    expected = count(prediction, mask, 11, IGNORED)
    prediction, mask = prediction.to(device.place), mask.to(device.place)
    with device.forbids_waiting():
        counts = count(prediction, mask, 11, IGNORED)
    assert torch.equal(counts.cpu(), expected)


def test_counting_all_images_together_does_not_wait_for_the_device(example, device):
    logits, mask = example
    here, there = Confusion(11), Confusion(11)
    for _ in range(70):  # more than are kept to be counted together
        here.update(logits, mask)
    logits, mask = logits.to(device.place), mask.to(device.place)
    with device.forbids_waiting():
        for _ in range(70):
            there.update(logits, mask)
    assert torch.equal(there.counted(), here.counted())


def test_counting_probabilities_does_not_wait_for_the_device(example, device):
    logits, mask = example
    here, there = ScoreCounts(11, IGNORED), ScoreCounts(11, IGNORED).to(device.place)
    here.update(logits, mask)
    logits, mask = logits.to(device.place), mask.to(device.place)
    with device.forbids_waiting():
        there.update(logits, mask)
    assert abs(there.compute() - here.compute()).sum() <= 4  # a probability may be rounded into the next bin


def test_the_norm_of_a_gradient_does_not_wait_for_the_device(device):
    weight = torch.nn.Parameter(torch.ones(3, device=device.place))
    weight.grad = torch.full_like(weight, 2.0)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    guard = UpdateGuard(str, looks_at_once=False)
    loss, images = torch.ones((), device=device.place), torch.arange(2, device=device.place)
    with device.forbids_waiting():
        for step in range(3):
            guard.see({"total": loss}, images, 0, step)
            guard.before_update(optimizer, 0, step, is_scaled=False)
    norms = guard.take_norms()
    assert norms == pytest.approx({"grad_norm": 12**0.5, "grad_norm_max": 12**0.5})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.crop=[32,32]", "data.crop_balance=0.5"],
        ["augment=strong", "trainer.ema=0.9"],
        ["data.storage=memory", "trainer.accumulate_grad_batches=2"],
        ["model=reseg", "loss=lovasz"],
        ["model=wnet", "scheduler=one_cycle"],
        ["model=vae", "regime=joint", "data.labelled_fraction=0.5"],
        ["regime=self_training", "data.labelled_fraction=0.5"],
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_device(composer, tmp_path, monkeypatch, device, overrides):
    """Whole steps, Lightning's part and the making of batches included: the first ones warm up."""
    numbers = ["data.num_train=40", "data.num_val=4", "data.num_test=4", "data.batch_size=4", "data.num_workers=0"]
    cfg = composer(*device.trainer, "trainer.max_epochs=1", *numbers, *overrides)
    plain = config.settle(cfg)
    parts = config.build(plain, config.build_model(plain), tmp_path, None)
    watched = watch(monkeypatch, device)
    parts.trainer.fit(parts.task, datamodule=parts.data, weights_only=True)
    assert watched == [2, 3, 4, 5, 6, 7, 8]


def watch(monkeypatch, device):
    """Has steps fail that wait, but for the first two and the last; the numbers of those that were watched."""
    watched = []
    advance = _TrainingEpochLoop.advance

    def advance_without_waiting(loop, fetcher):
        if not 2 <= loop.batch_idx + 1 <= 8:
            return advance(loop, fetcher)
        with device.forbids_waiting():
            advance(loop, fetcher)
        return watched.append(loop.batch_idx)

    monkeypatch.setattr(_TrainingEpochLoop, "advance", advance_without_waiting)
    return watched


@pytest.mark.filterwarnings("ignore")
def test_no_step_of_stacked_seeds_waits_for_the_device(composer, tmp_path, monkeypatch, device):
    overrides = [*device.trainer, "model.widths=[4,8]", "data.num_train=40", "data.num_workers=0"]
    watched = watch(monkeypatch, device)
    folders = trained(composer, tmp_path, [0, 1], *overrides, "trainer.max_epochs=1")
    assert watched == [2, 3, 4, 5, 6, 7, 8]
    assert [len(history(folder)) for folder in folders] == [1, 1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("overrides", [[], ["data.storage=memory"], ["data.tile=[32,32]"]], ids=" ".join)
def test_validation_does_not_wait_for_the_device(composer, tmp_path, device, overrides):
    numbers = ["data.num_train=4", "data.num_val=12", "data.num_test=4", "data.batch_size=4", "data.num_workers=0"]
    plain = config.settle(composer(*device.trainer, "model.widths=[4,8]", *numbers, *overrides))
    parts = config.build(plain, config.build_model(plain), tmp_path, None)
    parts.trainer.validate(parts.task, datamodule=parts.data, verbose=False)
    parts.task.to(device.place)
    batches = parts.data.val_dataloader()

    def validate():
        parts.task.on_validation_epoch_start()
        for i, batch in enumerate(batches):
            parts.task.validation_step(batch, i)

    with torch.no_grad():
        validate()
        with device.forbids_waiting():
            validate()
    assert parts.task.eval_counts.compute().confusion.shape == (12, 11, 11)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", quick_ones("model", *QUICK_MODELS))
def test_a_model_trains_there_as_on_the_cpu(start, monkeypatch, model):
    compare(start, monkeypatch, f"model={model}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("regime", [pytest.param(x, marks=[pytest.mark.slow] * (x == "unsupervised")) for x in REGIMES])
def test_a_regime_trains_there_as_on_the_cpu(start, monkeypatch, regime):
    compare(start, monkeypatch, f"regime={regime}", *FEW_LABELS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("overrides", RUNS)
def test_a_run_is_there_what_it_is_on_the_cpu(start, monkeypatch, overrides):
    compare(start, monkeypatch, *overrides.split())


def compare(start, monkeypatch, *overrides):
    """Trains here and there. Losses are equal but for rounding; a pixel's best class may be the other of two.

    Without what makes much of rounding: Adam's first steps, and compiled loops, whose statistics of a few pixels are
    more exact than torch's (test_normalisation compares them).
    """
    for user in (machine, normalisation, geometry):
        monkeypatch.setattr(user, "is_available", lambda: False)
    same = ["optimizer=sgd", "optimizer.fused=false", "optimizer.lr=1e-4", "data.num_workers=0", *overrides]
    here = history(start("here", *same))
    with pretended(monkeypatch):
        there = history(start("there", *same))
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        losses = [name for name in one if "loss" in name]
        assert len(losses) >= 2
        assert {name: other[name] for name in losses} == pytest.approx({name: one[name] for name in losses}, rel=2e-3)


@pytest.mark.parametrize("how", [{}, {"tta": "flips+scales"}, {"tile": (32, 32)}], ids=str)
def test_a_finished_run_predicts_there_as_on_the_cpu(whole_run, monkeypatch, how):
    image = np.random.default_rng(0).integers(0, 256, (70, 50), dtype=np.uint8)
    here = segsweep.load(whole_run, device="cpu", **how).predict(image)
    with pretended(monkeypatch):
        monkeypatch.setattr(predictor, "pick_device", lambda wanted: THERE)
        there = segsweep.load(whole_run, **how).predict(image)
        assert abs(there.probabilities() - here.probabilities()).max() < 1e-4
    assert (there.classes == here.classes).mean() > 0.99
