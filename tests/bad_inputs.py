"""What is wrong with other people's images, one case or more for each kind, and what the command has to say of it.

The rows are numbered as in the table of bad inputs: 1-18 image files, 19-23 names, 24-36 masks, 37-47 layout.
"""

import io
import json
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

NUM = {"train": 6, "val": 2, "test": 2}
SIDE = 32


class Tree:
    """A healthy dataset of three classes, to be spoilt: ``images/<split>/<split><i>.png`` and the same for masks."""

    def __init__(self, root: Path, monkeypatch: Any) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        for split, num in NUM.items():
            for i in range(num):
                mask = self.truth(split, i)
                rng = np.random.default_rng([i, *split.encode()])
                pixels = mask[..., None] * 60 + rng.integers(0, 100, (SIDE, SIDE, 3))
                save(self.image(split, i), pixels.astype(np.uint8))
                save(self.mask(split, i), mask)

    @staticmethod
    def truth(split: str, i: int) -> np.ndarray:
        """The mask that belongs to an image: classes 0, 1 and 2."""
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[8:24, 4 + i : 16 + i] = 1
        mask[20:28, :10] = 2
        return mask

    def image(self, split: str = "train", i: int = 0, suffix: str = ".png") -> Path:
        return self.root / "images" / split / f"{split}{i}{suffix}"

    def mask(self, split: str = "train", i: int = 0, suffix: str = ".png") -> Path:
        return self.root / "masks" / split / f"{split}{i}{suffix}"

    def all(self) -> list[tuple[str, int]]:
        return [(split, i) for split, num in NUM.items() for i in range(num)]

    def each_image(self, change: Callable[[np.ndarray], Any], suffix: str = ".png") -> None:
        """Replaces all images."""
        for split, i in self.all():
            pixels = np.asarray(Image.open(self.image(split, i)))
            self.image(split, i).unlink()
            save(self.image(split, i, suffix), change(pixels))

    def each_mask(self, change: Callable[[np.ndarray], Any], suffix: str = ".png", **options: Any) -> None:
        """Replaces all masks."""
        for split, i in self.all():
            self.mask(split, i).unlink()
            save(self.mask(split, i, suffix), change(self.truth(split, i)), **options)


def save(path: Path, content: Any, **options: Any) -> None:
    """Bytes, an array or a picture becomes a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npy":
        np.save(path, content)
    else:
        picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
        picture.save(path, **options)


@dataclass(frozen=True)
class Cure:
    """An override that a message suggests, and that has to make the same tree readable.

    Attributes:
        said: regular expression found in the message; its groups are the overrides.
        typed: overrides that the message asks for without spelling them out.
    """

    said: str
    typed: tuple[str, ...] = ()

    def overrides(self, line: str) -> list[str]:
        match = re.search(self.said, line)
        assert match, f"'{line}' does not suggest '{self.said}'"
        return [*match.groups(), *self.typed]


@dataclass(frozen=True)
class Stop:
    """The command ends with exit code 1 before the first step, and one line about this.

    Attributes:
        code: of the message, ``""`` for a line about a key.
        where: file, split or key.
        says: finding and fix.
        cures: overrides from the message, each enough by itself.
    """

    code: str
    where: str
    says: tuple[str, ...]
    cures: tuple[Cure, ...] = ()


@dataclass(frozen=True)
class Works:
    """The data is usable, and the log says what there is to say.

    Attributes:
        effect: asserts on the ``Result``.
        notes: parts of log lines, each in exactly one.
        is_trained: a whole run; else only up to the first step.
    """

    effect: Callable[[Any], None]
    notes: tuple[str, ...] = ()
    is_trained: bool = False


@dataclass(frozen=True)
class Case:
    """One bad input."""

    row: int
    name: str
    spoil: Callable[[Tree], None]
    outcome: tuple[Stop, ...] | Works
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"row-{self.row:02d}-{self.name}"


CASES: list[Case] = []


def case(row: int, name: str, *outcome: Any, overrides: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Declares a case; the decorated function spoils the tree."""

    def add(spoil: Callable[[Tree], None]) -> Callable[[Tree], None]:
        CASES.append(Case(row, name, spoil, outcome[0] if isinstance(outcome[0], Works) else outcome, overrides))
        return spoil

    return add


def leave_out(*names: str) -> Cure:
    return Cure("data.exclude", (f"data.exclude=[{','.join(names)}]",))


def verbatim(*overrides: str) -> Cure:
    return Cure(" ".join(f"'?({re.escape(override)})'?" for override in overrides))


