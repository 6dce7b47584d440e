"""What failed in a sweep: a table of it, and how to run only that again."""

import csv
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segsweep.files import write_atomic
from segsweep.run import read_record, redact_overrides
from segsweep.sweep.child import LOG_FILE
from segsweep.sweep.job import Outcome

FILE = "failed.csv"
COLUMNS = ("job", "class", "message", "overrides", "step", "epoch", "peak_memory_mb", "log")


def write_failures(folder: Path, outcomes: Sequence[Outcome]) -> Path | None:
    """Writes ``failed.csv`` into a sweep's folder; removes it when nothing failed.

    Args:
        folder: of the sweep.
        outcomes: of all jobs that were run.

    Returns:
        The file, None if there is none.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    file = folder / FILE
    if not failed:
        file.unlink(missing_ok=True)
        return None
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cell(value) for key, value in _row(folder, outcome).items()} for outcome in failed)
    write_atomic(file, text.getvalue().encode())
    return file


def cell(value: object) -> str:
    """A cell that a spreadsheet shows as it is, on one line, and does not compute.

    >>> cell("=cmd|' /C calc'!A0"), cell(None), cell(-1.5)
    ("'=cmd|' /C calc'!A0", '', '-1.5')
    """
    if value is None or isinstance(value, int | float):
        return "" if value is None else str(value)
    text = one_line(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def one_line(text: str) -> str:
    r"""Text from a run, without line breaks and what a terminal would obey.

    >>> one_line("out of memory\n  tried \x1b[31mhard")
    'out of memory tried [31mhard'
    """
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def last_lines(file: Path, number: int) -> list[dict[str, Any]]:
    """The last whole lines of a ``metrics.jsonl``, oldest first; none if there is no such file."""
    try:
        with file.open() as lines:
            return list(deque(_whole(lines), number))
    except OSError:
        return []


def _whole(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.endswith("\n"):  # not torn by a kill
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _row(folder: Path, outcome: Outcome) -> dict[str, Any]:
    job = outcome.job
    last = (last_lines(job.folder / "metrics.jsonl", 1) or [{}])[0]
    try:
        record = read_record(job.folder) or {}
    except ValueError:
        record = {}
    error = outcome.error or {}
    log = job.folder / LOG_FILE
    return {
        "job": job.name,
        "class": error.get("class"),
        "message": error.get("message"),
        "overrides": " ".join(redact_overrides(job.overrides)),
        "step": last.get("step"),
        "epoch": last["epoch"] + 1 if "epoch" in last else None,
        "peak_memory_mb": max((record.get("peak_memory_mb") or {}).values(), default=None),
        "log": str(log.relative_to(folder) if log.is_relative_to(folder) else log),
    }
