"""The records of all runs of a sweep, damaged ones included."""

from pathlib import Path
from typing import Any

from segsweep.run import is_running, read_record, sound_record


def records(folder: Path) -> dict[Path, dict[str, Any]]:
    """Folder of each run of a sweep -> its record, which is empty if it cannot be read.

    Args:
        folder: of the sweep; need not exist.
    """
    return {file.parent: readable(file.parent) for file in sorted(folder.glob("*/record.json"))}


def readable(run: Path) -> dict[str, Any]:
    """The record of a run; empty if there is none, or none that can be read."""
    try:
        return read_record(run) or {}
    except (OSError, ValueError):
        return {}


def put_damaged_aside(folder: Path) -> None:
    """Renames records that cannot be read, and says so: what is planned in their folders is tried again.

    Args:
        folder: of the sweep; nobody else starts jobs there.
    """
    for run, record in records(folder).items():
        if not record and not is_running(run):
            sound_record(run)
