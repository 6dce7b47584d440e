"""Goes through a list of images: skips what is there, segments the rest in batches, and says what could not be."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from segsweep.data.problems import Problem
from segsweep.data.source import Pixels
from segsweep.files import remove_unfinished
from segsweep.images.inputs import Input, page_name
from segsweep.inference import Answer
from segsweep.predict.georeference import Georeference, read_georeference
from segsweep.predict.manifest import Line, Manifest
from segsweep.predict.names import give_names
from segsweep.predict.predictor import Predictor, shares
from segsweep.predict.writing import Writer
from segsweep.report.printable import printable

_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no image after this one would fare better
_HELD_PIXELS = 16_000_000  # of images that wait for their batch to be full


@dataclass
class Page:
    """An image, or one page of several in a file.

    Attributes:
        input: the file.
        key: what it is known by in the manifest.
        page: of several, else None.
        pages: how many the file has.
        digest: SHA-256 of the file.
        done: its line in the manifest, if its files are there.
        size: (H, W) of the image.
        seen: (h, w) that the models see.
    """

    input: Input
    key: str
    page: int | None
    pages: int
    digest: str
    done: Line | None
    size: tuple[int, int] = (0, 0)
    seen: tuple[int, int] = (0, 0)
    image: Pixels | None = None  # kept for the overlay
    decoded: Pixels | None = None
    place: Georeference | None = None

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return self.input.shown_page(self.page)


class Job:
    """Predicts images into a folder.

    What is segmented together does not depend on what is there already: a batch that is partly there is segmented
    whole, so that a job that was killed ends with the very same files.

    Args:
        predictor: what segments.
        manifest: open, of the folder.
        writer: into the same folder.
        keeps_places: whether georeferences are kept.
        say: takes a line for each image that could not be predicted.

    Attributes:
        num_written: images, or pages, predicted by this job.
        num_there: that were there before.
        num_failed: that could not be predicted.
    """

    def __init__(
        self, predictor: Predictor, manifest: Manifest, writer: Writer, keeps_places: bool, say: Callable[[str], None]
    ) -> None:
        self.predictor, self.manifest, self.writer = predictor, manifest, writer
        self.keeps_places, self._say = keeps_places, say
        self.num_written = self.num_there = self.num_failed = 0
        self._group: list[Page] = []
        self._bases: dict[str, str] = {}

    def run(self, inputs: Sequence[Input]) -> Iterator[None]:
        """Predicts what is not there yet; yields once for each input."""
        keyed = {self._key(image): image for image in inputs}
        self._bases = give_names(keyed, self.manifest.bases())
        remove_unfinished(self.manifest.folder)
        for key, image in keyed.items():
            for page in self._pages(key, image):
                self._take(page)
            yield
        self._finish()

    def _key(self, image: Input) -> str:
        """Where the file lies, seen from the folder: both may move together."""
        return Path(os.path.relpath(image.path, self.manifest.folder)).as_posix()

    def _pages(self, key: str, image: Input) -> Iterator[Page]:
        try:
            digest = _digest(image.path)
            # Counted anew, whatever the manifest says: it would size the work.
            numbers = self.predictor.reading.pages(image.path, image.shown)
        except (Problem, OSError) as error:
            self._failed(error, image.shown)
            return
        for i in numbers:
            yield Page(image, key, i, len(numbers), digest, self.manifest.finished(key, i, digest))

    def _take(self, page: Page) -> None:
        """Puts a page into the batch, and segments the batch when nothing more goes into it."""
        try:
            if page.done:
                page.size, page.seen = (tuple(page.done[key]) for key in ("size", "seen"))
            else:
                self._open(page)
        except (ValueError, OSError) as error:
            self._failed(error, page.shown)
            return
        group, pixels = self._group, page.size[0] * page.size[1]
        held = sum(other.size[0] * other.size[1] for other in group)
        if group and (group[0].seen != page.seen or held + pixels > _HELD_PIXELS):
            self._finish()
            held = 0
        self._group.append(page)
        if len(self._group) >= self.predictor.ensemble.batch_size(page.seen) or held + pixels > _HELD_PIXELS:
            self._finish()

    def _open(self, page: Page) -> None:
        image, turned = self.predictor.reading.file(page.input.path, page.shown, page.page)
        page.size = (image.shape[0], image.shape[1])
        page.decoded = self.predictor.ensemble.decoded(image)
        page.seen = (page.decoded.shape[0], page.decoded.shape[1])
        if "overlay" in self.writer.kinds:
            page.image = image
        if self.keeps_places and turned == 1 and page.page is None:
            page.place = read_georeference(page.input.path)

    def _finish(self) -> None:
        """Segments the batch and writes what is missing of it."""
        group, self._group = self._group, []
        missing = [page for page in group if not page.done]
        self.num_there += len(group) - len(missing)
        if not missing:
            return
        start = time.perf_counter()
        try:
            for page in group:
                if page.decoded is None:
                    self._open(page)
            decoded = [page.decoded for page in group if page.decoded is not None]
            answers = self.predictor.ensemble.answers(decoded, [page.size for page in group])
        except (RuntimeError, ValueError, OSError) as error:
            for page in missing:
                self._failed(error, page.shown)
            return
        for page, answer in zip(group, answers, strict=True):
            if not page.done:
                self._write(page, answer, start)
                start = time.perf_counter()

    def _write(self, page: Page, answer: Answer, start: float) -> None:
        base = page_name(self._bases[page.key], page.page)
        try:
            files, classes = self.writer.write(base, answer, page.image, page.place)
        except OSError as error:
            if error.errno in _FATAL:
                raise
            self._failed(error, page.shown)
            return
        except (RuntimeError, ValueError) as error:
            self._failed(error, page.shown)
            return
        self.manifest.append(
            {
                "input": page.key,
                "page": page.page,
                "pages": page.pages,
                "sha256": page.digest,
                "base": self._bases[page.key],
                "files": files,
                "size": page.size,
                "seen": page.seen,
                "share": shares(classes, self.predictor.class_names),
                "seconds": round(time.perf_counter() - start, 4),
                "device": self.predictor.ensemble.device.type,
            }
        )
        self.num_written += 1

    def _failed(self, error: Exception, shown: str) -> None:
        self.num_failed += 1
        self._say(printable(str(error) if isinstance(error, Problem) else f"{shown}: {_reason(error)}"))


def _reason(error: Exception) -> str:
    """What went wrong with an image, and what to do."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}. Check the file and the folder of the predictions"
    if isinstance(error, torch.OutOfMemoryError):
        return "does not fit into the device's memory. Add --tile 256 256, or --device cpu"
    if isinstance(error, RuntimeError):
        first = (str(error).splitlines() or [""])[0][:200]
        return f"the model cannot segment an image of this size ({first}). Leave out --tile and scales, or resize it"
    return str(error)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
