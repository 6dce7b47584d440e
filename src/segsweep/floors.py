"""Two floors that a model must clear: scores that need no image at all.

``most_frequent`` gives every pixel the class that is most frequent in train; ``location_prior`` gives each pixel the
class that is most frequent at its place.
"""

import json

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segsweep.counting import confusion_per_image
from segsweep.data.source import Pixels
from segsweep.data.storage import Split, Store
from segsweep.files import write_atomic
from segsweep.metrics import VERSION, Counts, summarise
from segsweep.types import DataSpec

_VERSION = 2  # of what is computed here
_GRID = (64, 64)  # places of the location prior: images may differ in size


def floors(store: Store, spec: DataSpec) -> dict[str, dict[str, float]]:
    """Scores of both floors on val and test, computed once for a dataset and kept beside it.

    Returns:
        ``most_frequent`` and ``location_prior`` -> ``val/miou``, ``test/miou``, ``test/pixel_accuracy`` and so on.
    """
    file = store.folder / f"floors-{VERSION}.{_VERSION}.json"
    if not file.exists():
        write_atomic(file, json.dumps(_compute(store, spec)).encode())
    result: dict[str, dict[str, float]] = json.loads(file.read_text())
    return result


def _compute(store: Store, spec: DataSpec) -> dict[str, dict[str, float]]:
    counts_KHW = _class_counts(store.splits["train"], spec)
    most_frequent = np.full(_GRID, counts_KHW.sum(axis=(1, 2)).argmax(), np.uint8)
    location_prior = counts_KHW.argmax(axis=0).astype(np.uint8)
    return {
        name: {
            f"{stage}/{metric}": value
            for stage in ("val", "test")
            for metric, value in _score(prediction, store.splits[stage], spec).items()
        }
        for name, prediction in (("most_frequent", most_frequent), ("location_prior", location_prior))
    }


def _class_counts(split: Split, spec: DataSpec) -> NDArray[np.int64]:
    """(K, h, w) how many training masks have each class at each place of a grid that is laid over all of them."""
    counts = np.zeros((spec.num_classes, *_GRID), np.int64)
    for position in np.flatnonzero(split.has_label):
        mask = np.asarray(Image.fromarray(split.mask(int(position))).resize(_GRID[::-1], Image.Resampling.NEAREST))
        for k in np.unique(mask[mask < spec.num_classes]):
            counts[k] += mask == k
    return counts


def _score(prediction: Pixels, split: Split, spec: DataSpec) -> dict[str, float]:
    total = np.zeros((1, spec.num_classes, spec.num_classes), np.int64)
    for position in range(len(split.items)):
        mask = split.native_mask(position)
        own = Image.fromarray(prediction).resize((mask.shape[1], mask.shape[0]), Image.Resampling.NEAREST)
        pair = (torch.from_numpy(np.asarray(own, np.int64))[None], torch.from_numpy(mask.astype(np.int64))[None])
        total += confusion_per_image(*pair, spec.num_classes, spec.ignore_index).numpy()
    scores = summarise(Counts(total), spec.class_names)
    return {metric: scores[metric] for metric in ("miou", "pixel_accuracy")}