def encode(picture: Any, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(stream, form, **options)
    return stream.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand, whatever its header claims."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, shape).astype(np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def damaged(file: str, *says: str, code: str = "E-IMG") -> Stop:
    return Stop(code, file, (*says, "list it in data.exclude"), (leave_out(file),))


TRAIN0 = "images/train/train0.png"
MASK0 = "masks/train/train0.png"
TWO = ("data.num_classes=2", "data.class_names=[a,b]")


# Image files


@case(1, "empty-image", damaged(TRAIN0, "is empty (0 bytes)", "Copy or download the file again"))
def _(tree: Tree) -> None:
    tree.image().write_bytes(b"")


@case(12, "empty-image-among-pages", Stop("E-IMG", TRAIN0, ("is empty", "data.exclude")), overrides=("data.page=all",))
def _(tree: Tree) -> None:
    tree.image().write_bytes(b"")


@case(1, "empty-mask", damaged(MASK0, "is empty (0 bytes)", "Copy or download the file again"))
def _(tree: Tree) -> None:
    tree.mask().write_bytes(b"")


@case(
    1,
    "several-in-one-line",
    Stop(
        "E-IMG",
        TRAIN0,
        ("is empty", " Likewise: images/train/train1.png, images/val/val0.png"),
        (leave_out(TRAIN0, "images/train/train1", "images/val/val0.png"),),
    ),
)
def _(tree: Tree) -> None:
    for place in (("train", 0), ("train", 1), ("val", 0)):
        tree.image(*place).write_bytes(b"")


@case(
    1,
    "different-findings-in-different-lines",
    Stop("E-IMG", TRAIN0, ("is empty", "list it in data.exclude. Likewise: images/train/train2.png")),
    Stop("E-IMG", "images/train/train1.png", ("is damaged or cut off", "list it in data.exclude")),
)
def _(tree: Tree) -> None:
    tree.image("train", 0).write_bytes(b"")
    tree.image("train", 1).write_bytes(tree.image("train", 1).read_bytes()[:99])
    tree.image("train", 2).write_bytes(b"")


@case(2, "truncated-png", damaged(TRAIN0, "is damaged or cut off", "bytes)"))
def _(tree: Tree) -> None:
    data = tree.image().read_bytes()
    tree.image().write_bytes(data[: len(data) // 2])


@case(2, "truncated-jpeg", damaged("images/train/train0.jpg", "is damaged or cut off", "truncated"))
def _(tree: Tree) -> None:
    tree.image().unlink()
    data = encode(noise(SIDE, SIDE, 3), "JPEG")
    save(tree.image(suffix=".jpg"), data[: len(data) * 2 // 3])


@case(2, "truncated-mask", damaged(MASK0, "is damaged or cut off"))
def _(tree: Tree) -> None:
    tree.mask().write_bytes(tree.mask().read_bytes()[:-30])


@case(
    2,
    "truncated-while-a-library-permits-it",
    Stop("E-IMG", "images/train/train0.jpg", ("is damaged or cut off", ". Likewise: images/val/val0.png")),
)
def _(tree: Tree) -> None:
    tree.monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    tree.image().unlink()
    save(tree.image(suffix=".jpg"), encode(noise(SIDE, SIDE, 3), "JPEG")[:700])
    tree.image("val").write_bytes(tree.image("val").read_bytes()[:900])


@case(3, "flipped-byte", damaged(TRAIN0, "is damaged or cut off", "checksum"))
def _(tree: Tree) -> None:
    data = bytearray(tree.image().read_bytes())
    data[len(data) // 2] ^= 255
    tree.image().write_bytes(bytes(data))


@case(4, "html-page", damaged(TRAIN0, "is an HTML page (a failed download?)", "download the file again"))
def _(tree: Tree) -> None:
    tree.image().write_text("<!DOCTYPE html>\n<html><body>404</body></html>")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n"


@case(4, "lfs-pointer", Stop("E-IMG", TRAIN0, ("is a Git-LFS pointer, not the file itself", "Run: git lfs pull")))
def _(tree: Tree) -> None:
    tree.image().write_text(LFS)


@case(4, "lfs-pointer-for-npy", Stop("E-IMG", "masks/train/train0.npy", ("is a Git-LFS pointer", "git lfs pull")))
def _(tree: Tree) -> None:
    tree.mask().unlink()
    tree.mask(suffix=".npy").write_text(LFS)


def _jpeg_is_read(result: Any) -> None:
    assert result.facts("train")[0]["format"] == "JPEG"
    assert abs(result.store.splits["train"].image(0).astype(int) - 200).max() < 5


@case(5, "jpeg-named-png", Works(_jpeg_is_read, (f"1 of 10 images ({TRAIN0}): JPEG by content",)))
def _(tree: Tree) -> None:
    tree.image().write_bytes(encode(np.full((SIDE, SIDE, 3), 200, np.uint8), "JPEG"))


@case(
    6,
    "16-bit-grey",
    Stop(
        "E-DEPTH",
        "images/train/train0.png",
        ("has 16 bits a band, not 8 (uint16, values ", "Likewise: images/train/train1.png", "images/test/test1.png"),
        (verbatim("data.scale=[0,4095]"),),
    ),
)
def _(tree: Tree) -> None:
    tree.each_image(lambda pixels: pixels[..., 0].astype(np.uint16) * 16)


@case(
    6, "16-bit-colour", Stop("E-DEPTH", TRAIN0, ("16 bits a band in colour, of which only 8", "Convert it to 8 bits"))
)
def _(tree: Tree) -> None:
    rows = np.full((SIDE, SIDE, 3), 1000, ">u2").reshape(SIDE, -1).view(np.uint8)
    tree.image().write_bytes(png(SIDE, SIDE, 16, 2, np.insert(rows, 0, 0, axis=1).tobytes()))


@case(
    7,
    "transparent",
    Stop(
        "E-ALPHA",
        TRAIN0,
        ("is transparent in 50.0% of its pixels",),
        (verbatim("data.alpha=drop"), verbatim("data.alpha=composite")),
    ),
)
def _(tree: Tree) -> None:
    pixels = noise(SIDE, SIDE, 4)
    pixels[..., 3] = 255
    pixels[: SIDE // 2, :, 3] = 90
    save(tree.image(), pixels)


@case(
    7, "transparent-colour", Stop("E-ALPHA", TRAIN0, ("is transparent in 25.0%",), (verbatim("data.alpha=composite"),))
)
def _(tree: Tree) -> None:
    pixels = noise(SIDE, SIDE, 3) | 1
    pixels[:16, :16] = 0
    save(tree.image(), pixels, transparency=(0, 0, 0))


def _opaque_is_as_it_was(result: Any) -> None:
    assert result.facts("train")[0]["mode"] == "RGBA"
    assert (result.store.splits["train"].image(0) == noise(SIDE, SIDE, 3)).all()


@case(7, "opaque-alpha", Works(_opaque_is_as_it_was))
def _(tree: Tree) -> None:
    save(tree.image(), np.dstack([noise(SIDE, SIDE, 3), np.full((SIDE, SIDE), 255, np.uint8)]))


MIXED = "images have different modes (8 RGB, 2 L): all are read as data.in_channels says"


def _all_have(channels: int) -> Callable[[Any], None]:
    def effect(result: Any) -> None:
        image = result.store.splits["train"].image(1)
        assert image.shape == (SIDE, SIDE, channels)
        assert (image == noise(SIDE, SIDE)[..., None]).all()  # the grey one

    return effect


@case(8, "grey-and-colour-as-colour", Works(_all_have(3), (MIXED,)))
@case(
    8,
    "grey-and-colour-as-grey",
    Works(_all_have(1), (MIXED,)),
    overrides=("data.in_channels=1", "data.mean=[0.5]", "data.std=[0.5]"),
)
def _(tree: Tree) -> None:
    save(tree.image("train", 1), noise(SIDE, SIDE))
    save(tree.image("train", 2), noise(SIDE, SIDE) // 2)


@case(9, "cmyk", Stop("E-MODE", "images/train/train0.jpg", ("is CMYK, not grey or RGB", "Convert it to RGB")))
def _(tree: Tree) -> None:
    tree.image().unlink()
    save(tree.image(suffix=".jpg"), Image.fromarray(noise(SIDE, SIDE, 3)).convert("CMYK"))


def _mask_is(position: int, expected: Callable[[], np.ndarray]) -> Callable[[Any], None]:
    def effect(result: Any) -> None:
        assert (result.store.splits["train"].mask(position) == expected()).all()

    return effect


@case(10, "1-bit-mask", Works(_mask_is(0, lambda: Tree.truth("train", 0) == 1)), overrides=TWO)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: mask == 1)


@case(
    10,
    "1-bit-image",
    Stop("E-DEPTH", TRAIN0, ("has 1 bit a band, not 8 (bool, values 0 to 1)",), (verbatim("data.scale=[0,1]"),)),
)
def _(tree: Tree) -> None:
    tree.each_image(lambda pixels: pixels[..., 0] > 60)


def _is_turned(result: Any) -> None:
    fact, image = result.facts("train")[0], result.store.splits["train"].image(0)
    assert (fact["exif"], fact["turned"], fact["height"], fact["width"]) == (6, 6, 32, 24)
    assert image[:8, 14:].mean() > 200  # what was at the upper left of the file is at the upper right
    assert image[:8, :8].mean() < 60


def _is_left(result: Any) -> None:
    fact = result.facts("train")[0]
    assert (fact["exif"], fact["turned"], fact["height"], fact["width"]) == (6, 1, 24, 32)


def _photograph(tree: Tree, orientation: int, size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 20, np.uint8)
    pixels[:12, :12] = 250
    tree.image().unlink()
    save(tree.image(suffix=".jpg"), pixels, exif=exif(orientation), quality=95)


ROTATED = "1 images carry a rotation tag (images/train/train0.jpg); {} of them were turned"


@case(11, "rotated-with-upright-mask", Works(_is_turned, (ROTATED.format(1),)), overrides=("data.size=[32,24]",))
def _(tree: Tree) -> None:
    _photograph(tree, 6, (24, 32))
    save(tree.mask(), np.zeros((32, 24), np.uint8))


@case(11, "rotated-with-raw-mask", Works(_is_left, (ROTATED.format(0),)))
def _(tree: Tree) -> None:
    _photograph(tree, 6, (24, 32))
    save(tree.mask(), np.zeros((24, 32), np.uint8))


AMBIGUOUS = Stop(
    "E-EXIF",
    "images/train/train0.jpg",
    ("carries the rotation tag", "no mask size tells"),
    (verbatim("data.exif=apply"), verbatim("data.exif=ignore")),
)


@case(11, "upside-down", AMBIGUOUS)
def _(tree: Tree) -> None:
    _photograph(tree, 3, (32, 32))


@case(11, "rotated-square", AMBIGUOUS)
def _(tree: Tree) -> None:
    _photograph(tree, 6, (32, 32))


@case(12, "animated-gif", Stop("E-PAGE", "images/train/train0.gif", ("has 2 pages",), (verbatim("data.page=0"),)))
def _(tree: Tree) -> None:
    tree.image().unlink()
    first, second = (Image.fromarray(noise(SIDE, SIDE) // part) for part in (1, 2))
    save(tree.image(suffix=".gif"), first, save_all=True, append_images=[second])


@case(
    12,
    "pages-of-tiff",
    Stop(
        "E-PAGE",
        "images/train/train0.tif",
        ("has 2 pages or frames", "Likewise: images/train/train1.tif"),
        (verbatim("data.page=0"), verbatim("data.page=all")),
    ),
)
def _(tree: Tree) -> None:
    for split, i in tree.all():
        for file, pages in (
            (tree.image(split, i), [np.asarray(Image.open(tree.image(split, i))) // part for part in (1, 2)]),
            (tree.mask(split, i), [tree.truth(split, i), tree.truth(split, i).T]),
        ):
            file.unlink()
            first, second = map(Image.fromarray, pages)
            save(file.with_suffix(".tif"), first, save_all=True, append_images=[second])


@case(
    12,
    "stack-of-npy",
    Stop(
        "E-PAGE",
        "images/train/train0.npy",
        ("has 5 pages or frames (its shape is (5, 32, 32))",),
        (verbatim("data.page=0"),),
    ),
)
def _(tree: Tree) -> None:
    tree.image().unlink()
    save(tree.image(suffix=".npy"), noise(5, SIDE, SIDE))


def _with(value: float) -> np.ndarray:
    pixels = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    pixels[3, 5] = pixels[9, 9] = value
    return pixels


@case(13, "nan-in-npy", damaged("images/train/train0.npy", "2 values that are NaN", "row 3, column 5", code="E-NAN"))
def _(tree: Tree) -> None:
    tree.image().unlink()
    save(tree.image(suffix=".npy"), _with(np.nan))


@case(
    13,
    "infinite-in-tiff",
    damaged("images/train/train0.tif", "2 values that are NaN or infinite", "row 3, column 5", code="E-NAN"),
    overrides=("data.scale=[0,1]",),
)
def _(tree: Tree) -> None:
    tree.image().unlink()
    save(tree.image(suffix=".tif"), _with(np.inf))


@case(
    13,
    "nan-in-mask",
    damaged("masks/train/train0.npy", "2 values that are NaN", "row 3, column 5", code="E-NAN"),
    overrides=(*TWO, "data.threshold=0.5"),
)
def _(tree: Tree) -> None:
    tree.mask().unlink()
    save(tree.mask(suffix=".npy"), _with(np.nan))


@case(
    14,
    "900-megapixels",
    Stop("E-BIG", TRAIN0, ("30000x30000 = 900.0 million pixels, the limit is 64.0", "data.max_pixels")),
)
def _(tree: Tree) -> None:
    tree.image().write_bytes(png(30000, 30000, 8, 2, b"\0"))


@case(
    14, "npy-of-10-gigapixels", Stop("E-BIG", "images/train/train0.npy", ("100000x100000 = 10,000.0 million pixels",))
)
def _(tree: Tree) -> None:
    tree.image().unlink()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (100000, 100000)})
    save(tree.image(suffix=".npy"), header.getvalue() + b"\0" * 64)  # as bytes: there is nothing behind the header


@case(
    15, "100-megapixels", Stop("E-BIG", TRAIN0, ("10000x10000 = 100.0 million pixels, the limit is 64.0", "by tiles"))
)
def _(tree: Tree) -> None:
    tree.image().write_bytes(png(10000, 10000, 8, 2, b"\0"))


@case(
    15,
    "above-the-limit",
    Stop(
        "E-BIG",
        TRAIN0,
        ("60x60",),
        (
            verbatim("data.size=null", "data.crop=[512,512]", "data.tile=[512,512]"),
            Cure("raise data.max_pixels", ("data.max_pixels=3600",)),
        ),
    ),
    overrides=("data.max_pixels=3599",),
)
def _(tree: Tree) -> None:
    save(tree.image(), noise(60, 60, 3))
    save(tree.mask(), np.zeros((60, 60), np.uint8))


@case(
    16,
    "object-array",
    Stop(
        "E-IMG", "images/train/train0.npy", ("holds Python objects, which are never loaded", "array.astype(np.uint8)")
    ),
)
def _(tree: Tree) -> None:
    tree.image().unlink()
    save(tree.image(suffix=".npy"), np.array([[{"a": 1}, None]], object))


@case(17, "eps", Stop("E-IMG", TRAIN0, ("is an EPS file", "Convert it to PNG")))
def _(tree: Tree) -> None:
    tree.image().write_bytes(encode(noise(SIDE, SIDE, 3), "EPS"))


@case(17, "fits", Stop("E-IMG", TRAIN0, ("is a FITS file", "Convert it to TIFF or npy")))
def _(tree: Tree) -> None:
    cards = [
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    0",
        b"END",
    ]
    tree.image().write_bytes(b"".join(card.ljust(80) for card in cards).ljust(2880))


@case(17, "psd", Stop("E-IMG", TRAIN0, ("is a Photoshop file", "Convert it to PNG")))
def _(tree: Tree) -> None:
    tree.image().write_bytes(b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, SIDE, SIDE, 8, 3) + b"\0" * 3200)


@case(17, "something-else", damaged(TRAIN0, "is no PNG, JPEG, WEBP, BMP, TIFF, GIF image"))
def _(tree: Tree) -> None:
    tree.image().write_bytes(b"P6 2 2 255\n" + bytes(12))  # Pillow could open it


@case(
    18,
    "unreadable-file",
    Stop("E-READ", TRAIN0, ("cannot be read (Permission denied, mode 640)", "the right to read it")),
)
def _(tree: Tree) -> None:
    original, file = Path.read_bytes, tree.image()
    file.chmod(0o640)

    def read_bytes(self: Path) -> bytes:
        if self == file:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    tree.monkeypatch.setattr(Path, "read_bytes", read_bytes)  # root may read everything


@case(
    18,
    "unreadable-folder",
    Stop("E-READ", "images/val", ("cannot be listed (Permission denied)", "the right to read it")),
)
def _(tree: Tree) -> None:
    original, folder = os.scandir, tree.root / "images" / "val"

    def scandir(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    tree.monkeypatch.setattr(os, "scandir", scandir)
    for i in range(2):
        tree.mask("val", i).unlink()


# Names


@case(19, "link-to-itself", Stop("E-LINK", TRAIN0, ("is a link that leads", "to itself", "Remove it or mend the link")))
def _(tree: Tree) -> None:
    tree.image().unlink()
    tree.image().symlink_to("train0.png")


@case(19, "dangling-link", Stop("E-LINK", TRAIN0, ("leads nowhere", "mend the link")))
def _(tree: Tree) -> None:
    tree.image().unlink()
    tree.image().symlink_to("gone.png")


@case(
    19,
    "link-out",
    Stop("E-LINK", TRAIN0, ("is a link that leads out of data.root",), (verbatim("data.follow_links=true"),)),
)
def _(tree: Tree) -> None:
    outside = tree.root.parent / "elsewhere.png"
    tree.image().rename(outside)
    tree.image().symlink_to(outside)


@case(
    19,
    "folder-link-out",
    Stop("E-LINK", "images/val", ("is a link that leads out of data.root",), (verbatim("data.follow_links=true"),)),
)
def _(tree: Tree) -> None:
    folder, outside = tree.root / "images" / "val", tree.root.parent / "elsewhere"
    folder.rename(outside)
    folder.symlink_to(outside, target_is_directory=True)
    for i in range(2):
        tree.mask("val", i).rename(tree.root / f"val{i}.png")
    (tree.root / "masks" / "val").rmdir()
    (tree.root / "masks" / "val").symlink_to(tree.root, target_is_directory=True)  # a link inside is fine


def _rename(tree: Tree, split: str, i: int, image: str, mask: str) -> None:
    tree.image(split, i).rename(tree.image(split, i).with_name(image))
    tree.mask(split, i).rename(tree.mask(split, i).with_name(mask))


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "größe_é.png") for form in ("NFC", "NFD"))


def _is_one_name(result: Any) -> None:
    assert "images/train/größe_é" in [item.name for item in result.store.splits["train"].items]
    assert len(result.store.splits["train"].items) == 6


@case(20, "two-spellings-of-one-name", Works(_is_one_name))
def _(tree: Tree) -> None:
    _rename(tree, "train", 0, COMPOSED, DECOMPOSED)


@case(
    20, "both-spellings-in-a-folder", Stop("E-NAME", "images/train/größe_é.png", ("two ways of Unicode", "Rename one"))
)
def _(tree: Tree) -> None:
    for i, name in enumerate((COMPOSED, DECOMPOSED)):
        _rename(tree, "train", i, name, name)


STRANGE = ["a b.png", "a,b=c.png", "it's.png", 'say "x".png', "-rf.png", "🦊 fox.png"]


def _keeps_strange_names(result: Any) -> None:
    stems = [f"images/train/{Path(name).stem}" for name in STRANGE]
    assert sorted(stems) == [item.name for item in result.store.splits["train"].items]
    with np.load(result.folder / "test_confusion.npz", allow_pickle=False) as stored:
        assert stored["names"].tolist() == ["images/test/x=1, 'y'", "images/test/ü{z}"]
    assert result.record["status"] == "completed"


@case(21, "strange-names", Works(_keeps_strange_names, is_trained=True))
def _(tree: Tree) -> None:
    for i, name in enumerate(STRANGE):
        _rename(tree, "train", i, name, name)
    for i, name in enumerate(("x=1, 'y'.png", "ü{z}.png")):
        _rename(tree, "test", i, name, name)


@case(21, "line-break", Stop("E-NAME", "'images/train/a\\nb.png'", ("has a line break", "Rename the file")))
def _(tree: Tree) -> None:
    _rename(tree, "train", 0, "a\nb.png", "a\nb.png")


@case(21, "bytes-that-are-no-utf-8", Stop("E-NAME", "'images/train/a\\udcff.png'", ("no UTF-8", "Rename the file")))
def _(tree: Tree) -> None:
    _rename(tree, "train", 0, *[os.fsdecode(b"a\xff.png")] * 2)


@case(
    22,
    "capital-letters",
    Stop(
        "E-NAME",
        "images/train/train1.png",
        ("and images/train/TRAIN1.png differ only in capital letters", "Rename one"),
    ),
)
def _(tree: Tree) -> None:
    save(tree.image().with_name("TRAIN1.png"), noise(SIDE, SIDE, 3))
    save(tree.mask().with_name("TRAIN1.png"), tree.truth("train", 1))


LISTS = (
    "data.images='images/{folder}/{stem}.*'",
    "data.masks='masks/{folder}/{stem}.*'",
    "data.splits={train:train.txt,val:val.txt,test:test.txt}",
)


def _write_lists(tree: Tree, extra: str = "") -> None:
    for split, num in NUM.items():
        lines = [f"images/{split}/{split}{i}.png\n" for i in range(num)]
        tree.root.joinpath(f"{split}.txt").write_text("".join(lines) + (extra if split == "train" else ""))


@case(
    22,
    "name-of-300-letters-in-a-list",
    Stop("E-LIST", "train.txt:7", ("names no image of data.images (xxxx", "Remove the line or add the image")),
    overrides=LISTS,
)
def _(tree: Tree) -> None:
    _write_lists(tree, "x" * 300 + ".png\n")


@case(
    22,
    "list-file-with-a-name-of-300-letters",
    Stop("E-LIST", "x" * 300 + ".txt", ("is not there", "check data.splits")),
    overrides=(*LISTS, f"data.splits.val={'x' * 300}.txt"),
)
def _(tree: Tree) -> None:
    _write_lists(tree)


def _junk_is_counted(result: Any) -> None:
    assert {split: len(s.items) for split, s in result.store.splits.items()} == NUM
    assert result.source.num_ignored == 5


@case(23, "junk-files", Works(_junk_is_counted))
def _(tree: Tree) -> None:
    for name in (".DS_Store", "._train0.png", "Thumbs.db"):
        tree.image().with_name(name).write_bytes(b"junk")
    tree.mask().with_name(".DS_Store").write_bytes(b"junk")
    (tree.root / "masks" / "__MACOSX").mkdir()
    (tree.root / "masks" / "__MACOSX" / "train0.png").write_bytes(b"junk")


# Masks


@case(
    24,
    "other-size",
    Stop("E-SIZE", MASK0, (f"has 16x24 pixels, its image {TRAIN0} 32x32", "pair each image with its own mask")),
)
def _(tree: Tree) -> None:
    save(tree.mask(), np.zeros((24, 16), np.uint8))


def _seven(tree: Tree, ignored: bool) -> None:
    mask = tree.truth("train", 0)
    mask[:2, :5] = 7
    mask[30, :] = 255 if ignored else 0
    save(tree.mask(), mask)


@case(
    25,
    "unknown-class",
    Stop(
        "E-LABEL",
        MASK0,
        ("has 7 (10 px); classes are 0..2", "Add the class to data.class_names, map it with data.label_map"),
        (verbatim("data.ignore_index=7"),),
    ),
)
def _(tree: Tree) -> None:
    _seven(tree, ignored=False)


@case(
    25,
    "unknown-class-beside-ignored-pixels",
    Stop("E-LABEL", MASK0, ("has 7 (10 px)",), (verbatim("data.label_map={0:0,1:1,2:2,7:ignore,255:ignore}"),)),
)
def _(tree: Tree) -> None:
    _seven(tree, ignored=True)


@case(
    26,
    "colours",
    Stop(
        "E-COLOUR",
        MASK0,
        ("has 3 colours, not class numbers", "with your classes", "Likewise: masks/train/train1.png"),
        (Cure(r"'(data\.palette=\{0 0 0:0,.*?\})'"),),
    ),
)
def _(tree: Tree) -> None:
    colours = np.array([[0, 0, 0], [200, 30, 30], [60, 16, 152]], np.uint8)
    tree.each_mask(lambda mask: colours[mask])


def _with_palette(mask: np.ndarray, *colours: int) -> Image.Image:
    picture = Image.fromarray(mask, "L").convert("P")
    picture.putdata(mask.ravel().tolist())
    picture.putpalette([*colours, *[9] * (765 - len(colours)), 255, 255, 255])
    return picture


def _indices_are_classes(result: Any) -> None:
    assert result.facts("train")[0]["mask_mode"] == "P"
    assert (result.store.splits["train"].mask(0) == Tree.truth("train", 0)).all()


@case(27, "palette", Works(_indices_are_classes))
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: _with_palette(mask, 0, 0, 0, 128, 0, 0, 0, 128, 0))


@case(
    27,
    "palettes-that-differ",
    Stop(
        "E-PALETTE",
        MASK0,
        ("draws index 1 in 0 128 0, most masks in 128 0 0",),
        (Cure("set data.palette", ("data.palette={0 0 0:a,128 0 0:b,0 128 0:c}",)),),
    ),
)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: _with_palette(mask, 0, 0, 0, 128, 0, 0, 0, 128, 0))
    save(tree.mask(), _with_palette(tree.truth("train", 0), 0, 0, 0, 0, 128, 0, 128, 0, 0))


LOSSY = ("is a JPEG file, which changes mask values", "Get the original masks")


@case(28, "jpeg", Stop("E-LOSSY", "masks/train/train0.jpg", LOSSY, (verbatim("data.threshold=127"),)), overrides=TWO)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: (mask > 0).astype(np.uint8) * 255, ".jpg", quality=60)


@case(28, "jpeg-named-png", Stop("E-LOSSY", MASK0, LOSSY))
def _(tree: Tree) -> None:
    tree.mask().write_bytes(encode(tree.truth("train", 0) * 80, "JPEG"))


@case(
    28,
    "lossy-webp-by-colour",
    Stop("E-LOSSY", "masks/train/train0.webp", ("is a WEBP file, which changes", "Get the originals")),
    overrides=("data.palette={0 0 0:a,250 0 0:b,0 250 0:c}",),
)
def _(tree: Tree) -> None:
    colours = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0]], np.uint8)
    for split, i in tree.all():
        save(tree.mask(split, i), colours[tree.truth(split, i)])
    tree.mask().unlink()
    save(tree.mask(suffix=".webp"), colours[tree.truth("train", 0)], quality=50)


def _interpolated(mask: np.ndarray, factor: int) -> Image.Image:
    small = Image.fromarray(mask * np.uint8(factor)).resize((11, 11), Image.Resampling.NEAREST)
    return small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


BETWEEN = "These are in-between values, as after resizing with interpolation: resize masks with nearest"


@case(
    29,
    "resized-with-interpolation",
    Stop("E-LABEL", MASK0, (BETWEEN,), (verbatim("data.label_map=null", "data.threshold=127"),)),
    overrides=TWO,
)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: _interpolated((mask > 0).astype(np.uint8), 255))


