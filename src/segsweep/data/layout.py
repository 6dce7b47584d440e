"""From patterns to pairs: which image has which masks, and which split it belongs to. Looks at names alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segsweep.data.absent import nearest, nothing_found, refuse_empty
from segsweep.data.pairs import Files, Pair, Role, check_patterns, excess_masks, lonely_images, pair_up
from segsweep.data.patterns import Pattern, Tree
from segsweep.data.problems import DataError, Problem
from segsweep.data.splits import SPLITS, Selectors, check_splits, divide, is_list, read_list


@dataclass(frozen=True)
class Declaration:
    """Where files are and which split they belong to; ``Folder`` explains each field."""

    images: str
    masks: str | Mapping[str, str]
    unlabelled: str | None
    valid: str | None
    splits: Selectors
    group_by: str | None
    fold: int | None
    num_folds: int | None
    split_seed: int
    exclude: Sequence[str]
    follow_links: bool
    obtain: str | None


@dataclass(frozen=True)
class Layout:
    """What ``find_pairs`` found.

    Attributes:
        splits: pairs of train, val and test, sorted by name.
        num_ignored: files that are never data (``.DS_Store`` and the like).
        unused: images that belong to no split, by the value of ``{split}`` or ``unlisted``.
    """

    splits: dict[str, list[Pair]]
    num_ignored: int
    unused: dict[str, int]


def find_pairs(root: Path, said: Declaration) -> Layout:
    """Finds and pairs all files and assigns them to splits.

    Raises:
        DataError: all problems at once.
        ValueError: patterns or split options contradict each other.
    """
    tree = Tree(root, said.follow_links, said.exclude)
    files = _find(tree, said)
    images = files.images.pattern
    unused = _unselected(files.images, said.splits)
    problems = [*_unknown(said.exclude, files.names()), *_refuse_idle(root, said, files)]
    if tree.problems:  # nothing can be said of pairs while some of their files cannot be looked at
        raise DataError([*tree.problems, *problems])
    if not files.images.files:
        raise DataError([nothing_found(root, images, said.obtain)])
    selected = [file for file in files.images.files if file.values.get("split") not in unused]
    if not selected:
        num = {name: int(not isinstance(said.splits.get(name), str)) for name in SPLITS}
        refuse_empty(root, images, said.splits, num, unused)
    files = replace(files, images=Role(images, selected))
    pairs = pair_up(files, said.group_by, tree)
    excess = excess_masks(pairs, files, unused, tree)
    if problems := [*files.images.alike(tree), *(files.valid.alike(tree) if files.valid else []), *problems]:
        raise DataError([*problems, *excess])
    free = {file.name for file in files.unlabelled.files} if files.unlabelled else set()
    kept = [pair for pair in (pair.without_excluded(tree) for pair in pairs) if pair]
    candidates = [pair for pair in kept if pair.masks or pair.image.name not in free]
    assigned = _assign(root, candidates, said)
    if lonely := [*excess, *lonely_images(assigned, files)]:
        raise DataError(lonely)
    there = {pair.image.values.get("split", "") for pair in candidates} | set(unused)
    refuse_empty(root, images, said.splits, {name: len(part) for name, part in assigned.items()}, there - {""})
    num_used = sum(map(len, assigned.values()))
    if num_used < len(candidates):
        unused["unlisted"] = len(candidates) - num_used
    assigned["train"] += _unlabelled(pairs, files, tree)
    return Layout(assigned, tree.num_ignored, unused)


def _unlabelled(pairs: Sequence[Pair], files: Files, tree: Tree) -> list[Pair]:
    """No list or share applies to them: what has no mask can only be trained on."""
    masked = {pair.image.name for pair in pairs if pair.masks}
    return [
        Pair(file, (), None, f"unlabelled/{file.stem}")
        for file in (files.unlabelled.files if files.unlabelled else [])
        if file.name not in masked and not tree.is_excluded(file.name)
    ]


def _refuse_idle(root: Path, said: Declaration, files: Files) -> list[Problem]:
    """A pattern of unlabelled images that fits nothing is a slip of the pen."""
    if not said.unlabelled or (files.unlabelled and files.unlabelled.files):
        return []
    fix = f"Images lie in {nearest(root)}; correct it, or set data.unlabelled=null"
    return [Problem("E-EMPTY", f"data.unlabelled='{said.unlabelled}'", "fits no file that is free to be used", fix)]


def _unselected(images: Role, splits: Selectors) -> dict[str, int]:
    """Values of ``{split}`` that no split of ours is, and how many images they have."""
    selected = {value for value in splits.values() if isinstance(value, str) and not is_list(value)}
    if "split" not in images.pattern.names or not selected:
        return {}
    return dict(Counter(file.values["split"] for file in images.files if file.values["split"] not in selected))


def _unknown(exclude: Sequence[str], files: Sequence[str]) -> list[Problem]:
    known = {name for file in files for name in (file, file.rpartition(".")[0])}
    return [
        Problem("E-EXCLUDE", name, "is in data.exclude but no such file exists", "Write its path below data.root")
        for name in sorted(set(exclude) - known)
    ]


def _find(tree: Tree, said: Declaration) -> Files:
    """Files by role; one that several patterns match belongs to the pattern that says more."""
    image_pattern = Pattern(said.images, "data.images")
    by_class = {"": said.masks} if isinstance(said.masks, str) else said.masks
    mask_patterns = [Pattern(text, f"data.masks{name and f'.{name}'}") for name, text in by_class.items()]
    area_pattern = Pattern(said.valid, "data.valid") if said.valid else None
    free_pattern = Pattern(said.unlabelled, "data.unlabelled") if said.unlabelled else None
    check_patterns(image_pattern, mask_patterns, area_pattern, said.group_by)
    check_splits(said.splits, said.fold, said.num_folds, image_pattern.names, said.images)
    images = Role(image_pattern, tree.find(image_pattern))
    masks = [Role(pattern, tree.find(pattern)) for pattern in mask_patterns]
    both = {file.name for file in images.files} & {file.name for role in masks for file in role.files}
    if both:
        most = max(pattern.num_literal for pattern in mask_patterns)
        if most == image_pattern.num_literal:
            raise ValueError(
                f"data.images and data.masks both match {min(both)}; make one pattern say more, e.g. its suffix"
            )
        images, masks = (
            (images.without(both), masks)
            if most > image_pattern.num_literal
            else (images, [role.without(both) for role in masks])
        )
    area = Role(area_pattern, tree.find(area_pattern)) if area_pattern else None
    if area:
        images, *masks = (_left(role, area) for role in (images, *masks))
    taken = {file.name for role in (*masks, *([area] if area else [])) for file in role.files}
    free = Role(free_pattern, tree.find(free_pattern)).without(taken) if free_pattern else None
    return Files(images, masks, area, free)


def _left(role: Role, area: Role) -> Role:
    """What a pattern keeps if one of valid areas says more and matches some of the same files."""
    says_more = area.pattern.num_literal > role.pattern.num_literal
    return role.without({file.name for file in area.files}) if says_more else role


def _assign(root: Path, pairs: list[Pair], said: Declaration) -> dict[str, list[Pair]]:
    chosen: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    problems: list[Problem] = []
    names = [_names(pair) for pair in pairs]
    for name, selector in said.splits.items():
        if isinstance(selector, str) and is_list(selector):
            try:
                chosen[name] = [pairs[i] for i in sorted(read_list(root, selector, names))]
            except DataError as error:
                problems += error.problems
        elif isinstance(selector, str):
            chosen[name] = [pair for pair in pairs if pair.image.values["split"] == selector]
    if problems:
        raise DataError(problems)
    named = {pair.image.name for part in chosen.values() for pair in part}
    shares = {name: float(share) for name, share in said.splits.items() if isinstance(share, int | float)}
    pool = chosen["train"] if said.splits.get("train") else [pair for pair in pairs if pair.image.name not in named]
    dealt = {}
    if shares and pool:
        dealt = divide(
            {pair.image.name: pair.group for pair in pool}, shares, said.split_seed, said.fold, said.num_folds
        )
    for split in ("train", *shares):
        chosen[split] = [pair for pair in pool if dealt.get(pair.image.name, "train") == split]
    _refuse_overlap(chosen)
    return chosen


def _names(pair: Pair) -> list[str]:
    """The names by which a list file may call an image: path, path without suffix, their ends, placeholder values."""
    path = pair.image.name
    stem = path.rpartition(".")[0] or path
    ends = [text.split("/", i)[-1] for text in (path, stem) for i in range(text.count("/") + 1)]
    return [*ends, *pair.image.values.values()]


def _refuse_overlap(chosen: Mapping[str, list[Pair]]) -> None:
    seen: dict[str, str] = {}
    problems = []
    for split, pairs in chosen.items():
        for pair in pairs:
            other = seen.setdefault(pair.image.name, split)
            if other != split:
                what = f"is in {other} and in {split}"
                problems.append(Problem("E-LEAK", pair.image.name, what, "Correct the list files in data.splits"))
    if problems:
        raise DataError(problems)
