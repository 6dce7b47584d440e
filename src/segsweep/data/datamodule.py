"""The one LightningDataModule: batches gathered from the decoded store and augmented on the training device."""

import logging
from collections.abc import Iterator
from typing import Annotated

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from segsweep.augment import Augment
from segsweep.data.storage import Source, Split, Store, open_store
from segsweep.regime import Regime
from segsweep.rng import mix, permutation, uniform
from segsweep.types import Batch, DataSpec

log = logging.getLogger(__name__)

_DEVICE_SHARE = 0.25  # of free device memory that the data may take


class DataModule(pl.LightningDataModule):
    """Opens a dataset and yields its batches.

    Args:
        source: where images and masks come from.
        augment: what is done to training images.
        regime: which images each stage trains on.
        root: folder of the dataset, for sources that read files; only they use it.
        class_names: one name per class.
        num_classes: their number, K; stated so that other config groups can refer to it.
        in_channels: 1 (grey) or 3 (RGB).
        ignore_index: mask value that is neither trained on nor scored.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        size: (H, W) in pixels to which images are decoded; predictions are scored at the mask's own size.
        crop: (h, w) in pixels of the random crops to train on, or None for whole images.
        batch_size: images per optimisation step; also used in validation and test.
        labelled_fraction: share of training images whose masks may be used; subsets of one seed are nested.
        seed: of the run: order, augmentation and labelled subset follow from it.

    Raises:
        ValueError: the facts contradict each other.
    """

    def __init__(
        self,
        source: Source,
        augment: Augment,
        regime: Regime,
        root: str | None,
        class_names: tuple[str, ...],
        num_classes: int,
        in_channels: Annotated[int, Ge(1), Le(3)],
        ignore_index: Annotated[int, Ge(0), Le(255)],
        mean: tuple[float, ...],
        std: tuple[Annotated[float, Gt(0)], ...],
        size: tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]],
        crop: tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]] | None,
        batch_size: Annotated[int, Gt(0)],
        labelled_fraction: Annotated[float, Gt(0), Le(1)],
        seed: int,
    ) -> None:
        super().__init__()
        _check_facts(class_names, num_classes, in_channels, mean, std, size, crop)
        self.source, self.augment, self.regime, self.root = source, augment, regime, root
        self.spec = DataSpec(tuple(class_names), in_channels, ignore_index, tuple(mean), tuple(std), (size[0], size[1]))
        self.crop = None if crop is None else (crop[0], crop[1])
        self.batch_size, self.labelled_fraction, self.seed = batch_size, labelled_fraction, seed
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The decoded dataset; decodes it on first use."""
        if self._store is None:
            self._store = open_store(self.source, self.spec)
        return self._store

    def train_dataloader(self) -> "TrainBatches":
        """Augmented batches in a new order each epoch."""
        return TrainBatches(self, self._device())

    def val_dataloader(self) -> "EvalBatches":
        """Whole images in order, masks at native size."""
        return EvalBatches(self.store.splits["val"], self.spec, self.batch_size, self._device())

    def test_dataloader(self) -> "EvalBatches":
        """Whole images in order, masks at native size."""
        return EvalBatches(self.store.splits["test"], self.spec, self.batch_size, self._device())

    def labelled(self) -> Tensor:
        """Positions of the training images whose masks may be used: (n,) int64, at least one."""
        num = len(self.store.splits["train"].items)
        return permutation(num, self.seed, "labelled")[: max(1, round(num * self.labelled_fraction))]

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")


class TrainBatches:
    """The training batches of one epoch after another; Lightning tells it the epoch through ``sampler.set_epoch``.

    An epoch has ceil(all training images / batch size) batches of equal size: the last one is filled up from the next
    order, so that no batch is too small for batch normalisation.
    """

    def __init__(self, data: DataModule, device: torch.device) -> None:
        split = data.store.splits["train"]
        self.data, self.device = data, device
        self.images, self.masks = _resident(split, device)
        self.labelled = data.labelled()
        self.sampler = self  # Lightning calls loader.sampler.set_epoch(epoch)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.images) // self.data.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.data.trainer
        epochs = trainer.max_epochs if trainer and trainer.max_epochs and trainer.max_epochs > 0 else 1
        order = {images: self._order(images) for images in ("labelled", "all")}
        hidden = torch.ones(len(self.images), dtype=torch.bool)
        hidden[self.labelled] = False
        for step in range(len(self)):
            stage = self.data.regime.stage_at(self.epoch * len(self) + step, epochs * len(self))
            index = order[stage.images][step * self.data.batch_size : (step + 1) * self.data.batch_size]
            yield self._batch(index, hidden[index])

    def _order(self, images: str) -> Tensor:
        """Positions of all images of this epoch, pass after pass: (len(self) * batch_size,) int64."""
        pool = self.labelled if images == "labelled" else torch.arange(len(self.images))
        needed = len(self) * self.data.batch_size
        passes = [
            pool[permutation(len(pool), self.data.seed, "order", self.epoch, i)] for i in range(-(-needed // len(pool)))
        ]
        return torch.cat(passes)[:needed]

    def _batch(self, index: Tensor, hidden: Tensor) -> Batch:
        spec, augment = self.data.spec, self.data.augment
        images, masks = _gather(self.images, index, self.device), _gather(self.masks, index, self.device)
        index = index.to(self.device)
        draws = uniform(mix(self.data.seed, "augment", self.epoch), index, augment.num_draws)
        image, mask = augment(images, masks, draws, self.data.crop, spec.ignore_index)
        if hidden.any():
            mask[hidden.to(self.device)] = spec.ignore_index
        return Batch(standardise(image, spec), mask, index)


class EvalBatches:
    """The batches of a split for validation and test.

    Images whose masks have the same native size share a batch, so that ``mask`` is one tensor.
    """

    def __init__(self, split: Split, spec: DataSpec, batch_size: int, device: torch.device) -> None:
        self.split, self.spec, self.device = split, spec, device
        self.images, _ = _resident(split, device)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for position, shape in enumerate(split.shapes.tolist()):
            by_size.setdefault(tuple(shape), []).append(position)
        self.batches = [
            positions[i : i + batch_size]
            for positions in by_size.values()
            for i in range(0, len(positions), batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for positions in self.batches:
            yield self.batch(positions)

    def batch(self, positions: list[int]) -> Batch:
        """The images at these positions, whose masks have one native size."""
        index = torch.tensor(positions)
        image = _gather(self.images, index, self.device).permute(0, 3, 1, 2).float().div_(255)
        masks = torch.stack([torch.from_numpy(self.split.native_mask(i)) for i in positions])
        return Batch(standardise(image, self.spec), masks.to(self.device).long(), index.to(self.device))


def standardise(image: Tensor, spec: DataSpec) -> Tensor:
    """(N, C, H, W) from intensities in 0..1 to the mean 0 and standard deviation 1 of the data's statistics."""
    mean, std = (torch.tensor(values, device=image.device).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return (image - mean) / std


def _resident(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and masks as tensors: on the device if a quarter of its free memory holds them, else memory-mapped."""
    images, masks = torch.from_numpy(split.images), torch.from_numpy(split.masks)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.nbytes + masks.nbytes <= _DEVICE_SHARE * free:
            return images.to(device), masks.to(device)
        log.info("the data takes more than a quarter of free device memory: it stays memory-mapped")
    return images, masks


def _gather(array: Tensor, index: Tensor, device: torch.device) -> Tensor:
    return array[index.to(array.device)].to(device, non_blocking=True)


def _check_facts(
    class_names: tuple[str, ...],
    num_classes: int,
    in_channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: tuple[int, int],
    crop: tuple[int, int] | None,
) -> None:
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            f"data.num_classes={num_classes} but data.class_names has {len(set(class_names))} different names"
        )
    if in_channels == 2:
        raise ValueError("data.in_channels=2; images are read as grey (1) or RGB (3)")
    if not len(mean) == len(std) == in_channels:
        raise ValueError(f"data.mean and data.std need data.in_channels={in_channels} values each")
    if crop and (crop[0] > size[0] or crop[1] > size[1]):
        raise ValueError(f"data.crop={list(crop)} is larger than data.size={list(size)}; make the crop smaller")
