"""Reads every file of a dataset once: checks it, brings it to size, and writes it into the cache."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from segsweep.data.cache import UNDONE
from segsweep.data.pixels import fitted_size, resize_image
from segsweep.data.problems import DataError, Problem
from segsweep.data.source import Pixels, Source
from segsweep.data.splits import SPLITS
from segsweep.data.survey import Survey
from segsweep.types import DataSpec

log = logging.getLogger(__name__)

_AHEAD = 64  # images decoded but not written yet, at most


def decode_into(folder: Path, source: Source, spec: DataSpec, fit: str) -> None:
    """Decodes a dataset into a new cache entry, which appears whole or not at all; arguments as in ``open_store``.

    Raises:
        DataError: files cannot be used as declared; all of them at once.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f"{UNDONE}{folder.name}-", dir=folder.parent))
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
            "files": {file.name: (file.stat().st_size, checksum(file)) for file in temporary.iterdir()},
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
        "own": np.array([(fact["height"], fact["width"]) for fact in found.facts[name]], np.int64),
        "shapes": np.array(shapes if name != "train" else sizes, np.int64),
        "counts": found.counts[name],
        "has_label": np.array([fact["mask"] is not None for fact in found.facts[name]]),
    }
    np.savez(folder / f"{name}.npz", allow_pickle=False, **tables)
    digest.update(json.dumps([sizes, shapes, tables["has_label"].tolist()]).encode())
    return digest.digest()


def _read_split(
    source: Source, name: str, spec: DataSpec, fit: str, found: Survey
) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """Yields image and mask at the decoded size and the mask at its own; facts and problems go into ``found``."""
    items = source.items().get(name, [])
    facts: list[dict[str, Any]] = []
    counts: list[NDArray[np.int64]] = []
    found.facts[name] = facts
    try:
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
    finally:
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
    wrong = [int(v) for v in np.flatnonzero(histogram) if v >= spec.num_classes and v != spec.ignore_index]
    if wrong:  # no reader of ours lets them through, but a source of somebody else's may
        return _no_classes(wrong, source.items()[split][position].name, spec)
    count = np.append(histogram[: spec.num_classes], histogram[spec.ignore_index])
    facts = {
        "mask": None if mask is None else "",
        **facts,
        "height": image.shape[0],
        "width": image.shape[1],
        "digest": hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=12).hexdigest(),
    }
    return *_resize(image, native, spec, fit), native, facts, count


def _no_classes(values: list[int], name: str, spec: DataSpec) -> Problem:
    what = f"has a mask with the values {', '.join(map(str, values))}; classes are 0..{spec.num_classes - 1}"
    fix = f"Mend the source: masks hold classes and data.ignore_index={spec.ignore_index}"
    return Problem("E-LABEL", name, what, fix)


def _resize(image: Pixels, mask: Pixels, spec: DataSpec, fit: str) -> tuple[Pixels, Pixels]:
    """To ``spec.size``: images bilinear (with antialiasing), masks nearest."""
    own = (image.shape[0], image.shape[1])
    size = fitted_size(own, spec, fit)
    if own == size:
        return image, mask
    resized = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return resize_image(image, size), np.asarray(resized)


def checksum(file: Path) -> int:
    """CRC-32 of a file: it is to find what a disk or a copy has changed, not what somebody has forged."""
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def survey(source: Source, spec: DataSpec, fit: str) -> Survey:
    """Reads every file and says what is in it, without keeping any pixels."""
    found = Survey(spec.class_names, {}, {}, [])
    for name in SPLITS:
        try:
            for _ in _read_split(source, name, spec, fit, found):
                pass
        except DataError as error:  # a file that holds all images
            found.problems += error.problems
    found.problems += found.joint_problems()
    return found
