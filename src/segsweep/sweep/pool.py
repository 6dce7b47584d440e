"""Runs the jobs of a sweep side by side, each in a process of its own, and outlives whatever they do."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from segsweep.endings import classify
from segsweep.signals import SAME_REQUEST_S
from segsweep.sweep import child, tree
from segsweep.sweep.ending import End, judge, peak_memory, record_text
from segsweep.sweep.job import Job, Outcome
from segsweep.sweep.machine import Machine, find_machine
from segsweep.sweep.options import SweepOptions
from segsweep.sweep.processes import WARM, exit_code, pipe, start
from segsweep.sweep.slots import Place, Slots

log = logging.getLogger(__name__)

GRACE_S = 10.0  # for a job to finish its step and save, once it is asked to end
_TICK_S = 0.5  # between looks at clocks
_SAMPLE_S = 1.0  # between looks at memory, which read a file for each process of the machine
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Event:
    """Something to show: a job has started, or ended with an outcome ``seconds`` after its start."""

    kind: Literal["started", "ended"]
    job: Job
    outcome: Outcome | None = None
    seconds: float = 0.0


@dataclass
class _Running:
    """A job's process, and what is known of it."""

    job: Job
    place: Place
    process: ForkServerProcess
    report: Connection
    records_before: list[bytes | None]  # of the job, and of those that are trained as one with it
    itself: tree.Process | None
    started: float = field(default_factory=time.monotonic)
    limit: tuple[str, str] | None = None  # that it broke
    kill_at: float | None = None  # when it has been asked to end
    below: set[tree.Process] = field(default_factory=set)  # processes below it at the last look
    peak_mb: float = 0.0

    def ask_to_end(self) -> None:
        """It finishes its step and marks itself interrupted."""
        if self.kill_at is None and self.process.is_alive():
            self.kill_at = time.monotonic() + GRACE_S
            self.process.terminate()

    def kill(self) -> None:
        """Ends it and everything below it at once."""
        if self.process.pid is not None and self.process.is_alive():
            self.below |= tree.descendants(self.process.pid)
            self.process.kill()


