"""Scores the images of a split, at the native size of their masks."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track

from segsweep.data.datamodule import DataModule
from segsweep.data.eval_batches import EvalBatches
from segsweep.data.source import Item
from segsweep.data.splits import SPLITS
from segsweep.evaluate.classes import ClassMap
from segsweep.inference import Ensemble
from segsweep.metrics import Counts, summarise
from segsweep.models.blocks import resize_to
from segsweep.panels import worst_positions
from segsweep.pictures import Picture, strip
from segsweep.tally import ImageCounts
from segsweep.types import Batch, DataSpec

ALL = "all"  # every split, one after another
_FIXED = 8


@dataclass(frozen=True)
class Scored:
    """What a model, or several as one, made of a split.

    Attributes:
        counts: one set per image.
        items: names and groups of the images, in the same order.
        splits: which split each is of.
        spec: of the run: its classes.
        images_per_s: everything from reading an image to counting its pixels.
    """

    counts: Counts
    items: list[Item]
    splits: list[str]
    spec: DataSpec
    images_per_s: float

    @property
    def metrics(self) -> dict[str, float]:
        """As ``metrics.summarise`` returns them."""
        return summarise(self.counts, self.spec.class_names)

    def of_image(self, position: int) -> dict[str, float]:
        """The metrics of one image."""
        return summarise(Counts(self.counts.confusion[position][None]), self.spec.class_names)


class Scoring:
    """A model, or several as one, and the images of a split.

    Args:
        ensemble: the model.
        data: the images.
        split: ``train``, ``val``, ``test``, or ``all``.
        classes: from the masks' classes to the model's.
        spec: of the run.
    """

    def __init__(self, ensemble: Ensemble, data: DataModule, split: str, classes: ClassMap, spec: DataSpec) -> None:
        self.ensemble, self.classes, self.spec = ensemble, classes, spec
        names = SPLITS if split == ALL else (split,)
        self.batches = {name: EvalBatches(data, name, ensemble.device) for name in names}

    def __len__(self) -> int:
        return sum(len(batches.split.items) for batches in self.batches.values())

    def run(self, label: str) -> Scored:
        """Scores all images; ``label`` stands beside the progress bar."""
        start = time.perf_counter()
        parts = [self._score(batches, f"{label} {name}") for name, batches in self.batches.items()]
        seconds = time.perf_counter() - start
        counts = Counts(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))
        items = [item for batches in self.batches.values() for item in batches.split.items]
        splits = [name for name, batches in self.batches.items() for _ in batches.split.items]
        return Scored(counts, items, splits, self.spec, len(items) / seconds)

    def _score(self, batches: EvalBatches, label: str) -> Counts:
        counts = ImageCounts(self.spec.num_classes, self.spec.ignore_index).to(self.ensemble.device)
        shown = track(batches, label, len(batches), transient=True, disable=not sys.stdout.isatty())
        for batch in shown:
            scores = resize_to(self.ensemble.scores(batch.image), batch.mask)
            counts.update(scores, self.classes(batch.mask), batch.index)
        found: Counts = counts.compute()
        return found

    def examples(self, scored: Scored) -> Iterator[tuple[str, Picture]]:
        """Names and strips image | truth | prediction | error of eight images spread evenly and of the eight worst."""
        num = len(self)
        fixed = sorted({round(i * (num - 1) / max(1, _FIXED - 1)) for i in range(_FIXED)})
        yield from ((f"fixed-{i:05d}", self._strip(i)) for i in fixed)
        worst: Sequence[int] = worst_positions(scored.counts.confusion, self.spec)
        yield from ((f"worst-{rank}-{i:05d}", self._strip(i)) for rank, i in enumerate(worst, start=1))

    def _strip(self, place: int) -> Picture:
        batch = self._one(place)
        scores = resize_to(self.ensemble.scores(batch.image), batch.mask)
        truth, prediction = self.classes(batch.mask)[0], scores.max(dim=1).indices[0]
        image, truth_HW, prediction_HW = (x.cpu().numpy() for x in (batch.image[0], truth, prediction))
        return strip(image, truth_HW, prediction_HW, self.spec)

    def _one(self, place: int) -> Batch:
        """The image at a place counted over all splits."""
        for batches in self.batches.values():
            if place < len(batches.split.items):
                with torch.inference_mode():
                    return batches.batch([place])
            place -= len(batches.split.items)
        raise IndexError(place)
