"""Which images train, validate and test: by a placeholder, by list files, by shares of groups, or by folds."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segsweep.data.problems import DataError, Problem
from segsweep.hints import did_you_mean, written

SPLITS = ("train", "val", "test")
Selectors = Mapping[str, str | float | None]


def divide(
    groups: Mapping[str, str], shares: Mapping[str, float], seed: int, fold: int | None, num_folds: int | None
) -> dict[str, str]:
    """Deals groups out to splits, so that no group is in two of them.

    Args:
        groups: name of each image -> its group.
        shares: split -> share of the images, for ``val`` and ``test``; the rest is ``train``.
        seed: of the order in which groups are dealt; 0 or more.
        fold: with ``num_folds``, the fold that is ``test`` (or ``val`` if only that has a share); ``val`` is the next.
        num_folds: number of folds, whose sizes then replace the shares.

    Returns:
        Name -> split. A pure function of the names, groups and seed, whatever the order of the files.

    Raises:
        ValueError: there are fewer groups than splits or folds.

    >>> divide({"a": "x", "b": "x", "c": "y"}, {"val": 0.3}, 0, None, None)
    {'a': 'train', 'b': 'train', 'c': 'val'}
    """
    members: dict[str, int] = {}
    for group in groups.values():
        members[group] = members.get(group, 0) + 1
    ordered = sorted(members, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    if num_folds is not None:
        targets = {str(i): 1 / num_folds for i in range(num_folds)}
        dealt = _deal(ordered, members, targets, len(groups))
        wanted = [split for split in ("test", "val") if split in shares]
        held_out = {str(((fold or 0) + i) % num_folds): split for i, split in enumerate(wanted)}
        return {name: held_out.get(dealt[group], "train") for name, group in groups.items()}
    targets = {**shares, "train": 1 - sum(shares.values())}
    dealt = _deal(ordered, members, targets, len(groups))
    return {name: dealt[group] for name, group in groups.items()}


def _deal(ordered: list[str], members: Mapping[str, int], targets: Mapping[str, float], num: int) -> dict[str, str]:
    """Largest groups first, each to the split that lacks most, every split getting at least one."""
    if len(ordered) < len(targets):
        raise ValueError(
            f"{len(ordered)} groups cannot be divided into {len(targets)} parts. "
            f"Choose another data.group_by, or fewer data.num_folds"
        )
    lacking = {split: share * num for split, share in targets.items()}
    dealt: dict[str, str] = {}
    waiting = dict.fromkeys(targets)  # the splits that have nothing yet
    for left, group in zip(range(len(ordered), 0, -1), sorted(ordered, key=lambda g: -members[g]), strict=True):
        candidates = waiting if left <= len(waiting) else lacking
        split = max(candidates, key=lambda name: lacking[name])
        dealt[group] = split
        lacking[split] -= members[group]
        waiting.pop(split, None)
    return dealt


def read_list(root: Path, file: str, known: Iterable[Sequence[str]]) -> list[int]:
    """Reads a list file: one image a line, by any of its names; further columns are left alone.

    Args:
        root: of the dataset.
        file: path below the root.
        known: for each image the names it goes by, the most particular first.

    Returns:
        Positions of the listed images in ``known``, without repetition.

    Raises:
        DataError: the file is missing, names no images, or names unknown ones; those are listed with their lines.
    """
    path = root / file
    if not os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
        raise DataError([Problem("E-LIST", file, "is not there", "It lists the images of a split; check data.splits")])
    positions: dict[str, int | None] = {}
    for position, names in enumerate(known):
        for name in names:
            positions[name] = position if positions.get(name, position) == position else None  # None: ambiguous
    listed: dict[int, None] = {}
    problems = []
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte-order mark is no part of the first name
    except UnicodeDecodeError:
        raise DataError([Problem("E-LIST", file, "is not a UTF-8 text file", "Save it as one")]) from None
    for number, line in enumerate(text.splitlines(), start=1):
        entry = unicodedata.normalize("NFC", line.strip())  # as the names of images are
        if not entry:
            continue
        first = entry.split()[0]
        if first.startswith(("/", "~", "\\")) or ".." in first.replace("\\", "/").split("/"):
            fix = "List images by their path below data.root or by their stem"
            problems.append(Problem("E-PATH", f"{file}:{number}", f"leads out of data.root ({_shown(entry)})", fix))
            continue
        found = next((positions[name] for name in (entry, first) if positions.get(name) is not None), None)
        if found is None:
            is_ambiguous = entry in positions or first in positions
            what = "fits several images" if is_ambiguous else "names no image of data.images"
            fix = "List it by its path below data.root" if is_ambiguous else "Remove the line or add the image"
            problems.append(Problem("E-LIST", f"{file}:{number}", f"{what} ({_shown(entry)})", fix))
        else:
            listed[found] = None
    if problems:
        raise DataError(problems)
    if not listed:
        raise DataError([Problem("E-LIST", file, "lists no image", "Write one image a line")])
    return list(listed)


def _shown(entry: str) -> str:
    return entry if len(entry) <= 80 else entry[:77] + "..."


def is_list(selector: object) -> bool:
    """Whether a selector names a list file."""
    return isinstance(selector, str) and selector.lower().endswith(".txt")


def check_splits(splits: Selectors, fold: int | None, num_folds: int | None, names: Sequence[str], images: str) -> None:
    """Raises a ``ValueError`` if split options contradict each other; ``names`` are the placeholders of ``images``."""
    if (fold is None) != (num_folds is None) or (num_folds is not None and not 0 <= (fold or 0) < num_folds):
        raise ValueError(
            f"data.fold={written(fold)} and data.num_folds={written(num_folds)} go together, with fold below num_folds"
        )
    for name in splits:
        if name not in SPLITS:
            raise ValueError(f"data.splits.{name}: there is no such split. {did_you_mean(name, SPLITS)}")
    shares = {name: share for name, share in splits.items() if isinstance(share, int | float)}
    if missing := [name for name in SPLITS if splits.get(name) is None and name != "train"]:
        raise ValueError(f"data.splits.{missing[0]} is not set; name a split, a list file, or a share such as 0.2")
    if "train" in shares or sum(shares.values()) >= 1:
        raise ValueError(
            f"data.splits={written(splits)}: val and test may be shares that add up to less than 1; "
            f"train is null (the rest), a name, or a list file"
        )
    if num_folds is not None and not shares:
        raise ValueError("data.num_folds needs val or test to be a share in data.splits, which the folds then replace")
    if num_folds is not None and num_folds <= len(shares):
        raise ValueError(f"data.num_folds={num_folds} leaves train nothing beside val and test; use 3 or more folds")
    for name, selector in splits.items():
        if isinstance(selector, str) and not is_list(selector) and "split" not in names:
            raise ValueError(
                f"data.splits.{name}={selector}: data.images '{images}' has no {{split}}; name a list file (*.txt) "
                f"or give a share such as 0.2"
            )
