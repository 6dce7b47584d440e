"""``segsweep-report``: ranks the configurations of run folders, with their spread over seeds and their cost."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segsweep.files import write_atomic
from segsweep.report.board import write_board
from segsweep.report.compression import compression
from segsweep.report.label_efficiency import label_efficiency
from segsweep.report.readout import readout
from segsweep.report.runs import Comparison, Configuration, compare, find_records
from segsweep.report.search import search
from segsweep.report.table import Table, clean, csv_text, number

RANK_BY = "test/miou"
_MATCHED = 0.05  # of the smaller number of parameters
_HEADER = ("rank", "configuration", "family", "test mIoU", "SD", "n", "val mIoU", "M params", "img/s train",
           "img/s infer", "min/run", "state")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``segsweep-report``."""
    parser = argparse.ArgumentParser(
        prog="segsweep-report",
        description="Ranks the runs in and below folders by test/miou, grouped over seeds, and writes "
        "report/leaderboard.md, .csv and .json. Beside it: label_efficiency.md, .csv and .svg of runs at several "
        "labelled fractions, compression.md, .csv and .svg of runs with codes of several sizes, readout.md and .csv "
        "of models that have seen no label, search.md, .csv and .svg of searches.",
        epilog="example: segsweep-report outputs/sweeps/families",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="run or sweep folders")
    parser.add_argument("--out", type=Path, help="where to write (default: report/ in the folder that holds them all)")
    parser.add_argument(
        "--reference",
        metavar="ARM",
        help="name of the arm that the others are compared with at each labelled fraction (default: regime=supervised)",
    )
    options = parser.parse_args(arguments)
    try:
        comparisons = compare(find_records(options.folders), RANK_BY)
        out = options.out or _common_folder(options.folders) / "report"
        found = (
            label_efficiency(comparisons, options.reference),
            compression(comparisons),
            readout(comparisons),
            search(options.folders),
        )
        sections = [section for section in found if section]
        write_report(comparisons, out)
        for section in sections:
            section.write(out)
        write_board(comparisons, out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140)
    for comparison in comparisons:
        console.print(_table(comparison).screen())
        console.print(_notes(comparison), markup=False, highlight=False)
    for section in sections:
        section.show(console)
    written = [f"{out}/leaderboard.md, .csv, .json", *(f"{out}/{section.files}" for section in sections)]
    written.append(f"{out}/events.out.tfevents.*: the same in TensorBoard, as a run beside the others")
    for line in written:
        console.print(f"written: {line}", markup=False, highlight=False)