class Pool:
    """Processes for the jobs of a sweep.

    A context manager. Within it, Ctrl-C and SIGTERM ask the running jobs to end, and nothing new starts; once more, a
    second or more later, kills them. Leaving it after that exits with 130 or 143.

    Args:
        options: how many at once, and their limits.
        num_jobs: of the whole sweep, finished ones included.
        target: runs a job in its process and leaves the result in the record of the job's folder; importable by name.
        on_event: hears of each start and end.
        sweep: its name, for the records of jobs that could not write their own.
        machine: where to run; None: looks for cores and GPUs.
        preload: what the server of warm processes imports.
    """

    def __init__(
        self,
        options: SweepOptions,
        num_jobs: int,
        target: Callable[[Job], None],
        on_event: Callable[[Event], None] = lambda event: None,
        *,
        sweep: str | None = None,
        machine: Machine | None = None,
        preload: Sequence[str] = WARM,
    ) -> None:
        self.options, self.target, self.on_event = options, target, on_event
        self.sweep, self.preload = sweep, preload
        self.slots = Slots(options, num_jobs, find_machine(use_gpus=True) if machine is None else machine)
        self.stopped_by: int | None = None
        self._waiting: deque[Job] = deque()
        self._running: list[_Running] = []
        self._ended: deque[Outcome] = deque()
        self._stopped_at = 0.0
        self._is_urgent = self._is_obeyed = False
        self._is_starting = False
        self._next_sample = 0.0

    def __enter__(self) -> Self:
        # A handler must not do much: it writes a byte, which wakes whoever waits for jobs.
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        is_main = threading.current_thread() is threading.main_thread()
        self._handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS} if is_main else {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        if kind is None and self.stopped_by is not None:
            raise SystemExit(128 + self.stopped_by)

    @property
    def free(self) -> int:
        """Jobs that could be submitted now without waiting for another one; none once the sweep is being stopped."""
        return 0 if self.stopped_by else max(0, self.slots.num_free - len(self._waiting))

    @property
    def is_idle(self) -> bool:
        """Whether there is no outcome to wait for."""
        return not self._running and not self._waiting and not self._ended

    def submit(self, job: Job) -> None:
        """Starts a job, or keeps it until there is a place for it."""
        if self.stopped_by is None:
            self._waiting.append(job)
            self._start_waiting()

    def outcome(self) -> Outcome:
        """Waits until any job ends.

        Raises:
            SystemExit: the sweep was stopped, and its last job has ended.
            RuntimeError: no job was submitted.
        """
        while True:
            self._start_waiting()
            if self._ended:
                return self._ended.popleft()
            if self.stopped_by is not None and not self._running:
                raise SystemExit(128 + self.stopped_by)
            if not self._running:
                raise RuntimeError("there is no job to wait for")
            ended = self._wait()
            if ended is not None:
                self._ended.extend(self._finish(ended))

    def stop(self) -> list[Outcome]:
        """Ends everything: running jobs finish their step within 10 s or are killed, waiting ones never start."""
        self._waiting.clear()
        outcomes = []
        for running in self._running:
            running.ask_to_end()
        while self._running:
            ended = self._wait()
            if ended is not None:
                outcomes += self._finish(ended)
        return outcomes

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by, self._stopped_at = number, time.monotonic()
        elif time.monotonic() - self._stopped_at > SAME_REQUEST_S:  # ``timeout`` sends everything twice
            self._is_urgent, self._is_obeyed = True, False
        if self._is_starting and not self._running:  # the first start waits for imports: nothing can be lost
            raise SystemExit(128 + number)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_writer, b".")

    def _start_waiting(self) -> None:
        """Starts what there is a place for; a job that has to wait lets later ones go first."""
        for job in list(self._waiting):
            if self.stopped_by is not None or not self.slots.num_free:
                return
            place = self.slots.take(job)
            if place is not None:
                self._waiting.remove(job)
                self._start_or_tell(job, place)

    def _start_or_tell(self, job: Job, place: Place) -> None:
        """Starts a job; if the system has no room for it, it has failed."""
        try:
            self._start(job, place)
        except OSError as error:
            self.slots.give_back(place, job.kind)
            for one in job.all:
                outcome = Outcome(one, "failed", {"class": classify(error), "message": f"did not start: {error}"})
                self._ended.append(outcome)
                self._tell(Event("ended", one, outcome))

    def _start(self, job: Job, place: Place) -> None:
        for one in job.all:
            one.folder.mkdir(parents=True, exist_ok=True)
        before = [record_text(one.folder) for one in job.all]
        receiver, sender = pipe()
        arguments: tuple[Any, ...] = (self.target, job, place.threads, sender)
        self._is_starting = True
        try:
            process = start(child.run, *arguments, environment=place.environment(), preload=self.preload)
        finally:
            self._is_starting = False
            sender.close()
        itself = None if process.pid is None else tree.identify(process.pid)
        self._running.append(_Running(job, place, process, receiver, before, itself))
        for one in job.all:
            self._tell(Event("started", one))

    def _wait(self) -> _Running | None:
        """Looks after the jobs until one has ended, or until it is time to look again."""
        sentinels = {running.process.sentinel: running for running in self._running}
        ready = connection.wait([*sentinels, self._wake_reader], _TICK_S)
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        self._obey_signals()
        self._enforce_limits()
        return next((sentinels[key] for key in ready if isinstance(key, int) and key in sentinels), None)

    def _obey_signals(self) -> None:
        if self.stopped_by is None or self._is_obeyed:
            return
        self._is_obeyed = True
        self._waiting.clear()
        if self._is_urgent:
            log.warning("stopping at once; the same command continues the sweep")
        else:
            log.warning("stopping: jobs finish their step, once more kills them; the same command continues the sweep")
        for running in self._running:
            running.ask_to_end()
            if self._is_urgent:
                running.kill()

    def _enforce_limits(self) -> None:
        now = time.monotonic()
        is_sample = now >= self._next_sample
        if is_sample:
            self._next_sample = now + _SAMPLE_S
        timeout = self.options.timeout_s
        for running in self._running:
            if is_sample:
                self._look_at_memory(running)
            if timeout is not None and now - running.started > timeout and running.kill_at is None:
                running.limit = ("timeout", f"took longer than sweep.timeout_s={timeout:g}")
                running.ask_to_end()
            if running.kill_at is not None and now > running.kill_at:
                running.kill()

    def _look_at_memory(self, running: _Running) -> None:
        pid, limit = running.process.pid, self.options.memory_gb
        if pid is None:
            return
        running.below = tree.descendants(pid)
        running.peak_mb = max(running.peak_mb, tree.peak_mb(pid))
        if limit is None or running.limit is not None:
            return
        used = tree.used_mb(pid) / 1000
        if used > limit:
            what = f"took {used:.2f} GB of memory, more than sweep.memory_gb={limit:g}"
            running.limit = ("oom", f"{what}. Set that higher, or data.batch_size lower")
            running.kill()  # asked to end, it would go on growing

    def _finish(self, running: _Running) -> list[Outcome]:
        self._running.remove(running)
        process, job = running.process, running.job
        code = exit_code(process, running.itself)
        tree.kill(running.below)  # e.g. loader workers of a killed job: they would hold the lock of its run
        end = End(
            code,
            _received(running.report),
            running.limit,
            # A signal to the whole group may end a job before this process can ask it to end.
            is_stopped=running.kill_at is not None or (self.stopped_by is not None and code == -signal.SIGTERM),
            facts={"peak_memory_mb": {"host": round(running.peak_mb, 1)}} if running.peak_mb else {},
        )
        process.close()
        outcomes = [self._judge(*each, end) for each in zip(job.all, running.records_before, strict=True)]
        self.slots.give_back(running.place, job.kind, peak_memory(outcomes[-1]))
        for outcome in outcomes:
            self._tell(Event("ended", outcome.job, outcome, time.monotonic() - running.started))
        return outcomes

    def _judge(self, job: Job, record_before: bytes | None, end: End) -> Outcome:
        try:
            return judge(job, record_before, end, self.sweep)
        except OSError as error:
            return Outcome(job, "failed", {"class": classify(error), "message": f"its record is not read: {error}"})

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(OSError):  # what is printed may go to a disk that is full
            self.on_event(event)


def _received(report: Connection) -> tuple[str, str] | None:
    """What a child said about its exception before it ended."""
    with report:
        try:
            return report.recv() if report.poll() else None
        except (EOFError, OSError):
            return None
