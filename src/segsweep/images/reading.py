"""Opens images of the user's as the run's own were opened; what needs a decision is refused with the option for it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segsweep.data.images import to_image, turn_upright
from segsweep.data.problems import Problem
from segsweep.data.rasters import Raster, count_pages, from_array, from_picture, open_raster
from segsweep.data.source import Pixels
from segsweep.run import ConfigError

MAX_PIXELS = 128e6  # of an image, if nothing is said
MOST_PAGES = 1_000_000  # of a file
_SCALE = re.compile(r"data\.scale=\[([^],]+),([^],]+)\]")


@dataclass(frozen=True)
class Reading:
    """How images are read; the fields are those of ``conf/data/folder.yaml``.

    Attributes:
        in_channels: 1 (grey) or 3 (RGB).
        scale: values that become black and white; None takes 8 bits as they are.
        alpha: ``drop``, ``composite``, or None, which refuses transparent images.
        exif: ``apply`` or ``ignore`` rotation tags, or None, which refuses turned images.
        max_pixels: larger images are refused.
    """

    in_channels: int
    scale: tuple[float, float] | None = None
    alpha: str | None = None
    exif: str | None = None
    max_pixels: int = int(MAX_PIXELS)

    @classmethod
    def of_run(cls, node: Mapping[str, Any], in_channels: int, **said: Any) -> "Reading":
        """As a run reads its own images.

        Args:
            node: config of the run's data, unchecked.
            in_channels: of the model.
            said: fields that the user has set; None is not set.

        Raises:
            ConfigError: a value is none that the field can have.
        """
        given = {key: node.get(key) for key in ("scale", "alpha", "exif")}
        given |= {key: value for key, value in said.items() if value is not None}
        limit: Any = given.pop("max_pixels", MAX_PIXELS)
        scale = given["scale"]
        if scale is not None:
            if not (isinstance(scale, list | tuple) and len(scale) == 2 and all(map(_is_finite, scale))):
                raise ConfigError("scale needs two numbers, the values of black and of white: --scale BLACK WHITE")
            if not scale[0] < scale[1]:
                raise ConfigError(f"scale={scale[0]:g} {scale[1]:g} must rise from the value of black to that of white")
            given["scale"] = (float(scale[0]), float(scale[1]))
        for key, known in (("alpha", ("drop", "composite")), ("exif", ("apply", "ignore"))):
            if given[key] is not None and given[key] not in known:
                raise ConfigError(f"{key} is none of {', '.join(known)}. Say which with --{key}")
        if not _is_finite(limit) or limit < 1:
            raise ConfigError("max_pixels must be a number of pixels, e.g. --max-pixels 200e6")
        return cls(in_channels, max_pixels=int(limit), **given)

    def pages(self, path: Path, shown: str) -> Sequence[int | None]:
        """Numbers of the pages of a file, each an image of its own; ``(None,)`` of one that is an image itself.

        Raises:
            Problem: the file cannot be opened, or has more than ``MOST_PAGES``.
        """
        try:
            num = count_pages(path, shown)
        except Problem as problem:
            raise self.reworded(problem) from None
        if num > MOST_PAGES:
            raise Problem("E-PAGE", shown, f"has {num:,} pages, the limit is {MOST_PAGES:,}", "Divide the file")
        return (None,) if num == 1 else range(num)

    def file(self, path: Path, shown: str, page: int | None = None) -> tuple[Pixels, int]:
        """The pixels (H, W, C) uint8 of a page, upright, and the Exif orientation that was applied.

        Raises:
            Problem: it cannot be used; the fix names an option of the command.
        """
        try:
            return self._read(open_raster(path, shown, page, self.max_pixels), shown)
        except Problem as problem:
            raise self.reworded(problem) from None

    def array(self, image: NDArray[Any] | Image.Image) -> Pixels:
        """The pixels (H, W, C) uint8 of an array or a Pillow image; errors as in ``file``."""
        shown = "the image"
        try:
            raster = from_picture(image) if isinstance(image, Image.Image) else from_array(np.asarray(image), shown)
            return self._read(raster, shown)[0]
        except Problem as problem:
            raise self.reworded(problem) from None

    def _read(self, raster: Raster, shown: str) -> tuple[Pixels, int]:
        turned = 1 if self.exif == "ignore" else raster.orientation
        if turned != 1 and self.exif is None:
            what = f"carries the rotation tag {turned}, and the run does not say whether to apply it"
            raise Problem("E-EXIF", shown, what, "")
        return turn_upright(to_image(raster, shown, self.in_channels, self.scale, self.alpha), turned), turned

    def reworded(self, problem: Problem) -> Problem:
        """A problem whose fix names options of a command, not keys of a run's config."""
        fix = problem.fix.replace("list it in data.exclude", "leave it out")
        fix = fix.replace("set data.scale", "add --scale BLACK WHITE")
        if problem.code == "E-ALPHA":
            fix = "Add --alpha drop (keep the hidden colours) or --alpha composite (lay it on white)"
        elif problem.code == "E-EXIF":
            fix = "Add --exif apply (turn it as viewers do) or --exif ignore"
        elif problem.code == "E-BIG":
            fix = f"Raise --max-pixels, now {self.max_pixels / 1e6:g}e6; 100 million pixels take less than 2 GB"
        elif problem.code == "E-PAGE":
            fix = "Say which, e.g. page=0: they count from 0"
        elif found := _SCALE.search(fix):
            low, high = found.groups()
            fix = (
                f"Say which values are black and white in all images, e.g. --scale {low} {high} (scale=({low}, {high}))"
            )
        return Problem(problem.code, problem.where, problem.what, fix)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
