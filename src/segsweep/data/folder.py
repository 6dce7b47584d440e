"""Image and mask files in parallel folders, one pair of folders a split."""

import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segsweep.data.storage import SPLITS, Item, Pixels

# A list, so that no other of Pillow's readers ever opens a user's file.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


class Folder:
    """Pairs images and masks of equal stem.

    Args:
        root: folder of the dataset.
        images: folder of a split's images below ``root``, with the placeholder ``{split}``.
        masks: the same for the masks: one channel, or palette files read by index.
        in_channels: 1 (read as grey) or 3 (read as RGB).
        group: regular expression matched at the start of a stem; images with the same match (frames of one video, say)
            belong to one group. None: every image is a group of its own.

    Raises:
        FileNotFoundError: ``root`` or a split's folder does not exist.
        ValueError: an image has no mask or the reverse, two files share a stem, or a pattern lacks ``{split}``.
    """

    def __init__(self, root: str, images: str, masks: str, in_channels: int, group: str | None) -> None:
        self.root = Path(root).expanduser()
        self.in_channels = in_channels
        self.patterns = (images, masks)
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"data.root={root} is not a folder (looked in {self.root.absolute()}). "
                f"Set data.root to the extracted dataset, the folder that holds '{images.split('/')[0]}'"
            )
        pattern = re.compile(group) if group else None
        self._pairs: dict[str, list[tuple[Path, Path]]] = {}
        self._items: dict[str, list[Item]] = {}
        for split in SPLITS:
            pairs = _pair(self._list(images, split), self._list(masks, split))
            self._pairs[split] = list(pairs.values())
            self._items[split] = [Item(stem, _group_of(stem, pattern)) for stem in pairs]

    def identity(self) -> object:
        """Names, sizes and modification times of all files, wherever the folder lies."""
        files = [file for pairs in self._pairs.values() for pair in pairs for file in pair]
        stats = [(str(f.relative_to(self.root)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return ["folder", self.in_channels, sorted(self._items.items()), sorted(stats)]

    def items(self) -> dict[str, list[Item]]:
        """Stems in sorted order, split by split."""
        return self._items

    def read(self, split: str, position: int) -> tuple[Pixels, Pixels]:
        """Opens one pair."""
        image, mask = self._pairs[split][position]
        return _read_image(image, self.in_channels), _read_mask(mask)

    def _list(self, pattern: str, split: str) -> dict[str, Path]:
        if "{split}" not in pattern:
            raise ValueError(f"data.source: the pattern '{pattern}' lacks {{split}}; write e.g. images/{{split}}")
        folder = self.root / pattern.format(split=split)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"data.root={self.root} has no folder '{folder.relative_to(self.root)}' (looked in {folder.absolute()})"
                f". {_hint(self.root, pattern, split)}"
            )
        found: dict[str, Path] = {}
        for file in sorted(folder.iterdir()):
            if file.name.startswith(".") or file.suffix.lower() not in _SUFFIXES:
                continue
            if file.stem in found:
                raise ValueError(f"{folder}: {found[file.stem].name} and {file.name} share a stem; remove one of them")
            found[file.stem] = file
        if not found:
            raise FileNotFoundError(f"{folder} holds no image file ({' '.join(sorted(_SUFFIXES))})")
        return found


def _hint(root: Path, pattern: str, split: str) -> str:
    """Where the folder lies if the root is one level off, else what is there."""
    wanted = pattern.format(split=split)
    for folder in (root.absolute().parent, *sorted(p for p in root.iterdir() if p.is_dir())):
        if (folder / wanted).is_dir():
            return f"Did you mean data.root={folder}?"
    there = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    return f"There is: {there}. Set data.root to the folder above '{wanted.split('/')[0]}'"


def _pair(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, tuple[Path, Path]]:
    problems = [f"{len(only)} {what} (e.g. {min(only)})" for what, only in (
        ("images without a mask", images.keys() - masks.keys()),
        ("masks without an image", masks.keys() - images.keys()),
    ) if only]  # fmt: skip
    if problems:
        folder = next(iter(images.values())).parent
        raise ValueError(f"{folder}: {' and '.join(problems)}. Images and masks are paired by equal stems")
    return {stem: (image, masks[stem]) for stem, image in images.items()}


def _group_of(stem: str, pattern: re.Pattern[str] | None) -> str:
    match = pattern.match(stem) if pattern else None
    return match.group() if match else stem


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}). Copy the file again or remove it with its partner"
        ) from None
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path}: {image.mode} has more than 8 bits a channel; convert it to 8 bits first")
    return image


def _read_image(path: Path, in_channels: int) -> Pixels:
    image = _open(path).convert("L" if in_channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, in_channels)


def _read_mask(path: Path) -> Pixels:
    image = _open(path)
    if image.mode not in ("L", "P", "1"):  # P: the index is the class, converting would turn it into a grey value
        raise ValueError(f"{path}: a mask needs one channel of class numbers, this one is {image.mode}")
    return np.asarray(image).astype(np.uint8)
