"""Which mask and valid area belong to an image: those that agree in the placeholders that their patterns share."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from segsweep.data.patterns import File, Pattern, Tree
from segsweep.data.problems import Problem

_SPARE = "Remove it, list it in data.exclude, or correct data.images and data.masks"
_TWICE = "Remove one of them, list it in data.exclude, or name the suffix in the pattern"
_EXCLUDE = "Give it one, leave it out with data.exclude, or make it an unlabelled image with data.unlabelled"


@dataclass(frozen=True)
class Role:
    """A pattern and the files that it finds."""

    pattern: Pattern
    files: list[File]

    def without(self, taken: Collection[str]) -> "Role":
        """The same without files of these names."""
        return Role(self.pattern, [file for file in self.files if file.name not in taken])

    def alike(self, tree: Tree) -> list[Problem]:
        """Files that the placeholders cannot tell apart."""
        seen: dict[tuple[tuple[str, str], ...], File] = {}
        problems = []
        for file in (file for file in self.files if not tree.is_excluded(file.name)):
            other = seen.setdefault(tuple(sorted(file.values.items())), file)
            if other is not file:
                what = f"and {other.name} are the same for the pattern '{self.pattern.text}'"
                problems.append(Problem("E-NAME", file.name, what, _TWICE))
        return problems

    def by_key(self, images: Pattern) -> dict[tuple[str, ...], list[File]]:
        """The files by what they share with images."""
        index: dict[tuple[str, ...], list[File]] = {}
        for file in self.files:
            index.setdefault(_key(file, images, self.pattern), []).append(file)
        return index


@dataclass(frozen=True)
class Files:
    """All files of a dataset by their role.

    Attributes:
        images: to be paired.
        masks: one for each pattern.
        valid: areas, or None if there is no such pattern.
        unlabelled: images that need no mask, or None; those in no other role.
    """

    images: Role
    masks: list[Role]
    valid: Role | None
    unlabelled: Role | None

    def names(self) -> list[str]:
        """Of all of them."""
        roles = [self.images, *self.masks, self.valid, self.unlabelled]
        return [file.name for role in roles if role for file in role.files]


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

    def without_excluded(self, tree: Tree) -> "Pair | None":
        """Without files that are excluded; None if the image, its valid area or all masks of a kind are."""
        masks = tuple((k, mask) for k, mask in self.masks if not tree.is_excluded(mask.name))
        is_lost = {k for k, _ in masks} != {k for k, _ in self.masks}
        is_lost |= bool(self.valid and tree.is_excluded(self.valid.name))
        return None if is_lost or tree.is_excluded(self.image.name) else replace(self, masks=masks)


def check_patterns(images: Pattern, masks: Sequence[Pattern], valid: Pattern | None, group_by: str | None) -> None:
    """Raises a ``ValueError`` if the patterns cannot pair anything."""
    for pattern in masks:
        if not set(pattern.names) & set(images.names):
            raise ValueError(
                f"{images.key} '{images.text}' and {pattern.key} '{pattern.text}' share no placeholder; "
                f"the same {{stem}} in both pairs them"
            )
    if valid and (unknown := [name for name in valid.names if name not in images.names]):
        raise ValueError(
            f"{valid.key} '{valid.text}' has the placeholder {{{unknown[0]}}}, which {images.key} '{images.text}' "
            f"lacks; an image finds its valid area by its own placeholders ({', '.join(images.names)})"
        )
    if group_by and group_by not in images.names:
        raise ValueError(f"data.group_by={group_by} is no placeholder of {images.key} '{images.text}'")


def pair_up(files: Files, group_by: str | None, tree: Tree) -> list[Pair]:
    """Joins each image with its masks and its valid area."""
    images = files.images.pattern
    masks = [(role.pattern, role.by_key(images)) for role in files.masks]
    areas = (files.valid.pattern, files.valid.by_key(images)) if files.valid else None
    pairs = []
    for file in files.images.files:
        own = [
            (k, mask) for k, (pattern, index) in enumerate(masks) for mask in index.get(_key(file, images, pattern), [])
        ]
        found = areas[1].get(_key(file, images, areas[0]), []) if areas else []
        valid = min(found, key=lambda area: tree.is_excluded(area.name), default=None)
        pairs.append(Pair(file, tuple(own), valid, file.values[group_by] if group_by else file.stem))
    return pairs


def _key(file: File, images: Pattern, pattern: Pattern) -> tuple[str, ...]:
    return tuple(file.values[name] for name in sorted(set(images.names) & set(pattern.names)))


def excess_masks(pairs: Sequence[Pair], files: Files, unused: Collection[str], tree: Tree) -> list[Problem]:
    """Masks that are alike for their pattern, or that belong to no image of a used split."""
    problems = []
    used = {mask.name for pair in pairs for _, mask in pair.masks}
    for role in files.masks:
        if "*" not in role.pattern.text.removesuffix(".*"):
            problems += role.alike(tree)
        problems += [
            Problem("E-PAIR", file.name, "is a mask without an image", _SPARE)
            for file in role.files
            if not (file.name in used or tree.is_excluded(file.name)) and file.values.get("split") not in unused
        ]
    return problems


def lonely_images(chosen: Mapping[str, list[Pair]], files: Files) -> list[Problem]:
    """Images of a split that lack what the patterns promise."""
    problems = []
    for pair in (pair for pairs in chosen.values() for pair in pairs):
        values = pair.image.values
        if not pair.masks:
            what = f"has no mask (looked for {files.masks[0].pattern.example(values)})"
            problems.append(Problem("E-PAIR", pair.image.name, what, _EXCLUDE))
        if files.valid and pair.valid is None:
            what = f"has no valid area (looked for {files.valid.pattern.example(values)})"
            problems.append(Problem("E-PAIR", pair.image.name, what, "Give it one, or set data.valid=null"))
    return problems