@case(
    29,
    "resized-although-mapped",
    Stop("E-LABEL", MASK0, (BETWEEN, "data.label_map knows 0, 100, 200")),
    overrides=("data.label_map={0:a,100:b,200:c}",),
)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: mask * np.uint8(100))
    save(tree.mask(), _interpolated(tree.truth("train", 0), 100))


BINARY = verbatim("data.label_map={0:0,255:1}")


@case(30, "0-and-255", Stop("E-LABEL", MASK0, ("hold only class 'a' and ignored pixels",), (BINARY,)), overrides=TWO)
@case(
    30,
    "0-and-255-with-another-ignore-index",
    Stop("E-LABEL", MASK0, ("has 255 (", "classes are 0..1"), (BINARY,)),
    overrides=(*TWO, "data.ignore_index=254"),
)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: (mask > 0).astype(np.uint8) * 255)


@case(
    31,
    "labels-from-1-to-n",
    Stop(
        "E-LABEL", MASK0, ("has 3 (", "If labels count from 1"), (verbatim("data.label_map={1:0,2:1,3:2,255:ignore}"),)
    ),
)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: mask + np.uint8(1))


def _is_off_by_one(result: Any) -> None:
    assert result.store.splits["train"].counts[:, 0].sum() == 0


@case(
    31,
    "labels-from-1-that-fit",
    Works(
        _is_off_by_one,
        (
            "WARNING segsweep.fitting: data: class 'a' (0) never occurs, all others do (a 0.0%, b 7",
            "map them with 'data.label_map={1:0,2:1,3:2}'",
        ),
    ),
    overrides=("data.num_classes=4", "data.class_names=[a,b,c,d]"),
)
def _(tree: Tree) -> None:
    tree.each_mask(lambda mask: mask + np.uint8(1))


