"""The command ``segsweep-data``: looks at a dataset before training, and says for each problem what mends it."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segsweep.data.datamodule import DataModule
    from segsweep.data.rasters import Raster
    from segsweep.data.survey import Survey

_HELP = """\
segsweep-data looks at a dataset before training: same overrides as segsweep.

  segsweep-data data=camvid data.root=/data/camvid
  segsweep-data data=folder data.root=/data/mine         what the masks hold, and what to set for them
  segsweep-data --clear-cache                            removes the decoded copies of all datasets

Prints pairs, sizes, modes, classes per split and everything that is wrong with the override that mends it; writes
contact_sheet.png (image | mask | overlay) and data_report.csv (one row an image).

  --out FOLDER         where to write them (default outputs/data/<data>)
  --config-dir FOLDER  a folder with data/<name>.yaml of your own
Exit code 0: training would start. 1: it would not, or a key is missing."""

_UNKNOWN = ("num_classes", "class_names", "size")  # what the doctor can do without
_ON_SHEET = 12
_MEASURED = 64  # images to measure mean and standard deviation on


def main() -> None:
    """Runs the command line."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(_HELP)
        return
    if "--clear-cache" in arguments:
        from segsweep.data.storage import cache_root, clear_cache

        print(f"freed {clear_cache() / 1e6:,.0f} MB in {cache_root()}")
        return
    from segsweep.command import run_app

    out = _take(arguments, "--out")
    if folder := _take(arguments, "--config-dir"):
        arguments.append(f"hydra.searchpath=['file://{Path(folder).absolute()}']")
    run_app(lambda: sys.exit(_examine(arguments, out and Path(out))), arguments)


def _take(arguments: list[str], flag: str) -> str | None:
    """Takes a flag and its value out of the arguments."""
    if flag not in arguments:
        return None
    place = arguments.index(flag)
    if place + 1 == len(arguments):
        sys.exit(f"error: {flag} needs a folder")
    value = arguments[place + 1]
    del arguments[place : place + 2]
    return value


def _examine(overrides: list[str], out: Path | str | None) -> int:
    """Composes, looks, prints and writes; returns the exit code."""
    from segsweep import check, config
    from segsweep.command import compose_job

    cfg, choices = compose_job(overrides)
    node = config.plain_group(cfg, "data")
    unknown = [key for key in _UNKNOWN if node.get(key) == "???"]
    known = {**node, **_stand_ins(node, unknown)}
    plain = {
        "data": known,
        "seed": cfg.seed,
        **{group: config.plain_group(cfg, group) for group in ("augment", "regime")},
    }
    missing = [f"data.{key}" for key, value in known.items() if value == "???"]
    lines = [check.not_set(path) for path in missing] or check.check_values({"data": known, "seed": cfg.seed}, choices)
    place = Path(out or f"outputs/data/{choices['data']}")
    if lines:
        _write_problems(plain, place)
        return _stop(lines)
    data = config.build_data(plain)
    if unknown:
        return _suggest_facts(data, node, unknown)
    return _report(data, choices["data"], place)


def _stand_ins(node: dict[str, Any], unknown: Sequence[str]) -> dict[str, Any]:
    """Values for facts that are not given: every mask value is taken as a class of its own."""
    if "num_classes" in unknown or "class_names" in unknown:
        names = {"num_classes": 255, "class_names": [str(i) for i in range(255)], "ignore_index": 255}
    else:
        names = {}
    return names | ({"size": None} if "size" in unknown else {})


def _suggest_facts(data: DataModule, node: dict[str, Any], unknown: Sequence[str]) -> int:
    """Says what to set for the facts that are missing, from what the files hold."""
    from segsweep.data import advice

    lines = _first_problems(data)
    conventions, sizes = advice.Conventions(), Counter[tuple[int, int]]()
    for raster in _raw_masks(data):
        conventions.add(raster)
        sizes[raster.size] += 1
    print(f"data.root={node.get('root')}")
    _print_splits(data)
    print(f"  sizes (HxW): {', '.join(f'{num} of {h}x{w}' for (h, w), num in sizes.most_common(5))}")
    names = None if "class_names" in unknown else node["class_names"]
    overrides = advice.suggest(conventions, names)
    if conventions.colours and (conventions.num_coloured or len(conventions.palettes) > 1):
        print("  colours of the masks, as a block for a file in conf/data/:")
        print("\n".join(f"    {line}" for line in advice.palette_block(conventions, names)))
    else:
        total = max(1, sum(conventions.values.values()))
        listed = ", ".join(f"{v} ({n / total:.1%})" for v, n in sorted(conventions.values.items())[:20])
        print(f"  mask values: {listed}")
    if "size" in unknown and sizes:
        overrides += _suggest_size(sizes)
    print("Not set yet: " + ", ".join(f"data.{key}" for key in unknown) + ". These fit the files; name the classes:")
    print("  " + " ".join(overrides))
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return 1


