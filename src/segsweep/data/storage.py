"""Decode once: a dataset becomes a folder of memory-mapped uint8 arrays that all runs share through the page cache.

    <cache>/<key>/  train.images.npy (n, H, W, C)   train.masks.npy (n, H, W)   and the same for val and test
                    test.native.npy, test.shapes.npy   masks at their own sizes, where those differ from (H, W)
                    items.json  names, groups, fingerprint

The key hashes what the source says of itself (names, sizes, modification times, settings) and how it is decoded, so a
changed dataset is a new entry. An entry appears by one rename: it is whole or it is not there.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from segsweep.types import DataSpec

log = logging.getLogger(__name__)

_FORMAT = 1  # of the cache folder; a change makes new entries
SPLITS = ("train", "val", "test")

Pixels = NDArray[np.uint8]


class Item(NamedTuple):
    """One image of a split: its name, and the group (video, patient, tile) whose images are not independent."""

    name: str
    group: str


class Source(Protocol):
    """Where images and masks come from. Constructors look at folders and names; only ``read`` opens an image."""

    def identity(self) -> Any:
        """JSON-able facts that change whenever the decoded content could."""

    def items(self) -> dict[str, list[Item]]:
        """The images of each split, in a fixed order."""

    def read(self, split: str, position: int) -> tuple[Pixels, Pixels]:
        """The image (h, w, C) and the mask (h, w) at ``position`` of ``items()[split]``, both uint8."""


@dataclass(frozen=True)
class Split:
    """One decoded split.

    Attributes:
        items: names and groups, in order.
        images: (n, H, W, C) uint8, memory-mapped.
        masks: (n, H, W) uint8, memory-mapped, at the size of the images.
        native: one flat uint8 array of all masks at their own sizes, or None where those equal (H, W).
        shapes: (n, 2) int64, height and width of each native mask.
    """

    items: list[Item]
    images: Pixels
    masks: Pixels
    native: Pixels | None
    shapes: NDArray[np.int64]

    def native_mask(self, position: int) -> Pixels:
        """The mask of one image at its own size (h, w)."""
        mask: Pixels
        if self.native is None:
            mask = self.masks[position]
            return mask
        sizes = self.shapes.prod(axis=1)
        start = int(sizes[:position].sum())
        mask = self.native[start : start + int(sizes[position])].reshape(self.shapes[position])
        return mask


@dataclass(frozen=True)
class Store:
    """A decoded dataset: its cache folder, the SHA-256 of its content and classes, its splits by name."""

    folder: Path
    fingerprint: str
    splits: dict[str, Split]


def cache_root() -> Path:
    """``$SEGSWEEP_CACHE``, else ``segsweep`` in the user's XDG cache folder."""
    if root := os.environ.get("SEGSWEEP_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segsweep"


def open_store(source: Source, spec: DataSpec) -> Store:
    """Opens the decoded dataset, decoding it first if no run has done so yet.

    Raises:
        ValueError: a split is empty, a mask holds a value that is no class, or mask and image differ in size.
    """
    decoding = [_FORMAT, source.identity(), spec.size, spec.in_channels, spec.num_classes, spec.ignore_index]
    key = hashlib.sha256(json.dumps(decoding, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache_root() / key
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):  # runs that start together decode once
            if not folder.is_dir():
                _decode_into(folder, source, spec)
    facts = json.loads((folder / "items.json").read_text())
    # What the pixels mean belongs to the data as well, but not to the decoded files.
    meaning = json.dumps([facts["fingerprint"], spec.class_names, spec.ignore_index])
    return Store(
        folder,
        hashlib.sha256(meaning.encode()).hexdigest(),
        {name: _open_split(folder, name, facts) for name in SPLITS},
    )


def _open_split(folder: Path, name: str, facts: dict[str, Any]) -> Split:
    def load(part: str) -> NDArray[Any]:
        # Copy-on-write: torch wants writable arrays, the cache stays as it is.
        array: NDArray[Any] = np.load(folder / f"{name}.{part}.npy", mmap_mode="c", allow_pickle=False)
        return array

    native = load("native") if (folder / f"{name}.native.npy").exists() else None
    return Split([Item(*item) for item in facts["items"][name]], load("images"), load("masks"), native, load("shapes"))


def _decode_into(folder: Path, source: Source, spec: DataSpec) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".decoding-", dir=folder.parent))
    try:
        items = source.items()
        digest = hashlib.sha256(json.dumps(items).encode())
        for name in SPLITS:
            if not items.get(name):
                raise ValueError(f"the {name} split of the data has no images; give it some, or check data.source")
            for part, array in _decode_split(source, name, len(items[name]), spec).items():
                digest.update(array.tobytes())
                np.save(temporary / f"{name}.{part}.npy", array)
        facts = {"fingerprint": digest.hexdigest(), "items": items}
        (temporary / "items.json").write_text(json.dumps(facts))
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _decode_split(source: Source, name: str, num: int, spec: DataSpec) -> dict[str, NDArray[Any]]:
    log.info("decoding %s: %d images to %dx%d pixels", name, num, *spec.size)
    images = np.empty((num, *spec.size, spec.in_channels), np.uint8)
    masks = np.empty((num, *spec.size), np.uint8)
    native: list[Pixels] = []
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(partial(_decode, source, name, spec), range(num))
        shown = track(decoded, f"decoding {name}", num, transient=True, disable=not sys.stdout.isatty())
        for i, (image, mask, own) in enumerate(shown):
            images[i], masks[i] = image, mask
            native.append(own)
    arrays: dict[str, NDArray[Any]] = {"images": images, "masks": masks}
    arrays["shapes"] = np.array([own.shape for own in native], np.int64)
    if name != "train" and any(own.shape != spec.size for own in native):
        arrays["native"] = np.concatenate([own.ravel() for own in native])
    return arrays


def _decode(source: Source, split: str, spec: DataSpec, position: int) -> tuple[Pixels, Pixels, Pixels]:
    """Reads one pair, checks it, and returns image and mask at ``spec.size`` and the mask at its own size."""
    image, own = source.read(split, position)
    name = source.items()[split][position].name
    if image.shape[:2] != own.shape:
        raise ValueError(
            f"{split}/{name}: the image is {image.shape[:2]} pixels and its mask {own.shape}; they must agree"
        )
    found, counts = np.unique(own, return_counts=True)
    wrong = [
        (int(v), int(n)) for v, n in zip(found, counts, strict=True) if v >= spec.num_classes and v != spec.ignore_index
    ]
    if wrong:
        listed = ", ".join(f"{value} ({pixels} px)" for value, pixels in wrong[:5])
        raise ValueError(
            f"{split}/{name}: the mask holds {listed}, but classes are 0..{spec.num_classes - 1} and ignored pixels "
            f"{spec.ignore_index}. Add the class to data.class_names or set data.ignore_index"
        )
    if own.shape == spec.size:
        return image, own, own
    size = (spec.size[1], spec.size[0])
    resized = Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).resize(
        size, Image.Resampling.BILINEAR
    )
    mask = Image.fromarray(own).resize(size, Image.Resampling.NEAREST)
    return np.asarray(resized).reshape(*spec.size, -1), np.asarray(mask), own


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel if this process dies
        yield