def _minus_one(mask: np.ndarray) -> np.ndarray:
    mask = mask.astype(np.int8)
    mask[mask == 1] = -1
    return mask


@case(
    32,
    "minus-one",
    Stop(
        "E-LABEL",
        "masks/train/train0.npy",
        ("has -1 (", "as int8", "If -1 means 'ignore'"),
        (verbatim("data.label_map={-1:ignore,0:0,1:1,2:2,255:ignore}"),),
    ),
)
def _(tree: Tree) -> None:
    tree.each_mask(_minus_one, ".npy")


@case(
    32,
    "floating-point",
    Stop("E-LABEL", "masks/train/train0.tif", ("holds float32 numbers (0 to 2)", "Save masks as whole numbers")),
)
def _(tree: Tree) -> None:
    tree.mask().unlink()
    save(tree.mask(suffix=".tif"), tree.truth("train", 0).astype(np.float32))


@case(
    32,
    "grey-with-alpha",
    Stop("E-LABEL", MASK0, ("is a mask with transparency (LA)", "Save masks without transparency")),
)
def _(tree: Tree) -> None:
    save(tree.mask(), np.dstack([tree.truth("train", 0), np.full((SIDE, SIDE), 128, np.uint8)]))


def _learns_without_nan(result: Any) -> None:
    (epoch,) = result.history
    assert epoch["train/loss"] > 0  # written as null if it were NaN
    assert result.record["steps"] == 6


