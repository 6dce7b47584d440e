"""Batches of whole images for validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from segsweep.data.ahead import locked, map_ahead, sent
from segsweep.data.pixels import to_input
from segsweep.data.windows import Windows
from segsweep.sharing import rank, world_size
from segsweep.types import Batch

if TYPE_CHECKING:
    from segsweep.data.datamodule import DataModule


class EvalBatches:
    """The batches of a split for validation and test, whole images, without augmentation.

    Images that have one size and whose masks have one native size share a batch, so that each field is one tensor.

    Args:
        data: the dataset.
        name: of the split.
        device: where the batches are made.
        only: positions of the images to yield; None: all of them.
        is_shared: whether ranks that train together divide the batches, of ``batch_size`` images on all of them. One
            that the last batch is not for yields an empty one, so that all have equal numbers.
    """

    def __init__(
        self,
        data: DataModule,
        name: str,
        device: torch.device,
        only: Iterable[int] | None = None,
        is_shared: bool = False,
    ) -> None:
        self.split, self.spec, self.device = data.store.splits[name], data.spec, device
        self.windows = Windows(self.split, device, data.storage)
        self.num_workers = data.num_workers
        # Tiles are batched among themselves, so one large image at a time.
        first, step = (rank(), world_size()) if is_shared else (0, 1)
        batch_size = 1 if data.spec.tile else -(-data.batch_size // (data.pieces * step))
        chosen = None if only is None else set(only)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for position, sizes in enumerate(np.concatenate([self.split.sizes, self.split.shapes], axis=1).tolist()):
            if chosen is None or position in chosen:
                by_size.setdefault(tuple(sizes), []).append(position)
        batches = [
            positions[i : i + batch_size]
            for positions in by_size.values()
            for i in range(0, len(positions), batch_size)
        ]
        mine = batches[first::step]
        self.batches = mine + [[]] * (-(-len(batches) // step) - len(mine))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        yield from map_ahead(self.batch, self.batches, 0 if self.windows.is_resident else self.num_workers)

    def batch(self, positions: list[int]) -> Batch:
        """The images at these positions, which have one size, as have their native masks; none without positions."""
        if not positions:
            none = torch.zeros(0, dtype=torch.int64, device=self.device)
            return Batch(
                none.new_zeros((0, self.spec.in_channels, 1, 1), dtype=torch.float32), none[:, None, None], none
            )
        starts, (height, width) = self.split.starts, self.split.sizes[positions[0]].tolist()
        pixels = [self.windows.images[starts[i] : starts[i] + height * width] for i in positions]
        native = torch.stack([torch.from_numpy(self.split.native_mask(i)) for i in positions])
        columns = (torch.stack(pixels), native, torch.tensor(positions))
        images, masks, index = (sent(locked(x, self.device), self.device) for x in columns)
        return Batch(to_input(images.view(len(positions), height, width, -1), self.spec), masks.long(), index)
