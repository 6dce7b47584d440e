"""The metrics of this project, written once.

Everything follows from confusion matrices, one per image: rows are the true class, columns the predicted one, pixels
with ``ignore_index`` are dropped. mIoU is TP / (TP + FP + FN) of the matrix pooled over the split, averaged over the
classes present in the split's truth, scored at the mask's native size. That is not
``torchmetrics.segmentation.MeanIoU`` (a mean over images, without ignore index) and not smp's ``micro`` IoU (a function
of pixel accuracy).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

VERSION = 1  # part of every record: runs scored by another definition are never ranked together

HIGHER_IS_BETTER = {
    "miou": True,
    "miou_image": True,
    "dice": True,
    "precision": True,
    "recall": True,
    "pixel_accuracy": True,
    "class_accuracy": True,
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


def confusion_per_image(prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Counts (truth, prediction) pairs in each image.

    Args:
        prediction: (N, H, W) int64, classes in ``0..K-1``.
        mask: (N, H, W) int64, classes in ``0..K-1`` or ``ignore_index``.
        num_classes: K.
        ignore_index: mask value that is left out.

    Returns:
        (N, K, K) int64 on the same device, truth in rows; no host synchronisation on an accelerator.
    """
    num = mask.shape[0]
    bins = num_classes * num_classes
    offset = torch.arange(num, device=mask.device).view(-1, 1, 1) * bins
    # Ignored pixels are counted in one more bin behind all others, which is then dropped.
    cell = torch.where(mask == ignore_index, num * bins, offset + mask * num_classes + prediction).flatten()
    if mask.device.type == "cpu":
        counts = torch.bincount(cell, minlength=num * bins + 1)
    else:  # bincount would wait for the device to know the largest value
        counts = torch.zeros(num * bins + 1, dtype=torch.int64, device=mask.device)
        counts.index_add_(0, cell, torch.ones_like(cell))
    return counts[:-1].view(num, num_classes, num_classes)


def summarise(confusion_NKK: NDArray[np.integer], class_names: Sequence[str]) -> dict[str, float]:
    """Computes every metric of one split.

    Args:
        confusion_NKK: (N, K, K) integer counts, one matrix per image, truth in rows.
        class_names: K names, for ``iou/<class>``.

    Returns:
        name -> value in 0..1. Class means run over the classes present in the split's truth; a class that is absent
        there has ``iou/<class>`` NaN and counts in no mean; one that is present but never predicted has precision 0.
        ``miou_image`` is the mean over images of the mean IoU over the classes present in that image's truth.
        All NaN if no pixel is valid.

    >>> matrix = np.array([[[3, 1], [0, 4]]])
    >>> result = summarise(matrix, ["background", "object"])
    >>> round(result["iou/background"], 4), round(result["iou/object"], 4), round(result["miou"], 4)
    (0.75, 0.8, 0.775)
    """
    pooled = confusion_NKK.sum(axis=0, dtype=np.int64)
    truth, predicted, hit = _margins(pooled)
    present = truth > 0
    iou = _ratio(hit, truth + predicted - hit, present)
    values = {
        "miou": _mean(iou, present),
        "miou_image": _image_mean(confusion_NKK),
        "dice": _mean(_ratio(2 * hit, truth + predicted, present), present),
        "precision": _mean(_ratio(hit, np.maximum(predicted, 1), present), present),
        "recall": _mean(_ratio(hit, truth, present), present),
        "pixel_accuracy": float(hit.sum() / truth.sum()) if present.any() else float("nan"),
    }
    values["class_accuracy"] = values["recall"]  # the literature's name for the mean recall
    values.update({f"iou/{name}": float(value) for name, value in zip(class_names, iou, strict=True)})
    return values


class Confusion(Metric):
    """Keeps the confusion matrix of every image, or only their sum, on the device until the epoch ends.

    Args:
        num_classes: K.
        ignore_index: mask value that is left out.
        per_image: keep one matrix per image, with its index, instead of the pooled sum.
    """

    full_state_update = False
    matrices: list[Tensor]
    indices: list[Tensor]
    pooled: Tensor

    def __init__(self, num_classes: int, ignore_index: int, per_image: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.per_image = per_image
        if per_image:
            self.add_state("matrices", [], dist_reduce_fx="cat")
            self.add_state("indices", [], dist_reduce_fx="cat")
        else:
            self.add_state("pooled", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, mask: Tensor, index: Tensor) -> None:
        """Adds a batch: logits (N, K, H, W) at the size of the mask (N, H, W), image positions (N,)."""
        counts = confusion_per_image(logits.argmax(dim=1), mask, self.num_classes, self.ignore_index)
        if self.per_image:
            self.matrices.append(counts.to(torch.int32))
            self.indices.append(index)
        else:
            self.pooled += counts.sum(dim=0)

    def compute(self) -> Tensor:
        """(n, K, K) in the order of the split, or (1, K, K) if pooled."""
        if not self.per_image:
            return self.pooled[None]
        if not self.matrices:
            return torch.zeros(0, self.num_classes, self.num_classes, dtype=torch.int32)
        return torch.cat(list(self.matrices))[torch.cat(list(self.indices)).argsort()]


def _margins(matrix: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]:
    """(..., K, K) -> pixels of each class in the truth, in the prediction, and in both."""
    return matrix.sum(axis=-1), matrix.sum(axis=-2), np.diagonal(matrix, axis1=-2, axis2=-1)


def _ratio(part: NDArray[np.integer], whole: NDArray[np.integer], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=where)
    return result


def _mean(values: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    return float(values[present].mean()) if present.any() else float("nan")


def _image_mean(confusion_NKK: NDArray[np.integer]) -> float:
    truth, predicted, hit = _margins(confusion_NKK)
    present = truth > 0
    counted = present.any(axis=1)
    if not counted.any():
        return float("nan")
    iou = _ratio(hit, truth + predicted - hit, present)[counted]
    return float(np.nanmean(np.nanmean(iou, axis=1)))