@case(
    33,
    "all-ignored",
    Works(
        _learns_without_nan,
        ("WARNING segsweep.fitting: data: 1 of 6 train masks have no valid pixel, only ignored ones (images/train",),
        is_trained=True,
    ),
    overrides=("data.batch_size=1",),  # one of six steps sees nothing but ignored pixels
)
def _(tree: Tree) -> None:
    save(tree.mask(), np.full((SIDE, SIDE), 255, np.uint8))


def _learns_nothing(result: Any) -> None:
    (epoch,) = result.history
    assert epoch["train/loss"] == 0


@case(
    33, "all-train-masks-ignored", Works(_learns_nothing, ("6 of 6 train masks have no valid pixel",), is_trained=True)
)
def _(tree: Tree) -> None:
    for i in range(6):
        save(tree.mask("train", i), np.full((SIDE, SIDE), 255, np.uint8))


@case(
    33,
    "few-ignored",
    Works(lambda _: None, ("INFO segsweep.fitting: data: 1 of 26 train masks have no valid pixel",)),
)
def _(tree: Tree) -> None:
    for i in range(6, 26):
        save(tree.image("train", i), np.full((SIDE, SIDE, 3), i, np.uint8))
        save(tree.mask("train", i), tree.truth("train", 0))
    save(tree.mask(), np.full((SIDE, SIDE), 255, np.uint8))


