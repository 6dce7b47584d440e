"""Whether confidence is accuracy: counts of the run's own test split, or of images with masks."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segsweep.contained import read_bytes
from segsweep.counting import NUM_BINS, calibration_per_image
from segsweep.explain.images import Sample
from segsweep.metrics import calibration_error
from segsweep.models.blocks import resize_to
from segsweep.report.printable import printable
from segsweep.run import ConfigError

FILE = "test_confusion.npz"
_MOST_BYTES = 1 << 30  # of the whole file, which holds confusion matrices of all test images, too
_MOST_COUNTS = 1 << 28  # bytes of the counts alone
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


def of_images(samples: Sequence[Sample], score: Callable[[Tensor], Tensor], ignore_index: int) -> Calibration:
    """Counts images that have a mask, at the masks' own size.

    Args:
        samples: images; those without a mask are left out.
        score: image (1, C, h, w) -> logits (1, K, h, w).
        ignore_index: mask value that is left out.

    Raises:
        ConfigError: no pixel is labelled.
    """
    total, num = np.zeros((NUM_BINS, 3)), 0
    for sample in samples:
        if sample.mask is not None:
            mask = torch.from_numpy(sample.mask.astype(np.int64))[None]
            total += count(score(sample.image), mask, ignore_index)
            num += 1
    if not total[:, 0].any():
        raise ConfigError(f"--masks: no pixel is labelled; all have the value {ignore_index}")
    return Calibration(f"{num} image{'' if num == 1 else 's'} with masks", total, num)


@torch.no_grad()
def count(logits: Tensor, mask: Tensor, ignore_index: int) -> NDArray[np.float64]:
    """(15, 3) counts of one image: logits (1, K, h, w), mask (1, H, W) int64."""
    confidence, prediction = resize_to(logits.float(), mask).softmax(dim=1).max(dim=1)
    found: NDArray[np.float64] = calibration_per_image(confidence, prediction == mask, mask != ignore_index)[0].numpy()
    return found


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
