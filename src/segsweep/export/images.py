"""Real images to compare on and to calibrate with: the run's own splits, a folder, or noise where there is nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segsweep.data.datamodule import DataModule
from segsweep.data.images import to_image, turn_upright
from segsweep.data.pixels import fitted_size, resize_image
from segsweep.data.rasters import open_raster
from segsweep.opened import OpenedRun
from segsweep.opened.data import open_data
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec

NUM_CALIBRATION = 128
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")
_MOST_PIXELS = 64_000_000
_NUM_NOISE = 8


class Picture(NamedTuple):
    """An image as the graph takes it.

    Attributes:
        pixels: (C, h, w) uint8, at the size that the model was trained on.
        mask: (H, W) uint8 at its native size, or None.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Images:
    """Where pictures come from.

    Attributes:
        what: in words.
        test: to compare on.
        calibration: to choose the scales of integers with.
    """

    what: str
    test: "Pictures"
    calibration: "Pictures"
    is_noise: bool = False


class Pictures:
    """Pictures that are read when they are asked for, again each time."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Picture]:
        raise NotImplementedError


class _OfSplit(Pictures):
    def __init__(self, data: DataModule, split: str, most: int) -> None:
        self.split = data.store.splits[split]
        self.positions = _spread(len(self.split.items), most)

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Picture]:
        for i in self.positions:
            mask = self.split.native_mask(i) if self.split.has_label[i] else None
            yield Picture(self.split.image(i).transpose(2, 0, 1).copy(), mask)


class _OfFiles(Pictures):
    def __init__(self, files: Sequence[Path], spec: DataSpec, fit: str, node: dict[str, object]) -> None:
        self.files, self.spec, self.fit, self.node = files, spec, fit, node

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Picture]:
        for file in self.files:
            shown = printable(str(file))
            raster = open_raster(file, shown, None, _MOST_PIXELS)
            image = to_image(raster, shown, self.spec.in_channels, _scale(self.node.get("scale")), "drop")
            image = turn_upright(image, raster.orientation)
            image = resize_image(image, fitted_size((image.shape[0], image.shape[1]), self.spec, self.fit))
            yield Picture(image.transpose(2, 0, 1).copy(), None)


class _Noise(Pictures):
    def __init__(self, in_channels: int, size: tuple[int, int]) -> None:
        self.shape = (in_channels, *size)

    def __len__(self) -> int:
        return _NUM_NOISE

    def __iter__(self) -> Iterator[Picture]:
        rng = np.random.default_rng(0)
        for _ in range(_NUM_NOISE):
            yield Picture(rng.integers(0, 256, self.shape, dtype=np.uint8), None)


def find_images(run: OpenedRun, size: tuple[int, int], folder: Path | None, root: Path | None, most: int) -> Images:
    """Those of a folder; else the run's own splits; else, if its data lie on disk and nobody says where, noise.

    Args:
        run: the opened run.
        size: (H, W) of noise.
        folder: with images, or None.
        root: of the run's dataset on this machine, or None.
        most: images to compare on, evenly spread over the split or folder.

    Raises:
        ConfigError: there are no images where they are said to be.
    """
    if folder is not None:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
        if not files:
            raise ConfigError(f"--images {folder}: no image in it or below it ({', '.join(_SUFFIXES)})")
        test, few = ([files[i] for i in _spread(len(files), num)] for num in (most, NUM_CALIBRATION))
        first, second = (_OfFiles(part, run.spec, run.fit, run.data_node) for part in (test, few))
        return Images(f"{len(test)} images of {printable(str(folder))}", first, second)
    if root is None and _lies_on_disk(run):
        noise = _Noise(run.spec.in_channels, size)
        what = f"{_NUM_NOISE} images of NOISE: give real ones with --images DIR or --root DIR"
        return Images(what, noise, noise, True)
    data = open_data(run, root)
    test_part = _OfSplit(data, "test", most)
    what = f"{len(test_part)} of {len(test_part.split.items)} test images of the run"
    return Images(what, test_part, _OfSplit(data, "train", NUM_CALIBRATION))


def _lies_on_disk(run: OpenedRun) -> bool:
    return str(run.data_node.get("_target_")).rpartition(".")[2] not in ("Digits", "FarCue")


def _spread(num: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(int)).tolist() if num else []


def _scale(value: object) -> tuple[float, float] | None:
    """As the record says it, which may be anything."""
    if not isinstance(value, list) or [type(v) in (int, float) for v in value] != [True, True] or value[0] >= value[1]:
        return None
    return float(value[0]), float(value[1])
