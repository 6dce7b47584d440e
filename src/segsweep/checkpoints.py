"""Checkpoints that survive kills and notice damage.

``last-<epoch>.ckpt`` (the two newest) and ``last-<epoch>-<step>.ckpt`` (within an epoch) continue a run;
``best.safetensors`` with ``best.json`` are what later commands use. Lightning's own writer is not used: its temporary
file may lie on another file system, where the final move is no rename.
"""

import io
import json
import logging
import os
from collections.abc import Callable
from math import inf, isnan
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors.torch import load, save
from torch import Tensor, nn

from segsweep import signals
from segsweep.averaging import averaged_state
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
        write_hashed(Path(path), buffer.getbuffer())

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


class Written(Protocol):
    """What is written after the checkpoint that knows of it."""

    def write(self, trainer: pl.Trainer) -> None:
        """Writes what is new."""
        ...


class LastCheckpoints(Checkpoint):
    """Writes ``last-<epoch>.ckpt`` after every epoch, and ``last-<epoch>-<step>.ckpt`` within it if that is asked for.

    The two newest of the former are kept, and the newest of the latter until its epoch ends. A signal that ends the run
    within an epoch is one more reason for the latter.

    Args:
        folder: receives them.
        every_steps: optimisation steps between checkpoints within an epoch, None: none there.
        best: whose weights are written when the checkpoint that knows of them is.
    """

    def __init__(self, folder: Path, every_steps: int | None, best: "Written") -> None:
        self.folder, self.every_steps, self.best = folder, every_steps, best
        self._saved_step = 0
        self._continued = (-1.0, -1.0)  # age of the one that is continued; none: all there are, are damaged

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Has Lightning continue a run with ``trainer.max_steps`` as any other: it would end the last epoch again."""
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes which one is continued."""
        self._saved_step = checkpoint["global_step"]
        self._continued = (checkpoint["epoch"], self._saved_step if batches_within_epoch(checkpoint) else inf)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes those that are newer than the one that is continued: they are damaged."""
        for path in _newest_first(self.folder):
            if trainer.is_global_zero and _age(path) > self._continued:
                remove_hashed(path)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Saves between two steps: all gradients are applied, and a validation that was due there is over."""
        step = trainer.global_step
        if self.every_steps is None or batch_idx % trainer.accumulate_grad_batches or step == self._saved_step:
            return
        if batch_idx and (step % self.every_steps == 0 or signals.is_requested()):
            self._save(trainer, f"last-{trainer.current_epoch}-{step}.ckpt")
            for path in [path for path in _newest_first(self.folder) if _is_within_epoch(path)][1:]:
                if trainer.is_global_zero:
                    remove_hashed(path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, and removes what is older than the one before."""
        self._save(trainer, f"last-{trainer.current_epoch}.ckpt")
        self.best.write(trainer)
        if not trainer.is_global_zero:
            return
        paths = _newest_first(self.folder)
        for path in [*filter(_is_within_epoch, paths), *[p for p in paths if not _is_within_epoch(p)][2:]]:
            remove_hashed(path)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Has Lightning's counters say that nothing is begun: they count the batch that comes next already."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if batches_within_epoch(checkpoint):
            progress["is_last_batch"] = False
            for counts in (progress["total"], progress["current"]):
                counts["ready"] = counts["completed"]

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.folder / name, weights_only=False)
            self._saved_step = trainer.global_step


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is not damaged, or None."""
    for path in _newest_first(folder):
        try:
            read_hashed(path)
        except ValueError:
            log.warning("%s: damaged; continuing from the one before", os.path.relpath(path))
        else:
            return path
    return None


def batches_within_epoch(checkpoint: dict[str, Any]) -> int:
    """Batches of an unfinished epoch that a checkpoint has behind it; 0 if it was written at the end of an epoch."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    is_finished = epochs["processed"] == epochs["started"]
    return 0 if is_finished else int(loop["epoch_loop.batch_progress"]["current"]["completed"])


def count_in_pieces(checkpoint: dict[str, Any], pieces: int) -> None:
    """Has a checkpoint count batches in as many pieces as each is divided into now."""
    before = checkpoint.get("pieces", 1)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update({name: value * pieces // before for name, value in counts.items()})
    checkpoint["pieces"] = pieces


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("last-*.ckpt"), key=_age, reverse=True)


def _age(path: Path) -> tuple[float, float]:
    """Epoch and step; the end of an epoch comes after all its steps."""
    epoch, *step = map(float, path.stem.split("-")[1:])
    return epoch, step[0] if step else inf


def _is_within_epoch(path: Path) -> bool:
    return _age(path)[1] < inf


class BestWeights(Checkpoint):
    """Keeps the weights of the epoch in which a metric was best.

    Args:
        folder: receives ``best.safetensors`` and ``best.json``.
        monitor: metric, e.g. ``val/miou``; its direction is the metric's own.
        model: plain description of the model, stored in ``best.json``.
        build: such a description -> a model.

    Attributes:
        epoch: of the best weights, None before the first.
        value: of the monitored metric there.
    """

    def __init__(
        self, folder: Path, monitor: str, model: dict[str, Any], build: Callable[[dict[str, Any]], nn.Module]
    ) -> None:
        self.folder, self.monitor, self.model, self.build = folder, monitor, model, build
        self.sign = 1 if best_is(monitor) == "max" else -1
        self.epoch: int | None = None
        self.value = float("nan")
        self.stage = 0  # of the regime, in which that epoch ended
        self._is_new = False  # whether its weights are still to be written
        self._continued = -1  # epoch at whose end the checkpoint that is continued was written
        self._task: Any = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decides whether the weights are the best so far; without any validation the newest count as the best.

        They are written after the checkpoint of the epoch: a kill in between leaves weights that the run, which
        continues from that checkpoint, has at hand.

        An epoch that ends in a later stage of the regime is better than any that ended in an earlier one, which has
        not learnt yet what the run is for.

        Raises:
            ValueError: the epoch was validated and the monitored metric is not among what was logged.
        """
        is_old = self.monitor.startswith("val/") and not pl_module.is_validated
        logged = None if is_old else trainer.callback_metrics.get(self.monitor)
        if logged is None and not is_old and any(name.startswith("val/") for name in trainer.callback_metrics):
            raise ValueError(f"monitor={self.monitor} was not logged. Set monitor to a metric that this model has")
        value = float("nan") if logged is None else float(logged)
        is_better = isnan(self.value) if isnan(value) else isnan(self.value) or self.sign * (value - self.value) > 0
        stage: int = pl_module.stage_index  # type: ignore[assignment]
        if self.epoch is None or stage > self.stage or is_better:
            self.epoch, self.value, self.stage = trainer.current_epoch, value, stage
            self._is_new, self._task = True, pl_module

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs to know."""
        return {"epoch": self.epoch, "value": self.value, "stage": self.stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best so far."""
        self.epoch, self.value, self.stage = state_dict["epoch"], state_dict["value"], state_dict["stage"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes which epoch the weights of the checkpoint are of."""
        self._continued = -1 if batches_within_epoch(checkpoint) else checkpoint["epoch"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the best weights again if they are those of the checkpoint: they may not have been written at all."""
        self._is_new, self._task = self.epoch is not None and self.epoch == self._continued, pl_module
        self.write(trainer)

    def restore(self, task: Any) -> None:
        """Gives a task the model that was written: its own with the best weights, or what pruning has left of it.

        Raises:
            ValueError: the file is damaged.
        """
        model, _ = task.objective.kept(task.model, self.model, self.build)
        task.model = model.to(memory_format=torch.channels_last)  # as it was trained
        task.model.load_state_dict(load(read_hashed(self.folder / "best.safetensors")))

    def write(self, trainer: pl.Trainer) -> None:
        """Writes the weights if the epoch that has just ended was the best; all ranks have to call it."""
        if not self._is_new:
            return
        self._is_new = False
        state = averaged_state(trainer)  # of which each rank may hold a part
        if not trainer.is_global_zero:
            return
        mine = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model, node = self._task.objective.kept(self._task.model, self.model, self.build)
        if model is not self._task.model:
            mine = model.state_dict()
        # A new layout per tensor: safetensors stores contiguous memory, channels_last weights are not.
        weights: dict[str, Tensor] = {k: v.cpu().contiguous() for k, v in mine.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_hashed(self.folder / "best.safetensors", save(weights))
        facts = {"epoch": self.epoch, "monitor": self.monitor, "value": self.value, "model": node}
        write_atomic(self.folder / "best.json", json.dumps(facts, indent=1).encode())
