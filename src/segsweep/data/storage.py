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
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from segsweep.data.problems import DataError, Problem
from segsweep.data.splits import SPLITS
from segsweep.data.survey import Note, Survey
from segsweep.types import DataSpec

log = logging.getLogger(__name__)

_FORMAT = 2  # of the cache folder; a change makes new entries
_AHEAD = 64  # images decoded but not written yet, at most

Pixels = NDArray[np.uint8]


class Item(NamedTuple):
    """One image of a split: its name, and the group (video, patient, tile) whose images are not independent."""

    name: str
    group: str


class Sample(NamedTuple):
    """What a source reads.

    Attributes:
        image: (h, w, C) uint8.
        mask: (h, w) uint8, classes and ``ignore_index``; None for an image without a label.
        facts: JSON-able, for the survey and ``segsweep-data``: ``mode``, ``note`` and so on, as far as they apply.
    """

    image: Pixels
    mask: Pixels | None
    facts: dict[str, Any]


class Source(Protocol):
    """Where images and masks come from. Constructors look at folders and names; only ``read`` opens an image."""

    def identity(self) -> Any:
        """JSON-able facts that change whenever the decoded content could."""

    def items(self) -> dict[str, list[Item]]:
        """The images of each split, in a fixed order."""

    def read(self, split: str, position: int) -> Sample:
        """The image at ``position`` of ``items()[split]``; raises ``Problem`` if it cannot be used."""


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
    if not (folder / "items.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):  # runs that start together decode once
            if not (folder / "items.json").is_file():
                _decode_into(folder, source, spec, fit)
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


def survey(source: Source, spec: DataSpec, fit: str) -> Survey:
    """Reads every file and says what is in it, without keeping any pixels."""
    found = Survey(spec.class_names, {}, {}, [])
    for name in SPLITS:
        for _ in _read_split(source, name, spec, fit, found):
            pass
    found.problems += found.joint_problems()
    return found


def _open_split(folder: Path, name: str, facts: dict[str, Any], in_channels: int) -> Split:
    def load(part: str) -> Pixels:
        # Copy-on-write: torch wants writable arrays, the cache stays as it is.
        return np.memmap(folder / f"{name}.{part}.u8", np.uint8, mode="c")

    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        tables = {part: arrays[part] for part in ("sizes", "shapes", "counts", "has_label")}
    native = load("native") if (folder / f"{name}.native.u8").exists() else None
    items = [Item(*item) for item in facts["items"][name]]
    return Split(items, load("images").reshape(-1, in_channels), load("masks"), native=native, **tables)


def _decode_into(folder: Path, source: Source, spec: DataSpec, fit: str) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".decoding-{folder.name}-", dir=folder.parent))
    start = time.perf_counter()
    try:
        items = source.items()
        digest = hashlib.sha256(json.dumps(items).encode())
        found = Survey(spec.class_names, {}, {}, [])
        for name in SPLITS:
            if not items.get(name):
                raise DataError([Problem("E-EMPTY", f"split {name}", "has no images", "Check data.splits")])
            digest.update(_write_split(temporary, source, name, spec, fit, found))
        found.problems += found.joint_problems()
        if found.problems:
            raise DataError(found.problems)
        (temporary / "facts.json").write_text(json.dumps(found.facts))
        index = {
            "fingerprint": digest.hexdigest(),
            "items": items,
            "notes": [[note.level, note.text] for note in found.notes()],
            "leaks": found.leaks(),
        }
        (temporary / "items.json").write_text(json.dumps(index))
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    size = sum(file.stat().st_size for file in folder.iterdir())
    log.info("decoded once, %.0f MB kept in the data cache, in %.1f s", size / 1e6, time.perf_counter() - start)


