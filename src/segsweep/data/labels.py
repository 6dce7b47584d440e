"""From what a mask file holds to class numbers, by the convention that the data declares; nothing is guessed."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segsweep.data.images import refuse_not_finite
from segsweep.data.problems import Problem
from segsweep.data.rasters import Raster
from segsweep.hints import did_you_mean, override

IGNORE = "ignore"  # the name of ignored pixels in label_map and palette
_SHOWN = 8
_BETWEEN = (
    "These are in-between values, as after resizing with interpolation: resize masks with nearest, or for two classes "
    "set data.label_map=null data.threshold={middle}"
)
Class = int | str


class Labels:
    """A mask convention.

    Without any of the three options, mask values are class numbers. ``threshold`` and ``palette`` exclude each other;
    ``label_map`` comes last.

    Args:
        class_names: one per class, or None while they are unknown (then values are passed on as they are).
        ignore_index: the value of ignored pixels after reading; before it, only if ``label_map`` and ``palette`` are
            not set.
        label_map: mask value -> class, by name or number, or ``ignore``; values that are not listed are mistakes.
        threshold: values above it become 1, others 0: for masks with grey edges.
        palette: colour -> class, by name or number, or ``ignore``. A colour is written ``"60 16 152"`` or
            ``"#3C1098"``. Palette files are then read by colour; without it, by index.

    Raises:
        ValueError: options contradict each other or name unknown classes.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None,
        ignore_index: int,
        label_map: Mapping[int, Class] | None,
        threshold: float | None,
        palette: Mapping[str, Class] | None,
    ) -> None:
        self.class_names, self.ignore_index, self.threshold = class_names, ignore_index, threshold
        if palette and threshold is not None:
            raise ValueError("data.palette and data.threshold exclude each other; masks have colours or grey edges")
        if palette and label_map:
            raise ValueError("data.palette and data.label_map exclude each other; masks have colours or values")
        self.label_map = {int(v): self.number(c, "label_map") for v, c in (label_map or {}).items()}
        self.palette = {_colour(k): self.number(c, "palette") for k, c in (palette or {}).items()}
        if len(self.palette) < len(palette or {}):
            raise ValueError("data.palette names a colour twice; give each one class")

    def identity(self) -> list[Any]:
        """JSON-able facts that change whenever a mask could be read differently."""
        return [
            self.ignore_index,
            sorted(self.label_map.items()),
            self.threshold,
            sorted(self.palette.items()),
        ]

    def read(self, raster: Raster, shown: str) -> NDArray[np.uint8]:
        """The mask (h, w) uint8 with classes and ``ignore_index``.

        Raises:
            Problem: the file holds something else than the convention says.
        """
        if self.palette:
            return self._by_colour(raster, shown)
        return self._by_value(raster, shown)

    def _by_value(self, raster: Raster, shown: str) -> NDArray[np.uint8]:
        values = single_band(raster, shown)
        if self.threshold is not None:
            refuse_not_finite(values, shown)
            values = (values > self.threshold).astype(np.uint8)
        elif raster.is_lossy:
            fix = "Get the original masks; for two classes, data.threshold=127 tells ink from compression noise"
            raise Problem("E-LOSSY", shown, f"is a {raster.format} file, which changes mask values", fix)
        elif values.dtype.kind == "f":
            fix = "Save masks as whole numbers, or set data.threshold"
            raise Problem("E-LABEL", shown, f"holds {values.dtype} numbers ({_range(values)})", fix)
        found = np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)
        table = self._table(values, found, raster, shown)
        position = values if found[0] == 0 else values.astype(np.int64) - int(found[0])
        mask: NDArray[np.uint8] = table[position]
        return mask

    def _table(self, values: NDArray[Any], found: NDArray[Any], raster: Raster, shown: str) -> NDArray[np.uint8]:
        low, high = int(found[0]), int(found[-1])
        if high - low > 1 << 20:
            raise Problem("E-LABEL", shown, f"has values from {low} to {high}", "Masks hold class numbers")
        table = np.zeros(high - low + 1, np.uint8)
        wrong = []
        for value in map(int, found):
            known = self._class_of(value)
            if known is None:
                wrong.append(value)
            else:
                table[value - low] = known
        if wrong:
            raise self._unknown(values, wrong, raster, shown)
        return table

    def _class_of(self, value: int) -> int | None:
        if self.label_map:
            return self.label_map.get(value)
        if self.class_names is None:
            return value if 0 <= value <= 255 else None
        return value if 0 <= value < len(self.class_names) or value == self.ignore_index else None

    def _unknown(self, values: NDArray[Any], wrong: list[int], raster: Raster, shown: str) -> Problem:
        """Says which values are wrong, and recognises the usual reasons."""
        pixels = {value: int((values == value).sum()) for value in wrong[:_SHOWN]}
        has = "has " + ", ".join(f"{v} ({n:,} px)" for v, n in pixels.items())
        has += f" and {len(wrong) - _SHOWN} more values" if len(wrong) > _SHOWN else ""
        has += "" if values.dtype == np.uint8 else f" as {values.dtype}"
        found = [int(v) for v in np.unique(values)]
        if self.label_map:
            has += f"; data.label_map knows {', '.join(map(str, self.label_map))}"
            is_between = len(wrong) > 2 and min(self.label_map) < wrong[0] and wrong[-1] < max(self.label_map)
            return Problem("E-LABEL", shown, has, between(found) if is_between else "Add them to data.label_map")
        classes = f"classes are 0..{len(self.class_names) - 1}" if self.class_names else "masks hold 0..255"
        return Problem("E-LABEL", shown, f"{has}; {classes}", self._advice(found, wrong))

    def _advice(self, found: list[int], wrong: list[int]) -> str:
        num = len(self.class_names or ())
        same = {value: value for value in range(num)}
        if wrong == [-1]:
            return f"If -1 means 'ignore': {self._override({-1: IGNORE, **same})}"
        if found[0] >= 0 and set(found) <= {0, 255} and num == 2:
            return f"For masks of 0 and 255: {override('data.label_map', {0: 0, 255: 1})}"
        if wrong == [num] and 0 not in found:
            return f"If labels count from 1: {self._override({k + 1: k for k in range(num)})}"
        if len(wrong) > 2 and is_between(found, num):
            return between(found)
        if len(wrong) == 1 and 0 <= wrong[0] <= 255 and self.ignore_index not in found:
            return f"Add the class to data.class_names, map it with data.label_map, or set data.ignore_index={wrong[0]}"
        ignored = self._override({**same, **dict.fromkeys(wrong[:_SHOWN], IGNORE)})
        return f"Add the classes to data.class_names, or ignore these pixels: {ignored}"

    def _override(self, targets: dict[int, Class]) -> str:
        """The override that maps values to classes and keeps ignored pixels ignored."""
        targets = {**targets, self.ignore_index: IGNORE}
        return override("data.label_map", targets)

    def _by_colour(self, raster: Raster, shown: str) -> NDArray[np.uint8]:
        codes = colour_codes(raster)
        if codes is None:
            what = f"is {raster.mode}, without colours"
            raise Problem("E-COLOUR", shown, what, "Give masks with colours, or data.label_map instead of data.palette")
        if raster.is_lossy:
            raise Problem("E-LOSSY", shown, f"is a {raster.format} file, which changes colours", "Get the originals")
        _refuse_alpha(raster, shown)
        classes = self._class_of_colour[codes]
        if (classes < 0).any():
            wrong = [int(code) for code in np.unique(codes[classes < 0])]
            counts = {code: int((codes == code).sum()) for code in wrong[:_SHOWN]}
            has = ", ".join(f"{_words(code)} ({n:,} px)" for code, n in counts.items())
            more = f" and {len(wrong) - _SHOWN} more colours" if len(wrong) > _SHOWN else ""
            fix = "Add them to data.palette, with the class or 'ignore'"
            raise Problem("E-COLOUR", shown, f"has colours that data.palette lacks: {has}{more}", fix)
        return classes.astype(np.uint8)

    @cached_property
    def _class_of_colour(self) -> NDArray[np.int16]:
        """(2^24,) class of each colour, -1 for those that the palette lacks."""
        table = np.full(1 << 24, -1, np.int16)
        for code, number in self.palette.items():
            table[code] = number
        return table

    def number(self, name: Class, key: str) -> int:
        """The number of a class that the option ``key`` names; ``ignore_index`` for ``ignore``."""
        if name == IGNORE:
            return self.ignore_index
        num = 256 if self.class_names is None else len(self.class_names)
        if isinstance(name, int):
            if not 0 <= name < num:
                raise ValueError(f"data.{key} names class {name}; classes are 0..{num - 1}, or 'ignore'")
            return name
        if self.class_names is None:
            return 0
        if name not in self.class_names:
            raise ValueError(f"data.{key} names class '{name}'. {did_you_mean(name, [*self.class_names, IGNORE])}")
        return list(self.class_names).index(name)


