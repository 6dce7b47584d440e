"""From what an image file holds to the uint8 image that training sees; what needs a decision is refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segsweep.data.problems import Problem
from segsweep.data.rasters import Raster
from segsweep.hints import override

_AT_ONCE = 8_000_000  # values that are computed with at once
_WHITES = (1, 255, 4095, 65535)  # what scanners, cameras and converters use for white


def to_image(
    raster: Raster,
    shown: str,
    in_channels: int,
    scale: tuple[float, float] | None,
    alpha: str | None,
) -> NDArray[np.uint8]:
    """Turns a raster into the (h, w, in_channels) uint8 image that training sees.

    Args:
        raster: as stored.
        shown: the file's name in messages.
        in_channels: 1: colour becomes luminance; 3: grey is repeated.
        scale: values that become 0 and 255; None takes 8 bits as they are.
        alpha: ``drop`` or ``composite`` (on white) for transparent images; None refuses them.

    Raises:
        Problem: the depth, colour space, transparency or values need a decision.
    """
    pixels = raster.pixels
    if raster.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise Problem("E-MODE", shown, f"is {raster.mode}, not grey or RGB", "Convert it to RGB")
    refuse_not_finite(pixels, shown)
    if raster.bits > 8 * pixels.dtype.itemsize:
        fix = "Convert it to 8 bits, or to npy with all of them and set data.scale"
        raise Problem("E-DEPTH", shown, f"has {raster.bits} bits a band in colour, of which only 8 can be read", fix)
    if scale is not None:
        low, high = scale
        factor = 255 / (high - low)
        pixels = _by_rows(lambda part: ((part.astype(np.float64) - low) * factor).clip(0, 255), pixels)
    elif pixels.dtype != np.uint8 or raster.bits != 8:
        low, high = float(pixels.min()), float(pixels.max())
        depth = f"{raster.bits} bit{'' if raster.bits == 1 else 's'} a band"
        what = f"has {depth}, not 8 ({pixels.dtype}, values {low:g} to {high:g})"
        example = override("data.scale", [_black(low), _white(high, raster.bits)])
        fix = f"Say which values are black and white in all images, e.g. {example}"
        raise Problem("E-DEPTH", shown, what, fix)
    if raster.colours is not None:
        pixels = raster.colours[pixels]
    if raster.alpha is not None and (raster.alpha != 255).any():
        if alpha is None:
            share = (raster.alpha != 255).mean()
            fix = "Set data.alpha=drop (keep the hidden colours) or data.alpha=composite (lay it on white)"
            raise Problem("E-ALPHA", shown, f"is transparent in {share:.1%} of its pixels", fix)
        if alpha == "composite":
            cover = raster.alpha[..., None] if pixels.ndim == 3 else raster.alpha
            pixels = _by_rows(lambda part, share: part * (share / 255) + 255 * (1 - share / 255), pixels, cover)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        raise Problem("E-MODE", shown, f"has {pixels.shape[2]} bands", "Save it as grey or RGB")
    return _with_channels(pixels, in_channels)


def _by_rows(values: Callable[..., NDArray[np.float64]], *arrays: NDArray[Any]) -> NDArray[np.uint8]:
    """Rounded values, some rows at a time: in between, a value takes 8 bytes instead of 1."""
    found = np.empty(arrays[0].shape, np.uint8)
    step = max(1, _AT_ONCE // max(1, found[:1].size))
    for top in range(0, len(found), step):
        found[top : top + step] = values(*(array[top : top + step] for array in arrays)).round()
    return found


def turn_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Applies an Exif orientation to (h, w, ...) pixels."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _with_channels(pixels: NDArray[np.uint8], in_channels: int) -> NDArray[np.uint8]:
    if in_channels == 1:
        grey = pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
        return grey[:, :, None]
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def refuse_not_finite(pixels: NDArray[Any], shown: str) -> None:
    """Raises a ``Problem`` if there is a NaN or an infinite value."""
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return
    bad = ~np.isfinite(pixels)
    first = tuple(int(i) for i in np.argwhere(bad)[0][:2])
    what = f"has {int(bad.sum()):,} values that are NaN or infinite, the first in row {first[0]}, column {first[1]}"
    raise Problem("E-NAN", shown, what, "Mend the file or list it in data.exclude")


def _black(low: float) -> int:
    return 0 if low >= 0 else -(1 << (math.ceil(-low) - 1).bit_length())


def _white(high: float, bits: int) -> int:
    """The usual white nearest above: the same for most files of a dataset, whatever their brightest pixel."""
    usual = _WHITES[2:] if bits == 16 else _WHITES
    return next((white for white in usual if high <= white), (1 << math.ceil(high).bit_length()) - 1)
