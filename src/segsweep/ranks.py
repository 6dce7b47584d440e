"""One run in several processes on this machine: its ranks are our own children, and the run's process minds them.

    the run's process ── holds the lock, writes the record and log.txt, keeps the meeting point of the ranks
      ├─ rank 0 ── trains; sends what it logs and what it has for the record
      └─ rank 1 … ── train; each logs to a file of its own, log.rank1.txt

Lightning starts nothing: it finds its ranks in their environment. What it would start inside a Hydra app is the app's
own command line, and with it the sweep, again.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from segsweep.rank import HOST, Failure, Place, Work, live, log_name
from segsweep.run import Run
from segsweep.sweep import processes

_GRACE_S = 1.0  # in which the others may say that they failed earlier than the first one that was heard of
_LEAVE_S = 30.0  # for a rank to close its connections


class RankError(RuntimeError):
    """A rank has failed. ``kind`` is the error class in the record: the one that the rank's own error has."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Rank(NamedTuple):
    number: int
    process: Any
    connection: Connection


def share(work: Work, run: Run, plain: dict[str, Any], world_size: int) -> None:
    """Has several processes do the work of one run, and waits for them.

    Args:
        work: a function of a module, called in each rank with the run and the config. In it Lightning finds a process
            group of ``world_size`` ranks.
        run: open, in this process.
        plain: settled config.
        world_size: number of ranks.

    Raises:
        RankError: a rank has failed, and the others were ended.
    """
    import torch

    store, port = _meeting_point()
    threads = max(1, torch.get_num_threads() // world_size)
    places = [
        Place(number, world_size, port, threads, run.folder, run.record, run.before) for number in range(world_size)
    ]
    with _started(work, plain, places) as ranks:
        _mind(ranks, run)
    del store  # it has served its clients until here


def _meeting_point() -> tuple[Any, int]:
    """Serves the store in which ranks find each other, on a port that is never free for anybody else, local only."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    listener = socket.create_server((HOST, 0), backlog=128)
    port = listener.getsockname()[1]
    store = TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    return store, port


@contextlib.contextmanager
def _started(work: Work, plain: dict[str, Any], places: list[Place]) -> Iterator[list[_Rank]]:
    """The ranks, running; none of them is left afterwards, however this ends."""
    ranks: list[_Rank] = []
    try:
        for place in places:
            ours, theirs = Pipe()
            # Not forked from here: a child must not inherit a CUDA context, nor threads that are no more.
            process = processes.start(live, work, plain, place, theirs, environment=place.environment())
            theirs.close()
            ranks.append(_Rank(place.rank, process, ours))
        yield ranks
    finally:
        for rank in ranks:  # what they write is whole or not there, so nothing is lost by ending them at once
            rank.process.kill()
        for rank in ranks:
            rank.process.join()
            rank.connection.close()


def _mind(ranks: list[_Rank], run: Run) -> None:
    """Does what ranks ask for until all are done, or raises what the first of them failed of."""
    failures: dict[int, Failure] = {}
    done: set[int] = set()
    open_ones = {rank.connection for rank in ranks}
    deadline: float | None = None
    while len(done) < len(ranks) and open_ones:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        ready = wait(list(open_ones), left)
        for rank in [rank for rank in ranks if rank.connection in ready]:
            try:
                kind, content = rank.connection.recv()
            except (EOFError, OSError):
                open_ones.remove(rank.connection)
                if rank.number not in failures:
                    failures[rank.number] = _silent_death(rank)
                continue
            if kind == "save":
                run.save(**content)
            elif kind == "log":
                _handle(content)
            elif kind == "done":
                done.add(rank.number)
                run.ends_as = content
            else:
                failures[rank.number] = content
        if len(failures) + len(done) == len(ranks):
            break
        if failures and deadline is None:
            deadline = time.monotonic() + _GRACE_S
    if failures:
        _raise_first(failures, run.folder)
    for rank in ranks:
        rank.connection.send("end")
    for rank in ranks:
        rank.process.join(_LEAVE_S)


def _silent_death(rank: _Rank) -> Failure:
    """Of a rank that could say nothing: always the cause of what others say."""
    rank.process.join(_LEAVE_S)
    return Failure(0.0, "killed", f"the process {processes.how_it_ended(rank.process.exitcode)}")


def _raise_first(failures: dict[int, Failure], folder: Path) -> None:
    number = min(failures, key=lambda key: failures[key].at)
    failure = failures[number]
    where = f" (rank {number}, {log_name(number)})" if number or failure.at == 0 else ""
    raise RankError(failure.message + where, failure.kind)


def _handle(record: logging.LogRecord) -> None:
    """Logs here what rank zero has logged there."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
