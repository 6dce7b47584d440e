"""A job of a sweep, and what became of it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_LONGEST_NAME = 150  # bytes; file systems take 255, and more follows it at times


def folder_name(parts: Iterable[str], fingerprint: str) -> str:
    """A job's folder: what is swept, joined; characters that file systems or shells mind become ``_``.

    >>> folder_name(["model=unet", "data.root=/a b"], "0123456789abcdef")
    'model=unet,data.root=_a_b'
    >>> folder_name(["fault=" + 100 * "ф"], "0123456789abcdef") == "fault=" + 72 * "ф" + "_01234567"
    True
    """
    name = re.sub(r"[^\w.,=+\-\[\]{}()]", "_", ",".join(parts))
    whole = name.encode()
    if len(whole) <= _LONGEST_NAME:
        return name
    return f"{whole[:_LONGEST_NAME].decode(errors='ignore')}_{fingerprint[:8]}"  # no half character at the cut


@dataclass(frozen=True)
class Job:
    """One run of a sweep, composed and checked.

    Attributes:
        index: its place in the sweep, from 0.
        folder: of the run; below the sweep's.
        overrides: all that it takes to compose it alone, in Hydra's grammar.
        config: composed, interpolations kept, without Hydra's own node.
        choices: option of each config group.
        fingerprint: identity of the run, as its record will have it.
        kind: identity without the seed; jobs of one kind take the same time and memory.
        identity: what the fingerprint is made of, secrets redacted, as its record will have it under ``config``.
        others: jobs that are trained as one with this one, in its process; empty if they are done. None: it is no
            member of a group.
    """

    index: int
    folder: Path
    overrides: tuple[str, ...]
    config: dict[str, Any]
    choices: dict[str, str]
    fingerprint: str
    kind: str
    identity: dict[str, Any] = field(default_factory=dict)
    others: tuple["Job", ...] | None = None

    @property
    def all(self) -> tuple["Job", ...]:
        """The job, and those that are trained as one with it."""
        return (self, *(self.others or ()))

    @property
    def name(self) -> str:
        """What is swept and to which values, e.g. ``model=unet,seed=0``."""
        return self.folder.name


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: that ran.
        status: of its record.
        error: class and message if it failed.
        value: ``monitor`` at the best epoch, None if the job has none.
    """

    job: Job
    status: Literal["completed", "failed", "interrupted", "pruned", "paused"]
    error: dict[str, str] | None = None
    value: float | None = None