def write_report(comparisons: list[Comparison], out: Path) -> None:
    """Writes ``leaderboard.md``, ``leaderboard.csv`` and ``leaderboard.json`` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"md": _markdown(comparisons), "csv": _csv(comparisons), "json": _json(comparisons)}
    for suffix, text in files.items():
        write_atomic(out / f"leaderboard.{suffix}", text.encode())


def _common_folder(folders: Sequence[Path]) -> Path:
    """The folder that holds everything, never a run folder itself."""
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    folder = common.parent if (common / "record.json").exists() else common
    return Path(os.path.relpath(folder))


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for rank, row in enumerate(comparison.configurations, start=1):
        score = row.average(RANK_BY)
        parameters, minutes = row.average("parameters"), row.average("wall_s")
        rows.append(
            (
                str(rank) if score is not None else "-",
                row.name,
                str(row.runs[0].get("family") or "-"),
                number(score, ".4f"),
                number(row.deviation(RANK_BY), ".4f"),
                str(len(row.completed)),
                number(row.average("val/miou"), ".4f"),
                number(parameters and parameters / 1e6, ".3f"),
                number(row.average("images_per_s.train"), ",.0f"),
                number(row.average("images_per_s.inference"), ",.0f"),
                number(minutes and minutes / 60, ".2f"),
                _state(row),
            )
        )
    return rows


def _state(row: Configuration) -> str:
    """``completed``, or what became of the other runs: ``1 failed (oom)``."""
    others: dict[str, int] = {}
    for run in row.runs:
        if run["status"] != "completed":
            error = (run.get("error") or {}).get("class")
            what = f"{run['status']} ({error})" if error else run["status"]
            others[what] = others.get(what, 0) + 1
    repeated = sum(run["status"] == "completed" for run in row.runs) - len(row.completed)
    if repeated:
        others["repeated"] = repeated
    return ", ".join(f"{num} {what}" for what, num in others.items()) or "completed"


def _notes(comparison: Comparison) -> str:
    """Floors, and how the runs were computed: what a reader must know before comparing numbers."""
    floors = comparison.floors
    lines = [
        f"floor: {name.replace('_', ' ')}  test mIoU {number(floors[name].get(RANK_BY), '.4f')}"
        for name in ("most_frequent", "location_prior")
        if name in floors
    ]
    for what in ("precision", "device", "threads"):
        found = sorted({str(run[what]) for run in comparison.runs if run.get(what) is not None})
        lines.append(f"{what}: {', '.join(found)}" + (" (differs between runs)" if len(found) > 1 else ""))
    lines += _size_note(comparison)
    lines += [f"reconstruction term: {text}" for text in _reconstruction(comparison)]
    return "\n".join(lines)


def _size_note(comparison: Comparison) -> list[str]:
    """Whether the ranked configurations have as many parameters as each other: if not, size may be what wins."""
    ranked = [row for row in comparison.configurations if row.completed]
    sizes = [size for row in ranked if (size := row.average("parameters"))]
    if len(sizes) < 2:
        return []
    excess = max(sizes) / min(sizes) - 1
    if excess <= _MATCHED:
        return [f"parameters: matched within {_MATCHED:.0%}"]
    return [f"parameters: not matched, the largest model has {excess:.0%} more than the smallest"]


def _reconstruction(comparison: Comparison) -> list[str]:
    """Configurations that minimise a reconstruction term beside the segmentation loss."""
    return [
        f"{row.name} (factor {_reconstruction_factor(row.completed[0]['config'])})"
        for row in comparison.configurations
        if row.completed and "val/loss/reconstruction" in row.completed[0]["metrics"]
    ]


def _reconstruction_factor(config: dict[str, Any]) -> float | None:
    """Of the term: a regime that trains both at once has one of its own, else it is the loss's."""
    stages = (config.get("regime") or {}).get("stages") or {}
    objectives = [stage.get("objective") or {} for stage in stages.values()]
    factors: list[float] = [objective["factor"] for objective in objectives if "factor" in objective]
    of_loss: float | None = config["loss"]["terms"].get("reconstruction")
    return factors[0] if factors else of_loss


def _table(comparison: Comparison) -> Table:
    return Table(comparison.title, _HEADER, _rows(comparison), ("configuration", "family", "state"))


def _markdown(comparisons: list[Comparison]) -> str:
    parts = []
    for comparison in comparisons:
        lines = [f"## {clean(comparison.title)}", "", _table(comparison).markdown()]
        lines += ["", *(f"- {clean(line)}" for line in _notes(comparison).splitlines()), ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _csv(comparisons: list[Comparison]) -> str:
    rows = [
        ((comparison.data or {}).get("fingerprint", "")[:12], *row)
        for comparison in comparisons
        for row in _rows(comparison)
    ]
    return csv_text(("data", *_HEADER), rows)


def _json(comparisons: list[Comparison]) -> str:
    """Everything unrounded, one entry for each run."""
    result: list[dict[str, Any]] = []
    for comparison in comparisons:
        rows = [
            {
                "rank": rank if row.completed else None,
                "name": row.name,
                "family": row.runs[0].get("family"),
                "mean": row.average(RANK_BY),
                "sd": row.deviation(RANK_BY),
                "n": len(row.completed),
                "parameters": row.average("parameters"),
                "flops": row.average("flops"),
                "train_images_per_s": row.average("images_per_s.train"),
                "inference_images_per_s": row.average("images_per_s.inference"),
                "wall_s": row.average("wall_s"),
                "runs": [
                    {key: run.get(key) for key in ("folder", "seed", "status", "error", "metrics")} for run in row.runs
                ],
            }
            for rank, row in enumerate(comparison.configurations, start=1)
        ]
        result.append(
            {"data": comparison.data, "floors": comparison.floors, "ranked_by": RANK_BY, "configurations": rows}
        )
    return json.dumps(result, indent=1) + "\n"


if __name__ == "__main__":
    main()
