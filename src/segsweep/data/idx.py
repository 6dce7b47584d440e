"""MNIST and its relatives from the original idx files: a mask is the digit's class where there is ink."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from segsweep.data.absent import root_folder
from segsweep.data.download import download as fetch
from segsweep.data.problems import DataError, Problem
from segsweep.data.source import Item, Sample
from segsweep.data.splits import divide

_FOLDERS = (".", "MNIST/raw", "raw")  # where people, and torchvision, keep the files
_AGAIN = "Download it again"
_SHOWN = 5  # labels in one message
_MAGIC = {3: 2051, 1: 2049}  # dimensions -> first number of the file


class Idx:
    """Reads ``train-images-idx3-ubyte`` and the other three usual files, packed (``.gz``) or not.

    Args:
        root: folder of the files.
        val: share of the training images that validate.
        split_seed: of that share.
        num_classes: background and the labels.
        ink: pixels above this value belong to the digit, in 0..254.
        limit: images of each of the two files to use, from the first on; None for all.
        download: whether to fetch the data if it is not there.
        downloader: class of torchvision that fetches it.
        obtain: what to download and where to put it, said when the data is not there.

    Raises:
        DataError: files are missing or damaged, do not belong together, or hold other labels.
    """

    def __init__(
        self,
        root: str,
        val: Annotated[float, Gt(0), Lt(1)],
        split_seed: Annotated[int, Ge(0)],
        num_classes: int,
        ink: Annotated[int, Ge(0), Lt(255)],
        limit: Annotated[int, Ge(2)] | None,
        download: bool,
        downloader: str | None,
        obtain: str | None,
    ) -> None:
        self.root, self.ink = root_folder(root), ink
        if download:
            fetch(downloader, self.root, obtain)
        if downloader and obtain:
            obtain = f"{obtain}, or set data.download=true"
        self._files = {stem: _find(self.root, stem, obtain) for stem in ("train", "t10k")}
        self._labels = {stem: _labels(*files, num_classes) for stem, files in self._files.items()}
        num = {stem: min(len(labels), limit or 1 << 62) for stem, labels in self._labels.items()}
        names = {f"train-{i:05d}": i for i in range(num["train"])}
        dealt = divide({name: name for name in names}, {"val": val}, split_seed, None, None)
        self._positions = {
            "train": [("train", names[name]) for name in names if dealt[name] == "train"],
            "val": [("train", names[name]) for name in names if dealt[name] == "val"],
            "test": [("t10k", i) for i in range(num["t10k"])],
        }
        self._items = {
            split: [Item(f"{stem}-{i:05d}", f"{stem}-{i:05d}") for stem, i in positions]
            for split, positions in self._positions.items()
        }
        self._images: dict[str, NDArray[np.uint8]] = {}

    def identity(self) -> object:
        """Names, sizes and modification times of the files, and which images are used."""
        stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for pair in self._files.values() for f in pair]
        return ["idx", stats, self.ink, {split: len(items) for split, items in self._items.items()}, self._items["val"]]

    def items(self) -> dict[str, list[Item]]:
        """Images in the order of their files."""
        return self._items

    def read(self, split: str, position: int) -> Sample:
        """One image (28, 28, 1) and its mask: 0, or the digit + 1 where there is ink."""
        stem, i = self._positions[split][position]
        if stem not in self._images:
            self._images[stem] = _read(self._files[stem][0], 3)
        image = self._images[stem][i]
        mask = np.where(image > self.ink, self._labels[stem][i] + 1, 0).astype(np.uint8)
        return Sample(image[:, :, None], mask, {})


def _find(root: Path, stem: str, obtain: str | None) -> tuple[Path, Path]:
    wanted = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    for folder in _FOLDERS:
        found = [
            path for name in wanted for path in (root / folder / name, root / folder / f"{name}.gz") if path.is_file()
        ]
        if len({path.name.removesuffix(".gz") for path in found}) == 2:
            return found[0], found[-1]
    what = f"has no {wanted[0]} and {wanted[1]} (with or without .gz)"
    raise DataError([Problem("E-ROOT", f"data.root={root}", what, obtain or "Set data.root to their folder")])


def _labels(images: Path, labels: Path, num_classes: int) -> NDArray[np.uint8]:
    """The labels, once it is clear that they belong to the images and to the classes."""
    labels_N = _read(labels, 1)
    num = _header(images, _bytes(images, 8), 1, 3)[0]
    if num != len(labels_N):
        what = f"has {num:,} images, {labels.name} {len(labels_N):,} labels"
        raise DataError([Problem("E-PAIR", images.name, what, "Download both again: they do not belong together")])
    if wrong := np.unique(labels_N[labels_N > num_classes - 2]).tolist():
        many = f"{', '.join(map(str, wrong[:_SHOWN]))}{' ...' if len(wrong) > _SHOWN else ''}"
        what = f"has the labels {many} (in {int((labels_N > num_classes - 2).sum()):,} of {num:,} images)"
        what += f"; with the background as a class of its own, data.num_classes={num_classes} has the labels "
        what += f"0..{num_classes - 2}"
        fix = f"Download it again, or for other symbols than digits set data.num_classes={max(wrong) + 2} and as many "
        raise DataError([Problem("E-LABEL", labels.name, what, f"{fix}data.class_names")])
    return labels_N


def _bytes(path: Path, most: int = -1) -> bytes:
    """What is in the file, unpacked: all of it, or its beginning."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return bytes(file.read(most))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError([Problem("E-IMG", path.name, f"is damaged ({error})", _AGAIN)]) from None


def _header(path: Path, data: bytes, num: int, num_dims: int) -> tuple[int, ...]:
    """The first ``num`` sizes of an array, from the beginning of its file."""
    magic, *sizes = struct.unpack_from(f">{1 + num}I", data) if len(data) >= 4 + 4 * num else (0,)
    if magic != _MAGIC[num_dims]:
        what = f"is no whole idx file of {'labels' if num_dims == 1 else 'images'}"
        raise DataError([Problem("E-IMG", path.name, what, _AGAIN)])
    return tuple(sizes)


def _read(path: Path, num_dims: int) -> NDArray[np.uint8]:
    data = _bytes(path)
    shape = _header(path, data, num_dims, num_dims)
    pixels = np.frombuffer(data, np.uint8, offset=4 + 4 * num_dims)
    if pixels.size != math.prod(shape):
        what = f"is no whole idx file: {pixels.size:,} values for the shape {shape}"
        raise DataError([Problem("E-IMG", path.name, what, _AGAIN)])
    return pixels.reshape(shape)
