"""Panels in TensorBoard of labels that training makes up: a teacher's pseudo-labels, generated pairs."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from segsweep.objectives import Generate, MeanTeacher, SegmentSynthetic
from segsweep.objectives.synthetic import decoded_pairs
from segsweep.pictures import Picture, row, show, stack
from segsweep.task import Task
from segsweep.types import Batch

_NUM_ROWS = 8
_HALFWAY = _UNDECIDED = 0.5  # while the generator is trained: place between two codes, and least probability of a class


class LabelPanel(pl.Callback):
    """After each validation, what a training stage takes for truth although nobody labelled it.

    A mean teacher: unlabelled training images | their pseudo-labels, grey where the teacher is not sure. A generator:
    two real pairs and, between them, the pair from between their codes: from halfway, or as far from the first as the
    stage goes. All are of the first batch of the stage, augmented as it was: one watches the same images over time.
    """

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._stage = -1  # that the batch belongs to

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the panel, if the stage has one; no random number is drawn."""
        task: Task = pl_module  # type: ignore[assignment]
        objective = task.objective
        if not isinstance(objective, (MeanTeacher, Generate, SegmentSynthetic)):
            return
        batch = self._first_batch(trainer, task)
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            if isinstance(objective, MeanTeacher):
                tag, strips = "train/image_pseudo_label", _pseudo_labels(objective, batch, task)
            else:
                tag, strips = "train/pair_generated_pair", _between(objective, batch, task)
        if strips:
            logger: Any = trainer.logger
            show(logger.experiment, tag, stack(strips), task.logged_step)

    def _first_batch(self, trainer: pl.Trainer, task: Task) -> Batch:
        if self._batch is None or self._stage != task.stage_index:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            first, _ = data.stage_bounds()[task.stage_index]
            epoch, step = divmod(first, int(trainer.num_training_batches))
            batches = data.train_dataloader()
            batches.set_epoch(epoch)
            self._batch, self._stage = next(islice(batches, step, None)), task.stage_index
        return self._batch


def _pseudo_labels(objective: MeanTeacher, batch: Batch, task: Task) -> list[Picture]:
    """One row image | pseudo-label for each of the images without a label."""
    _, unlabelled = batch.divide()
    if unlabelled is None:
        return []
    image = unlabelled.image[:_NUM_ROWS]
    pairs = zip(*map(_numpy, (image, objective.pseudo_labels(image))), strict=True)
    return [row(photo, [label], task.spec) for photo, label in pairs]


def _between(objective: Generate | SegmentSynthetic, batch: Batch, task: Task) -> list[Picture]:
    """One row for each pair: itself | one made up from it | the pair that this one moves towards."""
    generator, spec = objective.generator.eval(), task.spec
    place, threshold = _HALFWAY, _UNDECIDED
    if isinstance(objective, SegmentSynthetic):
        place, threshold = objective.reach, objective.threshold
    real = (batch.image[:_NUM_ROWS], batch.mask[:_NUM_ROWS])
    code = generator.posterior(*real)[0]
    middle = decoded_pairs(generator, code.lerp(code.roll(1, dims=0), place), real[0], threshold, spec.ignore_index)
    others = [values.roll(1, dims=0) for values in real]
    rows = zip(*map(_numpy, (*real, *middle, *others)), strict=True)
    return [np.concatenate([row(r[i], [r[i + 1]], spec) for i in (0, 2, 4)], axis=1) for r in rows]


def _numpy(values: Tensor) -> Any:
    return values.cpu().numpy()
