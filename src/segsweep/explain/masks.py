"""The truth of images that the user has masks of: files of equal stems, read by the run's own convention."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segsweep.data.labels import Labels
from segsweep.data.problems import Problem
from segsweep.data.rasters import open_raster
from segsweep.explain.images import Sample
from segsweep.hints import written
from segsweep.images.inputs import Input, find_inputs
from segsweep.images.reading import Reading
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec

_CONVENTION = ("label_map", "threshold", "palette")


def with_masks(
    samples: Sequence[Sample], folder: Path, spec: DataSpec, node: Mapping[str, Any], reading: Reading
) -> list[Sample]:
    """The samples, those that have a mask of the same stem in a folder with it.

    Args:
        samples: images.
        folder: of the masks.
        spec: classes of the data.
        node: config of the run's data, for what mask values mean.
        reading: how files are read.

    Raises:
        ConfigError: no image has a mask, it is not clear which one an image has, or one is of another size.
        Problem: a mask holds something else than the data's convention says.
    """
    files = _by_stem(folder)
    labels = _labels(spec, node)
    found: list[Sample] = []
    owners: dict[tuple[Path, int | None], Sample] = {}
    for sample in samples:
        mask = files.get(sample.path.stem)
        if mask is None:
            found.append(sample)
            continue
        owner = owners.setdefault((mask.path, sample.page), sample)
        if owner is not sample:
            raise ConfigError(
                f"--masks: {mask.shown} would be the mask of both {owner.path} and {sample.path}. Rename one of them"
            )
        found.append(replace(sample, mask=_read(mask, labels, sample, node, reading)))
    if all(sample.mask is None for sample in found):
        raise ConfigError(f"--masks {folder}: no mask has the stem of an image, e.g. {samples[0].path.stem}.png")
    return found


def _by_stem(folder: Path) -> dict[str, Input]:
    if not folder.is_dir():
        raise ConfigError(f"--masks {folder} is not a folder. Give the folder of masks with the stems of the images")
    inputs, lines = find_inputs([str(folder)])
    if lines:
        raise ConfigError("\n".join(f"--masks: {line}" for line in lines))
    files: dict[str, Input] = {}
    for item in inputs:
        other = files.setdefault(item.path.stem, item)
        if other is not item:
            raise ConfigError(f"--masks: {other.shown} and {item.shown} both are masks of {item.path.stem}. Keep one")
    return files


def _labels(spec: DataSpec, node: Mapping[str, Any]) -> Labels:
    """The convention of the run's data, which a stranger may have written."""
    label_map, threshold, palette = (node.get(key) for key in _CONVENTION)
    try:
        return Labels(
            spec.class_names,
            spec.ignore_index,
            label_map if isinstance(label_map, dict) else None,
            threshold if isinstance(threshold, int | float) else None,
            palette if isinstance(palette, dict) else None,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"record.json: its masks cannot be read: {printable(str(error))[:200]}") from None


def _read(file: Input, labels: Labels, sample: Sample, node: Mapping[str, Any], reading: Reading) -> NDArray[np.uint8]:
    shown = file.shown_page(sample.page)
    try:
        mask = labels.read(open_raster(file.path, shown, sample.page, reading.max_pixels), shown)
    except Problem as problem:
        raise _reworded(problem, node, sample, reading) from None
    if mask.shape != sample.native:
        raise ConfigError(
            f"{shown} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {sample.path.name} {sample.native[1]}x"
            f"{sample.native[0]}. Masks are never resized to fit: pair each image with its own"
        )
    return mask


def _reworded(problem: Problem, node: Mapping[str, Any], sample: Sample, reading: Reading) -> Problem:
    """What to do here, where the convention is the run's: nobody can set it."""
    fix = reading.reworded(problem).fix
    if problem.code in ("E-LABEL", "E-LOSSY", "E-COLOUR"):
        said = ", ".join(f"{key}={written(node[key])}" for key in _CONVENTION if node.get(key) is not None)
        fix = f"Masks are read as those that the run has learnt from ({printable(said)[:200] or 'class numbers'})"
    elif problem.code == "E-PAGE":
        fix = f"Give it as many pages as its image {sample.path.name} has"
    return Problem(problem.code, problem.where, problem.what, fix)
