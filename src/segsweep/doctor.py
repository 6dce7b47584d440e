"""The command ``segsweep-data``: looks at a dataset before training, and says for each problem what mends it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segsweep.hints import did_you_mean, override, written

if TYPE_CHECKING:
    from segsweep.data.advice import Conventions
    from segsweep.data.datamodule import DataModule
    from segsweep.data.rasters import Raster
    from segsweep.data.storage import Store
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

_FLAGS = {"--help": False, "-h": False, "--clear-cache": False, "--out": True, "--config-dir": True}  # with a value?
_UNKNOWN = ("num_classes", "class_names", "size")  # what the doctor can do without
_ON_SHEET = 12
_MEASURED = 64  # images to measure mean and standard deviation on


def main() -> None:
    """Runs the command line."""
    flags, overrides = _divide(sys.argv[1:])
    if {"--help", "-h"} & flags.keys():
        print(_HELP)
        return
    from segsweep.command import run_app

    if "--clear-cache" in flags:
        run_app(_clear, [])
        return
    out, folder = flags.get("--out"), flags.get("--config-dir")
    if folder is not None:
        if not Path(folder).is_dir():
            sys.exit(f"error: --config-dir {folder} is no folder")
        overrides.append(f"hydra.searchpath={written([f'file://{Path(folder).absolute()}'])}")
    run_app(lambda: sys.exit(_examine(overrides, out and Path(out))), overrides)


def _divide(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Flags with their values, written ``--out x`` or ``--out=x``, and the overrides."""
    flags: dict[str, str] = {}
    overrides = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        flag, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            overrides.append(argument)
        elif flag not in _FLAGS:
            sys.exit(f"error: {flag}: unknown flag. {did_you_mean(flag, _FLAGS)}")
        else:
            if _FLAGS[flag] and not equals:
                value = left.pop(0) if left else ""
            if _FLAGS[flag] and not value:
                sys.exit(f"error: {flag} needs a folder, e.g. {flag}=look")
            flags[flag] = value
    return flags, overrides


def _clear() -> None:
    from segsweep.data.cache import cache_root, clear_cache

    print(f"freed {clear_cache() / 1e6:,.0f} MB in {cache_root()}")


def _examine(overrides: list[str], out: Path | str | None) -> int:
    """Composes, looks, prints and writes; returns the exit code."""
    from segsweep import check, config
    from segsweep.composer import compose_job

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
    """Values for facts that are not given: every mask value, or mask pattern, is taken as a class of its own."""
    stand_ins: dict[str, Any] = {"size": None} if "size" in unknown else {}
    if "num_classes" in unknown or "class_names" in unknown:
        names = _names_of_patterns(node) or [str(i) for i in range(255)]
        stand_ins |= {"num_classes": len(names), "class_names": names, "ignore_index": 255}
    return stand_ins


def _names_of_patterns(node: dict[str, Any]) -> list[str] | None:
    from segsweep.data.advice import names_of_patterns

    return names_of_patterns(node["masks"]) if isinstance(node.get("masks"), dict) and node["masks"] else None


def _suggest_facts(data: DataModule, node: dict[str, Any], unknown: Sequence[str]) -> int:
    """Says what to set for the facts that are missing, from what the files hold."""
    from segsweep.data import advice
    from segsweep.data.report import split_lines

    lines = _first_problems(data)
    conventions, sizes = advice.Conventions(), Counter[tuple[int, int]]()
    for raster in _raw_masks(data):
        conventions.add(raster)
        sizes[raster.size] += 1
    print(f"data.root={node.get('root')}")
    print("\n".join(split_lines(data.source)))
    overrides = []
    if sizes:
        print(f"  sizes (HxW): {', '.join(f'{num} of {h}x{w}' for (h, w), num in sizes.most_common(5))}")
        names = None if "class_names" in unknown else node["class_names"]
        if of_patterns := _names_of_patterns(node):
            overrides = advice.declare(of_patterns) if names is None else []
        else:
            overrides = advice.suggest(conventions, names)
            _print_masks(conventions, names)
        if "size" in unknown:
            overrides += advice.suggest_size(sizes)
    missing = f"Not set yet: {', '.join(f'data.{key}' for key in unknown)}."
    print(f"{missing} These fit the files; name the classes:" if overrides else missing)
    if overrides:
        print("  " + " ".join(overrides))
    return _stop(lines) or 1


