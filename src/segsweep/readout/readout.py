"""Scores a model that has seen no label: by its clusters while it trains, by a probe and controls in the end."""

from collections.abc import Callable, Iterable
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.counting import confusion_per_image
from segsweep.metrics import Counts, summarise
from segsweep.models.blocks import resize_to
from segsweep.readout.clusters import cluster
from segsweep.readout.features import Maps, Sample, colour_maps, dense, draw_sample, learnt_maps, position_maps
from segsweep.readout.probe import probe
from segsweep.readout.scores import Scores
from segsweep.types import Batch, DataSpec

TrainImages = Callable[[bool], tuple[int, Iterable[Batch]]]
"""whether only labelled ones -> their number, and the training images as they are; without it masks are empty."""


class ClusterReadout:
    """Reads classes off a model by k-means on its features and one match of clusters and classes.

    Args:
        clusters: number of clusters; None: as many as classes. More than classes are matched many to one, which is an
            upper bound, not a result.
        pixels: places that are drawn from all training images to cluster, and again from the labelled ones to match.
        levels: of the model's encoder, fine (0) to coarse, put on top of each other; None: the model's latent, else
            the coarsest level.
    """

    def __init__(
        self,
        clusters: Annotated[int, Ge(2)] | None,
        pixels: Annotated[int, Ge(1000)],
        levels: tuple[int, ...] | None,
    ) -> None:
        self.clusters, self.pixels, self.levels = clusters, pixels, levels
        self.scores: Scores | None = None

    def check(self, model: nn.Module, spec: DataSpec) -> None:
        """Refuses settings that do not suit the model or the data, before anything is trained.

        Raises:
            ValueError: fewer clusters than classes, or a level that the encoder does not have.
        """
        if self.clusters is not None and self.clusters < spec.num_classes:
            raise ValueError(
                f"readout.clusters={self.clusters}: {spec.num_classes} classes need as many clusters or more; null "
                f"takes as many"
            )
        channels = getattr(getattr(model, "encoder", None), "out_channels", ())
        if self.levels and channels and max(self.levels) >= len(channels):
            raise ValueError(
                f"readout.levels={list(self.levels)}: the levels of the encoder are 0 to {len(channels) - 1}"
            )

    def fit(self, model: nn.Module, images: TrainImages, spec: DataSpec, seed: int) -> None:
        """Clusters the features that the model has now; the same weights and seed give the same clusters."""
        self.scores = self._cluster(learnt_maps(model, self.levels), True, images, spec, seed)

    def __call__(self, model: nn.Module, image: Tensor) -> Tensor:
        """Class scores (N, K, H, W) of images (N, C, H, W), by the clusters of the last ``fit``."""
        if self.scores is None:
            raise ValueError("the readout is not fitted")
        return _apply(self.scores, learnt_maps(model, self.levels), True, image)

    def compare(
        self, model: nn.Module, images: TrainImages, test: Iterable[Batch], spec: DataSpec, seed: int
    ) -> dict[str, dict[str, float]]:
        """Scores of a linear probe on the same features, and of clusters of colours and of places alone.

        Args:
            model: in evaluation mode.
            images: to fit on.
            test: to score, masks at native size; read several times.
            spec: facts of the data.
            seed: of the run.

        Returns:
            ``probe``, ``colour_clusters``, ``xy_clusters`` -> ``test/miou``, ``test/pixel_accuracy``.
        """
        learnt = learnt_maps(model, self.levels)
        readers: dict[str, tuple[Scores, Maps, bool]] = {
            "probe": (probe(self._sample(learnt, True, images, True, seed), spec), learnt, True)
        }
        for name, maps in (("colour_clusters", colour_maps), ("xy_clusters", position_maps)):
            readers[name] = (self._cluster(maps, False, images, spec, seed), maps, False)
        return {name: _score(reader, test, spec) for name, reader in readers.items()}

    def _cluster(self, maps: Maps, unit_length: bool, images: TrainImages, spec: DataSpec, seed: int) -> Scores:
        every, labelled = (self._sample(maps, unit_length, images, only, seed) for only in (False, True))
        return cluster(every, labelled, self.clusters or spec.num_classes, spec, seed)

    def _sample(self, maps: Maps, unit_length: bool, images: TrainImages, only_labelled: bool, seed: int) -> Sample:
        num, batches = images(only_labelled)
        return draw_sample(maps, batches, -(-self.pixels // num), unit_length, seed)


def _apply(scores: Scores, maps: Maps, unit_length: bool, image: Tensor) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    # One image after another: features at full size are many times larger than what the model computes.
    found = maps(image)
    rows = [scores(dense([x[i : i + 1] for x in found], size, unit_length)) for i in range(len(image))]
    return torch.cat(rows)


def _score(reader: tuple[Scores, Maps, bool], test: Iterable[Batch], spec: DataSpec) -> dict[str, float]:
    total = np.zeros((1, spec.num_classes, spec.num_classes), np.int64)
    for batch in test:
        prediction = resize_to(_apply(*reader, batch.image), batch.mask).argmax(dim=1)
        counts = confusion_per_image(prediction, batch.mask, spec.num_classes, spec.ignore_index)
        total += counts.sum(dim=0, keepdim=True).cpu().numpy()
    scores = summarise(Counts(total), spec.class_names)
    return {f"test/{metric}": scores[metric] for metric in ("miou", "pixel_accuracy")}
