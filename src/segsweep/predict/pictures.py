"""Files of predictions: class numbers with a palette, overlays, uncertainty."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segsweep.data.source import Pixels
from segsweep.predict.georeference import Georeference, geotiff

_ROWS = 256  # that are coloured at once


def index_file(classes: NDArray[np.uint8], colours: NDArray[np.uint8], place: Georeference | None) -> bytes:
    """Class numbers (H, W) as a PNG with a palette (256, 3), or as a GeoTIFF with that colour map."""
    if place is not None:
        return geotiff(classes, place, colours)
    picture = Image.fromarray(classes)
    picture.putpalette(colours.tobytes())  # which makes it mode P: values stay
    return _png(picture)


def overlay_file(
    image: Pixels, classes: NDArray[np.uint8], colours: NDArray[np.uint8], place: Georeference | None
) -> bytes:
    """``overlay`` as a PNG or a GeoTIFF; arguments as there."""
    picture = overlay(image, classes, colours)
    return _png(picture) if place is None else geotiff(np.asarray(picture), place)


def entropy_file(entropy: NDArray[np.uint16], place: Georeference | None) -> bytes:
    """Entropy (H, W), 65535 for that of equally likely classes, as a grey PNG of 16 bits or a GeoTIFF."""
    return _png(Image.fromarray(entropy)) if place is None else geotiff(entropy, place)


def overlay(image: Pixels, classes: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    """The classes' colours laid over an image, which shines through; a class that is black leaves it as it is.

    Args:
        image: (H, W, C) uint8, grey or RGB.
        classes: (H, W) class numbers.
        colours: (256, 3) uint8.
    """
    height, width = classes.shape
    picture = Image.new("RGB", (width, height))
    half, is_black = colours // 2, colours.sum(axis=1) == 0
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        photo = np.broadcast_to(image[rows], (*classes[rows].shape, 3))
        part = np.where(is_black[classes[rows]][..., None], photo, photo // 2 + half[classes[rows]])
        picture.paste(Image.fromarray(np.ascontiguousarray(part)), (0, top))
    return picture


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
