"""What happens beside training: TensorBoard's events and table, the history file, early stopping, the progress bar."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from segsweep.files import write_atomic
from segsweep.metrics import best_is

_TABLE_GROUPS = ("model", "loss", "data", "augment", "optimizer", "scheduler", "regime")
_TABLE_METRICS = ("test/miou", "test/miou_image", "test/dice", "test/pixel_accuracy", "val/miou")


class RunLogger(TensorBoardLogger):
    """TensorBoard events in the run folder itself, and nothing else there."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        # purge_step: a continued run hides what an interrupted one logged from there on, so curves do not double.
        super().__init__(folder, name="", version="", default_hp_metric=False, purge_step=purge_step)

    def save(self) -> None:
        """Flushes the events; Lightning would also write an hparams.yaml that repeats the record."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Flushes the events; Lightning would close the file after training and open another one for the test."""
        self.experiment.flush()


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


class LastStageStopping(EarlyStopping):
    """Early stopping that looks at the epochs of the regime's last stage alone."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the metric, if the last stage has begun."""
        if pl_module.is_last_stage:
            super().on_train_epoch_end(trainer, pl_module)


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


def progress_bar() -> list[RichProgressBar]:
    """Lightning's rich progress bar if somebody is looking at a terminal."""
    return [RichProgressBar()] if sys.stdout.isatty() else []


def log_table_row(logger: TensorBoardLogger, record: dict[str, Any], step: int) -> None:
    """Writes a run's row of the HParams table, once and with its final results.

    The keys are the same in every run: a key that one run alone has would vanish from TensorBoard's table, and an empty
    cell would turn a column of numbers into text.
    """
    config, metrics = record["config"], record["metrics"]
    choices = {group: record["choices"].get(group, "none") for group in _TABLE_GROUPS}
    numbers = {
        "seed": record["seed"],
        "lr": config["optimizer"].get("lr", float("nan")),
        "batch_size": config["data"]["batch_size"],
        "max_epochs": config["trainer"]["max_epochs"] or 0,
        "parameters": record["parameters"],
    }
    words = {"family": str(record["family"]), "precision": record["precision"]}
    results = {
        f"hparams/{name.replace('/', '_')}": metrics[name] for name in _TABLE_METRICS if metrics.get(name) is not None
    }
    results["hparams/train_images_per_s"] = record["images_per_s"]["train"]
    logger.log_hyperparams({**choices, **words, **numbers}, results, step)
