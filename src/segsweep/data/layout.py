"""From patterns to pairs: which image has which masks, and which split it belongs to. Looks at names alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segsweep.data.absent import nothing_found, refuse_empty
from segsweep.data.patterns import File, Pattern, Tree
from segsweep.data.problems import DataError, Problem
from segsweep.data.splits import SPLITS, Selectors, check_splits, divide, is_list, read_list

_SPARE = "Remove it, list it in data.exclude, or correct data.images and data.masks"
_TWICE = "Remove one of them, list it in data.exclude, or name the suffix in the pattern"
_EXCLUDE = "Give it one, leave it out with data.exclude, or make it an unlabelled image with data.unlabelled"


@dataclass(frozen=True)
class Pair:
    """An image and what belongs to it.

    Attributes:
        image: its file.
        masks: (number of the mask pattern, file) in order; empty for an unlabelled image.
        valid: file of the valid area, or None.
        group: images of one group are not independent.
    """

    image: File
    masks: tuple[tuple[int, File], ...]
    valid: File | None
    group: str

    def files(self) -> list[File]:
        """All of them."""
        return [self.image, *(file for _, file in self.masks), *([self.valid] if self.valid else [])]


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
    image_pattern = Pattern(said.images)
    mask_patterns = [Pattern(text) for text in ([said.masks] if isinstance(said.masks, str) else said.masks.values())]
    _check_patterns(image_pattern, mask_patterns, said.group_by)
    check_splits(said.splits, said.fold, said.num_folds, image_pattern.names, said.images)
    tree = Tree(root, said.follow_links, said.exclude)
    image_files, mask_files = _find(tree, image_pattern, mask_patterns)
    area = (Pattern(said.valid), tree.find(Pattern(said.valid))) if said.valid else None
    if area:
        image_files = _left(image_files, image_pattern, *area)
        mask_files = [_left(files, pattern, *area) for files, pattern in zip(mask_files, mask_patterns, strict=True)]
    taken = {file.name for files in [*mask_files, area[1] if area else []] for file in files}
    free = [file for file in tree.find(Pattern(said.unlabelled)) if file.name not in taken] if said.unlabelled else []
    unused = _unselected(image_files, image_pattern, said.splits)
    everything = [*image_files, *free, *(area[1] if area else []), *(file for files in mask_files for file in files)]
    unknown = _unknown(said.exclude, everything)
    image_files = [file for file in image_files if file.values.get("split") not in unused]
    if not (image_files or tree.problems):
        raise DataError([nothing_found(root, image_pattern, said.obtain)])
    if tree.problems:  # nothing can be said of pairs while some of their files cannot be looked at
        raise DataError([*tree.problems, *unknown])
    by_pattern = list(zip(mask_patterns, mask_files, strict=True))
    pairs = _pair(image_pattern, image_files, by_pattern, area, said.group_by)
    problems = [*_refuse_equal(image_files, image_pattern, tree), *unknown]
    excess = _excess(pairs, by_pattern, unused, tree)
    if problems:
        raise DataError([*problems, *excess])
    free_names = {file.name for file in free}
    candidates = [
        kept for pair in pairs if (kept := _without(pair, tree)) and (kept.masks or kept.image.name not in free_names)
    ]
    assigned = _assign(root, candidates, said)
    if lonely := [*excess, *_lonely(assigned, mask_patterns[0], area[0] if area else None)]:
        raise DataError(lonely)
    there = {pair.image.values.get("split", "") for pair in candidates} | set(unused)
    num = {name: len(part) for name, part in assigned.items()}
    refuse_empty(root, image_pattern, said.splits, num, there - {""})
    masked = {pair.image.name for pair in pairs if pair.masks}
    num_used = sum(map(len, assigned.values()))
    if num_used < len(candidates):
        unused["unlisted"] = len(candidates) - num_used
    assigned["train"] += [
        Pair(file, (), None, f"unlabelled/{file.stem}")
        for file in free
        if file.name not in masked and not tree.is_excluded(file.name)
    ]  # no list or share applies to them: what has no mask can only be trained on
    return Layout(assigned, tree.num_ignored, unused)


def _check_patterns(images: Pattern, masks: Sequence[Pattern], group_by: str | None) -> None:
    for pattern in masks:
        if not set(pattern.names) & set(images.names):
            raise ValueError(
                f"data.images '{images.text}' and data.masks '{pattern.text}' share no placeholder; "
                f"the same {{stem}} in both pairs them"
            )
    if group_by and group_by not in images.names:
        raise ValueError(f"data.group_by={group_by} is no placeholder of data.images '{images.text}'")


def _pair(
    images: Pattern,
    files: list[File],
    masks: list[tuple[Pattern, list[File]]],
    area: tuple[Pattern, list[File]] | None,
    group_by: str | None,
) -> list[Pair]:
    """Joins each image with its masks by the placeholders that their patterns share."""
    by_key = [(pattern, _index(found, images, pattern)) for pattern, found in masks]
    areas = (area[0], _index(area[1], images, area[0])) if area else None
    pairs = []
    for file in files:
        own = [
            (k, mask)
            for k, (pattern, index) in enumerate(by_key)
            for mask in index.get(_key(file, images, pattern), [])
        ]
        valid = areas[1].get(_key(file, images, areas[0]), [None])[0] if areas else None
        pairs.append(Pair(file, tuple(own), valid, file.values[group_by] if group_by else file.stem))
    return pairs


def _key(file: File, images: Pattern, pattern: Pattern) -> tuple[str, ...]:
    return tuple(file.values[name] for name in sorted(set(images.names) & set(pattern.names)))


def _index(files: list[File], images: Pattern, pattern: Pattern) -> dict[tuple[str, ...], list[File]]:
    index: dict[tuple[str, ...], list[File]] = {}
    for file in files:
        index.setdefault(_key(file, images, pattern), []).append(file)
    return index


def _without(pair: Pair, tree: Tree) -> Pair | None:
    """The pair without files that are excluded; None if its image, its valid area or all masks of a kind are."""
    masks = tuple((k, mask) for k, mask in pair.masks if not tree.is_excluded(mask.name))
    is_lost = {k for k, _ in masks} != {k for k, _ in pair.masks} or (pair.valid and tree.is_excluded(pair.valid.name))
    return None if is_lost or tree.is_excluded(pair.image.name) else replace(pair, masks=masks)


def _excess(
    pairs: list[Pair], masks: list[tuple[Pattern, list[File]]], unused: Mapping[str, int], tree: Tree
) -> list[Problem]:
    """Masks that are alike for their pattern, or that belong to no image."""
    problems = []
    used = {mask.name for pair in pairs for _, mask in pair.masks}
    for pattern, files in masks:
        if "*" not in pattern.text.removesuffix(".*"):
            problems += _refuse_equal(files, pattern, tree)
        problems += [
            Problem("E-PAIR", file.name, "is a mask without an image", _SPARE)
            for file in files
            if not (file.name in used or tree.is_excluded(file.name)) and file.values.get("split") not in unused
        ]
    return problems


def _unselected(images: list[File], pattern: Pattern, splits: Selectors) -> dict[str, int]:
    """Values of ``{split}`` that no split of ours is, and how many images they have."""
    selected = {value for value in splits.values() if isinstance(value, str) and not is_list(value)}
    if "split" not in pattern.names or not selected:
        return {}
    return dict(Counter(file.values["split"] for file in images if file.values["split"] not in selected))


def _lonely(chosen: Mapping[str, list[Pair]], masks: Pattern, valid: Pattern | None) -> list[Problem]:
    problems = []
    for pair in (pair for pairs in chosen.values() for pair in pairs):
        if not pair.masks:
            what = f"has no mask (looked for {masks.example(pair.image.values)})"
            problems.append(Problem("E-PAIR", pair.image.name, what, _EXCLUDE))
        if valid and pair.valid is None:
            what = f"has no valid area (looked for {valid.example(pair.image.values)})"
            problems.append(Problem("E-PAIR", pair.image.name, what, "Give it one, or set data.valid=null"))
    return problems


def _unknown(exclude: Sequence[str], files: list[File]) -> list[Problem]:
    known = {name for file in files for name in (file.name, file.name.rpartition(".")[0])}
    return [
        Problem("E-EXCLUDE", name, "is in data.exclude but no such file exists", "Write its path below data.root")
        for name in sorted(set(exclude) - known)
    ]


def _find(tree: Tree, images: Pattern, masks: Sequence[Pattern]) -> tuple[list[File], list[list[File]]]:
    """Files of both kinds; one that both patterns match belongs to the pattern that says more."""
    image_files = tree.find(images)
    mask_files = [tree.find(pattern) for pattern in masks]
    both = {file.name for file in image_files} & {file.name for files in mask_files for file in files}
    if both:
        strictest = max(masks, key=lambda pattern: pattern.num_literal)
        if strictest.num_literal == images.num_literal:
            raise ValueError(
                f"data.images and data.masks both match {min(both)}; make one pattern say more, e.g. its suffix"
            )
        if strictest.num_literal > images.num_literal:
            image_files = [file for file in image_files if file.name not in both]
        else:
            mask_files = [[file for file in files if file.name not in both] for files in mask_files]
    return image_files, mask_files


def _left(files: list[File], pattern: Pattern, valid: Pattern, area: list[File]) -> list[File]:
    """What a pattern keeps if one of valid areas says more and matches some of the same files."""
    taken = {file.name for file in area} if valid.num_literal > pattern.num_literal else set()
    return [file for file in files if file.name not in taken]


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


def _refuse_equal(files: list[File], pattern: Pattern, tree: Tree) -> list[Problem]:
    seen: dict[tuple[tuple[str, str], ...], File] = {}
    problems = []
    for file in (file for file in files if not tree.is_excluded(file.name)):
        other = seen.setdefault(tuple(sorted(file.values.items())), file)
        if other is not file:
            what = f"and {other.name} are the same for the pattern '{pattern.text}'"
            problems.append(Problem("E-NAME", file.name, what, _TWICE))
    return problems
