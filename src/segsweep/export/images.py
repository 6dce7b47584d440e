"""Real images to compare on and to calibrate with: the run's own splits, files, or noise where there is nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segsweep.data.datamodule import DataModule
from segsweep.data.pixels import fitted_size, resize_image
from segsweep.images.inputs import Input
from segsweep.images.reading import Reading
from segsweep.opened import OpenedRun
from segsweep.opened.data import open_data
from segsweep.report.printable import printable

NUM_CALIBRATION = 128
_NUM_NOISE = 8
_Page = tuple[Input, int | None]


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
        test: to compare on.
        compared_on: the same in words.
        calibration: to choose the scales of integers with.
        calibrated_on: the same in words.
        is_noise: whether they are no real ones.
    """

    test: "Pictures"
    compared_on: str
    calibration: "Pictures"
    calibrated_on: str
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

    @property
    def share(self) -> str:
        """How many of how many."""
        return f"{len(self)} of {len(self.split.items)}"

    def __iter__(self) -> Iterator[Picture]:
        for i in self.positions:
            mask = self.split.native_mask(i) if self.split.has_label[i] else None
            yield Picture(self.split.image(i).transpose(2, 0, 1).copy(), mask)


class _OfFiles(Pictures):
    def __init__(self, pages: Sequence[_Page], run: OpenedRun, reading: Reading) -> None:
        self.pages, self.spec, self.fit, self.reading = pages, run.spec, run.fit, reading

    def __len__(self) -> int:
        return len(self.pages)

    def __iter__(self) -> Iterator[Picture]:
        for item, page in self.pages:
            image, _ = self.reading.file(item.path, item.shown_page(page), page)
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


def images_of_files(
    inputs: Sequence[Input], where: str, run: OpenedRun, reading: Reading, most: int, with_int8: bool
) -> Images:
    """Of the user's files, each page an image of its own.

    What it is calibrated on flatters int8, so that half of them are kept for the comparison.

    Args:
        inputs: the files; at least one.
        where: what the user has typed for them.
        run: the opened run.
        reading: how they are read.
        most: images to compare on, evenly spread over the files.
        with_int8: whether anything is calibrated.

    Raises:
        Problem: a file cannot be opened.
    """
    few = [inputs[i] for i in _spread(len(inputs), 2 * max(most, NUM_CALIBRATION))]
    pages = [(item, page) for item in few for page in reading.pages(item.path, item.shown)]
    is_split = with_int8 and len(pages) > 1
    halves = (pages[::2], pages[1::2]) if is_split else (pages, pages)
    test, calibration = (
        _OfFiles([half[i] for i in _spread(len(half), num)], run, reading)
        for half, num in zip(halves, (most, NUM_CALIBRATION), strict=True)
    )
    compared, calibrated = (f"{_counted(len(half))} of {printable(where)[:200]}" for half in (test, calibration))
    if is_split:
        compared, calibrated = f"{compared}, other ones than int8 is calibrated on", f"{calibrated}, the other ones"
    elif with_int8:
        compared, calibrated = f"{compared}, the one that int8 is calibrated on: that flatters it", "the same image"
    return Images(test, compared, calibration, calibrated)


def images_of_run(run: OpenedRun, size: tuple[int, int], root: Path | None, most: int) -> Images:
    """Of the run's own splits, to calibrate on those for training; if its data lie where nobody says, noise.

    Args:
        run: the opened run.
        size: (H, W) of noise.
        root: of the run's dataset on this machine, or None.
        most: images to compare on, evenly spread over the test split.

    Raises:
        ConfigError: the data cannot be opened.
    """
    if root is None and _lies_on_disk(run):
        noise = _Noise(run.spec.in_channels, size)
        what = f"{_NUM_NOISE} images of NOISE: give real ones with --images or --root DIR"
        return Images(noise, what, noise, "the same noise", True)
    data = open_data(run, root)
    test, train = _OfSplit(data, "test", most), _OfSplit(data, "train", NUM_CALIBRATION)
    return Images(test, f"{test.share} test images of the run", train, f"{train.share} training images of the run")


def _lies_on_disk(run: OpenedRun) -> bool:
    return str(run.data_node.get("_target_")).rpartition(".")[2] not in ("Digits", "FarCue")


def _spread(num: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(int)).tolist() if num else []


def _counted(num: int) -> str:
    return f"{num:,} image{'' if num == 1 else 's'}"
