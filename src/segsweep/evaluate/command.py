"""The command ``segsweep-evaluate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segsweep.startup import importing

if TYPE_CHECKING:
    from segsweep.evaluate.scoring import Scored

_WIDTH = 120  # characters, where nobody looks: a file or a pipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    from segsweep.command import run_app

    run_app(lambda: _evaluate(options), [f"data={options.data}", *options.set] if options.data else [])


def _evaluate(options: argparse.Namespace) -> None:
    with importing():
        from rich.console import Console

        from segsweep.evaluate.work import prepare
    from segsweep.report.printable import printable

    evaluations = prepare(options)  # all mistakes come before the first image is scored
    for name in {name: None for evaluation in evaluations for name in evaluation.absent}:
        _note(f"the data has no class '{name}': pixels that are taken for it are errors")
    table: dict[str, Scored] = {}
    for evaluation in evaluations:
        table[printable(evaluation.folder.name)] = evaluation.run()
        print(f"written: {evaluation.folder}/record.json, images.csv, test_confusion.npz, test_examples/")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(_scores(table))
    console.print(_classes(table))
    print(f"beside each other: segsweep-report {options.out}")


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