def single_band(raster: Raster, shown: str) -> NDArray[Any]:
    """The mask's values (h, w): one band, or colour bands that are all equal.

    Raises:
        Problem: the mask has colours or transparency.
    """
    values = raster.pixels
    _refuse_alpha(raster, shown)
    if values.ndim == 3 and (values.shape[2] == 1 or (values == values[:, :, :1]).all()):
        values = values[:, :, 0]  # grey saved as RGB: the bands say the same
    if values.ndim == 3:
        codes = colour_codes(raster)
        colours = [] if codes is None else [_words(int(code)) for code in np.unique(codes)]
        if not 0 < len(colours) <= 256:
            what = f"has {len(colours):,} colours" if colours else f"has {values.shape[2]} bands of {values.dtype}"
            raise Problem("E-COLOUR", shown, what, "A mask needs one band of class numbers, or few colours")
        block = override("data.palette", {colour: i for i, colour in enumerate(colours)})
        fix = f"Say what they mean, e.g. {block} with your classes; segsweep-data prints all colours"
        raise Problem("E-COLOUR", shown, f"has {len(colours)} colours, not class numbers", fix)
    return values.astype(np.uint8) if values.dtype == bool else values


def is_between(found: Sequence[int], num_classes: int) -> bool:
    """Whether masks of some classes look as if they had been resized with interpolation: many values, far apart."""
    spread = found[-1] - found[0]
    return found[0] >= 0 and len(found) > max(num_classes, 2) + 2 and spread >= min(4 * len(found), 200)