def _write_split(folder: Path, source: Source, name: str, spec: DataSpec, fit: str, found: Survey) -> bytes:
    """Writes one split and returns the SHA-256 of its content; after the first problem it only looks on."""
    digest = hashlib.sha256()
    sizes: list[tuple[int, ...]] = []
    shapes: list[tuple[int, ...]] = []
    paths = {part: folder / f"{name}.{part}.u8" for part in ("images", "masks", "native")}
    with contextlib.ExitStack() as stack:
        files = {part: stack.enter_context(path.open("wb")) for part, path in paths.items()}
        for image, mask, native in _read_split(source, name, spec, fit, found):
            if found.problems:
                continue
            parts = {"images": image, "masks": mask, **({} if name == "train" else {"native": native})}
            for part, array in parts.items():
                data = np.ascontiguousarray(array).data
                files[part].write(data)
                digest.update(data)
            sizes.append(mask.shape)
            shapes.append(native.shape)
    if name == "train" or sizes == shapes:
        paths["native"].unlink()
    tables = {
        "sizes": np.array(sizes, np.int64),
        "shapes": np.array(shapes if name != "train" else sizes, np.int64),
        "counts": found.counts[name],
        "has_label": np.array([fact["mask"] is not None for fact in found.facts[name]]),
    }
    np.savez(folder / f"{name}.npz", allow_pickle=False, **tables)
    digest.update(json.dumps([sizes, shapes]).encode())
    return digest.digest()


def _read_split(
    source: Source, name: str, spec: DataSpec, fit: str, found: Survey
) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """Yields image and mask at the decoded size and the mask at its own; facts and problems go into ``found``."""
    items = source.items().get(name, [])
    facts: list[dict[str, Any]] = []
    counts: list[NDArray[np.int64]] = []
    found.facts[name] = facts
    with ThreadPoolExecutor() as pool:
        decoded = (
            result
            for start in range(0, len(items), _AHEAD)
            for result in pool.map(
                partial(_decode, source, name, spec, fit), range(start, min(start + _AHEAD, len(items)))
            )
        )
        for item, result in zip(
            items,
            track(decoded, f"decoding {name}", len(items), transient=True, disable=not sys.stdout.isatty()),
            strict=True,
        ):
            if isinstance(result, Problem):
                found.problems.append(result)
                continue
            *arrays, fact, count = result
            facts.append({"name": item.name, **fact})
            counts.append(count)
            yield arrays[0], arrays[1], arrays[2]
    found.counts[name] = np.array(counts, np.int64).reshape(len(counts), len(spec.class_names) + 1)


def _decode(
    source: Source, split: str, spec: DataSpec, fit: str, position: int
) -> tuple[Pixels, Pixels, Pixels, dict[str, Any], NDArray[np.int64]] | Problem:
    try:
        image, mask, facts = source.read(split, position)
    except Problem as problem:
        return problem
    native = np.full(image.shape[:2], spec.ignore_index, np.uint8) if mask is None else mask
    histogram = np.bincount(native.ravel(), minlength=256)
    count = np.append(histogram[: spec.num_classes], histogram[spec.ignore_index])
    facts = {
        "mask": None if mask is None else "",
        **facts,
        "height": image.shape[0],
        "width": image.shape[1],
        "digest": hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=12).hexdigest(),
    }
    return *_resize(image, native, spec, fit), native, facts, count


def _resize(image: Pixels, mask: Pixels, spec: DataSpec, fit: str) -> tuple[Pixels, Pixels]:
    """To ``spec.size``: images bilinear (with antialiasing), masks nearest."""
    own = (image.shape[0], image.shape[1])
    size = own if spec.size is None else spec.size
    if fit == "pad" and spec.size is not None:
        scale = min(size[0] / own[0], size[1] / own[1])
        size = (max(1, round(own[0] * scale)), max(1, round(own[1] * scale)))
    if own == size:
        return image, mask
    target = (size[1], size[0])
    picture = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize(target, Image.Resampling.BILINEAR)).reshape(*size, -1)
    return resized, np.asarray(Image.fromarray(mask).resize(target, Image.Resampling.NEAREST))


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], sizes.prod(axis=1).cumsum()])


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel if this process dies
        yield
