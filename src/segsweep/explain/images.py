"""Reads images as the run's training saw them: same channels, range and size."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segsweep.data.images import to_image, turn_upright
from segsweep.data.pixels import fitted_size, resize_image, to_input
from segsweep.data.rasters import open_raster
from segsweep.opened import OpenedRun
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy")
MOST_PIXELS = 1 << 20  # of an image that is explained whole: what gradients keep of it takes gigabytes
_MOST_READ = 64_000_000  # pixels of a file, as in conf/data


@dataclass(frozen=True)
class Sample:
    """One image to explain.

    Attributes:
        name: fit to be printed, unique among those given, and harmless in a file name.
        path: of the file.
        image: (1, C, h, w) float32, standardised, at the size the run was trained on.
        native: (H, W) in pixels of the upright image in the file.
        mask: (H, W) uint8, the truth, if there is one.
    """

    name: str
    path: Path
    image: Tensor
    native: tuple[int, int]
    mask: NDArray[np.uint8] | None = None


def find_images(given: Sequence[str]) -> list[Path]:
    """Files, the images of folders, and patterns; each file once.

    Raises:
        ConfigError: something is not there, or a folder holds no image.
    """
    found: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
            if not inside:
                raise ConfigError(f"{text} holds no image ({', '.join(SUFFIXES)}). Give image files or their folder")
            found += inside
        elif path.exists():
            found.append(path)
        elif matches := sorted(glob.glob(text)):
            found += map(Path, matches)
        else:
            raise ConfigError(f"{text} does not exist. Give image files, or folders that hold them")
    return list(dict.fromkeys(found))


def read_samples(paths: Sequence[Path], spec: DataSpec, fit: str, node: Mapping[str, Any]) -> list[Sample]:
    """Reads images; names are their stems, numbered where two are equal.

    Args:
        paths: of the files.
        spec: facts of the run's data.
        fit: ``stretch`` or ``pad``.
        node: config of the run's data, for how files are read: ``scale``, ``alpha``, ``exif``, ``page``.

    Raises:
        ConfigError: the config of the data says what cannot be.
        Problem: a file cannot be used as it is.
    """
    samples: list[Sample] = []
    taken: set[str] = set()
    for path in paths:
        pixels = _read(path, spec, node)
        size = fitted_size((pixels.shape[0], pixels.shape[1]), spec, fit)
        _refuse_large(size, str(path))
        name = _free(_plain(path.stem), taken)
        taken.add(name)
        samples.append(Sample(name, path, prepared(pixels, spec, fit), (pixels.shape[0], pixels.shape[1])))
    return samples


def split_samples(run: OpenedRun, positions: Sequence[int], root: Path | None) -> list[Sample]:
    """Images of the run's own test split, with their masks.

    Args:
        run: whose data they are.
        positions: in the split, from 0, as in the names of ``test_examples/``.
        root: folder of the data; None for data that needs none.

    Raises:
        ConfigError: there is no such image, or the data cannot be opened.
    """
    from segsweep.data.batches import EvalBatches  # here: most runs are explained on files
    from segsweep.opened.data import open_data

    data = open_data(run, root)
    batches = EvalBatches(data, "test", torch.device("cpu"), only=())
    split, samples = batches.split, []
    for position in dict.fromkeys(positions):
        if not 0 <= position < len(split.items):
            raise ConfigError(f"--test {position}: the test split has the images 0..{len(split.items) - 1}")
        image = batches.batch([position]).image.contiguous()
        _refuse_large((image.shape[-2], image.shape[-1]), f"--test {position}")
        mask = split.native_mask(position)
        name = f"test-{position:05d}"
        samples.append(Sample(name, Path(name), image, (mask.shape[0], mask.shape[1]), np.array(mask)))
    return samples


def prepared(pixels: NDArray[np.uint8], spec: DataSpec, fit: str) -> Tensor:
    """(H, W, C) uint8 of any size -> (1, C, h, w) float32 as the model takes it."""
    resized = resize_image(pixels, fitted_size((pixels.shape[0], pixels.shape[1]), spec, fit))
    return to_input(torch.from_numpy(np.array(resized))[None], spec).contiguous()


def _read(path: Path, spec: DataSpec, node: Mapping[str, Any]) -> NDArray[np.uint8]:
    page = node.get("page")
    raster = open_raster(path, str(path), page if isinstance(page, int) else 0, _MOST_READ)
    image = to_image(raster, str(path), spec.in_channels, _scale(node.get("scale")), _alpha(node.get("alpha")))
    # Somebody's photograph has no mask that tells how it is to be turned: upright is how it was meant.
    return turn_upright(image, 1 if node.get("exif") == "ignore" else raster.orientation)


def _scale(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if is_pair and all(type(v) in (int, float) and np.isfinite(v) for v in value) and value[0] < value[1]:
        return float(value[0]), float(value[1])
    raise ConfigError(f"record.json: config.data.scale={printable(str(value))[:100]} is no rising pair of numbers")


def _alpha(value: Any) -> str | None:
    if value in (None, "drop", "composite"):
        return None if value is None else str(value)
    raise ConfigError(f"record.json: config.data.alpha={printable(str(value))[:100]} is neither drop nor composite")


def _refuse_large(size: tuple[int, int], shown: str) -> None:
    height, width = size
    if height * width > MOST_PIXELS:
        raise ConfigError(
            f"{shown} would be explained at {width}x{height} = {height * width:,} pixels (data.size of the run): more "
            f"than {MOST_PIXELS:,} are not explained in one piece. Crop the part in question"
        )


def _plain(stem: str) -> str:
    """A name that is harmless in files, on pages and in terminals."""
    return "".join(c if c.isalnum() or c in "-_.+= " else "_" for c in printable(stem))[:80].strip(" .") or "image"


def _free(name: str, taken: set[str]) -> str:
    number = 2
    candidate = name
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    return candidate
