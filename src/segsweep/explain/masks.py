"""The truth of images that the user has masks of: files of equal stems, read by the run's own convention."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segsweep.data.labels import Labels
from segsweep.data.rasters import open_raster
from segsweep.explain.images import Sample
from segsweep.run import ConfigError
from segsweep.types import DataSpec

_MOST_READ = 64_000_000  # pixels of a file


def with_masks(samples: Sequence[Sample], folder: Path, spec: DataSpec, node: Mapping[str, Any]) -> list[Sample]:
    """The samples, those that have a mask of the same stem in a folder with it.

    Args:
        samples: images.
        folder: of the masks.
        spec: classes of the data.
        node: config of the run's data, for what mask values mean.

    Raises:
        ConfigError: no image has a mask, several have the same stem, or one is of another size.
        Problem: a mask holds something else than the data's convention says.
    """
    label_map, threshold, palette = (node.get(key) for key in ("label_map", "threshold", "palette"))
    labels = Labels(
        spec.class_names,
        spec.ignore_index,
        label_map if isinstance(label_map, dict) else None,
        threshold if isinstance(threshold, int | float) else None,
        palette if isinstance(palette, dict) else None,
    )
    if not folder.is_dir():
        raise ConfigError(f"--masks {folder} is not a folder. Give the folder of masks with the stems of the images")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        files.setdefault(path.stem, []).append(path)
    found = []
    for sample in samples:
        own = files.get(sample.path.stem, [])
        if len(own) > 1:
            raise ConfigError(f"--masks: {own[0]} and {own[1].name} both are masks of {sample.path.name}. Keep one")
        found.append(replace(sample, mask=_read(own[0], labels, sample)) if own else sample)
    if all(sample.mask is None for sample in found):
        raise ConfigError(f"--masks {folder}: no mask has the stem of an image, e.g. {samples[0].path.stem}.png")
    return found


def _read(path: Path, labels: Labels, sample: Sample) -> NDArray[np.uint8]:
    mask = labels.read(open_raster(path, str(path), None, _MOST_READ), str(path))
    if mask.shape != sample.native:
        raise ConfigError(
            f"{path} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {sample.path.name} {sample.native[1]}x"
            f"{sample.native[0]}. Masks are never resized to fit: pair each image with its own"
        )
    return mask
