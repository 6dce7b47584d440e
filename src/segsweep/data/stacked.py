"""The batches of several runs that are trained as one: the same images, in the order of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytorch_lightning as pl
import torch

from segsweep.data.datamodule import DataModule
from segsweep.data.eval_batches import EvalBatches
from segsweep.data.train_batches import TrainBatches, beside
from segsweep.types import Batch


class StackedData(pl.LightningDataModule):
    """The data of runs that differ in nothing but the seed, over one store.

    Args:
        members: of each run; they stay usable by themselves.
    """

    pieces = 1

    def __init__(self, members: Sequence[DataModule]) -> None:
        super().__init__()
        self.members = list(members)

    def train_dataloader(self) -> StackedBatches:
        """Batches of all runs beside each other."""
        for member in self.members:
            member.trainer = self.trainer
        return StackedBatches([member.train_dataloader() for member in self.members])

    def val_dataloader(self) -> EvalBatches:
        """Whole images in order, the same for all."""
        return self.members[0].val_dataloader()

    def num_planned_batches(self) -> int:
        """Training batches of the whole training."""
        return self.members[0].num_planned_batches()

    def stage_index(self, epoch: int, piece: int) -> int:
        """Always the only stage there is."""
        return 0


class StackedBatches:
    """Yields batches of S * N images: the batches that S runs would train on alone, the first run's first.

    Args:
        members: of each run; all have images of one size.
    """

    def __init__(self, members: Sequence[TrainBatches]) -> None:
        self.members = list(members)
        self.sampler = self  # Lightning calls loader.sampler.set_epoch(epoch)
        for member in self.members[1:]:
            member.windows = self.members[0].windows  # on a device the pixels are there once

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields."""
        for member in self.members:
            member.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.members[0])

    def __iter__(self) -> Iterator[Batch]:
        for gathered in zip(*(member.gathered() for member in self.members), strict=True):
            together = beside(gathered)
            if together is not None:  # what is drawn for an image is its own, so all are augmented at once
                yield self.members[0].finished(*together)
                continue
            batches = [member.finished(*own) for member, own in zip(self.members, gathered, strict=True)]
            image, mask, index = (torch.cat(tensors) for tensors in list(zip(*batches, strict=True))[:3])
            yield Batch(image, mask, index)
