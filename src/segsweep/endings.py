"""How a run ends, and what its record calls it. Standard library only."""

import contextlib
import errno
import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from segsweep.signals import Interrupted, behind

log = logging.getLogger(__name__)

_PROMPT_S = 60.0  # from the start of a session to its config.yaml, at the most


class ExitError(RuntimeError):
    """Code inside a run has called ``sys.exit``, which is a failure like any other."""

    kind = "exit"


def classify(error: BaseException) -> str:
    """The class of an error in a record: its own ``kind``, ``oom``, ``disk``, or the name of its type."""
    own = getattr(error, "kind", None)
    if own:
        return str(own)
    return "oom" if is_out_of_memory(error) else "disk" if is_disk_full(error) else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says, in one of the many ways there are, that memory did not suffice."""
    said = str(error).lower()
    ways = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
    return isinstance(error, MemoryError) or any(way in said for way in ways)


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no space left for a file, or for the user's files."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_advice(error: OSError, folder: Path) -> str | None:
    """What to do when a sweep cannot write; None if that is not what has happened.

    Args:
        error: that ended it.
        folder: of the sweep.
    """
    where = error.filename or folder
    if is_disk_full(error):
        return f"disk full: {where}. Free space; the same command continues"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{where}: {error.strerror}. Make it writable, or choose another place: hydra.sweep.dir=..."
    return None


@contextlib.contextmanager
def exits_fail() -> Iterator[None]:
    """A model that calls ``sys.exit(0)`` must not look like success, nor ``sys.exit(143)`` like SIGTERM.

    Nor must SIGTERM look like the error of a library that a signal has caught at its own cleaning up.

    Raises:
        ExitError: the block has called ``sys.exit``.
        Interrupted: a signal came, whatever was raised in its place.
    """
    try:
        yield
    except SystemExit as error:
        if is_interruption(error):
            raise
        raise ExitError(
            f"code inside the run has called sys.exit({error.code!r}), probably the model, the loss or a library. "
            f"Have it raise an exception instead; the log has the traceback"
        ) from error
    except Exception as error:
        if (signal := behind(error)) is not None:
            raise signal from error
        raise


def is_interruption(error: BaseException) -> bool:
    """Whether somebody has asked the run to stop, by a signal or by Ctrl-C."""
    # Lightning makes a SystemExit of a KeyboardInterrupt.
    return isinstance(error, Interrupted | KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    )


def killed_s(folder: Path, record: Mapping[str, Any]) -> float:
    """Seconds that a killed session has worked: nobody has written them down, but its files have times.

    Args:
        folder: of the run.
        record: as the session has left it; one that ended otherwise has the time in it.

    Returns:
        0 for a folder that was copied without its times, as ``cp -r`` does: nobody knows.
    """
    if record.get("status") != "running":
        return 0.0
    started = datetime.fromisoformat(record["started"]).timestamp()
    config = folder / "config.yaml"
    if config.exists() and config.stat().st_mtime > started + _PROMPT_S:
        log.info("%s was copied, and its files have the times of that: what a killed session took is not known", folder)
        return 0.0
    signs = [folder / "record.json", folder / "metrics.jsonl", *folder.glob("checkpoints/*")]
    last = max(file.stat().st_mtime for file in signs if file.exists())
    return round(max(0.0, last - started) / len((record.get("stack") or {}).get("seeds", [0])), 3)
