"""Looks at masks as they are stored and says which declarations would fit them; nothing is applied."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segsweep.data.labels import IGNORE, Labels, colour_codes, is_between
from segsweep.data.rasters import Raster
from segsweep.hints import override

_MANY = 64  # values or colours from which a mask has grey edges or compression noise rather than classes
_LARGE = 512 * 512  # pixels from which images are better cut than shrunk
_EDGES = 0.25  # share of pixels that interpolation can have changed
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

    @property
    def has_colours(self) -> bool:
        """Whether colours tell the classes."""
        return bool(self.colours) and (self.num_coloured > 0 or len(self.palettes) > 1)

    def share_beyond(self, num: int, ignored: int) -> float:
        """Share of the pixels whose value or colour is not among the ``num`` most frequent, nor the ignored value."""
        found = self.colours if self.has_colours else Counter({v: n for v, n in self.values.items() if v != ignored})
        return 1 - sum(pixels for _, pixels in found.most_common(num)) / max(1, sum(found.values()))

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
        return _two_classes(127, class_names)
    if _is_between(found.values, class_names):
        return _two_classes((values[0] + values[-1]) // 2, class_names)
    minor = [v for v in values if v < 0 or (v == 255 and len(values) > 2 and values[-2] < len(values))]
    kept = [v for v in values if v not in minor]
    if class_names is not None and len(kept) > len(class_names):  # the rarest cannot be classes
        kept = sorted(sorted(kept, key=lambda v: -found.values[v])[: len(class_names)])
        minor = [v for v in values if v not in kept]
    facts = _names(len(kept), class_names)
    if kept == list(range(len(kept))) and not [v for v in minor if v != 255]:
        return facts
    return [*facts, override("data.label_map", {v: i for i, v in enumerate(kept)} | dict.fromkeys(minor, IGNORE))]


def instead(labels: Labels, overrides: list[str]) -> list[str]:
    """Overrides of the mask convention with those that take back what is declared: Hydra would merge both."""
    declared = {"label_map": labels.label_map, "palette": labels.palette, "threshold": labels.threshold}
    taken_back = [override(f"data.{key}", None) for key, value in declared.items() if value not in ({}, None)]
    return [*taken_back, *overrides] if overrides else []


def suggest_size(sizes: Counter[tuple[int, int]]) -> list[str]:
    """Overrides that bring images of these sizes (H, W) to one, or leave them as they are and cut crops."""
    (height, width), _ = sizes.most_common(1)[0]
    if max(h * w for h, w in sizes) > _LARGE:
        return [override("data.size", None), override("data.crop", [256, 256]), override("data.tile", [512, 512])]
    if len(sizes) == 1:
        return [override("data.size", [height, width])]
    step = 32 if min(height, width) >= 256 else 8  # coarser steps would change the aspect of small images
    return [override("data.size", [max(step, round(side / step) * step) for side in (height, width)])]


def declare(class_names: Sequence[str]) -> list[str]:
    """Overrides for the number and names of classes."""
    return [override("data.num_classes", len(class_names)), override("data.class_names", class_names)]


def names_of_patterns(masks: Mapping[str, str]) -> list[str] | None:
    """Class names that one mask pattern a class implies, or None if it names classes by number."""
    if not all(isinstance(name, str) for name in masks):
        return None
    return [*([] if "background" in masks else ["background"]), *masks]


def _two_classes(threshold: int, class_names: Sequence[str] | None) -> list[str]:
    if class_names is not None and len(class_names) > 2:
        return []  # which of them an edge belongs to, no threshold says
    return [*_names(2, class_names), override("data.threshold", threshold)]


def _is_between(values: Counter[int], class_names: Sequence[str] | None) -> bool:
    """Whether two classes were resized with interpolation: a few in-between values at their edges."""
    found = sorted(values)
    edges = sum(values[value] for value in found[1:-1])
    is_thin = class_names is not None or edges < _EDGES * sum(values.values())
    return is_between(found, len(class_names or ())) and is_thin


def palette_block(found: Conventions, class_names: Sequence[str] | None) -> list[str]:
    """The colours as lines of YAML with their share of the pixels, the most frequent first."""
    total = max(1, sum(found.colours.values()))
    lines = ["palette:"]
    for i, (code, pixels) in enumerate(found.colours.most_common(_MANY)):
        share = pixels / total
        name = IGNORE if share < _RARE else _name(i, class_names)
        lines.append(f"  {code >> 16} {code >> 8 & 255} {code & 255}: {name}  # {share:.2%} of the pixels")
    return lines


def _by_colour(found: Conventions, class_names: Sequence[str] | None) -> list[str]:
    if len(found.colours) > _MANY:
        return []  # photographs, or colours blurred by compression: no convention would read them
    total = sum(found.colours.values())
    frequent = [code for code, pixels in found.colours.most_common() if pixels >= _RARE * total]
    frequent = frequent if class_names is None else frequent[: len(class_names)]
    stray = [_words(code) for code in found.colours if code not in frequent]
    classes = {_words(code): i for i, code in enumerate(frequent)} | dict.fromkeys(stray, IGNORE)
    return [*_names(len(frequent), class_names), override("data.palette", classes)]


def _names(num: int, class_names: Sequence[str] | None) -> list[str]:
    return [] if class_names is not None else declare([f"class{i}" for i in range(num)])


def _name(i: int, class_names: Sequence[str] | None) -> str:
    if class_names is None:
        return f"class{i}"
    return class_names[i] if i < len(class_names) else IGNORE


def _words(code: int) -> str:
    return f"{code >> 16} {code >> 8 & 255} {code & 255}"


def _count(counter: Counter[int], values: NDArray[np.integer] | NDArray[np.bool_]) -> None:
    for value, pixels in zip(*np.unique(values, return_counts=True), strict=True):
        counter[int(value)] += int(pixels)
