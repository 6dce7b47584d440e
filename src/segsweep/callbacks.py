"""What happens beside training: TensorBoard's events, the history file, early stopping, the progress bar."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from segsweep import signals
from segsweep.cost import peak_memory_mb
from segsweep.files import write_atomic
from segsweep.metrics import best_is

_SECONDS_BETWEEN_DRAWINGS = 0.5


class RunLogger(TensorBoardLogger):
    """TensorBoard events in the run folder itself, and nothing else there."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        if purge_step is not None:
            _wait_for_a_later_name(folder)
        # purge_step: a continued run hides what an interrupted one logged from there on, so curves do not double.
        super().__init__(folder, name="", version="", default_hp_metric=False, purge_step=purge_step)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Writes an epoch's points at once: a killed run has those of all epochs that it has checkpoints of."""
        # Training, validation and test each come with the epoch: one point of it is enough.
        is_training = any(key.startswith("train/") for key in metrics)
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch" or is_training}, step)
        self.experiment.flush()

    def save(self) -> None:
        """Flushes the events; Lightning would also write an hparams.yaml that repeats the record."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Flushes the events; Lightning would close the file after training and open another one for the test."""
        self.experiment.flush()


def _wait_for_a_later_name(folder: Path) -> None:
    """Until the second of the newest file of events is over.

    TensorBoard reads files by name: a second, then numbers as text. One of the same second that sorts before what it
    follows would be purged by it.
    """
    seconds = (file.name.split(".")[3] for file in folder.glob("events.out.tfevents.*"))
    newest = max((int(second) for second in seconds if second.isdigit()), default=0)
    time.sleep(min(max(0.0, newest + 1 - time.time()), 2.0))  # a clock may have been set back


class MemoryCurve(pl.Callback):
    """After each epoch, the peak of memory so far in TensorBoard: of the process, and of the device if there is one.

    Not in the history, which is the same each time that a run is repeated.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the points where the epoch's metrics stand."""
        if not trainer.is_global_zero or trainer.logger is None:
            return
        peak = {name: value for name, value in peak_memory_mb().items() if name in ("host", "device")}
        task: Any = pl_module
        trainer.logger.log_metrics({f"memory/{name}_mb": mb for name, mb in peak.items()}, task.logged_step)


class History(Checkpoint):
    """Appends one flushed line per epoch to ``metrics.jsonl``: ``epoch``, ``step`` and every metric.

    A ``Checkpoint`` in Lightning's sense, because only those see what the module logs at the end of an epoch.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.is_validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that this epoch has validation metrics of its own; Lightning keeps those of earlier epochs."""
        self.is_validated = True

    def state_dict(self) -> dict[str, Any]:
        """What a run that is continued within an epoch needs to know."""
        return {"is_validated": self.is_validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up."""
        self.is_validated = state_dict["is_validated"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drops what an interrupted run wrote after the checkpoint that is being continued."""
        if not trainer.is_global_zero:
            return
        kept = [line for line in self.lines() if line["epoch"] < trainer.current_epoch]
        write_atomic(self.file, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the epoch's line; of several ranks, the first does."""
        if not trainer.is_global_zero:
            return
        values = {k: round(float(v), 6) for k, v in trainer.callback_metrics.items() if k not in ("epoch", "step")}
        fresh = {k: v for k, v in values.items() if self.is_validated or not k.startswith("val/")}
        self.is_validated = False
        finite = {k: v if np.isfinite(v) else None for k, v in fresh.items()}
        line = {"epoch": trainer.current_epoch, "step": trainer.global_step, **finite}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines so far; a line torn by a kill is left out."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]


class SignalStop(Checkpoint):
    """Ends a run at SIGTERM or SIGINT: after the running optimisation step, in a validation or test after its batch.

    A ``Checkpoint`` in Lightning's sense, and the last of them, so that what is to be saved at a step is saved.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has put its own handler before ours."""
        signals.install()

    on_test_start = on_train_start

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops, unless gradients wait for other batches of their step; from here on a signal has to wait."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            signals.check()
        signals.set_in_step(True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is over."""
        signals.set_in_step(False)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The step has failed."""
        signals.set_in_step(False)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stops, if the signal came in the last step of training."""
        signals.check()

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stops, if what the signal raised was swallowed."""
        signals.check()


class LastStageStopping(EarlyStopping):
    """Early stopping that looks at the epochs of the regime's last stage alone."""

    is_over = False  # whether it has ended the training: a continued run must not go on

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the metric, if the last stage has begun and the epoch has the metric."""
        if pl_module.is_last_stage and (pl_module.is_validated or not self.monitor.startswith("val/")):
            super().on_train_epoch_end(trainer, pl_module)
            self.is_over = trainer.should_stop

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and whether training is over."""
        return {**super().state_dict(), "is_over": self.is_over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up."""
        super().load_state_dict(state_dict)
        self.is_over = state_dict.get("is_over", False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Has Lightning train no further epoch, if training is over."""
        trainer.should_stop = trainer.should_stop or self.is_over


def early_stopping(monitor: str, patience: int | None, threshold: float | None) -> list[EarlyStopping]:
    """Stops after ``patience`` epochs without a better value, or as soon as ``threshold`` is reached; None: never."""
    if patience is None and threshold is None:
        return []
    never = 2**31
    return [
        LastStageStopping(
            monitor,
            mode=best_is(monitor),
            patience=never if patience is None else patience,
            stopping_threshold=threshold,
            check_on_train_epoch_end=True,
            strict=True,
        )
    ]


class ProgressBar(RichProgressBar):
    """Lightning's, drawn twice a second at most: drawing takes longer than many a step."""

    _drawn = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws, if it is time."""
        if self._is_due(trainer.is_last_batch):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Draws, if it is time."""
        if self._is_due(is_last=False):
            super().on_validation_batch_end(trainer, pl_module, *batch)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        """Draws, if it is time."""
        if self._is_due(is_last=False):
            super().on_test_batch_end(trainer, pl_module, *batch)

    def _is_due(self, is_last: bool) -> bool:
        now = time.monotonic()
        if not is_last and now - self._drawn < _SECONDS_BETWEEN_DRAWINGS:
            return False
        self._drawn = now
        return True


def progress_bar() -> list[RichProgressBar]:
    """A bar if somebody is looking at a terminal."""
    # How often a thread looks whether to draw: 100 times a second by default, and threads that compute wait for it.
    rate = round(1 / _SECONDS_BETWEEN_DRAWINGS)
    return [ProgressBar(refresh_rate=rate)] if sys.stdout.isatty() else []
