"""Which images the user has named: files, folders and patterns. Looks at names alone."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segsweep.data.patterns import SUFFIXES
from segsweep.report.printable import printable

_JUNK = {"__MACOSX"}  # beside names that begin with a dot
_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Input:
    """One image file, of one page or several.

    Attributes:
        path: as named, or as found in a folder that was named.
        name: below the folder that was named, with slashes; of a file that was named itself, its own.
        root: name of that folder.
    """

    path: Path
    name: str
    root: str

    @property
    def shown(self) -> str:
        """The path, fit to be printed."""
        return printable(str(self.path))

    def shown_page(self, page: int | None) -> str:
        """The same with the page, of a file with several."""
        return self.shown if page is None else f"{self.shown} (page {page})"


def page_name(base: str, page: int | None) -> str:
    """The name of a page of a file with several; of others the base itself."""
    return base if page is None else f"{base}_p{page}"


def find_inputs(named: Sequence[str], out: Path | None = None) -> tuple[list[Input], list[str]]:
    """Finds all image files, each once, in the order in which they were named, those of a folder sorted by name.

    Args:
        named: files, folders and patterns (``*``, ``?``, ``[..]``, ``**`` for folders at any depth).
        out: folder that the command writes to, where nothing is an input; None: there is none.

    Returns:
        The files, and a line for each name that leads to none.
    """
    found: dict[str, Input] = {}
    lines: list[str] = []
    for text in named:
        items = list(_find(text, out))
        for item in items:
            if isinstance(item, str):
                lines.append(item)
            else:
                found.setdefault(os.path.abspath(item.path), item)
        if not items:
            lines.append(_nothing(text))
    return list(found.values()), lines


def _find(text: str, out: Path | None) -> Iterator[Input | str]:
    path = Path(text)
    if path.is_dir():
        yield from _walk(path, path, out)
    elif path.is_file():
        yield Input(path, path.name, path.absolute().parent.name)
    elif os.path.lexists(path):
        yield f"{printable(text)} is no file that can be read. Name an image or a folder"
    elif _MAGIC.search(text):
        root = _fixed_part(text)
        for match in sorted(glob.glob(text, recursive=True)):
            place = Path(match)
            is_image = place.suffix.lower() in SUFFIXES or bool(Path(text).suffix)
            is_output = out is not None and place.resolve().is_relative_to(out.resolve())
            if place.is_file() and is_image and not is_output:
                yield Input(place, Path(os.path.relpath(place, root)).as_posix(), root.absolute().name)


def _fixed_part(pattern: str) -> Path:
    """The folder of a pattern below which it says nothing certain."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    return Path(*parts[:fixed]) if fixed else Path()


def _walk(folder: Path, root: Path, out: Path | None) -> Iterator[Input | str]:
    """Images in a folder and below it; hidden ones, the output and what else lies there are left out."""
    inside = root.resolve()
    skipped = None if out is None else os.path.realpath(out)
    for place, folders, names in os.walk(folder):  # which follows no links to folders
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _JUNK and os.path.realpath(Path(place, name)) != skipped
        )
        if os.path.realpath(place) == skipped:
            continue
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                yield f"{printable(str(path))} is a link out of the folder. Name the file itself, or copy it there"
            elif path.is_file():
                yield Input(path, path.relative_to(root).as_posix(), root.absolute().name)
            else:
                yield f"{printable(str(path))} is no file that can be read. Name an image or a folder"


def _nothing(text: str) -> str:
    path = Path(text)
    if path.is_dir():
        return (
            f"{printable(text)} holds no images ({', '.join(suffix[1:] for suffix in SUFFIXES)}). Name another folder"
        )
    if _MAGIC.search(text):
        return f"{printable(text)} fits no image. Put quotes around it to keep the shell from changing it"
    return f"{printable(text)} does not exist. Name image files, folders or patterns"
