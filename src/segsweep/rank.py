"""Life of a rank: one of the processes that train one run together."""

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from segsweep.allocator import keep_memory_between_steps
from segsweep.endings import classify, exits_fail
from segsweep.run import Run

Work = Callable[[Run, dict[str, Any]], None]
Send = Callable[[str, Any], None]
HOST = "127.0.0.1"
log = logging.getLogger(__name__)


class Failure(NamedTuple):
    """What a rank failed of.

    Attributes:
        at: seconds of the clock that all processes of this machine share: earlier is cause, later is effect.
        kind: error class in the record.
        message: of the error.
    """

    at: float
    kind: str
    message: str


@dataclass(frozen=True)
class Place:
    """What a rank has to know of itself.

    Attributes:
        rank: from 0.
        world_size: how many there are.
        port: of the store in which they find each other, on this machine.
        threads: that it may use.
        folder: of the run.
        record: so far.
        before: what it held when this session of the run began.
    """

    rank: int
    world_size: int
    port: int
    threads: int
    folder: Path
    record: dict[str, Any]
    before: dict[str, Any]

    def environment(self) -> dict[str, str]:
        """Variables in which torch and Lightning find the place of a process among the ranks."""
        found = {
            "MASTER_ADDR": HOST,
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is served already
            "WORLD_SIZE": str(self.world_size),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(self.rank),
            "RANK": str(self.rank),
            "OMP_NUM_THREADS": str(self.threads),
        }
        if "GLOO_SOCKET_IFNAME" not in os.environ and "lo" in (name for _, name in socket.if_nameindex()):
            found["GLOO_SOCKET_IFNAME"] = "lo"  # needs no host name that resolves
        return found


class RankRun(Run):
    """The run as its ranks see it: what rank zero saves is written by the process that started the ranks."""

    def __init__(self, place: Place, send: Send) -> None:
        super().__init__(place.folder)
        self.record, self.before = place.record, place.before
        self._send = send if place.rank == 0 else None

    def save(self, **changes: Any) -> None:
        """Updates the record here and, from rank zero, in its file."""
        self.record.update(changes)
        if self._send is not None:
            self._send("save", changes)


def log_name(rank: int) -> str:
    """File in the run folder with what a rank says: of rank zero, what libraries write past the log alone."""
    return f"log.rank{rank}.txt"


def live(work: Work, plain: dict[str, Any], place: Place, connection: Connection) -> None:
    """Does the work and says how it went; what it says is ``save``, ``log``, ``done`` or ``failed``, with a content."""
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock, contextlib.suppress(OSError):
            connection.send((kind, content))

    _settle_in(place, send)
    run = RankRun(place, send)
    try:
        with exits_fail():
            work(run, plain)
    except BaseException as error:
        failure = Failure(time.monotonic(), classify(error), str(error) or repr(error))
        if place.rank:
            log.exception("error: %s", error)
        else:
            log.debug("the traceback:", exc_info=True)  # the app says in one line what is wrong
        send("failed", failure)
        connection.recv()  # until it is ended: the others must not fail of a connection that is closed
    send("done", run.ends_as)
    connection.recv()  # until all are done: those that still hold connections would miss a rank that leaves early
    _leave()


class _Forward(logging.Handler):
    """Sends records of the log to the process that started the ranks."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record without objects that only this process knows."""
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
        self._send("log", record)


def _settle_in(place: Place, send: Send) -> None:
    """Threads and log of a rank: the server that it was forked from has those of another time."""
    import torch
    from pytorch_lightning.utilities import rank_zero_only

    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]
    torch.set_num_threads(place.threads)
    keep_memory_between_steps()
    with (place.folder / log_name(place.rank)).open("a") as file:
        for stream in (1, 2) if place.rank else (2,):  # of rank zero, 1 has the progress bar
            os.dup2(file.fileno(), stream)  # torch and its libraries write past Python
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


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
