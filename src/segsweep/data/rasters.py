"""Opens an image file without believing its name, and says what is in it; nothing is converted silently."""

import io
import struct
import tokenize
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from segsweep.data.problems import Problem
from segsweep.hints import override

# A list, so that no other of Pillow's readers ever opens a user's file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_COPY = "Copy or download the file again, or list it in data.exclude"
_LEAVE_OUT = "Remove it or list it in data.exclude"
_NPY = b"\x93numpy"
_FOREIGN = {  # how files begin that are no images, or images of a kind that is not read
    b"version https://git-lfs": ("is a Git-LFS pointer, not the file itself", "Run: git lfs pull"),
    b"<!doctype html": ("is an HTML page (a failed download?)", _COPY),
    b"<html": ("is an HTML page (a failed download?)", _COPY),
    b"%!ps": ("is an EPS file", "Convert it to PNG"),
    b"8bps": ("is a Photoshop file", "Convert it to PNG"),
    b"simple  =": ("is a FITS file", "Convert it to TIFF or npy"),
    b"%pdf": ("is a PDF file", "Convert it to PNG"),
    _NPY: ("is a NumPy file by content but not by name", "Give it the suffix .npy"),
}
_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
_ORIENTATION = 0x0112  # Exif tag
_STRIP = 4_000_000  # pixels that are copied at once
_MOST_BANDS = 4  # in a last axis; an array with more there is a stack of pages
# What Pillow and NumPy raise for damaged files: found by changing bytes at random.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error, zlib.error,
    tokenize.TokenError,
)  # fmt: skip


@dataclass(frozen=True)
class Raster:
    """What is in an image file.

    Attributes:
        pixels: (h, w) or (h, w, bands), in the file's own type; palette files hold indices.
        mode: Pillow's name of the pixel format (``L``, ``RGB``, ``P``, ``I;16`` ...), or ``npy``.
        format: ``PNG``, ``JPEG`` ... or ``NPY``.
        bits: of one band in the file; more than ``pixels`` has where Pillow reads the upper half only.
        colours: (256, 3) uint8 palette, or None.
        alpha: (h, w) uint8 where the file has transparency, else None; no part of ``pixels``.
        orientation: of Exif, 1 (upright) to 8.
        is_lossy: whether the format changes pixel values.
        suffix: of the file's name.
    """

    pixels: NDArray[Any]
    mode: str
    format: str
    bits: int
    colours: NDArray[np.uint8] | None
    alpha: NDArray[np.uint8] | None
    orientation: int
    is_lossy: bool
    suffix: str

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels, as stored."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def depth(self) -> str:
        """What range values may have: files that differ in it have no black and white in common."""
        kind = self.pixels.dtype.kind
        return "floating-point" if kind == "f" else f"{'signed ' if kind == 'i' else ''}{self.bits}-bit"


def open_raster(path: Path, shown: str, page: int | None, max_pixels: int) -> Raster:
    """Reads one page of an image file.

    Args:
        path: of the file.
        shown: its name in messages.
        page: of a file with several; None where there has to be one.
        max_pixels: above it nothing is decoded.

    Raises:
        Problem: the file is empty, damaged, foreign, too large, unreadable, or has several pages.
    """
    data = _read(path, shown)
    if path.suffix.lower() == ".npy":
        return _open_npy(data, shown, page, max_pixels)
    return _open_picture(data, shown, page, max_pixels, path.suffix.lower())


def count_pages(path: Path, shown: str) -> int:
    """Number of pages of a file, from its headers."""
    data = _read(path, shown)
    try:
        if path.suffix.lower() == ".npy":
            return _npy_header(data)[2]
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return int(getattr(image, "n_frames", 1))
    except _DAMAGE as error:
        raise Problem("E-IMG", shown, f"is damaged or no image ({error})", _COPY) from None


