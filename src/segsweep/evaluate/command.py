"""The command ``segsweep-evaluate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segsweep.evaluate.scoring import Scored
    from segsweep.opened import OpenedRun

_WIDTH = 120  # characters, where nobody looks: a file or a pipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    from segsweep.command import run_app

    run_app(lambda: _evaluate(options), [f"data={options.data}", *options.set] if options.data else [])


def _evaluate(options: argparse.Namespace) -> None:
    from rich.console import Console

    from segsweep.evaluate.classes import parse_map
    from segsweep.opened import open_finished
    from segsweep.report.printable import printable
    from segsweep.run import ConfigError

    if not options.data and options.map:
        raise ConfigError("--map belongs to data that --data names: a run's own data have its classes")
    renamed = parse_map(options.map)
    runs = [open_finished(folder, options.trust) for folder in options.runs]
    groups = [[run] for run in runs] + ([runs] if options.ensemble else [])
    if options.ensemble and len(runs) < 2:
        raise ConfigError("--ensemble needs two runs or more, e.g. those of several seeds")
    table: dict[str, Scored] = {}
    for group in groups:
        folder, scored = _one(group, options, renamed)
        table[printable(folder.name)] = scored
        print(f"written: {folder}/record.json, images.csv, test_confusion.npz, test_examples/")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(_scores(table))
    console.print(_classes(table))
    print(f"beside each other: segsweep-report {options.out}")


def _one(runs: list[OpenedRun], options: argparse.Namespace, renamed: Mapping[str, str]) -> tuple[Path, Scored]:
    """Scores runs as one; returns where that is written, and the scores."""
    from segsweep.evaluate.classes import map_classes
    from segsweep.evaluate.images import about_data, images_of
    from segsweep.evaluate.scoring import Scoring
    from segsweep.evaluate.writing import write_evaluation
    from segsweep.inference import SCALES, Ensemble, pick_device, precision_on, trained_flips

    first = runs[0]
    device = pick_device(options.device)
    views: dict[str, Any] = {}
    if options.tta and "flips" in options.tta:
        views["flips"] = ("", *options.flips) if options.flips else trained_flips(first.record)
    if options.tta and "scales" in options.tta:
        views["scales"] = SCALES
    ensemble = Ensemble.of_runs(
        runs,
        tile=options.tile and tuple(options.tile),
        overlap=options.overlap,
        device=device,
        precision=precision_on(device, first.record.get("precision")),
        **views,
    )
    data = images_of(first, options.data, options.root, options.set)
    classes = map_classes(data.spec, first.spec, renamed)
    for name in classes.absent:
        _note(f"the data has no class '{name}': pixels that are taken for it are errors")
    scoring = Scoring(ensemble, data, options.split, classes, first.spec)
    settings = _settings(runs, options, renamed, ensemble.flips)
    label = _label(runs, settings)
    scored = scoring.run(label)
    about = about_data(data, options.data or first.record, options.split)
    folder = options.out / label
    write_evaluation(folder, runs, settings, about, scoring, scored)
    return folder, scored


def _settings(
    runs: Sequence[OpenedRun], options: argparse.Namespace, renamed: Mapping[str, str], flips: Sequence[str]
) -> dict[str, Any]:
    """What was asked for: what sets the evaluation apart from others, and from the run's own test."""
    asked = {
        "ensemble": len(runs) if len(runs) > 1 else None,
        "split": options.split,
        "data": options.data,
        "set": options.set or None,
        "map": dict(renamed) or None,
        "tta": options.tta,
        "flips": [flip or "none" for flip in flips] if options.tta else None,
        "tile": options.tile,
        "overlap": options.overlap,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _label(runs: Sequence[OpenedRun], settings: Mapping[str, Any]) -> str:
    """Name of the folder: the run, and what differs from its own test."""
    from segsweep.hints import written

    names = [run.name for run in runs]
    parts = ["ensemble of " + "+".join(names)] if len(names) > 1 else names
    shown = ("split", "data", "tta", "tile", "overlap")
    parts += [f"{key}={written(settings[key])}" for key in shown if settings.get(key, "test") != "test"]
    label = ",".join(parts).replace("/", "_")
    return label if len(label) <= 200 else f"{label[:180]} and {len(names)} runs"


def _note(text: str) -> None:
    from segsweep.report.printable import printable

    print(f"note: {printable(text)}", file=sys.stderr)


def _scores(table: Mapping[str, Scored]) -> Any:
    """The metrics, a row for each evaluation."""
    from rich.table import Table

    names = ("miou", "miou_image", "dice", "pixel_accuracy", "boundary_f1", "ece")
    shown = Table("evaluation", *names, "images", "images/s")
    for name, scored in table.items():
        metrics = scored.metrics
        values = [f"{metrics[key]:.4f}" for key in names]
        shown.add_row(_plain(name), *values, str(len(scored.items)), f"{scored.images_per_s:.1f}")
    return shown


def _classes(table: Mapping[str, Scored]) -> Any:
    """IoU, a row for each class, and the worst image of each evaluation."""
    from rich.table import Table

    from segsweep.panels import worst_positions

    first = next(iter(table.values()))
    shown = Table("IoU")
    for name in table:
        shown.add_column(_plain(name))
    for name in first.spec.class_names:
        values = [scored.metrics.get(f"iou/{name}", float("nan")) for scored in table.values()]
        shown.add_row(_plain(name), *("" if value != value else f"{value:.4f}" for value in values))
    worst = [scored.items[worst_positions(scored.counts.confusion, scored.spec)[0]].name for scored in table.values()]
    shown.add_row("worst image", *map(_plain, worst), end_section=True)
    return shown


def _plain(text: str) -> Any:
    """Text that neither the terminal nor rich obeys."""
    from rich.text import Text

    from segsweep.report.printable import printable

    return Text(printable(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segsweep-evaluate",
        usage="%(prog)s RUN... [options]\nexample: %(prog)s outputs/sweeps/families/model=unet,seed=0 --tta scales",
        description="Scores the best weights of finished runs at the native size of the masks: all metrics, a table of "
        "the images, the worst of them as pictures, and a record that segsweep-report reads. Executes nothing from a "
        "run folder.",
        epilog="more: segsweep-evaluate RUN --data folder --root /data/new --set data.num_classes=2 "
        "--set 'data.class_names=[background,cell]' --map cell=nucleus --split all; "
        "segsweep-evaluate SEED0 SEED1 SEED2 --ensemble",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="test", help="default: test")
    parser.add_argument("--data", metavar="NAME", help="option of conf/data to score instead of the run's own data")
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder of the data, where it lies on disk")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override for --data, e.g. data.page=0; repeat"
    )
    parser.add_argument(
        "--map", action="append", default=[], metavar="A=B", help="class of the data = class of the run, or ignore"
    )
    parser.add_argument("--tta", choices=("flips", "scales", "flips+scales"), help="average over views of each image")
    parser.add_argument(
        "--flips",
        nargs="+",
        choices=("h", "v", "hv"),
        help="which flips, besides none (default: those it was trained with)",
    )
    parser.add_argument("--tile", nargs=2, type=int, metavar=("H", "W"), help="score by overlapping tiles of H x W")
    parser.add_argument("--overlap", type=float, help="share of a tile that the next one covers again (default: 0.25)")
    parser.add_argument("--ensemble", action="store_true", help="also score all runs as one: mean of probabilities")
    parser.add_argument("--out", type=Path, default=Path("outputs/evaluate"), help="default: outputs/evaluate")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PKG.CLASS", help="model class outside of segsweep; repeat"
    )
    return parser


if __name__ == "__main__":
    main()