def _without(tree: Tree, *splits: str) -> None:
    for split in splits:
        for i in range(NUM[split]):
            mask = tree.truth(split, i)
            mask[mask == 2] = 0
            save(tree.mask(split, i), mask)


@case(
    34,
    "class-absent-in-train",
    Works(
        lambda result: _counts_as(result, 0.0),
        ("WARNING segsweep.fitting: data: class 'c' is in val, test but not in train: it cannot be learnt",),
        is_trained=True,
    ),
)
def _(tree: Tree) -> None:
    _without(tree, "train")


def _counts_as(result: Any, expected: float | None) -> None:
    """The test IoU of class c, and what that does to the mean."""
    metrics = result.record["metrics"]
    known = [metrics[f"test/iou/{name}"] for name in "abc"]
    assert known[2] == expected
    assert abs(metrics["test/miou"] - np.mean([value for value in known if value is not None])) < 1e-5


@case(
    35,
    "class-only-in-train",
    Works(
        lambda result: _counts_as(result, None),
        (
            "WARNING segsweep.fitting: data: class 'c' is in train but not in val: its IoU there is empty",
            "WARNING segsweep.fitting: data: class 'c' is in train but not in test: its IoU there is empty",
        ),
        is_trained=True,
    ),
)
def _(tree: Tree) -> None:
    _without(tree, "val", "test")


