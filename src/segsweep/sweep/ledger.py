"""What a kill kept from the ledger of a sweep."""

import contextlib
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

LEDGER = "ledger.jsonl"


def mend_ledger(sweep: Path, completed: Iterable[str]) -> None:
    """Brings the ledger up to the records, which are the truth.

    A kill may come between a job's record and its line, and a loss of power in the middle of a line.

    Args:
        sweep: its folder; nobody else starts jobs there.
        completed: names of the jobs that are complete by their records.
    """
    file = sweep / LEDGER
    if not file.exists():
        return
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(file, len(whole))
    told = _last_states(whole)
    with file.open("a") as ledger:
        for job in completed:
            if told.get(job) != "completed":
                now = datetime.now(UTC).isoformat(timespec="seconds")
                ledger.write(json.dumps({"time": now, "job": job, "status": "completed", "error": None}) + "\n")


def _last_states(text: bytes) -> dict[str, str]:
    """What the ledger says last of each job; a damaged line says nothing."""
    states: dict[str, str] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            states[entry["job"]] = entry["status"]
    return states
