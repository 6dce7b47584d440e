"""MNIST and its relatives from the original idx files: a mask is the digit's class where there is ink."""

import gzip
import struct
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from segsweep.data.download import download as fetch
from segsweep.data.problems import DataError, Problem
from segsweep.data.source import Item, Sample
from segsweep.data.splits import divide

_FOLDERS = (".", "MNIST/raw", "raw")  # where people, and torchvision, keep the files
_MAGIC = {3: 2051, 1: 2049}  # dimensions -> first number of the file


class Idx:
    """Reads ``train-images-idx3-ubyte`` and the other three usual files, packed (``.gz``) or not.

    Args:
        root: folder of the files.
        val: share of the training images that validate.
        split_seed: of that share.
        ink: pixels above this value belong to the digit, in 0..254.
        limit: images of each of the two files to use, from the first on; None for all.
        download: whether to fetch the data if it is not there.
        downloader: class of torchvision that fetches it.
        obtain: what to download and where to put it, said when the data is not there.

    Raises:
        DataError: files are missing or damaged.
    """

    def __init__(
        self,
        root: str,
        val: Annotated[float, Gt(0), Lt(1)],
        split_seed: Annotated[int, Ge(0)],
        ink: Annotated[int, Ge(0), Lt(255)],
        limit: Annotated[int, Ge(2)] | None,
        download: bool,
        downloader: str | None,
        obtain: str | None,
    ) -> None:
        self.root, self.ink = Path(root).expanduser(), ink
        if download:
            fetch(downloader, self.root, obtain)
        if downloader and obtain:
            obtain = f"{obtain}, or set data.download=true"
        self._files = {stem: _find(self.root, stem, obtain) for stem in ("train", "t10k")}
        num = {stem: min(_count(files[1]), limit or 1 << 62) for stem, files in self._files.items()}
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
        self._arrays: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

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
        if stem not in self._arrays:
            images, labels = self._files[stem]
            self._arrays[stem] = _read(images, 3), _read(labels, 1)
        images_NHW, labels_N = self._arrays[stem]
        mask = np.where(images_NHW[i] > self.ink, labels_N[i] + 1, 0).astype(np.uint8)
        return Sample(images_NHW[i][:, :, None], mask, {})


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


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError([Problem("E-IMG", path.name, f"is damaged ({error})", "Download it again")]) from None


def _count(labels: Path) -> int:
    opener = gzip.open if labels.suffix == ".gz" else open
    try:
        with opener(labels, "rb") as file:
            magic, num = struct.unpack(">II", file.read(8))
    except (OSError, EOFError, struct.error) as error:
        raise DataError([Problem("E-IMG", labels.name, f"is damaged ({error})", "Download it again")]) from None
    if magic != _MAGIC[1]:
        raise DataError([Problem("E-IMG", labels.name, "is no idx file of labels", "Download it again")])
    return int(num)


def _read(path: Path, num_dims: int) -> NDArray[np.uint8]:
    data = _bytes(path)
    header = struct.unpack(f">{1 + num_dims}I", data[: 4 + 4 * num_dims]) if len(data) > 4 + 4 * num_dims else (0,)
    pixels = np.frombuffer(data, np.uint8, offset=4 + 4 * num_dims) if len(header) > 1 else np.zeros(0, np.uint8)
    if header[0] != _MAGIC[num_dims] or pixels.size != np.prod(header[1:]):
        raise DataError([Problem("E-IMG", path.name, "is no whole idx file", "Download it again")])
    return pixels.reshape(header[1:])