@case(
    35,
    "class-only-in-val",
    Works(
        lambda _: None,
        (
            "class 'c' is in val but not in train: it cannot be learnt",
            "class 'c' is in val but not in test: its IoU there is empty and counts in no mean",
        ),
    ),
)
def _(tree: Tree) -> None:
    _without(tree, "train", "test")


@case(
    36,
    "ignore-index-of-a-class",
    Stop("", "data.ignore_index=2", ("is the class 'c', which would vanish", "choose a value from 3 to 255")),
    overrides=("data.ignore_index=2",),
)
def _(tree: Tree) -> None:
    pass


# Layout

NO_VAL = ("has no images (data.splits.val=val, looked for images/val/{stem}.* in ", "name one of them")


@case(37, "empty-split", Stop("E-EMPTY", "split val", NO_VAL, (verbatim("data.splits.val=0.2"),)))
def _(tree: Tree) -> None:
    for i in range(2):
        tree.image("val", i).unlink()
        tree.mask("val", i).unlink()


@case(
    37,
    "split-of-another-name",
    Stop(
        "E-EMPTY",
        "split val",
        (*NO_VAL, "Images lie in test, train, valid;"),
        (Cure("valid; name one of them", ("data.splits.val=valid",)),),
    ),
)
def _(tree: Tree) -> None:
    for kind in ("images", "masks"):
        (tree.root / kind / "val").rename(tree.root / kind / "valid")


@case(
    37,
    "other-layout",
    Stop(
        "E-ROOT",
        "data.root=",
        ("'images/{split}/{stem}.*'", "'photos/train' (6 files, e.g. train0.png)", "data.images"),
    ),
)
def _(tree: Tree) -> None:
    (tree.root / "images").rename(tree.root / "photos")


LONELY_IMAGE = Stop(
    "E-PAIR",
    TRAIN0,
    ("has no mask (looked for masks/train/train0.*)", "leave it out with data.exclude", "data.unlabelled"),
)
LONELY_MASK = Stop("E-PAIR", "masks/val/val0.png", ("is a mask without an image", "list it in data.exclude"))


@case(
    38,
    "image-without-mask",
    Stop(
        *(LONELY_IMAGE.code, LONELY_IMAGE.where, LONELY_IMAGE.says),
        (leave_out(TRAIN0), Cure("data.unlabelled", ("data.unlabelled='images/train/{stem}.*'",))),
    ),
)
def _(tree: Tree) -> None:
    tree.mask().unlink()


@case(
    38,
    "mask-without-image",
    Stop(*(LONELY_MASK.code, LONELY_MASK.where, LONELY_MASK.says), (leave_out("masks/val/val0.png"),)),
)
def _(tree: Tree) -> None:
    tree.image("val").unlink()


@case(38, "both-sides-at-once", LONELY_MASK, LONELY_IMAGE)
def _(tree: Tree) -> None:
    tree.mask().unlink()
    tree.image("val").unlink()


@case(
    39,
    "two-images-of-one-stem",
    Stop(
        "E-NAME",
        TRAIN0,
        (
            "and images/train/train0.jpg are the same for the pattern",
            "Remove one of them",
            "name the suffix in the pattern",
        ),
        (leave_out("images/train/train0.jpg"), Cure("name the suffix", ("data.images='images/{split}/{stem}.png'",))),
    ),
)
def _(tree: Tree) -> None:
    save(tree.image(suffix=".jpg"), noise(SIDE, SIDE, 3))


@case(
    39,
    "two-masks-of-one-stem",
    Stop(
        "E-NAME",
        MASK0,
        ("and masks/train/train0.bmp are the same for the pattern",),
        (leave_out("masks/train/train0.bmp"),),
    ),
)
def _(tree: Tree) -> None:
    save(tree.mask(suffix=".bmp"), tree.truth("train", 0))


