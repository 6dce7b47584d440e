"""What TensorBoard's Custom Scalars tab puts into one chart: training and validation of one metric."""

import re
from collections.abc import Sequence

Layout = dict[str, dict[str, list[str | list[str]]]]

_METRICS = {
    "loss": "loss", "mIoU": "miou", "Dice": "dice", "pixel accuracy": "pixel_accuracy", "precision": "precision",
    "recall": "recall",
}  # fmt: skip
_MOST_CLASSES = 24  # with a chart each


def layout(class_names: Sequence[str]) -> Layout:
    """Categories and their charts, each with the tags of its curves as regular expressions.

    The categories are the same for all data: TensorBoard puts those of all runs together by their titles.

    Args:
        class_names: of the data; the first 24 get a chart of their own.
    """
    classes = {f"IoU of {name}": f"iou/{name}" for name in map(str, class_names[:_MOST_CLASSES])}
    return {
        "Training and validation": {title: _both(metric) for title, metric in _METRICS.items()},
        "Each class, training and validation": {title: _both(metric) for title, metric in classes.items()},
        "Optimisation and cost": {
            "learning rate": _lines("lr"),
            "gradient norm: mean and largest of an epoch": _lines("train/grad_norm", "train/grad_norm_max"),
            "training images per second": _lines("train/images_per_s"),
            "peak memory so far, MB": _lines("memory/host_mb", "memory/device_mb"),
        },
    }


def _both(metric: str) -> list[str | list[str]]:
    return _lines(f"train/{metric}", f"val/{metric}")


def _lines(*tags: str) -> list[str | list[str]]:
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
