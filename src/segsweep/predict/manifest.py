"""``predictions.jsonl``: what a folder of predictions holds, so that a job that was killed continues where it stopped.

The first line says which runs, weights and options the folder belongs to; each further one stands for an image, or a
page of one, whose files are all there. A line is appended when the files are whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from segsweep.contained import read_bytes
from segsweep.files import UNFINISHED, write_atomic
from segsweep.images.reading import MOST_PAGES
from segsweep.report.printable import printable
from segsweep.run import ConfigError, LockedError, lock

FILE = "predictions.jsonl"
SCHEMA = 1
_MOST = 1 << 30  # bytes
_MOST_SIDE = 1 << 31  # pixels
Line = dict[str, Any]


class Manifest:
    """The open manifest of a folder, which nobody else writes meanwhile; a context manager.

    Args:
        folder: of the predictions; made if it is not there.
        belongs_to: what has to be equal for a folder to be continued: ``runs``, ``weights`` and ``options``.

    Raises:
        ConfigError: another process writes there, the folder holds something else, or predictions of other runs or
            options; raised on entering.
    """

    def __init__(self, folder: Path, belongs_to: Mapping[str, Any]) -> None:
        self.folder, self.belongs_to = folder, json.loads(json.dumps(belongs_to))
        self.lines: dict[tuple[str, int | None], Line] = {}
        self._last: dict[str, Line] = {}  # of each image

    def __enter__(self) -> Manifest:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_foreign()  # before a lock is left there
        self._lock = lock(self.folder)
        try:
            self._lock.__enter__()
        except LockedError:
            raise ConfigError(
                f"{self.folder} is being written by another segsweep-predict. Wait for it, or choose another --out"
            ) from None
        try:
            self._open()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.__exit__(kind, error, trace)

    def _open(self) -> None:
        path = self.folder / FILE
        if not path.exists():
            head = {"schema": SCHEMA, **self.belongs_to}
            write_atomic(path, (json.dumps(head) + "\n").encode())
        self._read(path)
        self._file = path.open("a", encoding="ascii")

    def _refuse_foreign(self) -> None:
        for name in (FILE, ".lock"):
            if (self.folder / name).is_symlink():  # it would be written through
                raise ConfigError(f"{self.folder / name} is a link. Remove it, or choose another --out")
        others = sorted(set(os.listdir(self.folder)) - {".lock"})
        if others and FILE not in others and any(not name.endswith(UNFINISHED) for name in others):
            raise ConfigError(
                f"{self.folder} holds other files ({printable(others[0])}) and no {FILE}. Choose a new folder with "
                "--out, so that nothing is overwritten"
            )

    def _read(self, path: Path) -> None:
        data = read_bytes(self.folder, FILE, _MOST)
        if not data.endswith(b"\n"):  # of a process that was killed in the middle of a line
            data = data[: data.rfind(b"\n") + 1]
            write_atomic(path, data)
        for number, text in enumerate(data.splitlines(), start=1):
            try:
                line = json.loads(text)
                if number > 1:
                    self._take(_checked(line))
                elif not isinstance(line, dict) or line.get("schema") != SCHEMA:
                    raise ValueError("not written by this version")
                else:
                    self._compare(line)
            except ConfigError:
                raise
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                detail = printable(str(error))[:100]
                raise ConfigError(
                    f"{path}: line {number} is damaged ({detail}). Remove that line, or choose another --out"
                ) from None

    def _compare(self, head: Mapping[str, Any]) -> None:
        if head.get("weights") != self.belongs_to["weights"]:
            runs = ", ".join(map(str, head.get("runs") or ["?"]))
            raise ConfigError(
                f"{self.folder} holds predictions of another run ({printable(runs)[:200]}). Choose another --out"
            )
        old, new = head.get("options") or {}, self.belongs_to["options"]
        changes = [
            f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
        ]
        if changes:
            raise ConfigError(
                f"{self.folder} holds predictions with other options ({printable('; '.join(changes))[:300]}). Choose "
                "another --out, or the same options"
            )

    def bases(self) -> dict[str, str]:
        """Identity of each image -> base of its files' names."""
        return {key: str(line["base"]) for key, line in self._last.items()}

    def finished(self, key: str, page: int | None, digest: str) -> Line | None:
        """The line of an image, if it has not changed since and its files are there."""
        line = self.lines.get((key, page))
        if line is None or line["sha256"] != digest:
            return None
        files = [self.folder / file for file in line["files"].values()]
        return line if all(file.is_file() and not file.is_symlink() for file in files) else None

    def append(self, line: Line) -> None:
        """Says that the files of an image are whole."""
        self._take(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _take(self, line: Line) -> None:
        self.lines[line["input"], line["page"]] = self._last[line["input"]] = line


def _checked(line: Line) -> Line:
    """Refuses a line that would lead out of the folder or size any work, or that is none of ours."""
    for name in (line["base"], *line["files"].values()):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ValueError("it names a file outside of the folder")
    for key in ("size", "seen"):
        height, width = line[key]
        if not (_is_whole(height, 1, _MOST_SIDE) and _is_whole(width, 1, _MOST_SIDE)):
            raise ValueError(f"{key} is no size")
    page, pages = line["page"], line["pages"]
    if not _is_whole(pages, 1, MOST_PAGES):
        raise ValueError("pages is no number of pages")
    if not (page is None if pages == 1 else _is_whole(page, 0, pages - 1)):
        raise ValueError(f"page is none of {pages}")
    if not isinstance(line["sha256"], str) or not isinstance(line["input"], str):
        raise ValueError("it is not whole")
    return line


def _is_whole(value: object, least: int, most: int) -> bool:
    """Whether it is a whole number in these bounds; true and false are none."""
    return type(value) is int and least <= value <= most
