"""Looks at masks as they are stored and says which declarations would fit them; nothing is applied."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segsweep.data.labels import IGNORE, colour_codes
from segsweep.data.rasters import Raster

_MANY = 64  # values or colours from which a mask has grey edges or compression noise rather than classes
_RARE = 0.001  # share of pixels below which a value is more likely a stray than a class


@dataclass
class Conventions:
    """What mask files hold, pixel by pixel.

    Attributes:
        values: mask value -> pixels, over all masks of one band.
        colours: colour code -> pixels, over all masks with colours, palette files included.
        palettes: bytes of a palette -> files.
        num_coloured: files with three bands that differ.
        num_lossy: files in a format that changes values.
        num_files: all of them.
    """

    values: Counter[int] = field(default_factory=Counter)
    colours: Counter[int] = field(default_factory=Counter)
    palettes: Counter[bytes] = field(default_factory=Counter)
    num_coloured: int = 0
    num_lossy: int = 0
    num_files: int = 0

    def add(self, raster: Raster) -> None:
        """Counts one mask file."""
        self.num_files += 1
        self.num_lossy += raster.is_lossy
        pixels = raster.pixels
        is_grey = pixels.ndim == 2 or pixels.shape[2] == 1 or bool((pixels == pixels[..., :1]).all())
        if is_grey and pixels.dtype.kind in "bui":
            _count(self.values, pixels if pixels.ndim == 2 else pixels[..., 0])
        self.num_coloured += not is_grey
        if raster.colours is not None:
            self.palettes[raster.colours.tobytes()] += 1
        codes = colour_codes(raster) if not is_grey or raster.colours is not None else None
        if codes is not None:
            _count(self.colours, codes)


def suggest(found: Conventions, class_names: Sequence[str] | None) -> list[str]:
    """Overrides that would make these masks readable, ready to be typed; empty if there is nothing to say.

    Args:
        found: what the masks hold.
        class_names: as declared, or None: then names and number are suggested as well.
    """
    if found.num_coloured or len(found.palettes) > 1:
        return _by_colour(found, class_names)
    if not found.values:
        return []
    values = sorted(found.values)
    if found.num_lossy or len(values) > _MANY:
        return [*_names(2, class_names), "data.threshold=127"]
    minor = [v for v in values if v < 0 or (v == 255 and len(values) > 2 and values[-2] < len(values))]
    kept = [v for v in values if v not in minor]
    facts = _names(len(kept), class_names)
    if kept == list(range(len(kept))) and not [v for v in minor if v != 255]:
        return facts
    pairs = [f"{value}:{i}" for i, value in enumerate(kept)] + [f"{value}:{IGNORE}" for value in minor]
    return [*facts, f"'data.label_map={{{','.join(pairs)}}}'"]


def palette_block(found: Conventions, class_names: Sequence[str] | None) -> list[str]:
    """The colours as lines of YAML with their share of the pixels, the most frequent first."""
    total = max(1, sum(found.colours.values()))
    lines = ["palette:"]
    for i, (code, pixels) in enumerate(found.colours.most_common(_MANY)):
        share = pixels / total
        name = IGNORE if share < _RARE else class_names[i] if class_names and i < len(class_names) else f"class{i}"
        lines.append(f"  {code >> 16} {code >> 8 & 255} {code & 255}: {name}  # {share:.2%} of the pixels")
    return lines


def _by_colour(found: Conventions, class_names: Sequence[str] | None) -> list[str]:
    if len(found.colours) > _MANY:
        return []  # photographs, or colours blurred by compression: no convention would read them
    total = sum(found.colours.values())
    frequent = [code for code, pixels in found.colours.most_common() if pixels >= _RARE * total]
    stray = [code for code in found.colours if code not in frequent]
    classes = [f"{_words(code)}:{i}" for i, code in enumerate(frequent)] + [
        f"{_words(code)}:{IGNORE}" for code in stray
    ]
    return [*_names(len(frequent), class_names), f"'data.palette={{{','.join(classes)}}}'"]


def _names(num: int, class_names: Sequence[str] | None) -> list[str]:
    if class_names is not None:
        return []
    return [f"data.num_classes={num}", f"'data.class_names=[{','.join(f'class{i}' for i in range(num))}]'"]


def _words(code: int) -> str:
    return f"{code >> 16} {code >> 8 & 255} {code & 255}"


def _count(counter: Counter[int], values: NDArray[np.integer] | NDArray[np.bool_]) -> None:
    for value, pixels in zip(*np.unique(values, return_counts=True), strict=True):
        counter[int(value)] += int(pixels)
