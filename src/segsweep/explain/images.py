"""Images as the run's training saw them: same channels, range and size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segsweep.data.pixels import fitted_size, resize_image, to_input
from segsweep.images.inputs import Input, page_name
from segsweep.images.reading import Reading
from segsweep.opened import OpenedRun
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec

MOST_PIXELS = 1 << 20  # of an image that is explained whole: what gradients keep of it takes gigabytes
_MOST_VALUES = 1 << 28  # of all images together, pixels times channels: 1 GB


@dataclass(frozen=True)
class Sample:
    """One image to explain.

    Attributes:
        name: fit to be printed, unique among those given, and harmless in a file name.
        path: of the file.
        image: (1, C, h, w) float32, standardised, at the size the run was trained on.
        native: (H, W) in pixels of the upright image in the file.
        mask: (H, W) uint8, the truth, if there is one.
        page: of a file with several.
    """

    name: str
    path: Path
    image: Tensor
    native: tuple[int, int]
    mask: NDArray[np.uint8] | None = None
    page: int | None = None


def read_samples(inputs: Sequence[Input], spec: DataSpec, fit: str, reading: Reading) -> list[Sample]:
    """Reads images, each page of a file as one; names are their stems, numbered where two are equal.

    Args:
        inputs: the files.
        spec: facts of the run's data.
        fit: ``stretch`` or ``pad``.
        reading: how files are read.

    Raises:
        ConfigError: an image, or all of them together, are too large to be explained.
        Problem: a file cannot be used as it is.
    """
    samples: list[Sample] = []
    taken: set[str] = set()
    left = _MOST_VALUES
    for item in inputs:
        for page in reading.pages(item.path, item.shown):
            shown = item.shown_page(page)
            pixels, _ = reading.file(item.path, shown, page)
            native = (pixels.shape[0], pixels.shape[1])
            _refuse_large(fitted_size(native, spec, fit), shown)
            image = prepared(pixels, spec, fit)
            left -= image.numel()
            if left < 0:
                raise ConfigError(
                    f"{shown}: with the {len(samples)} images before it, more than is held in memory at once "
                    f"({4 * _MOST_VALUES >> 30} GB). Give fewer"
                )
            name = _free(_plain(page_name(item.path.stem, page)), taken)
            taken.add(name)
            samples.append(Sample(name, item.path, image, native, page=page))
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
    from segsweep.data.eval_batches import EvalBatches  # here: most runs are explained on files
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