def _print_masks(conventions: Conventions, names: Sequence[str] | None) -> None:
    """What masks hold: their colours as a palette, or their values."""
    from segsweep.data import advice

    if conventions.has_colours:
        print("  colours of the masks, as a block for a file in conf/data/:")
        print("\n".join(f"    {line}" for line in advice.palette_block(conventions, names)))
    else:
        total = max(1, sum(conventions.values.values()))
        listed = ", ".join(f"{v} ({n / total:.1%})" for v, n in sorted(conventions.values.items())[:20])
        print(f"  mask values: {listed}")


def _report(data: DataModule, name: str, out: Path) -> int:
    """Decodes (once), prints what was found, and writes the contact sheet and the table."""
    from segsweep.data.decoding import survey
    from segsweep.data.problems import DataError
    from segsweep.data.report import class_lines, file_lines, split_lines, write_table
    from segsweep.data.survey import Survey

    problems: list[str] = []
    try:
        store = _sound_store(data)
    except DataError as error:
        problems = error.lines
        found = survey(data.source, data.spec, data.fit)
    else:
        counts = {split: decoded.counts for split, decoded in store.splits.items()}
        found = Survey(data.spec.class_names, store.facts(), counts, [])
    found_lines = [*file_lines(found), *class_lines(found)] if any(found.facts.values()) else []
    notes = [f"{note.level}: {note.text}" for note in found.notes()]
    print("\n".join([f"data={name}", *split_lines(data.source), *found_lines, *notes]))
    if not problems:
        _print_statistics(data)
        print(f"decoded cache: {store.num_bytes() / 1e6:,.0f} MB, data fingerprint {store.fingerprint[:16]}")
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "data_report.csv", found, data.source.items())
    if not problems:
        _write_sheet(out / "contact_sheet.png", data, found)
    print(f"written: {out}/data_report.csv" + ("" if problems else f", {out}/contact_sheet.png"))
    if any(line.startswith(("E-LABEL", "E-COLOUR", "E-PALETTE", "E-LOSSY")) for line in problems):
        _print_suggestion(data)
    return _stop(problems) if problems else 0


def _sound_store(data: DataModule) -> Store:
    """The decoded dataset, decoded anew if a disk has changed its bytes; a run looks at the sizes of files only."""
    if damaged := data.store.damaged():
        print(f"warning: the decoded copy was damaged ({', '.join(damaged)} in {data.store.folder}): decoded again")
        data.store.discard()
        del data.store
    return data.store


def _print_statistics(data: DataModule) -> None:
    """Mean and standard deviation of training images, beside what is declared."""
    import numpy as np

    split = data.store.splits["train"]
    chosen = np.unique(np.linspace(0, len(split.items) - 1, _MEASURED).round().astype(int))
    pixels = np.concatenate([split.image(int(i)).reshape(-1, data.spec.in_channels)[::4] for i in chosen]) / 255.0
    mean, std = ([round(float(x), 3) for x in part] for part in (pixels.mean(axis=0), pixels.std(axis=0)))
    print(f"  measured on {len(chosen)} training images: {override('data.mean', mean)} {override('data.std', std)}")


def _print_suggestion(data: DataModule) -> None:
    from segsweep.data import advice
    from segsweep.data.folder import Folder

    conventions = advice.Conventions()
    for raster in _raw_masks(data):
        conventions.add(raster)
    overrides = advice.suggest(conventions, data.spec.class_names)
    if isinstance(data.source, Folder):
        overrides = advice.instead(data.source.labels, overrides)
    if conventions.has_colours:
        _print_masks(conventions, data.spec.class_names)
    if not overrides:
        return
    print("this would fit what the masks hold: " + " ".join(overrides))
    lost = conventions.share_beyond(data.spec.num_classes, data.spec.ignore_index)
    if "threshold" not in overrides[-1] and lost > 0.001:
        print(f"  it ignores {lost:.1%} of the pixels: the masks hold more classes than data.class_names declares")


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


def _write_problems(plain: dict[str, Any], out: Path) -> None:
    """Lists what is wrong with the names of files, where that is too much for a line."""
    from segsweep.config import build_data
    from segsweep.data.problems import DataError
    from segsweep.data.report import write_problems

    try:
        build_data(plain)
    except DataError as error:
        if write_problems(out / "data_report.csv", error.problems):
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
