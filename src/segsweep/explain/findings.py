"""What is found out about a run and some images, before anything is drawn."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segsweep.explain.attribution import METHODS, Attribution
from segsweep.explain.calibration import Calibration
from segsweep.explain.field import Field
from segsweep.explain.images import Sample
from segsweep.explain.target import Target
from segsweep.explain.uncertainty import Doubt
from segsweep.opened import OpenedRun

PARTS = ("attribution", "receptive-field", "uncertainty", "calibration")


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        parts: of ``PARTS``.
        methods: of ``attribution.METHODS``.
        class_name: to explain; None: the most frequent predicted one that is not class 0.
        point: row and column in an image's own pixels: explains the region around it instead.
        layer: for Grad-CAM; None: the last map of the encoder.
        steps: of integrated gradients.
        baseline: of ``attribution.BASELINES``.
        patch: side of occluding patches in pixels; None: by the size.
        stride: from patch to patch in pixels; None: by the patch.
        sanity: whether maps are compared with those of random weights.
        dropout_passes: two or more.
        most: images that are explained one by one.
    """

    parts: tuple[str, ...] = PARTS
    methods: tuple[str, ...] = METHODS
    class_name: str | None = None
    point: tuple[int, int] | None = None
    layer: str | None = None
    steps: int = 64
    baseline: str = "mean"
    patch: int | None = None
    stride: int | None = None
    sanity: bool = True
    dropout_passes: int = 20
    most: int = 8


@dataclass(frozen=True)
class Explained:
    """One image.

    Attributes:
        prediction: (h, w) class numbers.
        maps: of each method.
        sanity: of each method, rank correlation with its map under random weights; None where it has none.
        doubt: of one softmax.
        dropout: of passes with dropout, if the model has any.
        ensemble: of several runs, if some were given.
    """

    sample: Sample
    target: Target
    prediction: NDArray[np.int64]
    maps: dict[str, Attribution]
    sanity: dict[str, float | None]
    doubt: Doubt | None
    dropout: Doubt | None
    ensemble: Doubt | None


@dataclass
class Findings:
    """Everything.

    Attributes:
        run: that is explained.
        layer: that Grad-CAM weighed, "" if it did not.
        images: explained one by one.
        fields: receptive fields, of the run first.
        calibrations: of the test split, of images with masks.
        notes: what was left out and why, a sentence each.
    """

    run: OpenedRun
    settings: Settings
    layer: str = ""
    images: list[Explained] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    calibrations: list[Calibration] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
