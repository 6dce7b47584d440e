"""``segsweep-report``: who wins, by how much, how sure, and at what cost, from run folders alone."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from segsweep.files import write_atomic
from segsweep.report.board import write_board
from segsweep.report.comparability import refuse
from segsweep.report.compression import compression
from segsweep.report.judgement import Judgement
from segsweep.report.label_efficiency import label_efficiency
from segsweep.report.leaderboard import csv_page, how_alike, json_page, markdown_page, notes, screen, tex_page
from segsweep.report.page.write import write_page
from segsweep.report.printable import printable
from segsweep.report.readout import readout
from segsweep.report.records import find_records
from segsweep.report.reproduce import caveats, command
from segsweep.report.runs import Comparison, compare
from segsweep.report.search import search
from segsweep.report.section import Section

_WIDTH = 150  # characters, where nobody looks: a file or a pipe


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``segsweep-report``."""
    options = _parser().parse_args(arguments)
    try:
        if options.command:
            _print_command(options.folders)
        else:
            _report(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _report(options: argparse.Namespace) -> None:
    from segsweep.report.judge import judge  # here, because --help and --command need no numpy
    from segsweep.report.several import several

    comparisons = compare(find_records(options.folders))
    if options.strict:
        refuse(comparisons)
    judgements = [judge(comparison) for comparison in comparisons]
    found = (
        label_efficiency(comparisons, options.reference),
        compression(comparisons),
        readout(comparisons),
        search(options.folders),
        several(comparisons, judgements),
    )
    sections = [section for section in found if section]
    out = options.out or _common_folder(options.folders) / "report"
    write_report(comparisons, judgements, sections, out)
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else _WIDTH)
    for comparison, judgement in zip(comparisons, judgements, strict=True):
        console.print(screen(comparison, judgement))
        for line in notes(comparison, judgement):
            console.print(printable(line), markup=False, highlight=False)
    for section in sections:
        section.show(console)
    names = ["index.html", "report.md, leaderboard.csv, .json, .tex", *(section.files for section in sections)]
    names.append("events.out.tfevents.*, which make it a run in TensorBoard")
    for name in names:
        console.print(f"written: {out}/{name}", markup=False, highlight=False)


def write_report(
    comparisons: list[Comparison], judgements: list[Judgement], sections: list[Section], out: Path
) -> None:
    """Writes all files of the report into a folder, each as a whole."""
    out.mkdir(parents=True, exist_ok=True)
    judged = list(zip(comparisons, judgements, strict=True))
    pages = {
        "report.md": markdown_page(judged, sections),
        "leaderboard.csv": csv_page(judged),
        "leaderboard.json": json_page(judged),
        "leaderboard.tex": tex_page(judged),
    }
    for name, text in pages.items():
        write_atomic(out / name, text.encode())
    write_page(comparisons, judgements, out, sections, [how_alike(*pair) for pair in judged])
    for section in sections:
        section.write(out)
    write_board(comparisons, markdown_page(judged, []), out)


def _print_command(folders: Sequence[Path]) -> None:
    """The commands go to the output, what is to be known about them to the error output."""
    for run in find_records(folders):
        for line in caveats(run):
            print(f"# {printable(line)}", file=sys.stderr)
        print(printable(command(run)))


def _common_folder(folders: Sequence[Path]) -> Path:
    """The folder that holds everything, never a run folder itself."""
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    folder = common.parent if (common / "record.json").exists() else common
    given = {one.absolute() for one in folders}
    runs = [file.parent for file in folder.glob("*/record.json")] if folder not in given else []
    if folder == Path(folder.anchor):
        raise ValueError("the folders have nothing in common but the root: say where to write with --out")
    if (folder / "ledger.jsonl").exists() and not given.issuperset(run.absolute() for run in runs):
        raise ValueError(
            f"{folder} is a sweep with more runs: its report would be replaced. Say where to write with --out"
        )
    return Path(os.path.relpath(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segsweep-report",
        description="Ranks the runs in and below folders by test/miou, grouped over seeds, says which differences are "
        "real, and writes report/: index.html, report.md, leaderboard.csv, .json, .tex and a TensorBoard run. Beside "
        "them "
        "label_efficiency.* of runs at several labelled fractions, compression.* of runs with codes of several sizes, "
        "readout.* of models that have seen no label, search.* of searches.",
        epilog="examples: segsweep-report outputs/sweeps/families; "
        "segsweep-report --command outputs/sweeps/families/model=unet,seed=0",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="run or sweep folders")
    parser.add_argument("--out", type=Path, help="where to write (default: report/ in the folder that holds them all)")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse to rank runs that differ in precision, budget, size, labels, pretraining or tuning effort",
    )
    parser.add_argument(
        "--command", action="store_true", help="write nothing; print the command that repeats each of the runs"
    )
    parser.add_argument(
        "--reference",
        metavar="ARM",
        help="name of the arm that the others are compared with at each labelled fraction (default: regime=supervised)",
    )
    return parser


if __name__ == "__main__":
    main()
