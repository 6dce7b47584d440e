"""The metrics of this project, written once.

Everything follows from counts, one set per image: confusion matrices (rows are the true class, columns the predicted
one), boundary pixels, and pixels by confidence; those with ``ignore_index`` are dropped. mIoU is TP / (TP + FP + FN) of
the matrix pooled over the split, averaged over the classes present in the split's truth, scored at the mask's native
size. That is not ``torchmetrics.segmentation.MeanIoU`` (a mean over images, without ignore index) and not smp's
``micro`` IoU (a function of pixel accuracy). ``boundary_f1`` and ``ece`` are defined where the functions
``boundary_f1`` and ``calibration_error`` are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
