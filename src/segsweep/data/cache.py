"""The folder of decoded datasets: where it lies, who may write into it, and how it is emptied."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from segsweep.data.problems import DataError, Problem

UNDONE = ".decoding-"  # begins the name of a folder that is being written; the entry's name comes next
_OURS = re.compile(rf"(?:{re.escape(UNDONE)})?([0-9a-f]{{20}})(?:\.lock|-.*)?")  # entries and what goes with them
_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_root() -> Path:
    """``$SEGSWEEP_CACHE``, else ``segsweep`` in the user's XDG cache folder."""
    if root := os.environ.get("SEGSWEEP_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segsweep"


def clear_cache() -> int:
    """Removes every entry that no process is building, and nothing else that lies there; returns the bytes freed.

    Raises:
        DataError: the folder cannot be written.
    """
    freed = 0
    try:
        names = os.listdir(cache_root()) if cache_root().is_dir() else []
        for entry in sorted({match[1] for name in names if (match := _OURS.fullmatch(name))}):
            with contextlib.suppress(BlockingIOError), _lock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB):
                freed += sum(_remove(folder) for folder in [cache_root() / entry, *_undone(entry)])
    except OSError as error:
        raise _unwritable(error) from None
    return freed


@contextlib.contextmanager
def alone(entry: str) -> Iterator[None]:
    """Waits until no other process builds this entry, and removes what one that was killed has left of it.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        lock = _lock(entry, fcntl.LOCK_EX)
    except OSError as error:
        raise _unwritable(error) from None
    with lock:
        for folder in _undone(entry):  # whoever was writing it would still hold the lock
            _remove(folder)
        try:
            yield
        except OSError as error:  # what a source cannot read is none of ours
            if error.errno in _FULL or str(error.filename).startswith(str(cache_root())):
                raise _unwritable(error) from None
            raise


def _undone(entry: str) -> list[Path]:
    return list(cache_root().glob(f"{UNDONE}{entry}-*"))


def _remove(folder: Path) -> int:
    size = sum(file.stat().st_size for file in folder.glob("*"))
    if folder.is_dir():
        shutil.rmtree(folder)
    return size


def _lock(entry: str, how: int) -> IO[str]:
    """The lock of an entry, held until it is closed; the kernel lets go of it if this process dies."""
    file = (cache_root() / f"{entry}.lock").open("a")  # "w" would empty a file of somebody else's
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file


def _unwritable(error: OSError) -> DataError:
    what = f"cannot be written ({error.strerror})"
    fix = "Point the environment variable SEGSWEEP_CACHE to a folder with space that you may write"
    return DataError([Problem("E-CACHE", f"the cache folder {cache_root()}", what, fix)])
