"""SIGTERM and SIGINT: a run stops where nothing is half done. Standard library only.

A signal raises ``Interrupted`` at once, but for two places: an optimisation step is finished first, and so is the
writing of a file. A second signal, a second or more after the first, ends the process at once.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A terminal, a launcher and ``timeout`` may each pass on what was asked for once.
SAME_REQUEST_S = 1.0


class Interrupted(SystemExit):
    """A signal has ended the run; the exit code is the one that shells expect. ``kind`` is its class in the record."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.kind = signal.Signals(number).name

    def __str__(self) -> str:
        return f"{self.kind}; the same command continues the run"


def behind(error: BaseException) -> Interrupted | None:
    """The signal whose exception was on its way when this one took its place, if there was one."""
    found: list[BaseException | None] = [error]
    for one in found:
        if isinstance(one, Interrupted):
            return one
        if one is not None:
            found += [other for other in (one.__cause__, one.__context__) if other not in found]
    return None


class _Requests:
    """What has been asked of this process, and whether it has to wait."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the first signal
        self.since = 0.0
        self.shields = 0  # files that are being written
        self.is_in_step = False
        self.waits_for_shield = False

    def handle(self, number: int, frame: Any) -> None:
        if self.number is not None:
            if time.monotonic() - self.since > SAME_REQUEST_S:
                os._exit(128 + number)  # as a SIGKILL would, which every file here survives
            return
        self.number, self.since = number, time.monotonic()
        with contextlib.suppress(OSError):  # no logging: the signal may have come in the middle of it
            os.write(2, f"\n{signal.Signals(number).name}: stopping; a second one stops at once\n".encode())
        if self.shields:
            self.waits_for_shield = True
        elif not self.is_in_step:
            raise Interrupted(number)


_requests = _Requests()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Has SIGTERM and SIGINT raise ``Interrupted``; puts back what was there. In another thread than the main: nothing.

    What is ignored stays so: whoever started this process has seen to it, and passes on what concerns it.

    Raises:
        Interrupted: in the block, when one of them has come.
    """
    global _requests
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _requests = _Requests()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    install()
    try:
        yield
    except Exception as error:
        if (signal_of_it := behind(error)) is not None:
            raise signal_of_it from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requests = _Requests()


def install() -> None:
    """Puts our handlers back where a library has put its own in their place."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _handle)


def _handle(number: int, frame: Any) -> None:
    _requests.handle(number, frame)


def is_requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _requests.number is not None


def set_in_step(is_in_step: bool) -> None:
    """Says that an optimisation step begins, which a signal waits for, or that it is over; ``check`` comes later."""
    _requests.is_in_step = is_in_step


def check() -> None:
    """Stops here if that was asked for: called between steps.

    Raises:
        Interrupted: a signal has come, and has waited, or what it raised was swallowed.
    """
    if _requests.number is not None:
        raise Interrupted(_requests.number)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Has a signal wait until the block is done.

    Raises:
        Interrupted: after the block, if one has come meanwhile.
    """
    requests = _requests
    requests.shields += 1
    try:
        yield
    finally:
        requests.shields -= 1
        if not requests.shields and requests.waits_for_shield:
            requests.waits_for_shield = False
            if not requests.is_in_step and requests.number is not None:
                raise Interrupted(requests.number)
