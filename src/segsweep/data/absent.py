"""What to say when files are not where they should be: where they are instead."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from segsweep.data.patterns import SUFFIXES, Pattern, Tree
from segsweep.data.problems import DataError, Problem
from segsweep.data.splits import SPLITS, Selectors
from segsweep.hints import override, written

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_LISTED = 5
_FOLDERS = 3  # that a message names


def root_folder(root: str) -> Path:
    """The folder that ``data.root`` names; raises a ``ValueError`` if it names none."""
    if not root.strip():  # pathlib would take it for the working folder
        raise ValueError("data.root is empty; give the folder of the dataset, e.g. data.root=/data/mine")
    return Path(root).expanduser()


def refuse_missing_root(root: Path, images: str, obtain: str | None) -> None:
    """Raises a ``DataError`` unless the root is a folder."""
    if os.path.isdir(root):  # unlike Path.is_dir, no error for a name that is too long
        return
    if os.path.isfile(root) and root.suffix.lower() in _ARCHIVES:
        what = "is an archive, which is never unpacked here"
        fix = f"Unpack it yourself and set data.root to the folder that holds '{images.split('/')[0]}'"
        raise DataError([Problem("E-ROOT", f"data.root={root}", what, fix)])
    fix = f"Set data.root to the extracted dataset, the folder that holds '{images.split('/')[0]}'"
    fix += f". {obtain}" if obtain else ""
    what = f"is not a folder (looked in {root.absolute()})"
    raise DataError([Problem("E-ROOT", f"data.root={root}", what, fix)])


def refuse_empty(root: Path, images: Pattern, splits: Selectors, num: Mapping[str, int], there: Iterable[str]) -> None:
    """Raises a ``DataError`` if a split has no images.

    Args:
        root: of the dataset.
        images: pattern of the images.
        splits: as declared.
        num: images of each split.
        there: values of ``{split}`` that files have.
    """
    problems = []
    for name in SPLITS:
        if not num[name]:
            wanted = images.example({"split": str(splits.get(name))})
            what = f"has no images (data.splits.{name}={written(splits.get(name))}, looked for {wanted} in {root})"
            where = ", ".join(sorted(there)) or nearest(root)
            likely = next((value for value in sorted(there) if _is_likely(value, name)), None)
            meant = f" ({override(f'data.splits.{name}', likely)}?)" if likely else ""
            fix = f"Images lie in {where}; name one of them{meant}"
            fix += "" if name == "train" else f", or give a share such as data.splits.{name}=0.2"
            problems.append(Problem("E-EMPTY", f"split {name}", what, fix))
    if problems:
        raise DataError(problems)


def _is_likely(folder: str, split: str) -> bool:
    """Whether a folder's name looks like that of a split: Train, training, valid, validation, testing."""
    folder = folder.casefold()
    return folder.startswith(split) or split.startswith(folder)


def nothing_found(root: Path, images: Pattern, obtain: str | None) -> Problem:
    """Says what was looked for, and the root that would have had it if the given one is a level off."""
    what = f"holds no image that fits data.images '{images.text}'"
    for folder in (root.absolute().parent, *sorted(p for p in root.iterdir() if p.is_dir())):
        if Tree(folder, follow_links=False).find(images):
            return Problem("E-ROOT", f"data.root={root}", what, f"Did you mean {override('data.root', str(folder))}?")
    fix = f"Images lie in {nearest(root)}; correct data.images or data.root{f'. {obtain}' if obtain else ''}"
    return Problem("E-ROOT", f"data.root={root}", what, fix)


def nearest(root: Path) -> str:
    """The folders nearest to the root that hold images, those with most first."""
    level = [root]
    for _ in range(4):
        found = {
            folder.relative_to(root).as_posix(): files
            for folder in level
            if (files := sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES))
        }
        if found:
            most = sorted(found, key=lambda inside: -len(found[inside]))[:_FOLDERS]
            return ", ".join(f"'{inside}' ({len(found[inside])} files, e.g. {found[inside][0]})" for inside in most)
        level = sorted(sub for folder in level for sub in folder.iterdir() if sub.is_dir())[:1000]
    there = ", ".join(sorted(path.name for path in root.iterdir())[:_LISTED]) or "nothing at all"
    return f"no folder near it (there is: {there})"
