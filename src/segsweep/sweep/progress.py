"""How a sweep is going: a live line for each running job and one for the sweep, or plain lines where nobody looks."""

import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from segsweep.sweep.child import LOG_FILE
from segsweep.sweep.failures import last_lines, one_line
from segsweep.sweep.job import Job
from segsweep.sweep.pool import Event
from segsweep.sweep.records import readable

if TYPE_CHECKING:
    from rich.console import RenderableType

_REFRESH_PER_S = 2


class Progress:
    """Shows the events of a pool; a context manager, to be passed as its ``on_event``.

    Args:
        num_jobs: of the whole sweep.
        num_done: of them that had finished before.
        at_once: how many run side by side, for the estimate of what is left.
        stream: where to; live lines only if it is a terminal.
    """

    def __init__(self, num_jobs: int, num_done: int = 0, at_once: int = 1, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.num_jobs, self.num_done, self.at_once = num_jobs, num_done, at_once
        self.counts: Counter[str] = Counter()
        self._seconds: list[float] = []
        self._paused: set[int] = set()  # by index: jobs that may go on
        self._running: dict[int, tuple[Job, float]] = {}  # by index: the job and since when
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._live = (
            Live(get_renderable=self._render, console=self._console, refresh_per_second=_REFRESH_PER_S, transient=True)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Hears of a job's start or end."""
        job = event.job
        if event.kind == "started":
            self._running[job.index] = (job, time.monotonic())
            self._paused.discard(job.index)
            if not self._live:
                self._say(f"job {job.index + 1}/{self.num_jobs} starts: {job.name}")
        elif event.outcome is not None:
            self._running.pop(job.index, None)
            self.counts[event.outcome.status] += 1
            if event.outcome.status == "paused":
                self._paused.add(job.index)
            else:
                self._seconds.append(event.seconds)
            self._say(f"job {job.index + 1}/{self.num_jobs} {_ending(event)}")

    def summary(self) -> str:
        """The line of the sweep: what is done, running, failed and left."""
        parts = [f"{self.num_done + self.counts['completed'] + self.counts['pruned']}/{self.num_jobs} done"]
        parts += [f"{len(self._running)} running"] if self._running else []
        parts += [f"{len(self._paused)} paused"] if self._paused else []
        parts += [f"{self.counts['failed']} failed"] if self.counts["failed"] else []
        parts += [f"{self.counts['interrupted']} interrupted"] if self.counts["interrupted"] else []
        parts += [f"{self.num_done} done before"] if self.num_done else []
        left = self.num_jobs - self.num_done - len(self._seconds)
        if left > 0 and self._seconds and not self.counts["paused"]:  # how many go on, nobody knows
            mean = sum(self._seconds) / len(self._seconds)
            spent = sum(min(mean, time.monotonic() - since) for _, since in self._running.values())
            parts.append(f"about {duration((left * mean - spent) / min(self.at_once, left))} left")
        return ", ".join(parts)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def _render(self) -> "RenderableType":
        from rich.text import Text

        lines = [
            f"  {job.name}  {how_far(job)}  {duration(time.monotonic() - since)}"
            for job, since in list(self._running.values())
        ]
        return Text("\n".join([*lines, f"sweep: {self.summary()}"]), no_wrap=True, overflow="ellipsis")


def how_far(job: Job) -> str:
    """Epoch, monitored metric and speed of a running job, from the end of its ``metrics.jsonl``."""
    last = (last_lines(job.folder / "metrics.jsonl", 1) or [{}])[0]
    trainer = job.config.get("trainer") or {}
    monitor = job.config.get("monitor")
    if not isinstance(monitor, str) or monitor not in last:
        monitor = "val/miou"
    parts = [f"epoch {last.get('epoch', -1) + 1}/{trainer.get('max_epochs') or '?'}"]
    if last.get(monitor) is not None:
        parts.append(f"{monitor} {last[monitor]:.4f}")
    if last.get("train/images_per_s") is not None:
        parts.append(f"{last['train/images_per_s']:.0f} images/s")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(7.4), duration(150), duration(7500)
    ('7 s', '2 min 30 s', '2 h 05 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _ending(event: Event) -> str:
    job, outcome = event.job, event.outcome
    if outcome is None:
        return ""
    if outcome.status == "failed":
        error = outcome.error or {}
        return (
            f"failed after {duration(event.seconds)}: {job.name}: {error.get('class')}: "
            f"{one_line(str(error.get('message')))}. Log: {job.folder / LOG_FILE}"
        )
    score = _test_miou(job.folder)
    after = "in" if outcome.status == "completed" else "after"
    return (
        f"{outcome.status} {after} {event.seconds:.1f} s: {job.name}"
        f"{f', test mIoU {score:.4f}' if score is not None else ''}"
    )


def _test_miou(folder: Path) -> float | None:
    score: float | None = (readable(folder).get("metrics") or {}).get("test/miou")
    return score
