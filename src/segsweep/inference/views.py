"""Test-time augmentation: an image is looked at flipped and at several scales, by one model or several."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsweep.models.blocks import resize_to

# Axes of (N, C, H, W) that are turned round.
FLIPS: Mapping[str, tuple[int, ...]] = {"": (), "h": (3,), "v": (2,), "hv": (2, 3)}
SCALES = (0.75, 1.0, 1.25)  # of height and width, where scales are asked for


def mean_scores(
    models: Sequence[nn.Module], image: Tensor, flips: Sequence[str] = ("",), scales: Sequence[float] = (1.0,)
) -> Tensor:
    """Scores of images by the mean of the probabilities of all models and views.

    Args:
        models: image -> ``SegmenterOutput``, in evaluation mode; at least one.
        image: (N, C, H, W), standardised.
        flips: of ``FLIPS``: ``""`` as it is, ``h`` left and right, ``v`` up and down, ``hv`` both.
        scales: factors of height and width; logits are resized back.

    Returns:
        (N, K, H, W) float32. Of one model and one view its logits; else the logarithm of the mean probability.

    Reference:
        Mean of probabilities: Lakshminarayanan et al., Deep Ensembles, NeurIPS 2017 (arXiv:1612.01474).
    """
    views = list(product(scales, flips))
    if len(models) * len(views) == 1:
        return _logits(models[0], image, *views[0])
    total: Tensor | None = None
    for model, view in product(models, views):
        part = F.log_softmax(_logits(model, image, *view), dim=1)
        total = part if total is None else torch.logaddexp(total, part)
    if total is None:
        raise ValueError("an ensemble needs a model and a view")
    return total - float(torch.tensor(float(len(models) * len(views))).log())


def _logits(model: nn.Module, image: Tensor, scale: float, flip: str) -> Tensor:
    """What a model makes of one view of an image, turned and resized back to the image: float32."""
    seen, axes = image, FLIPS[flip]
    if scale != 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
        # Antialiased when it shrinks, as images are that are decoded to a smaller size.
        seen = F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=scale < 1)
        seen = seen.contiguous(memory_format=torch.channels_last)
    logits: Tensor = model(seen.flip(axes) if axes else seen).logits.float()
    return resize_to(logits.flip(axes) if axes else logits, image)


def chosen_flips(wanted: Sequence[str] | None, record: Mapping[str, Any]) -> tuple[str, ...]:
    """The flips to average over, the image as it is among them.

    Args:
        wanted: of ``FLIPS``; None or none: those that the run has seen while training.
        record: of the run.
    """
    return ("", *(flip for flip in FLIPS if flip and flip in wanted)) if wanted else trained_flips(record)


def trained_flips(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The flips that a run has seen while training, itself unflipped included: ``("",)`` if it has seen none.

    >>> trained_flips({"config": {"augment": {"hflip": 0.5, "vflip": 0.0}}})
    ('', 'h')
    """
    config = record.get("config")
    augment = config.get("augment") if isinstance(config, dict) else None
    seen = {key: isinstance(augment, dict) and augment.get(f"{key}flip", 0) not in (0, None) for key in "hv"}
    return tuple(flip for flip in FLIPS if all(seen[axis] for axis in flip))
