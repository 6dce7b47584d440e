"""Decode once: a dataset becomes a folder of memory-mapped bytes that all runs share through the page cache.

    <cache>/<key>/  <split>.images.u8   pixels of all images one after another, (P, C)
                    <split>.masks.u8    the same for the masks, (P,)
                    <split>.native.u8   masks at their own sizes, for val and test where those differ
                    <split>.npz         sizes, native sizes, class counts, which images have a label
                    items.json          names, groups, fingerprint, what the survey found, sizes and checksums of files
                    facts.json          what is in each file, for segsweep-data

The key hashes what the source says of itself (names, sizes, modification times, settings) and how it is decoded, so a
changed dataset is a new entry. An entry appears by one rename: it is whole or it is not there. One of whose files
another size is found, or that cannot be opened, is decoded again; ``segsweep-data`` compares the checksums as well,
which takes too long to be done at the start of every run.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segsweep.data.cache import alone, cache_root
from segsweep.data.decoding import checksum, decode_into
from segsweep.data.problems import DataError
from segsweep.data.rasters import too_large
from segsweep.data.source import Item, Pixels, Source
from segsweep.data.splits import SPLITS
from segsweep.data.survey import Note
from segsweep.types import DataSpec

_FORMAT = 4  # of the cache folder; a change makes new entries


@dataclass(frozen=True)
class Split:
    """One decoded split; arrays are memory-mapped.

    Attributes:
        items: names and groups, in order.
        images: (P, C) uint8, the pixels of all images in order, row by row.
        masks: (P,) uint8, at the size of the images.
        sizes: (n, 2) int64, height and width of each image.
        own: (n, 2) int64, those of its file.
        native: one flat uint8 array of all masks at their own sizes, or None where those equal ``sizes``.
        shapes: (n, 2) int64, height and width of each native mask.
        counts: (n, K + 1) int64, pixels of each class and, last, ignored ones, at native size.
        has_label: (n,) bool, whether the image has a mask at all.
    """

    items: list[Item]
    images: Pixels
    masks: Pixels
    sizes: NDArray[np.int64]
    own: NDArray[np.int64]
    native: Pixels | None
    shapes: NDArray[np.int64]
    counts: NDArray[np.int64]
    has_label: NDArray[np.bool_]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(n + 1,) int64, position of each image's first pixel in ``images`` and ``masks``."""
        return _starts(self.sizes)

    @cached_property
    def _native_starts(self) -> NDArray[np.int64]:
        return _starts(self.shapes)

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w) if all images have one size, else None."""
        height, width = self.sizes[0].tolist()
        return (height, width) if (self.sizes == self.sizes[0]).all() else None

    def image(self, position: int) -> Pixels:
        """One image (h, w, C)."""
        pixels: Pixels = self.images[self.starts[position] : self.starts[position + 1]]
        return pixels.reshape(*self.sizes[position], -1)

    def mask(self, position: int) -> Pixels:
        """Its mask (h, w), at the size of the image."""
        pixels: Pixels = self.masks[self.starts[position] : self.starts[position + 1]]
        return pixels.reshape(self.sizes[position])

    def native_mask(self, position: int) -> Pixels:
        """Its mask at the mask's own size."""
        if self.native is None:
            return self.mask(position)
        pixels: Pixels = self.native[self._native_starts[position] : self._native_starts[position + 1]]
        return pixels.reshape(self.shapes[position])


