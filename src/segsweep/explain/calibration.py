"""Whether confidence is accuracy: counts of the run's own test split, or of images with masks."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segsweep.counting import NUM_BINS, calibration_per_image
from segsweep.data.labels import Labels
from segsweep.data.rasters import open_raster
from segsweep.explain.images import Sample
from segsweep.metrics import calibration_error
from segsweep.models.blocks import resize_to
from segsweep.opened.contained import read_bytes
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec

FILE = "test_confusion.npz"
_MOST_BYTES = 1 << 30  # of the whole file, which holds confusion matrices of all test images, too
_MOST_COUNTS = 1 << 28  # bytes of the counts alone
_MOST_READ = 64_000_000
# What NumPy and zipfile raise for damaged files.
_DAMAGE = (
    OSError, ValueError, LookupError, EOFError, TypeError, SyntaxError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """Pixels by confidence.

    Attributes:
        about: of what, in words.
        counts: (15, 3) pixels, sum of their confidences, pixels that are right; equal bins of 0..1.
        num_images: that were counted.
    """

    about: str
    counts: NDArray[np.float64]
    num_images: int

    @property
    def error(self) -> float:
        """Expected calibration error, as ``metrics.calibration_error`` has it."""
        return calibration_error(self.counts[None])

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy."""
        pixels, confidence, right = self.counts.sum(axis=0)
        return float((confidence - right) / pixels)


def of_test_split(folder: Path) -> Calibration | str:
    """What a run has counted on its test split; a sentence if it has not.

    Raises:
        ConfigError: the file is not what a run writes.
    """
    shown = os.path.relpath(folder / FILE)
    if not (folder / FILE).exists():
        return f"calibration is left out: the run has no {FILE}. Give images with --masks DIR"
    data = read_bytes(folder, FILE, _MOST_BYTES)
    try:
        counts = _member(data, "calibration.npy")
    except _DAMAGE as error:
        raise ConfigError(f"{shown} is not what a run writes ({printable(str(error))[:200]})") from None
    if counts is None:
        return f"calibration is left out: {shown} is of an older version. Give images with --masks DIR"
    if counts.ndim != 3 or counts.shape[1:] != (NUM_BINS, 3) or not np.isfinite(counts).all() or (counts < 0).any():
        raise ConfigError(f"{shown} is not what a run writes (calibration {counts.dtype} {counts.shape})")
    pooled = counts.sum(axis=0, dtype=np.float64)
    if not pooled[:, 0].any():
        return "calibration is left out: the test split has no labelled pixel"
    return Calibration("the run's test split", pooled, len(counts))


def of_images(
    samples: Sequence[Sample],
    score: Callable[[Tensor], Tensor],
    masks: Path,
    spec: DataSpec,
    node: Mapping[str, Any],
) -> Calibration:
    """Counts images that have a mask of the same stem in a folder, at the masks' own size.

    Args:
        samples: images.
        score: image (1, C, h, w) -> logits (1, K, h, w).
        masks: folder.
        spec: classes of the data.
        node: config of the run's data, for what mask values mean.

    Raises:
        ConfigError: no image has a mask, several have the same stem, or one is of another size.
        Problem: a mask holds something else than the data's convention says.
    """
    labels = Labels(
        spec.class_names,
        spec.ignore_index,
        label_map if isinstance(label_map := node.get("label_map"), dict) else None,
        threshold if isinstance(threshold := node.get("threshold"), int | float) else None,
        palette if isinstance(palette := node.get("palette"), dict) else None,
    )
    if not masks.is_dir():
        raise ConfigError(f"--masks {masks} is not a folder. Give the folder of masks with the stems of the images")
    files: dict[str, list[Path]] = {}
    for path in sorted(masks.iterdir()):
        files.setdefault(path.stem, []).append(path)
    total, num = np.zeros((NUM_BINS, 3)), 0
    for sample in samples:
        found = files.get(sample.path.stem, [])
        if len(found) > 1:
            raise ConfigError(f"--masks: {found[0]} and {found[1].name} both are masks of {sample.path.name}. Keep one")
        if found:
            mask = _mask(found[0], labels, sample)
            total += count(score(sample.image), mask, spec.ignore_index)
            num += 1
    if num == 0:
        raise ConfigError(f"--masks {masks}: no mask has the stem of an image, e.g. {samples[0].path.stem}.png")
    if not total[:, 0].any():
        raise ConfigError(f"--masks {masks}: no pixel is labelled; all have the value {spec.ignore_index}")
    return Calibration(f"{num} image{'' if num == 1 else 's'} with masks", total, num)


@torch.no_grad()
def count(logits: Tensor, mask: Tensor, ignore_index: int) -> NDArray[np.float64]:
    """(15, 3) counts of one image: logits (1, K, h, w), mask (1, H, W) int64."""
    confidence, prediction = resize_to(logits.float(), mask).softmax(dim=1).max(dim=1)
    found: NDArray[np.float64] = calibration_per_image(confidence, prediction == mask, mask != ignore_index)[0].numpy()
    return found


def _mask(path: Path, labels: Labels, sample: Sample) -> Tensor:
    mask = labels.read(open_raster(path, str(path), None, _MOST_READ), str(path))
    if mask.shape != sample.native:
        raise ConfigError(
            f"{path} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {sample.path.name} {sample.native[1]}x"
            f"{sample.native[0]}. Masks are never resized to fit: pair each image with its own"
        )
    return torch.from_numpy(mask.astype(np.int64))[None]


def _member(data: bytes, name: str) -> NDArray[np.float64] | None:
    """An array of an archive that a stranger may have written: its size is known before it takes memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if name not in archive.namelist():
            return None
        if archive.getinfo(name).file_size > _MOST_COUNTS:
            raise ValueError("its counts are too large")
        content = io.BytesIO(archive.read(name))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError("not an array of version 1.0")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(content)
    body = content.read()
    if dtype.kind != "f" or is_fortran or min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"counts of {dtype} {shape} in {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape).astype(np.float64)
