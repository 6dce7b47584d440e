"""Starts ``segsweep`` as a user would, and kills it.

A command is a process group; whatever a kill leaves alive in another one is found by a mark in its environment.
"""

import contextlib
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import segsweep
from segsweep.sweep.processes import WARM

HERE = Path(__file__).parent
_MARK = "SEGSWEEP_STORM"
_SOURCES = Path(segsweep.__file__).parents[1]  # of this checkout, whatever the folder that a command works in
_context = multiprocessing.get_context("forkserver")
# In the background a shell has its commands ignore Ctrl-C, and what is ignored stays so in the commands of this script.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The cheapest real run: it decodes, trains, validates, tests and writes everything that a large one does.
TINY = (
    "model=unet",
    "model.widths=[4,8,8]",
    "data.num_train=12",
    "data.num_val=4",
    "data.num_test=4",
    "data.batch_size=4",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
)
# What Hydra does by itself: one process, one job after the other.
PLAIN_HYDRA = ("hydra/sweeper=basic", "hydra/launcher=basic")


class Command:
    """``segsweep`` with these arguments, in a process group of its own.

    Args:
        arguments: of the command line.
        folder: to work in; ``output.txt`` there receives what it prints.
        altered: what ``altered.py`` changes in it, e.g. ``no_skip``.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, altered: str | None = None) -> None:
        program = ["-m", "segsweep"] if altered is None else [str(HERE / "altered.py"), altered]
        path = os.pathsep.join(map(str, [_SOURCES, HERE]))  # the latter for faulty.py
        self.mark = secrets.token_hex(8)
        self.output = folder / "output.txt"
        variables = {**os.environ, _MARK: self.mark, "PYTHONPATH": path}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, or None if it is still running after that many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_for(self, is_so: Callable[[], bool], seconds: float = 300) -> None:
        """Waits until something is so, or the command has ended.

        Raises:
            TimeoutError: it took too long.
        """
        _wait_for(self, is_so, seconds)

    def kill(self, alone: bool = False) -> list[int]:
        """Sends SIGKILL to the whole group, or to the command alone, whose children then have to end by themselves.

        Returns:
            Processes that the command has started and that are alive later, in whatever group: five seconds after a
            kill of the group, a minute after one of the command alone, since a process that was just importing ends
            when that is done. They are killed now.
        """
        send: Callable[[int, int], None] = os.kill if alone else os.killpg
        send(self._process.pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + (60 if alone else 5)
        while (alive := list(_marked(self.mark))) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return alive


class WarmRun:
    """A single run like ``Command``, forked from a process that has imported everything: its start takes no time.

    Args:
        arguments, folder, altered: as in ``Command``.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, altered: str | None = None) -> None:
        self.output = folder / "output.txt"
        _context.set_forkserver_preload([*WARM, "segsweep.train"])
        self._process: ForkServerProcess = _context.Process(
            target=_enter, args=(list(arguments), folder, altered, self.output), daemon=False
        )
        self._process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, or None if it is still running after that many seconds."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()
        self._process.join()

    def wait_for(self, is_so: Callable[[], bool], seconds: float = 300) -> None:
        """Waits until something is so, or the run has ended.

        Raises:
            TimeoutError: it took too long.
        """
        _wait_for(self, is_so, seconds)


def _enter(arguments: list[str], folder: Path, altered: str | None, output: Path) -> None:
    os.chdir(folder)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.argv = ["segsweep", *arguments]
    from altered import apply, main

    apply(altered)
    main()


def _wait_for(command: Command | WarmRun, is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and command.wait(0.005) is None:
        if time.monotonic() > deadline:
            command.kill()
            raise TimeoutError(f"nothing happened in {seconds:.0f} s; see {command.output}")


def _marked(mark: str) -> Iterator[int]:
    """Living processes that have inherited a mark, whatever their group and parent."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if f"{_MARK}={mark}".encode() in environ.read_bytes():
                yield int(environ.parent.name)