def between(found: Sequence[int]) -> str:
    """What to do about the values that interpolation has made between two classes."""
    return _BETWEEN.format(middle=(found[0] + found[-1]) // 2)


def _refuse_alpha(raster: Raster, shown: str) -> None:
    if raster.mode in ("LA", "RGBA") and raster.alpha is not None and (raster.alpha != 255).any():
        fix = "Save masks without transparency: class numbers in one band"
        raise Problem("E-LABEL", shown, f"is a mask with transparency ({raster.mode})", fix)


def colour_codes(raster: Raster) -> NDArray[np.int32] | None:
    """Colours (h, w) as red * 65536 + green * 256 + blue, or None if there are none."""
    pixels = raster.pixels if raster.colours is None else raster.colours[raster.pixels]
    if pixels.dtype != np.uint8:
        return None
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.shape[2] != 3:
        return None
    red, green, blue = (pixels[:, :, i].astype(np.int32) for i in range(3))
    codes: NDArray[np.int32] = (red << 16) | (green << 8) | blue
    return codes


def _colour(text: str) -> int:
    """``"60 16 152"`` or ``"#3C1098"`` -> its code."""
    try:
        if text.startswith("#") and len(text) == 7:
            return int(text[1:], 16)
        red, green, blue = (int(part) for part in text.replace(",", " ").split())
        if not all(0 <= part <= 255 for part in (red, green, blue)):
            raise ValueError
    except ValueError:
        hint = "write red, green and blue, e.g. 60 16 152, or in a file #3C1098"
        raise ValueError(f"data.palette: '{text}' is no colour; {hint}") from None
    return red * 65536 + green * 256 + blue


def _words(code: int) -> str:
    return f"{code >> 16} {code >> 8 & 255} {code & 255}"


def _range(values: NDArray[Any]) -> str:
    return f"{values.min():g} to {values.max():g}"