def _read(path: Path, shown: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        if isinstance(error, PermissionError):
            what = f"cannot be read ({error.strerror}, mode {path.stat().st_mode & 0o777:o})"
            raise Problem("E-READ", shown, what, "Give yourself the right to read it") from None
        fix = "Check the disk or the share it lies on"
        raise Problem("E-READ", shown, f"cannot be read ({error.strerror})", fix) from None
    if not data:
        raise Problem("E-IMG", shown, "is empty (0 bytes)", _COPY)
    is_npy = path.suffix.lower() == ".npy"
    for start, (what, fix) in _FOREIGN.items():
        if data[:64].lstrip().lower().startswith(start) and not (is_npy and start == _NPY):
            raise Problem("E-IMG", shown, what, fix)
    return data


def _open_picture(data: bytes, shown: str, page: int | None, max_pixels: int, suffix: str) -> Raster:
    # Some libraries switch this on for the whole process; half a picture would then load without a word.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Our own limit, checked on the header, is the one that counts.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise too_large(image.height, image.width, shown, max_pixels)
            if image.format == "PNG":
                image.verify()  # its checksums; decoding alone misses some flipped bytes
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pages = int(getattr(image, "n_frames", 1))
            _refuse_pages(pages, page, shown, "")
            if pages > 1:
                image.seek(page or 0)
            orientation = int(image.getexif().get(_ORIENTATION, 1) or 1)
            image.load()
            return _describe(image, orientation, suffix, data)
    except UnidentifiedImageError:
        raise Problem("E-IMG", shown, f"is no {', '.join(FORMATS)} image", _COPY) from None
    except _DAMAGE as error:
        if isinstance(error, Problem):
            raise
        raise Problem("E-IMG", shown, f"is damaged or cut off ({error}; {len(data):,} bytes)", _COPY) from None


def _describe(image: Image.Image, orientation: int, suffix: str, data: bytes) -> Raster:
    mode, alpha, colours = image.mode, None, None
    if mode == "P":
        flat = image.getpalette("RGB") or []
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(flat) // 3] = np.array(flat, np.uint8).reshape(-1, 3)
    bits = _bits(image, data)
    if mode in ("P", "L", "RGB") and bits == 8 and "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
    pixels = _pixels(image)
    if mode in ("LA", "RGBA"):
        pixels, alpha = pixels[:, :, :-1], pixels[:, :, -1]
        pixels = pixels[:, :, 0] if mode == "LA" else pixels
    return Raster(pixels, mode, str(image.format), bits, colours, alpha, orientation, _is_lossy(image, data), suffix)


def from_picture(picture: Image.Image) -> Raster:
    """What is in a picture that Pillow has opened already; 16 bits in colour are not recognised."""
    orientation = int(picture.getexif().get(_ORIENTATION, 1) or 1)
    return _describe(picture.copy(), orientation, "", b"")  # the copy has forgotten its format, and the file's header


def from_array(array: NDArray[Any], shown: str) -> Raster:
    """What is in an array (h, w) or (h, w, bands) of numbers.

    Raises:
        Problem: it has another shape, or holds no numbers.
    """
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        what = f"is an array of {array.dtype} with shape {array.shape}"
        raise Problem("E-IMG", shown, what, "Give (height, width) or (height, width, bands) of numbers")
    return Raster(array, "npy", "NPY", array.dtype.itemsize * 8, None, None, 1, False, ".npy")


def _pixels(image: Image.Image) -> NDArray[Any]:
    """All pixels; of large images strip by strip, because NumPy asks Pillow for two copies at once."""
    if image.width * image.height <= _STRIP:
        return np.asarray(image)
    step = max(1, _STRIP // image.width)
    strips = (range(top, min(top + step, image.height)) for top in range(0, image.height, step))
    whole: NDArray[Any] | None = None
    for rows in strips:
        part = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        if whole is None:
            whole = np.empty((image.height, *part.shape[1:]), part.dtype)
        whole[rows.start : rows.stop] = part
    return np.asarray(image) if whole is None else whole


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits of a band as stored, which Pillow does not tell: of 16 in colour it reads 8."""
    if image.mode in _BITS:
        return _BITS[image.mode]
    stored: Any = data[24] if image.format == "PNG" else 8  # 24: of the header chunk, which always comes first
    if hasattr(image, "tag_v2"):
        stored = image.tag_v2.get(258, 8)
    return max(8, int(stored[0] if isinstance(stored, tuple) else stored))  # fewer are spread over 8


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    if image.format == "WEBP":
        return b"VP8L" not in data  # L: lossless
    return image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression", "")).lower()


def _open_npy(data: bytes, shown: str, page: int | None, max_pixels: int) -> Raster:
    try:
        shape, dtype, pages = _npy_header(data)
        if dtype.hasobject:
            fix = "Save it as a numeric array: array.astype(np.uint8)"
            raise Problem("E-IMG", shown, "holds Python objects, which are never loaded", fix)
        height, width, *bands = shape[1:] if pages > 1 else shape if len(shape) in (2, 3) else (0, 0)
        if height * width == 0 or len(bands) > 1 or dtype.kind not in "buif":
            what = f"is an array of {dtype} with shape {shape}"
            raise Problem("E-IMG", shown, what, "Save (height, width) or (height, width, bands) of numbers")
        if height * width > max_pixels:
            raise too_large(height, width, shown, max_pixels)
        _refuse_pages(pages, page, shown, f" (its shape is {shape})")
        pixels: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except _DAMAGE as error:
        if isinstance(error, Problem):
            raise
        raise Problem("E-IMG", shown, f"is no whole npy file ({error})", _COPY) from None
    pixels = pixels[page or 0] if pages > 1 else pixels
    return Raster(pixels, "npy", "NPY", pixels.dtype.itemsize * 8, None, None, 1, False, ".npy")


def _npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of an array, without its memory, and its number of pages, which its bytes have to bear out."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    is_stack = len(shape) == 4 or (len(shape) == 3 and shape[2] > _MOST_BANDS)
    if not is_stack or min(shape) < 1 or dtype.kind not in "buif":  # the latter two are refused when it is opened
        return shape, dtype, 1
    held = len(data) - stream.tell()
    if prod(shape) * dtype.itemsize > held:
        raise ValueError(f"it holds {held:,} bytes, which are no {shape} of {dtype}")
    return shape, dtype, shape[0]


def too_large(height: int, width: int, shown: str, max_pixels: int) -> Problem:
    """What to say of an image that is above the limit."""
    what = f"has {width}x{height} = {_counted(height * width)} pixels, the limit is {_counted(max_pixels)}"
    tiles = " ".join(
        (override("data.size", None), override("data.crop", [512, 512]), override("data.tile", [512, 512]))
    )
    return Problem("E-BIG", shown, what, f"Train on crops and score by tiles ({tiles}), or raise data.max_pixels")


def _counted(pixels: int) -> str:
    return f"{pixels / 1e6:,.1f} million" if pixels >= 100_000 else f"{pixels:,}"


def _refuse_pages(pages: int, page: int | None, shown: str, detail: str) -> None:
    if pages > 1 and page is None:
        fix = "Choose one with data.page=0, or take all as images of their own with data.page=all"
        raise Problem("E-PAGE", shown, f"has {pages} pages or frames{detail}", fix)
    if page is not None and page >= pages:
        fix = "Pages count from 0: correct data.page, or list the file in data.exclude"
        raise Problem("E-PAGE", shown, f"has no page {page}, only {pages}{detail}", fix)
