"""Files that are whole or not there, and that say when they are damaged."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from segsweep.signals import shielded

UNFINISHED = ".unfinished"  # ends the name of a file that is being written


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Writes a file that is whole or not there, whatever happens meanwhile; SIGTERM and SIGINT wait for it."""
    with shielded():
        _write(path, data)


def _write(path: Path, data: bytes | memoryview) -> None:
    try:
        _write_beside(path, data)
    except OSError as error:  # of a full disk: the system does not say which file it was
        error.filename = str(path)
        raise


def _write_beside(path: Path, data: bytes | memoryview) -> None:
    with growing(path) as file:
        file.write(data)


@contextlib.contextmanager
def growing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write that appears, whole, when the block is done; without a trace if an exception ends it."""
    # In the same folder: a rename across file systems would be a copy.
    handle, temporary = tempfile.mkstemp(UNFINISHED, f".{path.name}-", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process was writing in a folder and those below it; nobody else may be writing there."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_hashed(path: Path, data: bytes | memoryview) -> None:
    """Writes a file atomically with its SHA-256 beside it, in ``<name>.sha256``."""
    digest = hashlib.sha256(data).hexdigest()
    with shielded():
        # The digest first: a kill in between leaves a pair that does not match, never a good file without a digest.
        write_atomic(path.with_name(path.name + ".sha256"), digest.encode())
        write_atomic(path, data)


def read_hashed(path: Path) -> bytes:
    """Reads a file that ``write_hashed`` wrote.

    Raises:
        ValueError: the content is not what was written.
    """
    data = path.read_bytes()
    digest = path.with_name(path.name + ".sha256")
    if not digest.exists() or digest.read_text().strip() != hashlib.sha256(data).hexdigest():
        raise ValueError(f"{path}: damaged (its SHA-256 is not the one that was written beside it)")
    return data


def remove_hashed(path: Path) -> None:
    """Removes a file and its digest."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".sha256").unlink(missing_ok=True)
