"""One run in several processes on this machine: its ranks are our own children, and the run's process minds them.

    the run's process ── holds the lock, writes the record and log.txt, keeps the meeting point of the ranks
      ├─ rank 0 ── trains; sends what it logs and what it has for the record
      └─ rank 1 … ── train; each logs to a file of its own, log.rank1.txt

Lightning starts nothing: it finds its ranks in their environment. What it would start inside a Hydra app is the app's
own command line, and with it the sweep, again.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from segsweep.allocator import keep_memory_between_steps
from segsweep.run import Run, classify

Work = Callable[[Run, dict[str, Any]], None]
log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_IMPORTED = ["segsweep.train", "segsweep.task", "segsweep.callbacks", "segsweep.panels", "hydra.utils"]
_GRACE_S = 1.0  # in which the others may say that they failed earlier than the first one that was heard of
_LEAVE_S = 30.0  # for a rank to close its connections


class RankError(RuntimeError):
    """A rank has failed. ``kind`` is the error class in the record: the one that the rank's own error has."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Failure(NamedTuple):
    at: float  # seconds of the clock that all processes of this machine share; earlier causes later
    kind: str
    message: str


@dataclass(frozen=True)
class _Place:
    """What a rank has to know."""

    rank: int
    world_size: int
    port: int
    threads: int
    cwd: str
    environment: dict[str, str]
    folder: Path
    record: dict[str, Any]
    before: dict[str, Any]


class _Rank(NamedTuple):
    number: int
    process: Any
    connection: Connection


class RankRun(Run):
    """The run as its ranks see it: what rank zero saves is written by the process that started the ranks."""

    def __init__(self, place: _Place, send: Callable[[str, Any], None]) -> None:
        super().__init__(place.folder)
        self.record, self.before = place.record, place.before
        self._send = send if place.rank == 0 else None

    def save(self, **changes: Any) -> None:
        """Updates the record here and, from rank zero, in its file."""
        self.record.update(changes)
        if self._send is not None:
            self._send("save", changes)


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
        _Place(number, world_size, port, threads, os.getcwd(), dict(os.environ), run.folder, run.record, run.before)
        for number in range(world_size)
    ]
    with _started(work, plain, places) as ranks:
        _mind(ranks, run)
    del store  # it has served its clients until here


def _meeting_point() -> tuple[Any, int]:
    """Serves the store in which ranks find each other, on a port that is never free for anybody else, local only."""
    from torch.distributed import TCPStore

    listener = socket.create_server((_HOST, 0), backlog=128)
    port = listener.getsockname()[1]
    store = TCPStore(_HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    return store, port


@contextlib.contextmanager
def _started(work: Work, plain: dict[str, Any], places: list[_Place]) -> Iterator[list[_Rank]]:
    """The ranks, running; none of them is left afterwards, however this ends."""
    # Not forked from here: a child must not inherit a CUDA context, nor threads that are no more. The server that they
    # are forked from has imported what all of them need, which takes seconds, once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    ranks: list[_Rank] = []
    try:
        for place in places:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_rank, args=(work, plain, place, theirs), name=f"rank {place.rank}", daemon=True
            )
            process.start()
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
    failures: dict[int, _Failure] = {}
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


def _silent_death(rank: _Rank) -> _Failure:
    """Of a rank that could say nothing: always the cause of what others say."""
    rank.process.join(_LEAVE_S)
    code = rank.process.exitcode
    how = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with exit code {code}"
    return _Failure(0.0, "killed", f"the process ended {how}")


def _raise_first(failures: dict[int, _Failure], folder: Path) -> None:
    number = min(failures, key=lambda key: failures[key].at)
    failure = failures[number]
    where = f" (rank {number}, {log_name(number)})" if number or failure.at == 0 else ""
    raise RankError(failure.message + where, failure.kind)


def log_name(rank: int) -> str:
    """File in the run folder with what a rank says: of rank zero, what libraries write past the log alone."""
    return f"log.rank{rank}.txt"


def _handle(record: logging.LogRecord) -> None:
    """Logs here what rank zero has logged there."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class _Forward(logging.Handler):
    """Sends records of the log to the process that started the ranks."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record without objects that only this process knows."""
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
        self._send("log", record)


def _rank(work: Work, plain: dict[str, Any], place: _Place, connection: Connection) -> None:
    """Life of a rank."""
    _end_with_parent()
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock, contextlib.suppress(OSError):
            connection.send((kind, content))

    _settle_in(place, send)
    try:
        work(RankRun(place, send), plain)
    except BaseException as error:
        failure = _Failure(time.monotonic(), classify(error), str(error) or repr(error))
        if place.rank:
            logging.getLogger(__name__).exception("error: %s", error)
        else:
            log.debug("the traceback:", exc_info=True)
        send("failed", failure)
        connection.recv()  # ends with the process: others must not take a closed connection for a cause
    send("done", None)
    connection.recv()  # until all are done: a rank that leaves early is missed by those that still hold connections
    _leave()


def _settle_in(place: _Place, send: Callable[[str, Any], None]) -> None:
    """Environment, threads and log of a rank: the server that it was forked from has those of another time."""
    import torch
    from pytorch_lightning.utilities import rank_zero_only

    os.chdir(place.cwd)
    os.environ.clear()
    os.environ |= place.environment | {
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(place.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the meeting point is served already
        "WORLD_SIZE": str(place.world_size),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(place.rank),
        "RANK": str(place.rank),
        "OMP_NUM_THREADS": str(place.threads),
    }
    if "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # needs no host name that resolves
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; one answers it
    rank_zero_only.rank = place.rank
    torch.set_num_threads(place.threads)
    keep_memory_between_steps()
    with (place.folder / log_name(place.rank)).open("a") as file:
        for stream in (1, 2) if place.rank else (2,):  # torch and its libraries write past Python; 1 has the progress bar
            os.dup2(file.fileno(), stream)
    _log_to(_Forward(send) if place.rank == 0 else logging.StreamHandler(sys.stderr))


def _log_to(handler: logging.Handler) -> None:
    """Everything that is logged, and Python's warnings, goes to one handler."""
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):  # at import they found no log, and made theirs
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.getLogger("segsweep").setLevel(logging.DEBUG)
    logging.captureWarnings(True)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, whatever it is doing."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
