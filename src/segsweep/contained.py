"""Reads files of a run folder that may be a stranger's: no links out of it, no devices, no file of any size."""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from segsweep.run import ConfigError

_MOST_JSON = 32 << 20  # bytes; a record of 150 classes has a hundredth of it
_MOST_DEPTH = 32
_MOST_DIGITS = 20


def read_bytes(folder: Path, name: str, most: int, shown: str = "") -> bytes:
    """Reads a file of a folder.

    Args:
        folder: as the user named it; it may be a link itself.
        name: of the file, relative to the folder; from the program, never from a file.
        most: bytes above which it is refused unread.
        shown: its name in messages; otherwise its path.

    Raises:
        ConfigError: it is not there, not a plain file, outside the folder, or too large.
    """
    shown = shown or os.path.relpath(folder / name)
    with _open(folder, name, shown) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ConfigError(f"{shown} has {size:,} bytes; more than {most:,} are no file of a run")
        return file.read(size)


def read_start(folder: Path, name: str, num: int, shown: str = "") -> tuple[bytes, int]:
    """The first ``num`` bytes of a file of a folder, and how many it has; otherwise as ``read_bytes``."""
    with _open(folder, name, shown or os.path.relpath(folder / name)) as file:
        return file.read(num), os.fstat(file.fileno()).st_size


def read_json(folder: Path, name: str, shown: str = "") -> dict[str, Any]:
    """Reads a file that holds a JSON object of plain values; arguments and errors as in ``read_bytes``."""
    shown = shown or os.path.relpath(folder / name)
    data = read_bytes(folder, name, _MOST_JSON, shown)
    try:
        content = json.loads(data, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{shown} is no JSON ({error}). The run is damaged: get it again, or run it again") from None
    if not isinstance(content, dict) or _depth(content) > _MOST_DEPTH:
        raise ConfigError(f"{shown} does not hold what a run writes there: another program wrote it")
    return content


def _open(folder: Path, name: str, shown: str) -> BinaryIO:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{shown} is a link that leads out of its folder. Copy the file itself into the folder")
    try:
        # Not blocking: a named pipe would wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigError(
            f"{shown} does not exist. Give the folder of a finished run, e.g. outputs/runs/<name> or "
            "outputs/sweeps/<name>/<job>"
        ) from None
    except OSError as error:
        raise ConfigError(f"{shown} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ConfigError(f"{shown} is not a plain file. A run folder holds nothing else: get it again")
    return open(handle, "rb")


def _whole(digits: str) -> int:
    """A whole number that floating-point numbers can be compared with; nothing that a run counts has more digits."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _depth(value: Any) -> int:
    """How deep containers lie in each other; no recursion, because the text is a stranger's."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [child for v in level for child in (v.values() if isinstance(v, dict) else v)]
    return depth