def _suggest_size(sizes: Counter[tuple[int, int]]) -> list[str]:
    (height, width), _ = sizes.most_common(1)[0]
    if len(sizes) == 1 and height * width <= 512 * 512:
        return [f"'data.size=[{height},{width}]'"]
    if max(h * w for h, w in sizes) <= 512 * 512:
        side = [max(32, round(s / 32) * 32) for s in (height, width)]
        return [f"'data.size=[{side[0]},{side[1]}]'"]
    return ["data.size=null", "'data.crop=[256,256]'", "'data.tile=[512,512]'"]


def _report(data: DataModule, name: str, out: Path) -> int:
    """Decodes (once), prints what was found, and writes the contact sheet and the table."""
    from segsweep.data.decoding import survey
    from segsweep.data.problems import DataError
    from segsweep.data.survey import Survey

    problems: list[str] = []
    try:
        store = data.store
    except DataError as error:
        problems = error.lines
        found = survey(data.source, data.spec, data.fit)
    else:
        counts = {split: decoded.counts for split, decoded in store.splits.items()}
        found = Survey(data.spec.class_names, store.facts(), counts, [])
    print(f"data={name}")
    _print_splits(data)
    _print_files(found)
    _print_classes(found)
    for note in found.notes():
        print(f"{note.level}: {note.text}")
    if not problems:
        _print_statistics(data)
        print(f"decoded cache: {store.num_bytes() / 1e6:,.0f} MB, data fingerprint {store.fingerprint[:16]}")
    out.mkdir(parents=True, exist_ok=True)
    _write_table(out / "data_report.csv", data, found)
    if not problems:
        _write_sheet(out / "contact_sheet.png", data, found)
    print(f"written: {out}/data_report.csv" + ("" if problems else f", {out}/contact_sheet.png"))
    if any(line.startswith(("E-LABEL", "E-COLOUR", "E-PALETTE", "E-LOSSY")) for line in problems):
        _print_suggestion(data)
    return _stop(problems) if problems else 0


def _print_splits(data: DataModule) -> None:
    for split, items in data.source.items().items():
        unlabelled = sum(item.group.startswith("unlabelled/") for item in items)
        groups = len({item.group for item in items}) - unlabelled
        extra = f", {unlabelled:,} of them unlabelled" if unlabelled else ""
        print(f"  {split:<6} {len(items):>7,} images in {groups:,} groups{extra}")
    if ignored := getattr(data.source, "num_ignored", 0):
        print(f"  {ignored} files that are never data (.DS_Store and the like) were left out")
    for split, num in getattr(data.source, "unused", {}).items():
        print(f"  {num:,} images are in no split ({split})")


def _print_files(found: Survey) -> None:
    facts = [fact for facts in found.facts.values() for fact in facts]
    for key, title in (("format", "formats"), ("mode", "modes"), ("bits", "bits"), ("mask_mode", "mask modes")):
        counter = Counter(str(fact[key]) for fact in facts if fact.get(key) is not None)
        if counter:
            print(f"  {title:<11} {', '.join(f'{num:,} {value}' for value, num in counter.most_common())}")
    sizes = Counter((fact["height"], fact["width"]) for fact in facts)
    listed = ", ".join(f"{num:,} of {h}x{w}" for (h, w), num in sizes.most_common(4))
    print(f"  {'sizes':<11} {listed}{f' and {len(sizes) - 4} more sizes' if len(sizes) > 4 else ''}")


def _print_classes(found: Survey) -> None:
    import numpy as np

    from segsweep.data.survey import class_table

    labelled = {
        split: np.array([f.get("mask") is not None for f in facts], bool) for split, facts in found.facts.items()
    }
    rows = class_table({split: counts[labelled[split]] for split, counts in found.counts.items()}, found.class_names)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))


