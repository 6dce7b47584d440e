"""Means of loss terms over the images of an epoch, collected without making the host wait for the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from segsweep.sharing import gather

Sums = dict[str, tuple[float, int]]  # of each term: the sum over images, and the number of them

_MOST_PENDING = 512  # scalars of a term that are kept before they are summed up


class TermMeans:
    """Takes the terms of one batch after another.

    A batch costs no operation on the device: its scalars are kept as they are, and summed up every 512 batches and
    where somebody asks.

    Args:
        sums: of the batches before, where an epoch is continued within.
        images: that they were of.

    Attributes:
        images: all that were added, of whatever terms.
    """

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None, images: int = 0) -> None:
        self.images = images
        self._sums: dict[str, tuple[Tensor | float, int]] = dict(sums or {})
        self._pending: dict[str, tuple[list[Tensor], list[int]]] = {}

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Adds a batch: the mean of each term over its images, scalars without a gradient."""
        self.images += images
        for name, value in terms.items():
            kept = self._pending.get(name)
            if kept is None:
                kept = self._pending[name] = [], []
            kept[0].append(value)
            kept[1].append(images)
            if len(kept[0]) == _MOST_PENDING:
                self._sum_up(name)

    def sums(self) -> Sums:
        """What the means are made of; the host waits for the device."""
        for name in list(self._pending):
            self._sum_up(name)
        return {name: (float(total), images) for name, (total, images) in self._sums.items()}

    def of_all_ranks(self) -> dict[str, float]:
        """Mean of each term over the images of those batches that had it; every rank has to call it."""
        together: Sums = {}
        for part in gather(self.sums()):
            for name, (total, images) in part.items():
                so_far = together.get(name, (0.0, 0))
                together[name] = so_far[0] + total, so_far[1] + images
        return {name: total / images for name, (total, images) in together.items()}

    def _sum_up(self, name: str) -> None:
        values, images = self._pending.pop(name)
        weights = torch.tensor(images, dtype=torch.float64).to(values[0].device, non_blocking=True)
        total, num = self._sums.get(name, (0.0, 0))
        self._sums[name] = total + torch.stack(values).detach().double() @ weights, num + sum(images)
