"""What a job's own process does before and after the job."""

import faulthandler
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from segsweep.allocator import keep_memory_between_steps
from segsweep.endings import classify
from segsweep.sweep.job import Job

LOG_FILE = "log.txt"


def run(target: Callable[[Job], None], job: Job, threads: int, report: Connection) -> None:
    """Runs a job in this process.

    Args:
        target: runs the job; it leaves the result in the record of the job's folder.
        job: to run.
        threads: of the CPU for it.
        report: where class and message of an exception go, in case that no record has them.
    """
    _write_to(job.folder / LOG_FILE)
    keep_memory_between_steps()  # before torch starts threads
    _limit_threads(threads)
    try:
        target(job)
    except SystemExit as error:
        report.send(("exit", f"ended itself with exit code {error.code}"))
        raise
    except BaseException as error:
        report.send((classify(error), str(error) or repr(error)))
        if not getattr(error, "is_reported", False):  # the run has logged it already
            traceback.print_exc()
        sys.exit(1)


def _write_to(file: Path) -> None:
    """Sends everything that this process and those below it print to a file, what C code prints as it crashes, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    # The streams that the server made may have another encoding, or no file at all.
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(file=2)


def _limit_threads(threads: int) -> None:
    """Libraries that are imported already have read the environment of the server."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if (pools := thread_pools()) is not None:
        pools.limit(limits=threads)


@cache
def thread_pools() -> Any:
    """The libraries that have threads, numpy's and scipy's; the server finds them once for all jobs.

    None without threadpoolctl, which comes with scikit-learn.
    """
    return sys.modules["threadpoolctl"].ThreadpoolController() if "threadpoolctl" in sys.modules else None