def _print_statistics(data: DataModule) -> None:
    """Mean and standard deviation of training images, beside what is declared."""
    import numpy as np

    split = data.store.splits["train"]
    chosen = np.unique(np.linspace(0, len(split.items) - 1, _MEASURED).round().astype(int))
    pixels = np.concatenate([split.image(int(i)).reshape(-1, data.spec.in_channels)[::4] for i in chosen]) / 255.0
    mean, std = ("[" + ",".join(f"{x:.3f}" for x in part) + "]" for part in (pixels.mean(axis=0), pixels.std(axis=0)))
    print(f"  measured on {len(chosen)} training images: 'data.mean={mean}' 'data.std={std}'")


def _print_suggestion(data: DataModule) -> None:
    from segsweep.data import advice

    conventions = advice.Conventions()
    for raster in _raw_masks(data):
        conventions.add(raster)
    overrides = advice.suggest(conventions, data.spec.class_names)
    if conventions.colours and (conventions.num_coloured or len(conventions.palettes) > 1):
        print("colours of the masks, as a block for a file in conf/data/:")
        print("\n".join(f"  {line}" for line in advice.palette_block(conventions, data.spec.class_names)))
    if overrides:
        print("this would fit what the masks hold: " + " ".join(overrides))


def _raw_masks(data: DataModule) -> Iterator[Raster]:
    """Mask files as they are stored, as far as they can be read; none for sources that have no files."""
    from rich.progress import track

    from segsweep.data.folder import Folder
    from segsweep.data.problems import Problem

    source = data.source
    if not isinstance(source, Folder):
        return
    places = [(split, i) for split, items in source.items().items() for i in range(len(items))]
    for split, i in track(places, "looking at masks", transient=True, disable=not sys.stdout.isatty()):
        try:
            raster = source.raw_mask(split, i)
        except Problem:
            continue  # it is listed among the problems
        if raster is not None:
            yield raster


def _first_problems(data: DataModule) -> list[str]:
    """Lines about files that no convention would mend."""
    from segsweep.data.decoding import survey
    from segsweep.data.problems import DataError

    found = survey(data.source, data.spec, data.fit)
    others = [p for p in found.problems if p.code not in ("E-LABEL", "E-COLOUR", "E-PALETTE", "E-LOSSY")]
    return DataError(others).lines


def _write_table(file: Path, data: DataModule, found: Survey) -> None:
    """One row an image and one a problem."""
    columns = [
        "image",
        "mask",
        "height",
        "width",
        "format",
        "mode",
        "bits",
        "mask_mode",
        "exif",
        "turned",
        "digest",
        "note",
    ]
    classes = [f"px {name}" for name in [*found.class_names, "(ignored)"]]
    groups = {(split, item.name): item.group for split, items in data.source.items().items() for item in items}
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["split", "name", "group", *columns, *classes, "problem"])
        for split, facts in found.facts.items():
            for fact, counts in zip(facts, found.counts[split], strict=True):
                known = [fact.get(column, "") for column in columns]
                writer.writerow([split, fact["name"], groups[split, fact["name"]], *known, *counts.tolist(), ""])
        for problem in found.problems:
            writer.writerow(["", problem.where, "", *[""] * len(columns), *[""] * len(classes), str(problem)])


def _write_problems(plain: dict[str, Any], out: Path) -> None:
    """Lists what is wrong with the names of files, where that is too much for a line."""
    from segsweep.config import build_data
    from segsweep.data.problems import DataError

    try:
        build_data(plain)
    except DataError as error:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "data_report.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["name", "problem"])
            writer.writerows([problem.where, str(problem)] for problem in error.problems)
        print(f"written: {out}/data_report.csv")
    except Exception:  # no matter of files: the lines say it
        return


def _write_sheet(file: Path, data: DataModule, found: Survey) -> None:
    """Image | mask | overlay of images from all splits, those first that show many classes."""
    from PIL import Image

    from segsweep.pictures import contact_sheet

    rows = []
    for split, decoded in data.store.splits.items():
        labelled = [i for i, fact in enumerate(found.facts[split]) if fact.get("mask") is not None]
        richest = sorted(labelled, key=lambda i: -int((decoded.counts[i, :-1] > 0).sum()))
        for i in richest[: _ON_SHEET // 3]:
            rows.append((f"{split}/{decoded.items[i].name}", decoded.image(i), decoded.mask(i)))
    Image.fromarray(contact_sheet(rows, data.spec)).save(file)


def _stop(lines: Sequence[str]) -> int:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
