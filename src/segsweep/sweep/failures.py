"""What failed in a sweep: a table of it, and how to run only that again."""

import csv
import io
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segsweep.files import write_atomic
from segsweep.redaction import redact_overrides
from segsweep.sweep.child import LOG_FILE
from segsweep.sweep.job import Outcome
from segsweep.sweep.records import readable, records

log = logging.getLogger(__name__)

FILE = "failed.csv"
COLUMNS = ("job", "class", "message", "overrides", "step", "epoch", "peak_memory_mb", "log")
Row = dict[str, Any]  # column -> value


def write_failures(folder: Path, outcomes: Sequence[Outcome]) -> Path | None:
    """Writes ``failed.csv`` into a sweep's folder: every failure that stands, of earlier sessions, too.

    Args:
        folder: of the sweep.
        outcomes: of the jobs that this session has run so far; they count rather than what was before.

    Returns:
        The file; None if nothing failed, and then there is none, or if it cannot be written.
    """
    own = {outcome.job.folder: outcome for outcome in outcomes}
    rows = [
        _row(folder, run, record.get("error"), record.get("overrides") or ())
        for run, record in records(folder).items()
        if record.get("status") == "failed" and run not in own
    ]
    rows += [
        _row(folder, run, outcome.error, redact_overrides(outcome.job.overrides))
        for run, outcome in own.items()
        if outcome.status == "failed"
    ]
    file = folder / FILE
    try:
        if rows:
            write_atomic(file, _csv(rows).encode())
            return file
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("what failed could not be listed: %s", error)
    return None


def _csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


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


def _row(folder: Path, run: Path, error: Mapping[str, Any] | None, overrides: Iterable[str]) -> Row:
    last = (last_lines(run / "metrics.jsonl", 1) or [{}])[0]
    error = error or {}
    return {
        "job": _path(run.name),
        "class": error.get("class"),
        "message": error.get("message"),
        "overrides": " ".join(overrides),
        "step": last.get("step"),
        "epoch": last["epoch"] + 1 if "epoch" in last else None,
        "peak_memory_mb": max((readable(run).get("peak_memory_mb") or {}).values(), default=None),
        "log": _path(os.path.relpath(run / LOG_FILE, folder)),
    }


def _path(text: str) -> str:
    """A path that can be opened as it stands in the table, and that a spreadsheet does not compute.

    >>> _path("+model.fault=raise"), _path("seed=0")
    ('./+model.fault=raise', 'seed=0')
    """
    return text if text == cell(text) else f"./{text}"