@case(
    40,
    "same-picture-in-train-and-val",
    Stop(
        "E-LEAK",
        "images/train/train3.png (train)",
        ("is the same picture as images/val/val0.png (val)",),
        (verbatim("data.allow_leak=true"), leave_out("images/val/val0.png")),
    ),
)
def _(tree: Tree) -> None:
    tree.image("val").write_bytes(tree.image("train", 3).read_bytes())


OFF = "holds no image that fits data.images 'images/{split}/{stem}.*'"
MEANT = Cure(r"Did you mean (data\.root=\S+)\?")


@case(41, "root-one-level-above", Stop("E-ROOT", "data.root=", (OFF,), (MEANT,)), overrides=("data.root=ROOT/..",))
@case(41, "root-one-level-below", Stop("E-ROOT", "data.root=", (OFF,), (MEANT,)), overrides=("data.root=ROOT/images",))
@case(
    41,
    "root-that-is-not-there",
    Stop("E-ROOT", "data.root=", ("is not a folder (looked in ", "the folder that holds 'images'")),
    overrides=("data.root=ROOT/gone",),
)
@case(
    41,
    "root-with-a-name-of-300-letters",
    Stop("E-ROOT", "data.root=", ("is not a folder", "the folder that holds 'images'")),
    overrides=(f"data.root=ROOT/{'x' * 300}",),
)
def _(tree: Tree) -> None:
    pass


def _lists_are_read(result: Any) -> None:
    assert {split: len(s.items) for split, s in result.store.splits.items()} == NUM


@case(42, "list-from-windows", Works(_lists_are_read), overrides=LISTS)
def _(tree: Tree) -> None:
    _write_lists(tree)
    for split in NUM:
        text = (tree.root / f"{split}.txt").read_text().replace("\n", "\r\n\r\n   \r\n")
        (tree.root / f"{split}.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())


@case(
    42,
    "unknown-names-in-a-list",
    Stop(
        "E-LIST", "train.txt:7", ("names no image of data.images (ghost)", "Remove the line", "Likewise: train.txt:9")
    ),
    overrides=LISTS,
)
def _(tree: Tree) -> None:
    _write_lists(tree, "ghost\n\nimages/train/spirit.png\n")


@case(
    42, "list-in-utf-16", Stop("E-LIST", "train.txt", ("is not a UTF-8 text file", "Save it as one")), overrides=LISTS
)
def _(tree: Tree) -> None:
    _write_lists(tree)
    (tree.root / "train.txt").write_text((tree.root / "train.txt").read_text(), encoding="utf-16")


@case(
    43,
    "list-that-leads-out",
    Stop(
        "E-PATH",
        "train.txt:7",
        ("leads out of data.root (../secret.png)", "by their path below data.root", "Likewise: train.txt:8"),
    ),
    overrides=LISTS,
)
def _(tree: Tree) -> None:
    _write_lists(tree, "../secret.png\n/etc/hostname\n")


@case(
    43,
    "pattern-that-leads-out",
    Stop("", "data.images '../{split}/{stem}.*'", ("leaves data.root", "write a path below it")),
    overrides=("data.images='../{split}/{stem}.*'",),
)
def _(tree: Tree) -> None:
    pass


@case(
    44,
    "archive",
    Stop(
        "E-ROOT", "data.root=", ("is an archive, which is never unpacked here", "Unpack it yourself and set data.root")
    ),
    overrides=("data.root=ROOT/data.zip",),
)
def _(tree: Tree) -> None:
    with zipfile.ZipFile(tree.root / "data.zip", "w") as archive:
        archive.writestr("../../evil.txt", "out")
        archive.writestr("images/train/evil.txt", "in")


def _all_batches_are_full(result: Any) -> None:
    assert result.record["steps"] == 1
    assert result.record["images_seen"] == 64


@case(
    46,
    "fewer-images-than-a-batch",
    Works(
        _all_batches_are_full,
        ("data.batch_size=64 but train has 6 images: each batch repeats them",),
        is_trained=True,
    ),
    overrides=("data.batch_size=64",),
)
def _(tree: Tree) -> None:
    pass


def _is_mirrored(result: Any) -> None:
    batch = result.training_batch()
    assert batch.mask.shape == (4, 48, 40)
    assert (batch.mask == 255).sum() == 4 * (48 * 40 - SIDE * SIDE)
    for image, mask in zip(batch.image, batch.mask, strict=True):
        row, column = (mask != 255).nonzero()[0].tolist()
        assert (image[:, row - 1] == image[:, row]).all()  # the border is repeated, not blackened
        assert (image[:, :, column - 1] == image[:, :, column]).all()
    assert result.record["status"] == "completed"


@case(
    47,
    "crop-larger-than-images",
    Works(_is_mirrored, is_trained=True),
    overrides=("data.size=null", "data.crop=[48,40]", "augment=none"),
)
def _(tree: Tree) -> None:
    pass


@case(
    47,
    "size-that-no-stride-divides",
    Works(lambda result: _scores_all_pixels(result), is_trained=True),
    overrides=("data.size=[33,27]", "model.widths=[4,4,8]"),
)
def _(tree: Tree) -> None:
    pass


def _scores_all_pixels(result: Any) -> None:
    with np.load(result.folder / "test_confusion.npz", allow_pickle=False) as stored:
        assert stored["confusion"].sum(axis=(1, 2)).tolist() == [SIDE * SIDE] * 2


@case(
    47,
    "crop-larger-than-the-size",
    Stop("", "data.crop=[64,64]", ("is larger than data.size=[32,32]", "make the crop smaller")),
    overrides=("data.crop=[64,64]",),
)
def _(tree: Tree) -> None:
    pass


@case(
    47,
    "sizes-that-differ",
    Stop(
        "E-SIZE",
        "split train",
        ("has 2 sizes of images, from [20, 30] to [32, 32]",),
        (verbatim("data.crop=[256,256]"), verbatim("data.size=[256,256]")),
    ),
    overrides=("data.size=null",),
)
def _(tree: Tree) -> None:
    save(tree.image(), noise(20, 30, 3))
    save(tree.mask(), np.zeros((20, 30), np.uint8))


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
