"""What a training step costs beside the model, counted and not timed: calls of Python, and operations of torch."""

import sys

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segsweep.config import build, make_partial, settle
from segsweep.types import Batch, SegmenterOutput
from tests.conftest import TINY

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Lightning, which train() filters

FIRST, LAST = 10, 30  # steps between which is counted
# Measured: 1,147 calls, where Lightning makes 1,777 with everything off (segsweep.shortcuts), and 9 operations for the
# guard and the confusion matrix. Whoever needs more says here what for.
FEWEST_CALLS_SAVED = 600
MOST_OPERATIONS_MORE = 10


class NullModel(nn.Module):
    """One parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image):
        return SegmenterOutput((image * self.weight).expand(-1, 11, -1, -1))


class NullLoss(nn.Module):
    """The mean of the logits."""

    def forward(self, output, batch):
        return {"total": output.logits.mean()}


class Plain(pl.LightningModule):
    """The smallest module that trains the same."""

    def __init__(self, model, loss, optimizer):
        super().__init__()
        self.model, self.loss, self.optimizer = model, loss, optimizer

    def training_step(self, batch, batch_idx):
        return self.loss(self.model(batch.image), batch)["total"]

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Loader:
    """Gives the same batch again and again, and switches a counter on and off between two steps."""

    def __init__(self, counter):
        self.counter, self.sampler = counter, self
        generator = torch.Generator().manual_seed(0)
        mask = torch.randint(0, 11, (2, 8, 8), generator=generator)
        self.batch = Batch(torch.rand(2, 1, 8, 8, generator=generator), mask, torch.arange(2))

    def set_epoch(self, epoch):
        """All epochs are alike."""

    def start_at(self, piece):
        """Training begins at the beginning."""

    def __len__(self):
        return LAST + 5

    def __iter__(self):
        for i in range(len(self)):
            if i == FIRST:
                self.counter.start()
            if i == LAST:
                self.counter.stop()
            yield self.batch


class Calls:
    """Calls of functions, those written in C included."""

    def __init__(self):
        self.number = 0

    def start(self):
        sys.setprofile(self._see)

    def stop(self):
        sys.setprofile(None)

    def _see(self, frame, event, argument):
        self.number += event in ("call", "c_call")


class Operations(TorchDispatchMode):
    """Operations that reach a device."""

    def __init__(self):
        super().__init__()
        self.number, self.is_on = 0, False

    def start(self):
        self.is_on = True

    def stop(self):
        self.is_on = False

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.number += self.is_on
        return function(*arguments, **(options or {}))


@pytest.fixture
def plain(composer):
    cfg = composer(*TINY, "trainer.max_epochs=1", "trainer.limit_val_batches=0")
    return settle(cfg)


def of_ours(plain, folder, counter):
    parts = build(plain, NullModel(), folder, None)
    parts.task.loss = NullLoss()
    parts.data.train_dataloader = lambda: Loader(counter)
    parts.trainer.fit(parts.task, datamodule=parts.data, weights_only=True)
    return counter.number / (LAST - FIRST)


def of_lightning(plain, counter):
    module = Plain(NullModel(), NullLoss(), make_partial(plain["optimizer"]))
    trainer = pl.Trainer(accelerator="cpu", barebones=True, max_epochs=1)
    trainer.fit(module, Loader(counter))
    return counter.number / (LAST - FIRST)


def test_a_step_calls_less_than_lightning_alone(plain, tmp_path):
    alone, ours = of_lightning(plain, Calls()), of_ours(plain, tmp_path, Calls())
    assert alone - ours >= FEWEST_CALLS_SAVED


def test_a_step_adds_few_operations(plain, tmp_path):
    with Operations() as counted:
        alone = of_lightning(plain, counted)
    with Operations() as counted:
        ours = of_ours(plain, tmp_path, counted)
    assert ours - alone <= MOST_OPERATIONS_MORE


def test_both_counts_see_more(plain, tmp_path, monkeypatch):
    """The control: one operation more in the loss, one call more in a hook."""
    base_calls = of_ours(plain, tmp_path / "a", Calls())
    with Operations() as counted:
        base = of_ours(plain, tmp_path / "b", counted)
    monkeypatch.setattr(NullLoss, "forward", lambda self, output, batch: {"total": output.logits.mean().abs()})
    assert of_ours(plain, tmp_path / "c", Calls()) > base_calls
    with Operations() as counted:
        assert of_ours(plain, tmp_path / "d", counted) > base
