"""A network and a loss that cost nothing: what is left of a training step is what surrounds them."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from segsweep.types import Batch, SegmenterOutput

OVERRIDES = ("data=digits", "data.num_val=4", "data.num_test=4", "data.batch_size=2")


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
    """

    def __init__(self, model: nn.Module, loss: nn.Module, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.model, self.loss, self.make_optimizer = model, loss, optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Forward and loss."""
        total: Tensor = self.loss(self.model(batch.image), batch)["total"]
        return total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of the run, no schedule."""
        return self.make_optimizer(self.parameters())
