"""The one LightningDataModule: a dataset's facts, its decoded store, and which masks may be used."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from segsweep.augment import Augment
from segsweep.data.eval_batches import EvalBatches
from segsweep.data.labelled import label_order
from segsweep.data.problems import DataError, Problem
from segsweep.data.source import Source
from segsweep.data.storage import Store, open_store
from segsweep.data.train_batches import TrainBatches
from segsweep.data.windows import Storage
from segsweep.hints import override, written
from segsweep.regime import Regime, Stage
from segsweep.rng import permutation
from segsweep.types import Batch, DataSpec

Side = Annotated[int, Gt(0)]
_MOST_PIXELS = 100_000_000  # of one decoded image, crop or tile: more would fill the memory long before a step


class DataModule(pl.LightningDataModule):
    """Opens a dataset and yields its batches.

    Args:
        source: where images and masks come from.
        augment: what is done to training images.
        regime: which images each stage trains on.
        class_names: one name per class.
        num_classes: their number, K; stated so that other config groups can refer to it.
        in_channels: 1 (grey) or 3 (RGB).
        ignore_index: mask value that is neither trained on nor scored.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        size: (H, W) in pixels to which images are decoded; None keeps each image's own. Predictions are scored at the
            mask's own size in any case.
        fit: ``stretch`` images to ``size``, or ``pad``: keep their aspect ratio and mirror what is missing, with an
            ignored mask.
        crop: (h, w) in pixels of the random crops to train on, or None for whole images.
        crop_balance: share of crops that hold a pixel drawn with a probability inverse to its class's share of pixels.
        tile: (h, w) in pixels of overlapping tiles by which images are scored, or None for whole images.
        tile_overlap: share of a tile that the next one covers again.
        batch_size: images per optimisation step, of all ranks together; also used in validation and test.
        labelled_fraction: share of the training masks that may be used; subsets of one seed are nested, and chosen so
            that each class has an image where possible.
        storage: where decoded images are kept, ``device`` or ``memory``; ``auto``: on the device if they fit into a
            quarter of its free memory.
        num_workers: threads that read ahead while images are not on the device; 0 reads in the step.
        allow_leak: whether the same picture may be in two splits.
        seed: of the run: order, augmentation and labelled subset follow from it.

    Attributes:
        pieces: into how many pieces every batch is divided, because memory did not suffice. Lightning counts pieces as
            batches; an epoch, a stage and an optimisation step are still made of whole batches.

    Raises:
        ValueError: the facts contradict each other.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        regime: Regime,
        class_names: tuple[str, ...],
        num_classes: int,
        in_channels: Annotated[int, Ge(1), Le(3)],
        ignore_index: Annotated[int, Ge(0), Le(255)],
        mean: tuple[float, ...],
        std: tuple[Annotated[float, Gt(0)], ...],
        size: tuple[Side, Side] | None,
        fit: Literal["stretch", "pad"],
        crop: tuple[Side, Side] | None,
        crop_balance: Annotated[float, Ge(0), Le(1)],
        tile: tuple[Side, Side] | None,
        tile_overlap: Annotated[float, Ge(0), Lt(0.9)],
        batch_size: Annotated[int, Gt(0)],
        labelled_fraction: Annotated[float, Gt(0), Le(1)],
        storage: Storage,
        num_workers: Annotated[int, Ge(0)],
        allow_leak: bool,
        seed: int,
    ) -> None:
        super().__init__()
        _check_facts(class_names, num_classes, in_channels, ignore_index, mean, std)
        _check_sizes(size, crop, tile)
        self.source, self.augment, self.regime = source, augment, regime
        self.spec = DataSpec(
            tuple(class_names),
            in_channels,
            ignore_index,
            tuple(mean),
            tuple(std),
            None if size is None else (size[0], size[1]),
            None if tile is None else (tile[0], tile[1]),
            tile_overlap,
        )
        self.fit = fit
        self.crop = None if crop is None else (crop[0], crop[1])
        self.crop_balance = crop_balance
        self.batch_size, self.labelled_fraction, self.seed = batch_size, labelled_fraction, seed
        self.storage, self.num_workers, self.allow_leak = storage, num_workers, allow_leak
        self.pieces = 1

    @cached_property
    def store(self) -> Store:
        """The decoded dataset; decodes it on first use.

        Raises:
            DataError: files cannot be used as declared, the same picture is in two splits, or sizes need a crop.
        """
        store = open_store(self.source, self.spec, self.fit)
        if store.leaks and not self.allow_leak:
            raise DataError(_leak(*pair) for pair in store.leaks)
        if self.spec.size is None and self.crop is None and store.splits["train"].size is None:
            sizes = np.unique(store.splits["train"].sizes, axis=0)
            what = f"has {len(sizes)} sizes of images, from {sizes[0].tolist()} to {sizes[-1].tolist()}"
            crop, size = override("data.crop", [256, 256]), override("data.size", [256, 256])
            fix = f"Train on crops ({crop}) or decode to one size ({size})"
            raise DataError([Problem("E-SIZE", "split train", what, fix)])
        return store

    @property
    def train_size(self) -> tuple[int, int]:
        """(h, w) in pixels of a training image: the crop, the size, or the images' own."""
        size = self.crop or self.spec.size or self.store.splits["train"].size
        if size is None:
            raise ValueError("images of different sizes need data.crop or data.size")
        return size

    def completes_batch(self, piece: int) -> bool:
        """Whether a piece, counted from the beginning of an epoch, is the last one of its batch."""
        return (piece + 1) % self.pieces == 0

    def weight(self, batch: Batch) -> float:
        """Of a piece's mean loss: 1 on average over the pieces of a batch, more for those with more images."""
        return (len(batch.image) - batch.num_unlabelled) * self.pieces / self.batch_size

    def stage_at(self, epoch: int, piece: int) -> Stage:
        """The stage that a piece of a training batch belongs to."""
        return list(self.regime.stages.values())[self.stage_index(epoch, piece)]

    def stage_index(self, epoch: int, piece: int) -> int:
        """Position in the regime of the stage that a piece of a training batch belongs to."""
        per_epoch, total = self._planned_batches()
        return self.regime.index_at(epoch * per_epoch + piece // self.pieces, total)

    def stage_bounds(self) -> list[tuple[int, int]]:
        """First piece and end of each stage, counted over all epochs."""
        bounds = self.regime.bounds(self._planned_batches()[1])
        return [(first * self.pieces, end * self.pieces) for first, end in bounds]

    def num_planned_batches(self) -> int:
        """Whole training batches of the whole training."""
        return self._planned_batches()[1]

    def _planned_batches(self) -> tuple[int, int]:
        """Whole training batches of an epoch and of the whole training."""
        per_epoch = -(-len(self.store.splits["train"].items) // self.batch_size)
        trainer = self.trainer
        if trainer is None or not trainer.max_epochs or trainer.max_epochs < 0:
            return per_epoch, per_epoch
        if trainer.num_training_batches != float("inf"):  # known once training begins; fewer if limited
            per_epoch = int(trainer.num_training_batches) // self.pieces
        total = trainer.max_epochs * per_epoch
        if trainer.max_steps >= 0:
            total = min(total, trainer.max_steps * trainer.accumulate_grad_batches // self.pieces)
        return per_epoch, total

    def train_dataloader(self) -> TrainBatches:
        """Augmented batches in a new order each epoch."""
        return TrainBatches(self, self._device())

    def still_train_batches(self) -> EvalBatches | None:
        """The training images in order, if every epoch shows them as they are: whole and not augmented."""
        is_still = self.crop is None and self.augment.is_identity and self.store.splits["train"].size is not None
        return EvalBatches(self, "train", self._device()) if is_still else None

    def train_as_is(self, only_labelled: bool) -> tuple[int, Iterator[Batch]]:
        """The training images in order, whole and not augmented, masks at native size.

        Args:
            only_labelled: those whose masks may be used; else all of them, and every mask is all ``ignore_index``.

        Returns:
            Their number and the batches.
        """
        labelled = self.labelled().tolist() if only_labelled else None
        batches = EvalBatches(self, "train", self._device(), labelled)
        if labelled is not None:
            return len(labelled), iter(batches)
        hidden = (batch._replace(mask=torch.full_like(batch.mask, self.spec.ignore_index)) for batch in batches)
        return len(batches.split.items), hidden

    def test_images(self, positions: list[int]) -> EvalBatches:
        """Some of the test images, masks at native size."""
        return EvalBatches(self, "test", self._device(), positions)

    def val_dataloader(self) -> EvalBatches:
        """Whole images in order, masks at native size; each rank its share of them."""
        return EvalBatches(self, "val", self._device(), is_shared=True)

    def test_dataloader(self) -> EvalBatches:
        """Whole images in order, masks at native size; each rank its share of them."""
        return EvalBatches(self, "test", self._device(), is_shared=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Batches are made where they are needed."""
        return batch

    def labelled(self) -> Tensor:
        """Positions of the training images whose masks may be used: (n,) int64, at least one."""
        split = self.store.splits["train"]
        masked = torch.from_numpy(np.flatnonzero(split.has_label))
        order = masked[permutation(len(masked), self.seed, "labelled")].numpy()
        num = max(1, round(len(masked) * self.labelled_fraction))
        return torch.from_numpy(label_order(split.counts[:, :-1] > 0, order, num))

    def class_counts(self) -> Tensor:
        """Pixels of each class in each image of ``labelled``, at the masks' own size, ignored ones left out: (n, K)."""
        return torch.from_numpy(self.store.splits["train"].counts[self.labelled().numpy(), :-1])

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")


def _leak(first: str, second: str) -> Problem:
    fix = "Leave one out with data.exclude, keep both in one split with data.group_by, or set data.allow_leak=true"
    return Problem("E-LEAK", first, f"is the same picture as {second}", fix)


def _check_facts(
    class_names: tuple[str, ...],
    num_classes: int,
    in_channels: int,
    ignore_index: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            f"data.num_classes={num_classes} but data.class_names has {len(set(class_names))} different names"
        )
    if "ignore" in class_names:
        raise ValueError(
            "data.class_names: 'ignore' means ignored pixels in label_map and palette; name the class else"
        )
    if ignore_index < num_classes:
        raise ValueError(
            f"data.ignore_index={ignore_index} is the class '{class_names[ignore_index]}', which would vanish; "
            f"choose a value from {num_classes} to 255"
        )
    if in_channels == 2:
        raise ValueError("data.in_channels=2; images are read as grey (1) or RGB (3)")
    if not len(mean) == len(std) == in_channels:
        raise ValueError(f"data.mean and data.std need data.in_channels={in_channels} values each")


def _check_sizes(size: tuple[int, int] | None, crop: tuple[int, int] | None, tile: tuple[int, int] | None) -> None:
    for key, sides in (("size", size), ("crop", crop), ("tile", tile)):
        if sides and sides[0] * sides[1] > _MOST_PIXELS:
            raise ValueError(
                f"data.{key}={written(sides)} has {sides[0] * sides[1] / 1e6:,.0f} million pixels, the limit is "
                f"{_MOST_PIXELS / 1e6:,.0f}; train on crops of a few hundred pixels a side (data.size=null, data.crop)"
            )
    if crop and size and (crop[0] > size[0] or crop[1] > size[1]):
        raise ValueError(f"data.crop={written(crop)} is larger than data.size={written(size)}; make the crop smaller")