@dataclass(frozen=True)
class Store:
    """A decoded dataset.

    Attributes:
        folder: its cache entry.
        fingerprint: SHA-256 of its content and classes; the same wherever the files lie.
        splits: by name.
        notes: what its owner should know.
        leaks: pairs of images that hold the same picture in two splits.
        checksums: of the entry's files, as they were written.
    """

    folder: Path
    fingerprint: str
    splits: dict[str, Split]
    notes: list[Note]
    leaks: list[tuple[str, str]]
    checksums: dict[str, int]

    def facts(self) -> dict[str, list[dict[str, Any]]]:
        """What is in each file, split by split, in the order of the items."""
        facts: dict[str, list[dict[str, Any]]] = json.loads((self.folder / "facts.json").read_text())
        return facts

    def num_bytes(self) -> int:
        """Size of the cache entry."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def damaged(self) -> list[str]:
        """Files of the entry whose bytes are not those that were written; reads all of them."""
        return [name for name, written in self.checksums.items() if checksum(self.folder / name) != written]

    def discard(self) -> None:
        """Removes the entry; whoever opens the dataset next decodes it again."""
        (self.folder / "items.json").unlink(missing_ok=True)


def open_store(source: Source, spec: DataSpec, fit: str) -> Store:
    """Opens the decoded dataset, decoding it first if no run has done so yet.

    Args:
        source: where images and masks come from.
        spec: facts of the data; ``size`` None keeps each image's own size.
        fit: ``stretch`` to the size, or ``pad``: as large as fits in it with the aspect ratio kept.

    Raises:
        DataError: files cannot be used as declared; all of them at once.
    """
    decoding = [_FORMAT, source.identity(), spec.size, fit, spec.in_channels, spec.class_names, spec.ignore_index]
    key = hashlib.sha256(json.dumps(decoding, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache_root() / key
    store = _open_whole(folder, spec)
    if store is None:
        with alone(key):  # runs that start together decode once
            store = _open_whole(folder, spec)
            if store is None:
                shutil.rmtree(folder, ignore_errors=True)
                decode_into(folder, source, spec, fit)
                store = _open(folder, spec)
    _refuse_large(store, getattr(source, "max_pixels", None))
    return store


def _open_whole(folder: Path, spec: DataSpec) -> Store | None:
    """The entry, or None if there is none or a power cut, a full disk or a hand in the folder has left a part of it."""
    try:
        return _open(folder, spec)
    except Exception:  # whatever NumPy, zip and JSON say of damaged files: it is decoded again, and opened in earnest
        return None


def _open(folder: Path, spec: DataSpec) -> Store:
    index = json.loads((folder / "items.json").read_text())
    for name, (size, _) in index["files"].items():
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{name} has another size than was written")
    # What the pixels mean belongs to the data as well, but not to the decoded files.
    meaning = json.dumps([index["fingerprint"], spec.class_names, spec.ignore_index])
    return Store(
        folder,
        hashlib.sha256(meaning.encode()).hexdigest(),
        {name: _open_split(folder, name, index, spec.in_channels) for name in SPLITS},
        [Note(*note) for note in index["notes"]],
        [(first, second) for first, second in index["leaks"]],
        {name: checksum for name, (_, checksum) in index["files"].items()},
    )


def _refuse_large(store: Store, max_pixels: int | None) -> None:
    """An entry may have been made when the limit was higher."""
    problems = []
    for name, split in store.splits.items() if max_pixels is not None else ():
        for i in map(int, np.flatnonzero(split.own.prod(axis=1) > max_pixels)):
            height, width = split.own[i].tolist()
            file = store.facts()[name][i].get("image", split.items[i].name)
            problems.append(too_large(height, width, file, max_pixels or 0))
    if problems:
        raise DataError(problems)


def _open_split(folder: Path, name: str, index: dict[str, Any], in_channels: int) -> Split:
    def load(part: str) -> Pixels:
        # Copy-on-write: torch wants writable arrays, the cache stays as it is.
        return np.memmap(folder / f"{name}.{part}.u8", np.uint8, mode="c")

    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        tables = {part: arrays[part] for part in ("sizes", "own", "shapes", "counts", "has_label")}
    native = load("native") if (folder / f"{name}.native.u8").exists() else None
    items = [Item(*item) for item in index["items"][name]]
    return Split(items, load("images").reshape(-1, in_channels), load("masks"), native=native, **tables)


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], sizes.prod(axis=1).cumsum()])
