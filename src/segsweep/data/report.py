"""What a dataset holds, as lines for the screen and as ``data_report.csv``: one row an image, and one a problem."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from segsweep.data.problems import Problem
from segsweep.data.source import Item, Source
from segsweep.data.survey import Survey, class_table

_COLUMNS = (
    "image", "mask", "height", "width", "format", "mode", "bits", "mask_mode", "exif", "turned", "digest", "note",
)  # fmt: skip
_OF_A_KEY = ("E-ROOT", "E-DOWNLOAD", "E-EMPTY", "E-EXCLUDE", "E-CACHE")  # problems that are no file's


def split_lines(source: Source) -> Iterator[str]:
    """Images of each split, and what is in none."""
    for split, items in source.items().items():
        unlabelled = sum(item.group.startswith("unlabelled/") for item in items)
        groups = len({item.group for item in items}) - unlabelled
        extra = f", {unlabelled:,} of them unlabelled" if unlabelled else ""
        yield f"  {split:<6} {len(items):>7,} images in {groups:,} groups{extra}"
    if ignored := getattr(source, "num_ignored", 0):
        yield f"  {ignored} files that are never data (.DS_Store and the like) were left out"
    for split, num in getattr(source, "unused", {}).items():
        yield f"  {num:,} images are in no split ({split})"


def file_lines(found: Survey) -> Iterator[str]:
    """Formats, modes, depths and sizes."""
    facts = [fact for facts in found.facts.values() for fact in facts]
    for key, title in (("format", "formats"), ("mode", "modes"), ("bits", "bits"), ("mask_mode", "mask modes")):
        counter = Counter(str(fact[key]) for fact in facts if fact.get(key) is not None)
        if counter:
            yield f"  {title:<11} {', '.join(f'{num:,} {value}' for value, num in counter.most_common())}"
    sizes = Counter((fact["height"], fact["width"]) for fact in facts)
    listed = ", ".join(f"{num:,} of {h}x{w}" for (h, w), num in sizes.most_common(4))
    yield f"  {'sizes':<11} {listed}{f' and {len(sizes) - 4} more sizes' if len(sizes) > 4 else ''}"


def class_lines(found: Survey) -> Iterator[str]:
    """The classes of each split, of labelled images."""
    labelled = {
        split: np.array([f.get("mask") is not None for f in facts], bool) for split, facts in found.facts.items()
    }
    rows = class_table({split: counts[labelled[split]] for split, counts in found.counts.items()}, found.class_names)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  " + "  ".join(cells)


def write_table(file: Path, found: Survey, items: Mapping[str, Sequence[Item]]) -> None:
    """What was found in every file."""
    classes = [f"px {name}" for name in [*found.class_names, "(ignored)"]]
    groups = {(split, item.name): item.group for split, part in items.items() for item in part}
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["split", "name", "group", *_COLUMNS, *classes, "problem"])
        for split, facts in found.facts.items():
            for fact, counts in zip(facts, found.counts[split], strict=True):
                known = [fact.get(column, "") for column in _COLUMNS]
                writer.writerow([split, fact["name"], groups[split, fact["name"]], *known, *counts.tolist(), ""])
        for problem in found.problems:
            writer.writerow(["", problem.where, "", *[""] * len(_COLUMNS), *[""] * len(classes), str(problem)])


def write_problems(file: Path, problems: Sequence[Problem]) -> bool:
    """Problems with the names of files, which can be too many for a line; returns whether there are any."""
    of_files = [problem for problem in problems if problem.code not in _OF_A_KEY]
    if of_files:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["name", "problem"])
            writer.writerows([problem.where, str(problem)] for problem in of_files)
    return bool(of_files)
