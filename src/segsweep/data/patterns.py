"""Paths with placeholders: which files of a folder are images, which are masks, and which belong together.

images: "Tile {tile}/images/{stem}.jpg"       {name}   a folder or file name, or a part of one
masks:  "Tile {tile}/masks/{stem}.png"        {name:d} a whole number: 007 and 7 are the same
*        anything within a name
.*       at the end: any image suffix, in small or capital letters
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from segsweep.data.problems import Problem

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy")
_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)(:d)?\}|(\.\*$)|(\*)")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # the last: bytes that are no UTF-8
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class File:
    """A file that a pattern matches.

    Attributes:
        path: as it is spelled on disk.
        name: path below the root, with slashes, in Unicode's composed form (NFC).
        values: what the placeholders stand for.
        size: bytes.
        mtime_ns: modification time.
    """

    path: Path
    name: str
    values: dict[str, str]
    size: int
    mtime_ns: int

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.name.rpartition(".")[0]


class Pattern:
    """A path below the root with placeholders; the module's docstring shows the syntax.

    Args:
        text: the pattern.
        key: of the config that holds it, for messages.

    Raises:
        ValueError: the path is empty, absolute or leaves the root, or a placeholder is not written like one.
    """

    def __init__(self, text: str, key: str = "the pattern") -> None:
        self.key = key
        if not text.strip("/ "):
            raise ValueError(f"{key} is empty; write a path below data.root, e.g. '{{stem}}.png'")
        if text.startswith(("/", "~")) or ".." in text.split("/") or "\\" in text:
            raise ValueError(f"{key} '{text}' leaves data.root; write a path below it, with forward slashes")
        if brace := re.search(r"\{[^{}/]*\}?|\}", _PLACEHOLDER.sub("", text)):
            raise ValueError(
                f"{key} '{text}': '{brace[0]}' is no placeholder; write {{name}}, or {{name:d}} for a number"
            )
        self.text = unicodedata.normalize("NFC", text)
        parts = self.text.split("/")
        self.depth = len(parts)
        fixed = next((i for i, part in enumerate(parts[:-1]) if _PLACEHOLDER.search(part)), len(parts) - 1)
        self.folder = "/".join(parts[:fixed])  # below which the files lie
        self.names = [match[1] for match in _PLACEHOLDER.finditer(self.text) if match[1]]
        self.num_literal = len(_PLACEHOLDER.sub("", self.text))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        seen: set[str] = set()

        def translate(match: re.Match[str]) -> str:
            name, is_number, any_suffix, _ = match.groups()
            if any_suffix:
                return r"\.(?i:" + "|".join(suffix[1:] for suffix in SUFFIXES) + ")"
            if not name:
                return "[^/]*"
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return f"(?P<{name}>{'[0-9]+' if is_number else '[^/]+?'})"

        pieces, end = [], 0
        for match in _PLACEHOLDER.finditer(self.text):
            pieces += [re.escape(self.text[end : match.start()]), translate(match)]
            end = match.end()
        return re.compile("".join(pieces) + re.escape(self.text[end:]))

    def match(self, name: str) -> dict[str, str] | None:
        """What the placeholders stand for in this path, or None if it does not fit.

        >>> Pattern("{video}_{frame:d}.*").match("0001TP_006690.PNG")
        {'video': '0001TP', 'frame': '6690'}
        """
        match = self._regex.fullmatch(name)
        if match is None:
            return None
        numbers = {m[1] for m in _PLACEHOLDER.finditer(self.text) if m[2]}
        return {k: str(int(v)) if k in numbers else v for k, v in match.groupdict().items()}

    def example(self, values: dict[str, str]) -> str:
        """The path that these values would give, for messages."""
        return _PLACEHOLDER.sub(lambda m: values.get(m[1], f"{{{m[1]}}}") if m[1] else m[0], self.text)


@dataclass
class Tree:
    """The files below a root, walked on demand and once.

    Attributes:
        root: of the dataset.
        follow_links: whether links may lead out of the root.
        exclude: names of files, with or without suffix, that may be anything, because they are left out.
        problems: links and names that were refused.
        num_ignored: files that are never data, such as ``.DS_Store``.
    """

    root: Path
    follow_links: bool
    exclude: Sequence[str] = ()
    problems: list[Problem] = field(default_factory=list)
    num_ignored: int = 0
    _walked: dict[tuple[str, int], list[tuple[Path, str]]] = field(default_factory=dict)

    def find(self, pattern: Pattern) -> list[File]:
        """All files that match, sorted by name; what cannot be told apart elsewhere becomes a problem."""
        key = (pattern.folder, pattern.depth)
        if key not in self._walked:
            depth = pattern.depth - (pattern.folder.count("/") + 1 if pattern.folder else 0)
            folder = self._enter(pattern.folder)
            self._walked[key] = list(self._walk(folder, depth)) if folder else []
        found = []
        for path, name in self._walked[key]:
            values = pattern.match(name)
            if values is not None and (file := self._file(path, name, values)):
                found.append(file)
        found.sort(key=lambda file: file.name)
        self._refuse_clashes(found)
        return found

    def _enter(self, folder: str) -> Path | None:
        """The folder below the root, however its letters are composed on disk; None if a link to it is refused."""
        path = self.root
        for part in filter(None, folder.split("/")):
            spellings = [path / unicodedata.normalize(form, part) for form in ("NFC", "NFD")]
            path = next((option for option in spellings if os.path.lexists(option)), spellings[0])
            if path.is_symlink() and not self._is_link_allowed(path):
                return None
        return path

    def is_excluded(self, name: str) -> bool:
        """Whether a file is to be left out."""
        return name in self.exclude or name.rpartition(".")[0] in self.exclude

    def _walk(self, folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._problem(
                "E-READ", folder, f"cannot be listed ({error.strerror})", "Give yourself the right to read it"
            )
            return
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                self.num_ignored += 1
            elif self._is_folder(entry):
                if depth > 1 and (not entry.is_symlink() or self._is_link_allowed(path)):
                    yield from self._walk(path, depth - 1)
            elif depth == 1:
                yield path, unicodedata.normalize("NFC", path.relative_to(self.root).as_posix())

    def _is_folder(self, entry: "os.DirEntry[str]") -> bool:
        try:
            return entry.is_dir()
        except OSError:  # a link that leads to itself is met again, and named, where a pattern wants it
            return False

    def _file(self, path: Path, name: str, values: dict[str, str]) -> File | None:
        if self.is_excluded(name):
            return File(path, name, values, 0, 0)
        if _UNUSABLE.search(name):
            what = "has a line break, a control character or bytes that are no UTF-8 in its name"
            self._problem("E-NAME", path, what, "Rename the file")
            return None
        if path.is_symlink() and not self._is_link_allowed(path):
            return None
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            self._problem("E-READ", path, "is no regular file", "Remove it or list it in data.exclude")
            return None
        return File(path, name, values, status.st_size, status.st_mtime_ns)

    def _is_link_allowed(self, path: Path) -> bool:
        try:
            target = path.resolve(strict=True)
        except OSError:
            self._problem("E-LINK", path, "is a link that leads nowhere or to itself", "Remove it or mend the link")
            return False
        except RuntimeError:  # Python 3.11 and 3.12 say a loop in this way
            self._problem("E-LINK", path, "is a link that leads to itself", "Remove it or mend the link")
            return False
        if self.follow_links or target.is_relative_to(self.root.resolve()):
            return True
        self._problem(
            "E-LINK", path, "is a link that leads out of data.root", "Set data.follow_links=true if that is meant"
        )
        return False

    def _refuse_clashes(self, files: list[File]) -> None:
        """Names that another file system, or another spelling of the same letters, would make one."""
        seen: dict[str, File] = {}
        for file in files:
            if self.is_excluded(file.name):
                continue
            other = seen.setdefault(file.name.casefold(), file)
            if other is file:
                continue
            if other.name == file.name:
                what = f"and {other.path.name!a} spell one name in two ways of Unicode"
            else:
                what = f"and {other.name} differ only in capital letters"
            self._problem("E-NAME", file.path, what, "Rename one of them")

    def _problem(self, code: str, path: Path, what: str, fix: str) -> None:
        name = path.relative_to(self.root).as_posix()
        shown = name if name.isprintable() else ascii(name)
        problem = Problem(code, shown, what, fix)
        if str(problem) not in map(str, self.problems):
            self.problems.append(problem)
