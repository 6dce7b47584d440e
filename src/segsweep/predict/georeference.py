"""Where on Earth an image lies, kept in its prediction. Needs rasterio, the extra ``geo``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segsweep.run import ConfigError

_TAGS = {33550, 33922, 34264, 34735}  # of TIFF: pixel scale, tie points, transformation, keys
_WORLD = (".tfw", ".tifw", ".tiffw", ".wld", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw")
_DRIVERS = {"TIFF": "GTiff", "PNG": "PNG", "JPEG": "JPEG"}  # so that no other of GDAL's ever opens a user's file


@dataclass(frozen=True)
class Georeference:
    """What GDAL knows of an image's place.

    Attributes:
        crs: coordinate reference system, as rasterio has it, or None.
        transform: from column and row to coordinates.
    """

    crs: Any
    transform: Any


def read_georeference(path: Path) -> Georeference | None:
    """Of a file that has one in its tags or in a world file beside it; None for the others.

    Raises:
        ConfigError: it has one, and rasterio is not installed.
    """
    driver = _driver(path)
    if driver is None:
        return None
    try:
        import rasterio
    except ImportError:
        raise ConfigError(
            'has a georeference, which needs rasterio to be kept: pip install "segsweep[geo]", or add --no-georeference'
        ) from None
    with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED="NO"):
        warnings.simplefilter("ignore")  # it warns of files without one
        try:
            with rasterio.open(path.absolute(), driver=driver) as source:
                found = Georeference(source.crs, source.transform)
        except rasterio.errors.RasterioError:
            return None
    return None if found.crs is None and found.transform.is_identity else found


def _driver(path: Path) -> str | None:
    """GDAL's name of a file's format, by its content, if the file has a georeference."""
    has_world = any(path.with_suffix(suffix).exists() for suffix in _WORLD)
    if not has_world and path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with Image.open(path, formats=tuple(_DRIVERS)) as image:
            is_placed = has_world or not _TAGS.isdisjoint(getattr(image, "tag_v2", ()))
            return _DRIVERS.get(str(image.format)) if is_placed else None
    except UnidentifiedImageError:
        return None


def geotiff(bands: NDArray[Any], place: Georeference, colours: NDArray[np.uint8] | None = None) -> bytes:
    """A GeoTIFF with the transform and reference system of another image.

    Args:
        bands: (H, W) or (H, W, 3).
        place: of the image.
        colours: (256, 3) uint8 colour map of one band of class numbers.
    """
    from rasterio.io import MemoryFile

    planes = bands[None] if bands.ndim == 2 else bands.transpose(2, 0, 1)
    height, width = bands.shape[:2]
    shape = {"count": len(planes), "height": height, "width": width, "dtype": bands.dtype.name}
    how = {"driver": "GTiff", "compress": "deflate", "tiled": min(height, width) >= 256}
    with MemoryFile() as memory:
        with memory.open(**how, **shape, crs=place.crs, transform=place.transform) as file:
            if colours is not None:
                file.write_colormap(1, {i: (*map(int, colour), 255) for i, colour in enumerate(colours)})
            for i, plane in enumerate(planes, start=1):
                file.write(plane, i)
        return bytes(memory.read())
