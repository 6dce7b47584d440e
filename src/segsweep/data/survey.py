"""What a whole dataset looks like once every file has been read: what its owner should know before training."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segsweep.data.problems import Problem
from segsweep.hints import override

_MANY_IGNORED = 0.05  # share of masks without a single valid pixel from which something is wrong
_LISTED = 3


@dataclass(frozen=True)
class Note:
    """Something that does not stop a run.

    Attributes:
        level: ``warning`` if it should be acted on, else ``info``.
        text: what, where, and how to change it.
    """

    level: Literal["info", "warning"]
    text: str


@dataclass
class Survey:
    """Facts about each image of each split, in the order of the items.

    Attributes:
        class_names: one per class.
        facts: split -> what the source said of each image, with its ``name``, ``height``, ``width`` and ``digest``.
        counts: split -> (n, K + 1) int64, pixels of each class and, last, ignored ones, at native size.
        problems: files that cannot be used.
    """

    class_names: Sequence[str]
    facts: dict[str, list[dict[str, Any]]]
    counts: dict[str, NDArray[np.int64]]
    problems: list[Problem]

    def leaks(self) -> list[tuple[str, str]]:
        """Pairs of images, as ``file (split)``, that hold the same picture in two splits."""
        seen: dict[str, tuple[str, str]] = {}
        pairs = []
        for split, facts in self.facts.items():
            for fact in facts:
                file = fact.get("image", fact["name"])
                other_split, other = seen.setdefault(fact["digest"], (split, file))
                if other_split != split:
                    pairs.append((f"{other} ({other_split})", f"{file} ({split})"))
        return pairs

    def joint_problems(self) -> list[Problem]:
        """What is wrong with masks that are each readable: they contradict each other, or hold one class alone."""
        return [*self._depth_problem(), *self._palette_problems(), *self._binary_problem()]

    def _depth_problem(self) -> Iterable[Problem]:
        """Images of several depths that were read by one ``data.scale``: without it, only 8 bits get here."""
        groups: dict[str, list[str]] = {}
        for fact in (fact for facts in self.facts.values() for fact in facts):
            if "depth" in fact:
                groups.setdefault(fact["depth"], []).append(fact["image"])
        if len(groups) > 1:
            rarest, *others = sorted(groups, key=lambda depth: len(groups[depth]))
            listed = "; ".join(
                f"{len(groups[depth])} are {depth} ({_some(groups[depth])})" for depth in [rarest, *others]
            )
            what = f"is {rarest}, other images are not: {listed}. One data.scale cannot fit them all"
            yield Problem(
                "E-DEPTH", groups[rarest][0], what, "Convert all images to one depth, or list some in data.exclude"
            )

    def _palette_problems(self) -> Iterable[Problem]:
        """Palette masks in which an index has another colour than in most: there it means another class."""
        masks = [fact for facts in self.facts.values() for fact in facts if fact.get("palette")]
        colours: dict[str, Counter[str]] = {}
        for fact in masks:
            for index, colour in fact["palette"].items():
                colours.setdefault(index, Counter())[colour] += 1
        usual = {index: counter.most_common(1)[0][0] for index, counter in colours.items()}
        for fact in masks:
            other = next((i for i, colour in fact["palette"].items() if colour != usual[i]), None)
            if other is not None:
                what = f"draws index {other} in {fact['palette'][other]}, most masks in {usual[other]}"
                fix = "Read masks by colour: set data.palette (segsweep-data prints the colours)"
                yield Problem("E-PALETTE", fact["mask"], what, fix)

    def _binary_problem(self) -> Iterable[Problem]:
        """Masks of 0 and 255 that were taken for class 0 and ignored pixels."""
        masks = [
            (fact, counts)
            for split, facts in self.facts.items()
            for fact, counts in zip(facts, self.counts[split], strict=True)
            if fact.get("mask") is not None
        ]
        if not masks:
            return
        total = np.sum([counts for _, counts in masks], axis=0)
        if total[0] and total[-1] and not total[1:-1].any():
            file = next(fact["mask"] for fact, counts in masks if counts[-1])
            what = f"and all other masks hold only class '{self.class_names[0]}' and ignored pixels"
            share = f"({total[-1] / total.sum():.1%} of all)"
            yield Problem(
                "E-LABEL",
                file,
                f"{what} {share}",
                f"For masks of 0 and 255: {override('data.label_map', {0: 0, 255: 1})}",
            )

    def notes(self) -> list[Note]:
        """All of them, warnings first."""
        classes = [] if self.problems else self._class_notes()  # files that cannot be read may hold what is missed
        found = [*classes, *self._mask_notes(), *self._file_notes()]
        return sorted(found, key=lambda note: note.level != "warning")

    def _class_notes(self) -> Iterable[Note]:
        present = {split: counts[:, :-1].sum(axis=0) > 0 for split, counts in self.counts.items()}
        anywhere = np.any(list(present.values()), axis=0)
        counts_from_1 = not anywhere[0] and anywhere[1:].all() and len(anywhere) > 1
        if counts_from_1:
            mapping = override("data.label_map", {k: k - 1 for k in range(1, len(anywhere))})
            yield Note(
                "warning",
                f"class '{self.class_names[0]}' (0) never occurs, all others do ({self._shares()}): if labels "
                f"count from 1, drop that class and map them with {mapping}",
            )
        for split, has in present.items():
            for k in map(int, np.flatnonzero(~has & anywhere)):
                name = self.class_names[k]
                where = ", ".join(other for other, there in present.items() if there[k])
                effect = "it cannot be learnt" if split == "train" else "its IoU there is empty and counts in no mean"
                yield Note("warning", f"class '{name}' is in {where} but not in {split}: {effect}")
        for name in (self.class_names[int(k)] for k in np.flatnonzero(~anywhere)):
            if not counts_from_1:
                yield Note("warning", f"class '{name}' occurs in no mask")

    def _shares(self) -> str:
        """Share of each class in the valid pixels of all splits."""
        pixels = np.sum([counts[:, :-1].sum(axis=0) for counts in self.counts.values()], axis=0)
        shares = pixels / max(1, pixels.sum())
        return ", ".join(f"{name} {share:.1%}" for name, share in zip(self.class_names, shares, strict=True))

    def _mask_notes(self) -> Iterable[Note]:
        for split, counts in self.counts.items():
            labelled = [i for i, fact in enumerate(self.facts[split]) if fact.get("mask") is not None]
            empty = [i for i in labelled if counts[i, :-1].sum() == 0]
            if empty:
                names = _some([self.facts[split][i]["name"] for i in empty])
                many = len(empty) > _MANY_IGNORED * len(labelled)
                text = f"{len(empty)} of {len(labelled)} {split} masks have no valid pixel, only ignored ones ({names})"
                yield Note("warning" if many else "info", f"{text}: they train and score nothing")

    def _file_notes(self) -> Iterable[Note]:
        everything = [fact for facts in self.facts.values() for fact in facts]
        modes = Counter(fact["mode"] for fact in everything if "mode" in fact)
        if len(modes) > 1:
            listed = ", ".join(f"{num} {mode}" for mode, num in modes.most_common())
            yield Note("info", f"images have different modes ({listed}): all are read as data.in_channels says")
        by_note: dict[str, list[str]] = {}
        for fact in everything:
            if fact.get("note"):
                by_note.setdefault(fact["note"], []).append(fact["image"])
        for note, names in by_note.items():
            yield Note("info", f"{len(names)} of {len(everything)} images ({_some(names)}): {note}")
        rotated = [fact["image"] for fact in everything if fact.get("exif", 1) != 1]
        if rotated:
            upright = [fact["image"] for fact in everything if fact.get("turned", 1) != 1]
            text = f"{len(rotated)} images carry a rotation tag ({_some(rotated)}); {len(upright)} of them were turned"
            yield Note("info", f"{text}, as their masks or data.exif say")


def class_table(counts: Mapping[str, NDArray[np.int64]], class_names: Sequence[str]) -> list[list[str]]:
    """Rows class | share of valid pixels and images with it, per split; ``absent`` where it does not occur."""
    rows = [["class", *(f"{split} px %" for split in counts), *(f"{split} images" for split in counts)]]
    for k, name in enumerate([*class_names, "(ignored)"]):
        shares, images = [], []
        for matrix in counts.values():
            total = matrix.sum() if k == len(class_names) else matrix[:, :-1].sum()
            shares.append(f"{100 * matrix[:, k].sum() / max(total, 1):.2f}" if matrix[:, k].any() else "absent")
            images.append(str(int((matrix[:, k] > 0).sum())))
        rows.append([str(name), *shares, *images])
    return rows


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
