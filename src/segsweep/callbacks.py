"""What happens beside training: the history file, pictures in TensorBoard, example files, the progress bar."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from segsweep.data.batches import EvalBatches
from segsweep.files import write_atomic
from segsweep.metrics import Counts, best_is, summarise
from segsweep.models.blocks import resize_to
from segsweep.pictures import Picture, photos, stack, strip
from segsweep.task import Task
from segsweep.types import Batch, DataSpec, SegmenterOutput

_NUM_PICTURES = 8
_SAMPLE_GRID = (4, 8)  # rows, columns
_SAMPLE_SEED = 0
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
        kept = [line for line in self.lines() if line["epoch"] < trainer.current_epoch]
        write_atomic(self.file, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the epoch's line."""
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


class ImagePanel(pl.Callback):
    """After each validation, image | truth | prediction | error of fixed validation images in TensorBoard.

    Models that reconstruct get a second panel, image | reconstruction of the same images.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the panels."""
        batches: EvalBatches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        task: Task = pl_module  # type: ignore[assignment]
        strips, pairs = [], []
        for position in fixed_positions(batches):
            batch, output = _segment(task, batches, position)
            strips.append(_strip(batch, output, task.spec))
            if output.reconstruction is not None:
                pair = torch.cat([batch.image, output.reconstruction.float()])
                pairs.append(photos(pair.cpu().numpy(), task.spec))
        _add_image(trainer, "val/image_truth_prediction_error", stack(strips))
        if pairs:
            _add_image(trainer, "val/image_reconstruction", stack(pairs))


class SamplePanel(pl.Callback):
    """After each validation, images that the model makes up, in TensorBoard; for models with a method ``sample``.

    The draws are the same each time, so that one can watch the same images become better.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the panel; training goes on with the random state that it left."""
        task: Task = pl_module  # type: ignore[assignment]
        sample: Callable[[int, tuple[int, int]], Tensor] | None = getattr(task.model, "sample", None)
        if sample is None:
            return
        size = trainer.datamodule.train_size  # type: ignore[attr-defined]
        devices = [task.device] if task.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode(), trainer.precision_plugin.forward_context():
            torch.manual_seed(_SAMPLE_SEED)
            rows = [sample(_SAMPLE_GRID[1], size).float().cpu().numpy() for _ in range(_SAMPLE_GRID[0])]
        _add_image(trainer, "val/samples", stack([photos(row, task.spec) for row in rows]))


def _add_image(trainer: pl.Trainer, tag: str, picture: Picture) -> None:
    logger: TensorBoardLogger = trainer.logger  # type: ignore[assignment]
    logger.experiment.add_image(tag, picture, trainer.global_step, dataformats="HWC")


def fixed_positions(batches: EvalBatches) -> list[int]:
    """Eight images spread evenly over a split: the same ones in every run."""
    num = len(batches.split.items)
    return sorted({round(i * (num - 1) / max(1, _NUM_PICTURES - 1)) for i in range(_NUM_PICTURES)})


def worst_positions(confusion_NKK: NDArray[np.integer], spec: DataSpec) -> list[int]:
    """The eight images with the lowest mean IoU over their own classes, worst first."""
    scores = np.array([summarise(Counts(matrix[None]), spec.class_names)["miou"] for matrix in confusion_NKK])
    ranked = np.argsort(np.where(np.isnan(scores), np.inf, scores), kind="stable")
    return [int(i) for i in ranked[:_NUM_PICTURES]]


def draw(task: Task, batches: EvalBatches, positions: list[int]) -> list[tuple[int, Picture]]:
    """One strip image | truth | prediction | error for each position; ``task`` is in evaluation mode."""
    return [(position, _strip(*_segment(task, batches, position), batches.spec)) for position in positions]


def _segment(task: Task, batches: EvalBatches, position: int) -> tuple[Batch, SegmenterOutput]:
    """One image of a split and what the model makes of it."""
    batch = batches.batch([position])
    with torch.inference_mode(), task.trainer.precision_plugin.forward_context():
        return batch, task.segment(batch.image)


def _strip(batch: Batch, output: SegmenterOutput, spec: DataSpec) -> Picture:
    logits = resize_to(output.logits.float(), batch.mask)
    image, truth, prediction = (x[0].cpu().numpy() for x in (batch.image, batch.mask, logits.argmax(dim=1)))
    return strip(image, truth, prediction, spec)


def write_examples(folder: Path, task: Task, batches: EvalBatches, worst: list[int]) -> None:
    """Writes ``fixed-<position>.png``, ``worst-<rank>-<position>.png``, eight of each."""
    folder.mkdir(exist_ok=True)
    for position, picture in draw(task, batches, fixed_positions(batches)):
        Image.fromarray(picture).save(folder / f"fixed-{position:05d}.png")
    for rank, (position, picture) in enumerate(draw(task, batches, worst), start=1):
        Image.fromarray(picture).save(folder / f"worst-{rank}-{position:05d}.png")


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
