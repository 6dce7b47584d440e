"""Counts of a split, collected batch by batch on the device: what the metrics follow from.

Where a CPU has enough to count, compiled loops do it (``segsweep.kernels``), to the same counts.
"""

from itertools import groupby

import torch
from torch import Tensor
from torchmetrics import Metric

from segsweep.counting import (
    NUM_BINS,
    best_class,
    boundary_per_image,
    calibration_per_image,
    confusion_per_image,
    pooled_confusion,
    squared_tolerance,
)
from segsweep.kernels import boundaries, tiles
from segsweep.kernels.boundaries import boundaries_of
from segsweep.kernels.confusion import confusion_of
from segsweep.kernels.scores import scores_of
from segsweep.metrics import Counts
from segsweep.sharing import gather, gather_rows

_MOST_WAITING = 1 << 18  # values of logits that are kept to be counted together
_MOST_BATCHES = 64


class Confusion:
    """Pools the confusion matrices of all images on the device: all that is kept of training.

    Not a torchmetrics ``Metric``, whose ``update`` takes longer than the counting where steps are short.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._matrix: Tensor | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._num_waiting = 0  # values

    def update(self, logits: Tensor, mask: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: (N, K, H, W) at the size of the mask, K at most 256.
            mask: (N, H, W) int64 in 0..255; what is K or more is left out.
        """
        logits = logits.detach()
        self._num_waiting += logits.numel()
        if self._num_waiting < _MOST_WAITING and len(self._waiting) < _MOST_BATCHES:
            # Copies: a CUDA graph writes its next logits to the same place, and a part of a mask keeps the whole alive.
            self._waiting.append((logits.clone(), mask.clone()))
            return
        self._count_waiting()
        self._count(logits, mask)

    def _count_waiting(self) -> None:
        """Counts small batches together: the operations cost more than what they do."""
        waiting, self._waiting, self._num_waiting = self._waiting, [], 0
        for _, batches in groupby(waiting, key=lambda batch: batch[0].shape[1:]):
            self._count(*map(torch.cat, zip(*batches, strict=True)))

    def _count(self, logits: Tensor, mask: Tensor) -> None:
        if tiles.pays(logits, mask):
            matrix = confusion_of(logits, mask)
        else:
            matrix = pooled_confusion(best_class(logits)[1], mask, self.num_classes)
        self._matrix = matrix if self._matrix is None else self._matrix + matrix

    def counted(self) -> Tensor | None:
        """What this rank has counted so far: (K, K) int64 on the CPU, None without any batch."""
        self._count_waiting()
        return None if self._matrix is None else self._matrix.cpu()

    def take_up(self, matrix: Tensor, device: torch.device) -> None:
        """Goes on from what was ``counted`` before a run was interrupted."""
        self._matrix = matrix.to(device)

    def compute(self) -> Counts | None:
        """One matrix of all ranks; None where no rank has counted anything. The host waits for the device."""
        found = [matrix for matrix in gather(self.counted()) if matrix is not None]
        return Counts(torch.stack(found).sum(dim=0, keepdim=True).numpy()) if found else None


class ImageCounts(Metric):
    """Keeps the counts of every image on the device until the epoch ends; ``compute`` puts those of all ranks together.

    Args:
        num_classes: K.
        ignore_index: mask value that is left out.

    Attributes:
        positions: of the images in their split, ascending; those of the last ``compute``.
    """

    full_state_update = False
    confusion: list[Tensor]
    boundary: list[Tensor]
    calibration: list[Tensor]
    indices: list[Tensor]

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        # Not synchronised by torchmetrics: it can only gather a list of which every rank has something.
        super().__init__(sync_on_compute=False)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.positions: list[int] = []
        for name in (*Counts._fields, "indices"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, mask: Tensor, index: Tensor) -> None:
        """Adds a batch: logits (N, K, H, W) at the size of the mask (N, H, W), image positions (N,)."""
        # Class by class in memory, which takes half the time, and gives the same sums whoever asks.
        logits = logits.contiguous()
        confusion, boundary, calibration = self._counts_of(logits, mask)
        self.confusion.append(confusion.to(torch.int32))
        self.boundary.append(boundary.to(torch.int32))
        self.calibration.append(calibration)
        self.indices.append(index)

    def _counts_of(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Confusion, boundaries and calibration of each image."""
        classes, ignore_index = self.num_classes, self.ignore_index
        is_compiled = tiles.pays(logits, mask)
        if is_compiled:
            prediction, confusion, calibration = scores_of(logits, mask, ignore_index, NUM_BINS)
        else:
            logits = logits.float()
            top, prediction = best_class(logits)
            confidence = (logits - top[:, None]).exp_().sum(dim=1).reciprocal_()  # the largest softmax probability
            confusion = confusion_per_image(prediction, mask, classes, ignore_index)
            calibration = calibration_per_image(confidence, prediction == mask, mask != ignore_index)
        if is_compiled and boundaries.fits(prediction, mask, classes, ignore_index):
            radius = squared_tolerance(mask.shape[-2:])
            boundary = boundaries_of(prediction, mask, classes, ignore_index, radius)
        else:
            boundary = boundary_per_image(prediction, mask, classes, ignore_index)
        return confusion, boundary, calibration

    def compute(self) -> Counts:
        """The counts of all images in the order of the split; the host waits for the device."""
        k = self.num_classes
        index = self._rows(self.indices, (), torch.int64)
        order = index.argsort()
        self.positions = index[order].tolist()
        rows = (
            self._rows(self.confusion, (k, k), torch.int32),
            self._rows(self.boundary, (k, 4), torch.int32),
            self._rows(self.calibration, (NUM_BINS, 3), torch.float64),
        )
        return Counts(*(values[order].cpu().numpy() for values in rows))

    def _rows(self, state: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """One row for each image of all ranks; a rank may have seen none, of which torch.cat knows no shape."""
        return gather_rows(torch.cat([torch.zeros(0, *shape, dtype=dtype, device=self.device), *state]))
