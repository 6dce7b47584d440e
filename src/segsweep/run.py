"""A run is one folder and its record. Standard library only: every tool can read a run without importing torch.

A run is complete if and only if its ``record.json`` says so; that file is only ever replaced as a whole.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segsweep.endings import classify, exits_fail, is_interruption, killed_s
from segsweep.files import remove_unfinished, write_atomic

SCHEMA = 1
FINISHED = ("completed", "pruned")  # states after which there is nothing left to do
_LOOKS_S = 0.05  # in which somebody who only looks whether a lock is taken is done
_LETS_GO_S = 1.0  # in which a process that was killed lets go of its lock
log = logging.getLogger(__name__)
_IN_PLACE = ("config.yaml", "log.txt", "metrics.jsonl")  # files of a run that are not replaced as a whole


class ConfigError(ValueError):
    """What the user typed or wrote is wrong; one line for each mistake: what, where, how to fix it."""

    kind = "config"


class LockedError(ConfigError):
    """A live process has the run or the sweep."""


class Run:
    """One folder and its record.

    Attributes:
        folder: of the run.
        record: what ``record.json`` holds; ``save`` writes it.
        before: what it held when this session began.
        ends_as: its status if nothing goes wrong: ``completed``; ``pruned`` if a search has given it up, ``paused`` if
            it waits there for others to be compared with.
        others_s: seconds of this session that belong to runs that were trained as one with it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: dict[str, Any] = {}
        self.before: dict[str, Any] = {}
        self.ends_as = "completed"
        self.others_s = 0.0

    @property
    def is_completed(self) -> bool:
        """The record says so, or that the run was pruned: nothing is left to do."""
        return self.record.get("status") in FINISHED

    def save(self, **changes: Any) -> None:
        """Updates the record and replaces its file; not-a-number becomes null."""
        self.record.update(changes)
        write_atomic(self.folder / "record.json", (json.dumps(_jsonable(self.record), indent=1) + "\n").encode())


def new_folder(parent: Path, stem: str) -> Path:
    """Makes a folder that no other process has: ``<parent>/<stem>_<4 hex digits>``, even in the same instant."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{stem}_{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(exist_ok=False)
            return folder


@contextlib.contextmanager
def open_run(folder: Path, facts: Mapping[str, Any]) -> Iterator[Run]:
    """Opens a run to train it: takes its lock, compares identities, and writes how it ended.

    Inside, ``run.is_completed`` says that there is nothing to do. An exception is recorded with its class and raised
    again: ``failed`` for a mistake or a defect, ``interrupted`` for Ctrl-C and SIGTERM. A run that was killed is still
    ``running`` by its record, but nobody holds its lock: it is continued like an interrupted one.

    Args:
        folder: of the run; it exists.
        facts: written into the record at the start; ``fingerprint`` and ``config`` decide whether the run may continue.

    Raises:
        ConfigError: another process runs it, or it was started with another config.
        ExitError: code inside has called ``sys.exit``.
    """
    with lock(folder):
        run = Run(folder)
        before = read_record(folder)
        if before is not None:
            refuse_other_config(folder, before, facts)
            run.before = before
            if before.get("status") in FINISHED:
                run.record = before
                yield run
                return
        started = time.time()
        earlier_s = run.before.get("wall_s", 0.0) + killed_s(folder, run.before)  # of sessions that this one continues
        remove_unfinished(folder)
        # What the run has been trained on, and how.
        kept = {key: run.before[key] for key in ("data", "effective_batch", "stack") if key in run.before}
        session = {"status": "running", "error": None, "started": _now(), "finished": None, "wall_s": earlier_s}
        run.save(schema=SCHEMA, **session, **kept, **facts)
        _append_to_ledger(run)
        end: dict[str, Any] = {}
        try:
            with exits_fail():
                yield run
        except BaseException as error:
            status = "interrupted" if is_interruption(error) else "failed"
            end = {"status": status, "error": {"class": classify(error), "message": str(error) or repr(error)}}
            raise
        finally:
            # All at once: a kill in between would leave a finished run without its end, and nobody opens it again.
            worked = {"wall_s": round(earlier_s + time.time() - started - run.others_s, 3)}
            run.save(**{"status": run.ends_as, **end, **worked}, finished=_now())
            _append_to_ledger(run)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run folder, or None if it has none.

    Raises:
        ValueError: the file is not a record.
    """
    file = folder / "record.json"
    if not file.exists():
        return None
    try:
        if not file.resolve().is_relative_to(folder.resolve()):  # the folder may be one where others write
            raise ValueError("a link that leads out of the folder")
        record: dict[str, Any] = json.loads(file.read_text())
        if not isinstance(record, dict) or "status" not in record:
            raise ValueError("no status")
    except ValueError as error:
        raise ValueError(f"{file}: not a run record ({error}). Remove the file or leave the folder out") from None
    return record


