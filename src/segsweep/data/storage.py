"""Decode once: a dataset becomes a folder of memory-mapped bytes that all runs share through the page cache.

    <cache>/<key>/  <split>.images.u8   pixels of all images one after another, (P, C)
                    <split>.masks.u8    the same for the masks, (P,)
                    <split>.native.u8   masks at their own sizes, for val and test where those differ
                    <split>.npz         sizes, native sizes, class counts, which images have a label
                    items.json          names, groups, fingerprint, what the survey found
                    facts.json          what is in each file, for segsweep-data

The key hashes what the source says of itself (names, sizes, modification times, settings) and how it is decoded, so a
changed dataset is a new entry. An entry appears by one rename: it is whole or it is not there.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segsweep.data.decoding import decode_into
from segsweep.data.source import Item, Pixels, Source
from segsweep.data.splits import SPLITS
from segsweep.data.survey import Note
from segsweep.types import DataSpec

_FORMAT = 3  # of the cache folder; a change makes new entries


@dataclass(frozen=True)
class Split:
    """One decoded split; arrays are memory-mapped.

    Attributes:
        items: names and groups, in order.
        images: (P, C) uint8, the pixels of all images in order, row by row.
        masks: (P,) uint8, at the size of the images.
        sizes: (n, 2) int64, height and width of each image.
        native: one flat uint8 array of all masks at their own sizes, or None where those equal ``sizes``.
        shapes: (n, 2) int64, height and width of each native mask.
        counts: (n, K + 1) int64, pixels of each class and, last, ignored ones, at native size.
        has_label: (n,) bool, whether the image has a mask at all.
    """

    items: list[Item]
    images: Pixels
    masks: Pixels
    sizes: NDArray[np.int64]
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
    """

    folder: Path
    fingerprint: str
    splits: dict[str, Split]
    notes: list[Note]
    leaks: list[tuple[str, str]]

    def facts(self) -> dict[str, list[dict[str, Any]]]:
        """What is in each file, split by split, in the order of the items."""
        facts: dict[str, list[dict[str, Any]]] = json.loads((self.folder / "facts.json").read_text())
        return facts

    def num_bytes(self) -> int:
        """Size of the cache entry."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def cache_root() -> Path:
    """``$SEGSWEEP_CACHE``, else ``segsweep`` in the user's XDG cache folder."""
    if root := os.environ.get("SEGSWEEP_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segsweep"


def clear_cache() -> int:
    """Removes every entry that no process is building; returns the bytes that were freed."""
    freed = 0
    for path in sorted(cache_root().glob("*")) if cache_root().is_dir() else []:
        if path.is_dir() and (path / "items.json").exists():
            freed += sum(file.stat().st_size for file in path.iterdir())
            shutil.rmtree(path)
        elif path.suffix == ".lock":
            with contextlib.suppress(BlockingIOError), path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left_over in cache_root().glob(f".decoding-{path.stem}-*"):  # its builder was killed
                    freed += sum(file.stat().st_size for file in left_over.iterdir())
                    shutil.rmtree(left_over)
    return freed


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
    facts = _facts(folder)
    if facts is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):  # runs that start together decode once
            facts = _facts(folder)
            if facts is None:
                shutil.rmtree(folder, ignore_errors=True)
                decode_into(folder, source, spec, fit)
                facts = json.loads((folder / "items.json").read_text())
    # What the pixels mean belongs to the data as well, but not to the decoded files.
    meaning = json.dumps([facts["fingerprint"], spec.class_names, spec.ignore_index])
    return Store(
        folder,
        hashlib.sha256(meaning.encode()).hexdigest(),
        {name: _open_split(folder, name, facts, spec.in_channels) for name in SPLITS},
        [Note(*note) for note in facts["notes"]],
        [(first, second) for first, second in facts["leaks"]],
    )


def _facts(folder: Path) -> dict[str, Any] | None:
    """What ``items.json`` says, or None if there is no entry or a power cut has left a part of it."""
    try:
        facts: dict[str, Any] = json.loads((folder / "items.json").read_text())
        sizes = {name: (folder / name).stat().st_size for name in facts["bytes"]}
    except (OSError, ValueError, KeyError):
        return None
    return facts if sizes == facts["bytes"] else None


def _open_split(folder: Path, name: str, facts: dict[str, Any], in_channels: int) -> Split:
    def load(part: str) -> Pixels:
        # Copy-on-write: torch wants writable arrays, the cache stays as it is.
        return np.memmap(folder / f"{name}.{part}.u8", np.uint8, mode="c")

    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        tables = {part: arrays[part] for part in ("sizes", "shapes", "counts", "has_label")}
    native = load("native") if (folder / f"{name}.native.u8").exists() else None
    items = [Item(*item) for item in facts["items"][name]]
    return Split(items, load("images").reshape(-1, in_channels), load("masks"), native=native, **tables)


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], sizes.prod(axis=1).cumsum()])


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel if this process dies
        yield
