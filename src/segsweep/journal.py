"""The file in which a search writes down its trials, as Optuna's Journal storage wants it. Standard library only.

One JSON object a line. Processes of one search, on other machines too, append side by side; a process that is killed
while it writes leaves a torn line behind, which is cut off before the next one is written.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "study.journal"  # in the folder of the search
ABOUT = "search"  # attribute of the study that says what is searched, and how
_SET_STUDY_ATTRIBUTE = 2  # Optuna's number for that operation
# What the entries of Optuna's operations have beside op_code and worker_id, as its JournalStorage reads them.
_FIELDS: dict[int, dict[str, type | tuple[type, ...]]] = {
    0: {"study_name": str, "directions": list},
    1: {"study_id": int},
    2: {"study_id": int, "user_attr": dict},
    3: {"study_id": int, "system_attr": dict},
    4: {"study_id": int},
    5: {"trial_id": int, "param_name": str, "param_value_internal": (int, float), "distribution": str},
    6: {"trial_id": int, "state": int, "values": (list, type(None))},
    7: {"trial_id": int, "step": int, "intermediate_value": (int, float, type(None))},
    8: {"trial_id": int, "user_attr": dict},
    9: {"trial_id": int, "system_attr": dict},
}


class Journal:
    """A backend for ``optuna.storages.JournalStorage``.

    Optuna's own fails for ever on a file whose last line is torn, and waits half a minute for the lock of a process
    that was killed; the kernel frees this one's.

    Args:
        file: of the search; made by the first line that is written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offsets = [0]  # in bytes, of each line that was read, and of the end

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yields what whole lines hold, from a line number on; a line that is being written is not there yet.

        Raises:
            ValueError: a line inside the file is damaged.
        """
        first = min(log_number_from, len(self._offsets) - 1)
        del self._offsets[first + 1 :]
        for number, line in enumerate(_lines(self.file, self._offsets[first]), start=first):
            self._offsets.append(self._offsets[-1] + len(line))
            if number < log_number_from:
                continue
            try:
                entry = json.loads(line)
                if not _is_entry(entry):
                    raise ValueError
            except ValueError:
                raise ValueError(
                    f"{self.file}: line {number + 1} is damaged. Remove it and all below: what the trials wrote into "
                    "their own folders is found again"
                ) from None
            yield entry

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Writes lines that are on the disk when this returns."""
        text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs)
        with self.file.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # freed with the file, or with the process
            _cut_torn_line(file.fileno())
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def about(file: Path) -> dict[str, Any] | None:
    """What a search has last written about itself, without importing Optuna; None if there is no search.

    Raises:
        ValueError: the file is damaged.
    """
    found: dict[str, Any] | None = None
    for entry in Journal(file).read_logs(0):
        if entry.get("op_code") == _SET_STUDY_ATTRIBUTE and ABOUT in entry["user_attr"]:
            found = entry["user_attr"][ABOUT]
    return found


def _is_entry(entry: object) -> bool:
    """Whether Optuna can read it; operations that are not known here are its own affair."""
    if not isinstance(entry, dict) or not isinstance(entry.get("op_code"), int) or "worker_id" not in entry:
        return False
    return all(key in entry and isinstance(entry[key], kind) for key, kind in _FIELDS.get(entry["op_code"], {}).items())


def _lines(file: Path, offset: int) -> Iterator[bytes]:
    try:
        with file.open("rb") as source:
            source.seek(offset)
            yield from (line for line in source if line.endswith(b"\n"))
    except FileNotFoundError:
        return


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return
    end = os.pread(handle, size, 0).rfind(b"\n") + 1
    os.ftruncate(handle, end)
