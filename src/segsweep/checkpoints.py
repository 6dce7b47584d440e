"""Checkpoints that survive kills and notice damage.

``last-<epoch>.ckpt`` (the two newest) continue a run; ``best.safetensors`` with ``best.json`` are what later commands
use. Lightning's own writer is not used: its temporary file may lie on another file system, where the final move is no
rename.
"""

import io
import json
import logging
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors.torch import load, save
from torch import Tensor, nn

from segsweep.files import read_hashed, remove_hashed, write_atomic, write_hashed
from segsweep.metrics import best_is

log = logging.getLogger(__name__)


class HashedCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically with their SHA-256 and refuses damaged ones; tensors and primitives only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint; ``storage_options`` is part of Lightning's interface and not used."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_hashed(Path(path), buffer.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint to the CPU, whatever device wrote it; never unpickles code.

        Raises:
            ValueError: the file is damaged.
        """
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(read_hashed(Path(path))), "cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint and its digest."""
        remove_hashed(Path(path))


class LastCheckpoints(ModelCheckpoint):
    """Lightning's, but after a continuation it also removes those that an interrupted run has left."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, and keeps the newest."""
        super().on_train_epoch_end(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        for path in _newest_first(Path(str(self.dirpath)))[self.save_top_k :]:
            remove_hashed(path)


def last_checkpoints(folder: Path) -> ModelCheckpoint:
    """The callback that writes ``last-<epoch>.ckpt`` after every epoch and keeps the two newest."""
    return LastCheckpoints(
        folder,
        filename="last-{epoch}",
        auto_insert_metric_name=False,
        monitor="epoch",
        mode="max",
        save_top_k=2,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def newest_whole(folder: Path) -> Path | None:
    """The newest ``last-<epoch>.ckpt`` that is not damaged, or None."""
    for path in _newest_first(folder):
        try:
            read_hashed(path)
        except ValueError as error:
            log.warning("%s; continuing from the one before", error)
        else:
            return path
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("last-*.ckpt"), key=lambda path: int(path.stem.split("-")[1]), reverse=True)


class BestWeights(Checkpoint):
    """Keeps the weights of the epoch in which a metric was best.

    Args:
        folder: receives ``best.safetensors`` and ``best.json``.
        monitor: metric, e.g. ``val/miou``; its direction is the metric's own.
        model: plain description of the model, stored in ``best.json``.

    Attributes:
        epoch: of the best weights, None before the first.
        value: of the monitored metric there.
    """

    def __init__(self, folder: Path, monitor: str, model: dict[str, Any]) -> None:
        self.folder, self.monitor, self.model = folder, monitor, model
        self.sign = 1 if best_is(monitor) == "max" else -1
        self.epoch: int | None = None
        self.value = float("nan")
        self.stage = 0  # of the regime, in which that epoch ended

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the weights if they are the best so far; without any validation the newest count as the best.

        An epoch that ends in a later stage of the regime is better than any that ended in an earlier one, which has
        not learnt yet what the run is for.

        Raises:
            ValueError: the epoch was validated and the monitored metric is not among what was logged.
        """
        logged = trainer.callback_metrics.get(self.monitor)
        if logged is None and any(name.startswith("val/") for name in trainer.callback_metrics):
            raise ValueError(f"monitor={self.monitor} was not logged. Set monitor to a metric that this model has")
        value = float("nan") if logged is None else float(logged)
        is_better = isnan(self.value) if isnan(value) else isnan(self.value) or self.sign * (value - self.value) > 0
        stage: int = pl_module.stage_index  # type: ignore[assignment]
        if self.epoch is None or stage > self.stage or is_better:
            self.epoch, self.value, self.stage = trainer.current_epoch, value, stage
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs to know."""
        return {"epoch": self.epoch, "value": self.value, "stage": self.stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best so far."""
        self.epoch, self.value, self.stage = state_dict["epoch"], state_dict["value"], state_dict["stage"]

    def restore(self, model: nn.Module) -> None:
        """Loads the best weights into a model of the same architecture.

        Raises:
            ValueError: the file is damaged.
        """
        model.load_state_dict(load(read_hashed(self.folder / "best.safetensors")))

    def _save(self, trainer: pl.Trainer) -> None:
        # All ranks ask for the weights, of which each may hold a part, and the first writes them.
        state = trainer.strategy.lightning_module_state_dict()
        if not trainer.is_global_zero:
            return
        mine = ((k.removeprefix("model."), v) for k, v in state.items() if k.startswith("model."))
        # A new layout per tensor: safetensors stores contiguous memory, channels_last weights are not.
        weights: dict[str, Tensor] = {k: v.cpu().contiguous() for k, v in mine}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_hashed(self.folder / "best.safetensors", save(weights))
        facts = {"epoch": self.epoch, "monitor": self.monitor, "value": self.value, "model": self.model}
        write_atomic(self.folder / "best.json", json.dumps(facts, indent=1).encode())
