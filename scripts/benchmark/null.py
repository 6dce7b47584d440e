"""A network and a loss that cost nothing: what is left of a training step is what surrounds them."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from bare import BareLoop, device_of, ready_batches, wait_for
from measure import print_table, spread
from shipped import Loader, fit
from torch import Tensor, nn

from segsweep.config import Parts, build, build_model, make, make_partial
from segsweep.data.train_batches import TrainBatches
from segsweep.types import Batch, SegmenterOutput

WARM = 50  # steps that do not count
OVERRIDES = (
    "data=digits",
    "data.size=[8,8]",
    "data.digit_size=[8,8]",
    "data.max_digits=1",
    "data.num_val=4",
    "data.num_test=4",
    "data.batch_size=2",
)


class NullModel(nn.Module):
    """One parameter.

    Shape:
        image (N, C, H, W) -> logits (N, K, H, W).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Multiplies by the parameter."""
        return SegmenterOutput((image[:, :1] * self.weight).expand(-1, self.num_classes, -1, -1))


class NullLoss(nn.Module):
    """The mean of the logits."""

    def forward(self, output: SegmenterOutput, batch: Batch) -> dict[str, Tensor]:
        """One operation."""
        return {"total": output.logits.mean()}


def put_into(plain: dict[str, Any]) -> dict[str, Any]:
    """A settled config with them in place of its model and loss."""
    model = {"_target_": "null.NullModel", "family": "cnn", "num_classes": plain["data"]["num_classes"]}
    return {**plain, "model": model, "loss": {"_target_": "null.NullLoss"}}


class PlainModule(pl.LightningModule):
    """The smallest LightningModule.

    Args:
        model, loss: as a run has them.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> schedule, stepped once a step.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any],
    ) -> None:
        super().__init__()
        self.model, self.loss, self.make_optimizer, self.make_scheduler = model, loss, optimizer, scheduler

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Forward and loss."""
        total: Tensor = self.loss(self.model(batch.image), batch)["total"]
        return total

    def configure_optimizers(self) -> Any:
        """Those of the run: what is trained is the same."""
        optimizer = self.make_optimizer(self.parameters())
        return [optimizer], [{"scheduler": self.make_scheduler(optimizer), "interval": "step"}]


def contestants(plain: dict[str, Any], folder: Path, steps: int) -> dict[str, Callable[[], float]]:
    """Microseconds a step of the bare loop, of Lightning with everything off, and of ours."""
    device = device_of(plain)
    data = build(plain, build_model(plain), folder, 0).data
    ready = ready_batches(data, device)
    marks: list[float] = []

    def mark(i: int) -> None:
        if i in (WARM, steps - 1):
            wait_for(device)
            marks.append(time.perf_counter())

    def per_step(run: Callable[[], None]) -> Callable[[], float]:
        def measured() -> float:
            marks.clear()
            run()
            return 1e6 * (marks[1] - marks[0]) / (steps - 1 - WARM)

        return measured

    def lightning() -> None:
        scheduler = partial(make_partial(plain["scheduler"]), total_steps=steps)
        optimizer = make_partial(plain["optimizer"])
        module = PlainModule(build_model(plain), make(plain["loss"]), optimizer, scheduler)
        facts = {key: plain["trainer"][key] for key in ("accelerator", "devices", "precision")}
        trainer = pl.Trainer(barebones=True, max_epochs=1, **facts)
        trainer.fit(module, Loader(None, ready, steps, lambda i: bool(mark(i))))

    def ours(is_live: bool) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as run_folder:
                fit(plain, Path(run_folder), lambda parts: loader(parts, is_live))

        return run

    def loader(parts: Parts, is_live: bool) -> Loader:
        return Loader(TrainBatches(parts.data, device), ready, steps, lambda i: mark(i) is not None or is_live)

    def bare() -> float:
        loop = BareLoop(plain, data, ready)
        loop.run(WARM)
        return 1e6 * loop.run(steps) / steps

    return {
        "bare loop": bare,
        "Lightning, everything off": per_step(lightning),
        "ours, ready batches": per_step(ours(False)),
        "ours, gathered and augmented": per_step(ours(True)),
    }


def print_null(found: dict[str, list[float]]) -> None:
    """Prints each contestant beside Lightning with everything off."""
    least = found["Lightning, everything off"]
    rows = []
    for name, values in found.items():
        beside = [a - b for a, b in zip(values, least, strict=True)]
        rows.append((name, spread(values, 0), spread(beside, 0)))
    print_table(("null model", "microseconds per step", "more than Lightning with everything off"), rows)
