"""Writes what is predicted of one image, as it becomes known: nothing but the asked-for is ever held whole."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from segsweep.data.source import Pixels
from segsweep.files import growing, write_atomic
from segsweep.inference import Answer
from segsweep.inference.answer import classes_of, entropy_of, probabilities_of
from segsweep.predict.georeference import Georeference
from segsweep.predict.pictures import entropy_file, index_file, overlay_file
from segsweep.run import ConfigError
from segsweep.tiling import Block


@dataclass(frozen=True)
class Writer:
    """Writes files below a folder.

    Attributes:
        folder: nothing is written outside of it.
        kinds: of ``names.KINDS``, what is written beside the classes.
        colours: (256, 3) uint8, of the classes.
    """

    folder: Path
    kinds: Collection[str]
    colours: NDArray[np.uint8]

    def write(
        self, base: str, answer: Answer, image: Pixels | None, place: Georeference | None
    ) -> tuple[dict[str, str], NDArray[np.uint8]]:
        """Writes all files of one image, each whole or not at all.

        Args:
            base: path of the files below the folder, without suffix.
            answer: what is predicted.
            image: (H, W, C) uint8, for the overlay.
            place: of the image on Earth; pictures then are GeoTIFFs.

        Returns:
            Kind -> path below the folder, with slashes; and the class numbers (H, W).

        Raises:
            OSError: a file cannot be written.
            ConfigError: a link in the folder leads out of it.
        """
        suffix = "png" if place is None else "tif"
        names = {"classes": f"{base}.{suffix}"}
        names |= {kind: f"{base}.{kind}.{'npy' if kind == 'probabilities' else suffix}" for kind in self.kinds}
        self._make_folder(base)
        classes = np.empty(answer.size, np.uint8)
        entropy = np.empty(answer.size, np.uint16) if "entropy" in self.kinds else None
        with contextlib.ExitStack() as stack:
            grow = self._growing(stack, names, answer)
            for block in answer.blocks():
                classes[block.place] = classes_of(block)
                if entropy is not None:
                    entropy[block.place] = (entropy_of(block) * 65535).round()
                grow(block)
            if entropy is not None:
                write_atomic(self.folder / names["entropy"], entropy_file(entropy, place))
                entropy = None
            if "overlay" in self.kinds and image is not None:
                write_atomic(self.folder / names["overlay"], overlay_file(image, classes, self.colours, place))
            write_atomic(self.folder / names["classes"], index_file(classes, self.colours, place))
        return names, classes

    def _growing(self, stack: contextlib.ExitStack, names: dict[str, str], answer: Answer) -> Callable[[Block], None]:
        if "probabilities" not in names:
            return lambda block: None
        file = stack.enter_context(growing(self.folder / names["probabilities"]))
        shape = (answer.num_classes, *answer.size)
        start = _begin(file, shape)
        return lambda block: _put(file, start, shape, block)

    def _make_folder(self, base: str) -> None:
        folder = (self.folder / base).parent
        if not folder.resolve().is_relative_to(self.folder.resolve()):
            raise ConfigError(f"{folder} is a link out of {self.folder}. Choose another --out")
        folder.mkdir(parents=True, exist_ok=True)


def _begin(file: BinaryIO, shape: tuple[int, ...]) -> int:
    """Writes the header of a float16 array and returns where its values begin."""
    header = io.BytesIO()
    about = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    file.write(header.getvalue())
    return len(header.getvalue())


def _put(file: BinaryIO, start: int, shape: tuple[int, ...], block: Block) -> None:
    """Writes the probabilities of a block where they belong in an array (K, H, W)."""
    _, height, width = shape
    values = probabilities_of(block).astype("<f2")
    for k, plane in enumerate(values):
        first = (k * height + block.row) * width + block.column
        for offset, run in _runs(plane, width):
            file.seek(start + 2 * (first + offset))
            file.write(run.tobytes())


def _runs(plane: NDArray[np.float16], width: int) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """What lies in a row in the file: all of a block as wide as the image, else each of its rows."""
    if plane.shape[1] == width:
        yield 0, plane
    else:
        yield from ((i * width, row) for i, row in enumerate(plane))
