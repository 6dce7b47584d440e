"""Pictures of a run: panels in TensorBoard after each validation, example files at the end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from segsweep.confusion import confusion_picture
from segsweep.data.eval_batches import EvalBatches
from segsweep.metrics import Counts, summarise
from segsweep.models.blocks import resize_to
from segsweep.pictures import Picture, photos, show, stack, strip, with_legend, write_png
from segsweep.task import Task
from segsweep.types import Batch, DataSpec, SegmenterOutput

_NUM_PICTURES = 8
_COLUMNS = ("image", "truth", "prediction", "overlay", "error")
_SAMPLE_GRID = (4, 8)  # rows, columns
_SAMPLE_SEED = 0
_NUM_BETWEEN = 8  # images on the way from one to another, ends included


class ImagePanel(pl.Callback):
    """After a validation, image | truth | prediction | overlay | error of fixed validation images in TensorBoard.

    Models that reconstruct get a second panel, image | reconstruction of the same images.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the panels."""
        batches: EvalBatches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        task: Task = pl_module  # type: ignore[assignment]
        strips, pairs = [], []
        for position in fixed_positions(batches):
            batch, output = _segment(task, batches, position)
            strips.append(_strip(batch, output, task.spec, with_overlay=True))
            if output.reconstruction is not None:
                pair = torch.cat([batch.image, output.reconstruction.float()])
                pairs.append(photos(pair.cpu().numpy(), task.spec))
        add_image(trainer, "val/predictions", with_legend(stack(strips), _COLUMNS, task.spec))
        if pairs:
            add_image(trainer, "val/image_reconstruction", stack(pairs))


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
        add_image(trainer, "val/samples", stack([photos(row, task.spec) for row in rows]))


class InterpolationPanel(pl.Callback):
    """After each validation, the way from one image to another through the latent; for models with ``interpolate``.

    Each row is a pair of fixed validation images: the first, its reconstruction, what lies between, the reconstruction
    of the second, the second.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the panel."""
        task: Task = pl_module  # type: ignore[assignment]
        interpolate: Callable[[Tensor, Tensor, int], Tensor] | None = getattr(task.model, "interpolate", None)
        batches: EvalBatches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        positions = fixed_positions(batches)
        if interpolate is None or len(positions) < 2:
            return
        rows = []
        for pair in zip(positions[::2], positions[1::2], strict=False):
            first, second = (batches.batch([position]).image for position in pair)
            second = resize_to(second, first)
            with torch.inference_mode(), trainer.precision_plugin.forward_context():
                between = interpolate(first, second, _NUM_BETWEEN)[0].float()
            rows.append(photos(torch.cat([first, between, second]).cpu().numpy(), task.spec))
        add_image(trainer, "val/interpolations", stack(rows))


class Gallery(pl.Callback):
    """Has panels drawn every few epochs and in the last one, and the confusion matrix of the validation beside them.

    Args:
        panels: to draw.
        every: epochs; 0: never.
    """

    def __init__(self, panels: list[pl.Callback], every: int) -> None:
        self.panels, self.every = panels, every

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the panels, if it is their time."""
        if self._is_due(trainer):
            for panel in self.panels:
                panel.on_validation_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the confusion matrix, which is complete only now."""
        task: Task = pl_module  # type: ignore[assignment]
        if self._is_due(trainer) and task.val_confusion is not None:
            add_image(trainer, "val/confusion", confusion_picture(task.val_confusion, task.spec.class_names))

    def _is_due(self, trainer: pl.Trainer) -> bool:
        epochs = trainer.current_epoch + 1
        return self.every > 0 and (epochs % self.every == 0 or epochs == trainer.max_epochs)


def all_panels() -> list[pl.Callback]:
    """Every panel; each decides by the model whether it has something to show."""
    return [ImagePanel(), SamplePanel(), InterpolationPanel()]


def add_image(trainer: pl.Trainer, tag: str, picture: Picture) -> None:
    """Shows a picture (H, W, 3) in TensorBoard's Images tab, at the step at which the validation's metrics stand.

    That is before the step of the checkpoint that follows: a run that is continued from there hides what is later.
    """
    logger: TensorBoardLogger = trainer.logger  # type: ignore[assignment]
    task: Task = trainer.lightning_module  # type: ignore[assignment]
    show(logger.experiment, tag, picture, task.logged_step)


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


def _strip(batch: Batch, output: SegmenterOutput, spec: DataSpec, with_overlay: bool = False) -> Picture:
    logits = resize_to(output.logits.float(), batch.mask)
    image, truth, prediction = (x[0].cpu().numpy() for x in (batch.image, batch.mask, logits.argmax(dim=1)))
    return strip(image, truth, prediction, spec, with_overlay)


def write_examples(folder: Path, task: Task, batches: EvalBatches, worst: list[int]) -> None:
    """Writes ``fixed-<position>.png``, ``worst-<rank>-<position>.png``, eight of each."""
    folder.mkdir(exist_ok=True)
    for position, picture in draw(task, batches, fixed_positions(batches)):
        write_png(picture, folder / f"fixed-{position:05d}.png")
    for rank, (position, picture) in enumerate(draw(task, batches, worst), start=1):
        write_png(picture, folder / f"worst-{rank}-{position:05d}.png")
