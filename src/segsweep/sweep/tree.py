"""The processes below a process: who they are, what memory they use, and their end. Linux only; empty elsewhere."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_WAIT_S = 3.0  # for a killed process to be gone; its memory is freed first


class Process(NamedTuple):
    """One process; its id alone may belong to another one later.

    Attributes:
        pid: its id.
        born: clock ticks between the start of the system and its own.
    """

    pid: int
    born: int


def descendants(pid: int) -> set[Process]:
    """Children, their children and so on."""
    children: dict[int, list[Process]] = {}
    for process, parent in _parents().items():
        children.setdefault(parent, []).append(process)
    found: set[Process] = set()
    waiting = [pid]
    while waiting:
        new = set(children.get(waiting.pop(), ())) - found
        found |= new
        waiting += [process.pid for process in new]
    return found


def identify(pid: int) -> Process | None:
    """The process that has an id now; None if there is none."""
    fields = _fields(pid)
    return Process(pid, int(fields[19])) if fields else None


def kill(processes: Iterable[Process]) -> None:
    """Ends those that still run, and waits a moment until they have let go of files and locks."""
    left = [process for process in processes if is_running(process)]
    for process in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + _WAIT_S
    while any(map(is_running, left)) and time.monotonic() < deadline:
        time.sleep(0.01)


def used_mb(pid: int) -> float:
    """Memory in MB (10^6 bytes) that a process and its descendants keep from others.

    Pages that processes share are divided between them. Pages of files, such as the decoded dataset, do not count: the
    system takes them back when it needs them. 0 where it cannot be known.
    """
    return sum(map(_used_kib, [pid, *(process.pid for process in descendants(pid))])) * 1024 / 1e6


def peak_mb(pid: int) -> float:
    """Largest resident memory of one process so far in MB, as the record of a run has it; 0 where unknown."""
    return _sum(_PROC / str(pid) / "status", ("VmHWM",)) * 1024 / 1e6


def _used_kib(pid: int) -> int:
    folder = _PROC / str(pid)
    shared_out = _sum(folder / "smaps_rollup", ("Pss_Anon", "Pss_Shmem"))  # Linux 5, and may be forbidden
    return shared_out or _sum(folder / "status", ("RssAnon", "RssShmem"))


def _sum(file: Path, keys: tuple[str, ...]) -> int:
    """The sum of some ``key: number kB`` lines; 0 for a process that is gone."""
    try:
        pairs = (line.partition(":") for line in file.read_text().splitlines())
        return sum(int(value.split()[0]) for key, _, value in pairs if key in keys)
    except (OSError, ValueError):
        return 0


def _parents() -> dict[Process, int]:
    """Every process -> its parent's id."""
    found = ((int(folder.name), _fields(int(folder.name))) for folder in _PROC.glob("[0-9]*"))
    return {Process(pid, int(fields[19])): int(fields[1]) for pid, fields in found if fields}


def is_running(process: Process) -> bool:
    """Whether it has not ended; one whose exit code nobody has read yet has."""
    fields = _fields(process.pid)
    return bool(fields) and int(fields[19]) == process.born and fields[0] != "Z"  # a zombie holds nothing


def _fields(pid: int) -> list[str]:
    """What ``/proc/<pid>/stat`` says after the name, from the state on; empty if the process is gone."""
    try:
        # The name stands in parentheses and may hold spaces and parentheses itself.
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