def sound_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run folder, or None if it has none; a damaged one is put aside, so that the run may go on.

    Only for whoever knows by other means which run the folder holds, and has the right to write there.
    """
    try:
        return read_record(folder)
    except ValueError as error:
        aside = folder / "record.json.damaged"
        (folder / "record.json").replace(aside)
        log.warning("%s. It is now %s, and the run is tried again", str(error).partition(". Remove")[0], aside.name)
        return None


def close_run(
    folder: Path, status: str, error: Mapping[str, str] | None, identity: Mapping[str, Any], facts: Mapping[str, Any]
) -> bool:
    """Writes how a run ended if its own process could not: it was killed, or failed before it reached the run.

    Args:
        folder: of the run; it exists.
        status: ``failed``, ``interrupted``, or ``pruned`` for one that is paused.
        error: class and message.
        identity: ``fingerprint``, and what a record without a run says about where it comes from.
        facts: for what the record does not have yet.

    Returns:
        Whether it was written: not if the run is completed, another one, or held by a live process.
    """
    run = Run(folder)
    try:
        with lock(folder, _LETS_GO_S):
            run.record = sound_record(folder) or {"schema": SCHEMA, "started": None, **identity}
            if run.is_completed or run.record.get("fingerprint") != identity["fingerprint"]:
                return False
            worked = {"wall_s": run.record.get("wall_s", 0.0) + killed_s(folder, run.record)}
            end = {"status": status, "error": error and dict(error), "finished": _now()}
            run.save(**{**facts, **run.record, **worked, **end})
            _append_to_ledger(run)
            return True
    except LockedError:
        return False


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config -> dotted keys; lists stay values.

    >>> flatten({"model": {"widths": [1, 2]}, "seed": 0})
    {'model.widths': [1, 2], 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def refuse_other_config(folder: Path, before: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Says which keys differ from those that a run was started with.

    Args:
        folder: of the run.
        before: its record.
        facts: ``fingerprint`` and ``config`` of what is to run there.

    Raises:
        ConfigError: the fingerprints differ.
    """
    if before.get("fingerprint") == facts["fingerprint"]:
        return
    old, new = flatten(before.get("config") or {}), flatten(facts["config"])
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    changes = ", ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys[:8])
    changes = changes or "the weights that init_from names have changed"
    raise ConfigError(
        f"{folder} holds a run of another config ({changes}). Choose another name=, or remove that folder to start over"
    )


def is_running(folder: Path) -> bool:
    """Whether a live process holds the lock of a run or a sweep."""
    if not (folder / ".lock").exists():
        return False
    try:
        with lock(folder):
            return False
    except LockedError:
        return True
    except OSError:  # on a medium that nobody can write
        return False


def refuse_links(folder: Path) -> None:
    """Refuses a folder, which may be one where others write, if links wait there for what is written in place.

    Raises:
        ConfigError: which link.
    """
    for name in (".lock", *_IN_PLACE):
        if (folder / name).is_symlink():
            raise ConfigError(
                f"{folder / name} is a link, which is not written through. Remove it, or choose another folder"
            )


@contextlib.contextmanager
def lock(folder: Path, wait_s: float = _LOOKS_S) -> Iterator[None]:
    """Keeps other processes from a run or a sweep; the kernel frees it when its owner dies.

    Args:
        folder: of the run or the sweep; it exists.
        wait_s: how long another process may keep it.

    Raises:
        LockedError: another live process has it.
    """
    deadline = time.monotonic() + wait_s
    refuse_links(folder)
    with open(os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644), "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"{folder} is being run by another process. Wait for it, or choose another name="
                    ) from None
                time.sleep(0.02)
        yield


def _append_to_ledger(run: Run) -> None:
    """One line for each change of a job's state, if the run belongs to a sweep."""
    if not run.record.get("sweep"):
        return
    line = {"time": _now(), "job": run.folder.name, "status": run.record["status"], "error": run.record["error"]}
    with (run.folder.parent / "ledger.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")  # one write below the pipe size: lines of parallel jobs do not mix


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
