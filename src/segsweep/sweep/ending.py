"""How a job's process ended, and what became of the job: its record says so, or gets to say so here."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from segsweep.endings import classify
from segsweep.redaction import redact_overrides
from segsweep.run import FINISHED, close_run, is_running
from segsweep.sweep.job import Job, Outcome
from segsweep.sweep.processes import how_it_ended, signal_name
from segsweep.sweep.records import readable
from segsweep.table import write_row

_GOOD = (*FINISHED, "paused")  # ends of a run that has gone as far as it was to go
_LOOK_S = 1.0  # between looks at a job that runs elsewhere


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        exit_code: as ``multiprocessing`` has it: negative for a signal; None: the server died that it was forked from.
        report: class and message of the exception that ended it, if it could say so.
        limit: class and message of the limit that it was ended for.
        is_stopped: whether the sweep was being stopped.
        facts: for a record that lacks them, e.g. ``peak_memory_mb``.
    """

    exit_code: int | None
    report: tuple[str, str] | None = None
    limit: tuple[str, str] | None = None
    is_stopped: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


def record_text(folder: Path) -> bytes | None:
    """The record's file as it is now: a job that never got to its run leaves it untouched."""
    file = folder / "record.json"
    return file.read_bytes() if file.exists() else None


def judge(job: Job, before: bytes | None, end: End, sweep: str | None) -> Outcome:
    """What became of a job whose process is gone.

    What its own run wrote is the truth. Where that still says running, or the run was never reached, the end of the
    process is written into the record.

    Args:
        job: that ran.
        before: ``record_text`` before it started.
        end: of its process.
        sweep: name of the sweep, which owns the ledger.
    """
    record = readable(job.folder)
    own = record if record_text(job.folder) != before else {}
    if own.get("status") in _GOOD:
        return Outcome(job, own["status"], value=_value(own))
    if end.limit is None and own.get("status") in ("failed", "interrupted"):
        return Outcome(job, own["status"], own.get("error"))
    if not own and end.exit_code == 0 and record.get("status") in _GOOD:
        return Outcome(job, record["status"], value=_value(record))  # it was finished already
    status, (kind, message) = _explain(end)
    error = {"class": kind, "message": message}
    has_begun = own or record or status == "failed"  # a job that was stopped before leaves no record
    try:
        if has_begun and close_run(job.folder, status, error, _identity(job, sweep), end.facts):
            write_row(job.folder, {"config": job.config, **readable(job.folder)})
    except OSError as problem:  # a full disk: then only this session knows
        if kind != classify(problem):
            error = {"class": classify(problem), "message": f"its end ({kind}: {message}) was not written: {problem}"}
    return Outcome(job, status, error)


def _identity(job: Job, sweep: str | None) -> dict[str, Any]:
    """What the record of a run that never began says of it, so that reports can tell which one it was."""
    return {
        "fingerprint": job.fingerprint,
        "fingerprint_without_seed": job.kind,
        "config": job.identity,
        **{key: job.identity.get(key) for key in ("seed", "monitor")},
        "family": (job.identity.get("model") or {}).get("family"),
        "choices": job.choices,
        "overrides": redact_overrides(job.overrides),
        "sweep": sweep,
    }


def outcome_of(job: Job) -> Outcome:
    """What became of a job that ran elsewhere, by its record alone; waits while a live process holds it."""
    while is_running(job.folder):
        time.sleep(_LOOK_S)
    record = readable(job.folder)
    status = record.get("status")
    if status in _GOOD:
        return Outcome(job, status, value=_value(record))
    if status in ("failed", "interrupted"):
        return Outcome(job, status, record.get("error"))
    if record:
        return Outcome(job, "failed", {"class": "killed", "message": "its process ended without a result"})
    return Outcome(job, "failed", {"class": "lost", "message": "no record: it did not begin, or is queued still"})


def peak_memory(outcome: Outcome) -> dict[str, float] | None:
    """Memory that a finished job took, as its record has it."""
    return readable(outcome.job.folder).get("peak_memory_mb") if outcome.status in _GOOD else None


def _explain(end: End) -> tuple[Literal["failed", "interrupted"], tuple[str, str]]:
    if end.limit is not None:
        return "failed", end.limit
    if end.is_stopped:
        return "interrupted", ("SystemExit", "the sweep was stopped")
    if end.report is not None:
        return "failed", end.report
    if end.exit_code is None:
        what = "the server that jobs are forked from ended, and this job was ended with it"
        return "failed", ("killed", f"{what}. The same command tries it again")
    if end.exit_code < 0:
        name = signal_name(-end.exit_code)
        # The system takes the largest process when memory runs out, and leaves no other trace here.
        advice = " If nobody sent it, memory ran out: set sweep.jobs or data.batch_size lower" * (name == "SIGKILL")
        return "failed", ("killed", f"{how_it_ended(end.exit_code)}.{advice}")
    return "failed", ("exit", f"{how_it_ended(end.exit_code)} without a result")


def _value(record: Mapping[str, Any]) -> float | None:
    value: float | None = (record.get("metrics") or {}).get(record.get("monitor"))
    return value
