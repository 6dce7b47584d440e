"""The metrics of this project, written once.

Everything follows from counts, one set per image: confusion matrices (rows are the true class, columns the predicted
one), boundary pixels, and pixels by confidence; those with ``ignore_index`` are dropped. mIoU is TP / (TP + FP + FN) of
the matrix pooled over the split, averaged over the classes present in the split's truth, scored at the mask's native
size. That is not ``torchmetrics.segmentation.MeanIoU`` (a mean over images, without ignore index) and not smp's
``micro`` IoU (a function of pixel accuracy). ``boundary_f1`` and ``ece`` are defined where the functions
``boundary_f1`` and ``calibration_error`` are.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from segsweep.counting import (
    NUM_BINS,
    best_class,
    boundary_per_image,
    calibration_per_image,
    confusion_per_image,
    pooled_confusion,
)
from segsweep.kernels import tiles
from segsweep.kernels.confusion import confusion_of
from segsweep.kernels.scores import scores_of
from segsweep.sharing import gather, gather_rows

_MOST_WAITING = 1 << 18  # values of logits that are kept to be counted together
_MOST_BATCHES = 64

VERSION = 1  # part of every record: runs scored by another definition are never ranked together

HIGHER_IS_BETTER = {
    "miou": True,
    "miou_image": True,
    "dice": True,
    "precision": True,
    "recall": True,
    "pixel_accuracy": True,
    "class_accuracy": True,
    "boundary_f1": True,
    "ece": False,
    "iou": True,
    "loss": False,
}


def best_is(name: str) -> str:
    """``max`` or ``min``: which end of a metric such as ``val/miou`` or ``val/iou/road`` is the better one.

    Raises:
        ValueError: the name is not ``<stage>/<metric>`` or the metric does not exist.
    """
    stage, _, metric = name.partition("/")
    family = metric.split("/")[0]
    if stage not in ("train", "val", "test") or family not in HIGHER_IS_BETTER:
        raise ValueError(f"'{name}' is not a metric; metrics are <train|val|test>/<{'|'.join(HIGHER_IS_BETTER)}>")
    return "max" if HIGHER_IS_BETTER[family] else "min"


def names(class_names: Sequence[str]) -> list[str]:
    """All metrics that ``summarise`` returns for these classes."""
    plain = [name for name in HIGHER_IS_BETTER if name not in ("iou", "loss")]
    return plain + [f"iou/{name}" for name in class_names]


class Counts(NamedTuple):
    """What the metrics of a split follow from, in the order of the split.

    Attributes:
        confusion: (n, K, K) integers, truth in rows; one matrix per image, or a single pooled one.
        boundary: (n, K, 4) integers as ``counting.boundary_per_image`` returns them, or None.
        calibration: (n, 15, 3) as ``counting.calibration_per_image`` returns them, or None.
    """

    confusion: NDArray[np.integer]
    boundary: NDArray[np.integer] | None = None
    calibration: NDArray[np.floating] | None = None


def summarise(counts: Counts, class_names: Sequence[str]) -> dict[str, float]:
    """Computes every metric of one split.

    Args:
        counts: of all images of the split.
        class_names: K names, for ``iou/<class>``.

    Returns:
        name -> value in 0..1. Class means run over the classes present in the split's truth; a class that is absent
        there has ``iou/<class>`` NaN and counts in no mean; one that is present but never predicted has precision 0.
        ``miou_image`` is the mean over images of the mean IoU over the classes present in that image's truth.
        ``boundary_f1`` and ``ece`` are there if their counts are. All NaN if no pixel is valid.

    >>> counts = Counts(np.array([[[3, 1], [0, 4]]]))
    >>> result = summarise(counts, ["background", "object"])
    >>> round(result["iou/background"], 4), round(result["iou/object"], 4), round(result["miou"], 4)
    (0.75, 0.8, 0.775)
    """
    pooled = counts.confusion.sum(axis=0, dtype=np.int64)
    truth, predicted, hit = _margins(pooled)
    present = truth > 0
    iou = _ratio(hit, truth + predicted - hit, present)
    values = {
        "miou": _mean(iou, present),
        "miou_image": _image_mean(_image_iou(counts.confusion), counts.confusion),
        "dice": _mean(_ratio(2 * hit, truth + predicted, present), present),
        "precision": _mean(_ratio(hit, np.maximum(predicted, 1), present), present),
        "recall": _mean(_ratio(hit, truth, present), present),
        "pixel_accuracy": float(hit.sum() / truth.sum()) if present.any() else float("nan"),
    }
    values["class_accuracy"] = values["recall"]  # the literature's name for the mean recall
    if counts.boundary is not None:
        values["boundary_f1"] = boundary_f1(counts.boundary, counts.confusion)
    if counts.calibration is not None:
        values["ece"] = calibration_error(counts.calibration)
    values.update({f"iou/{name}": float(value) for name, value in zip(class_names, iou, strict=True)})
    return values


def boundary_f1(boundary_NK4: NDArray[np.integer], confusion_NKK: NDArray[np.integer]) -> float:
    """Mean over images of the mean F1 of the boundaries of the classes present in the image's truth.

    Precision is the share of predicted boundary pixels within the tolerance of a true one of the class, recall the
    other way round. A class whose boundary is missing on one side only scores 0; one that fills all that is valid of an
    image has no boundary, and scores 1 if none is predicted.

    Args:
        boundary_NK4: as ``counting.boundary_per_image`` returns it.
        confusion_NKK: of the same images.

    Reference:
        Csurka et al. 2013, What is a good evaluation measure for semantic segmentation?; SegNet, arXiv:1511.00561,
        section 3.3. Differs: one true pixel may serve several predicted ones, where the Berkeley benchmark's
        ``correspondPixels`` pairs them off, so the values here are higher than published ones.

    >>> counts = np.array([[[4, 3, 2, 1], [0, 0, 0, 0]]])  # precision 3/4, recall 1/2; the second class is absent
    >>> round(boundary_f1(counts, np.array([[[9, 0], [0, 0]]])), 4)
    0.6
    """
    predicted, met_predicted, true, met_true = np.moveaxis(boundary_NK4.astype(np.float64), -1, 0)
    precision, recall = met_predicted / np.maximum(predicted, 1), met_true / np.maximum(true, 1)
    score = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return _image_mean(np.where(predicted + true == 0, 1.0, score), confusion_NKK)


def calibration_error(calibration_NB3: NDArray[np.floating]) -> float:
    """Expected calibration error: how far confidence lies from accuracy, mean over all pixels of the split.

    Pixels are pooled over the images into 15 equal bins of the largest softmax probability.

    Args:
        calibration_NB3: as ``counting.calibration_per_image`` returns it.

    Reference:
        Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599.

    >>> counts = np.zeros((1, 15, 3))
    >>> counts[0, 13] = 10, 9.0, 7  # ten pixels of confidence 0.9, seven of them right
    >>> round(calibration_error(counts), 4)
    0.2
    """
    pixels, confidence, right = calibration_NB3.sum(axis=0, dtype=np.float64).T
    return float(np.abs(confidence - right).sum() / pixels.sum()) if pixels.any() else float("nan")


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
        if tiles.pays(logits, mask):
            prediction, confusion, calibration = scores_of(logits, mask, self.ignore_index, NUM_BINS)
        else:
            prediction, confusion, calibration = self._scores_of(logits.float(), mask)
        boundary = boundary_per_image(prediction, mask, self.num_classes, self.ignore_index)
        self.confusion.append(confusion.to(torch.int32))
        self.boundary.append(boundary.to(torch.int32))
        self.calibration.append(calibration)
        self.indices.append(index)

    def _scores_of(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``scores_of`` returns, by torch's operations."""
        top, prediction = best_class(logits)
        confidence = (logits - top[:, None]).exp_().sum(dim=1).reciprocal_()  # the largest softmax probability
        confusion = confusion_per_image(prediction, mask, self.num_classes, self.ignore_index)
        return prediction, confusion, calibration_per_image(confidence, prediction == mask, mask != self.ignore_index)

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


def _margins(matrix: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]:
    """(..., K, K) -> pixels of each class in the truth, in the prediction, and in both."""
    return matrix.sum(axis=-1), matrix.sum(axis=-2), np.diagonal(matrix, axis1=-2, axis2=-1)


def _ratio(part: NDArray[np.integer], whole: NDArray[np.integer], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=where)
    return result


def _mean(values: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    return float(values[present].mean()) if present.any() else float("nan")


def _image_iou(confusion_NKK: NDArray[np.integer]) -> NDArray[np.float64]:
    truth, predicted, hit = _margins(confusion_NKK)
    return _ratio(hit, truth + predicted - hit, truth > 0)


def _image_mean(score_NK: NDArray[np.float64], confusion_NKK: NDArray[np.integer]) -> float:
    """Mean over images of the mean over the classes that the image's truth shows; images without any are left out."""
    present = confusion_NKK.sum(axis=-1) > 0
    counted = present.any(axis=1)
    if not counted.any():
        return float("nan")
    return float(np.nanmean(np.where(present, score_NK, np.nan)[counted], axis=1).mean())
