"""Fresh processes that start warm: each is forked from a server that has imported torch and friends once.

The server (``multiprocessing``'s forkserver) is an interpreter of its own: it imports, never trains, and never touches
CUDA. So every child is as clean as a new process and costs 0.03 s instead of the seconds that the imports take. All
processes stay in the process group of the command, and a child ends when the process that asked for it does.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, TypeVar

from segsweep.sweep import tree

T = TypeVar("T")

# What a run imports. A module that is not installed is skipped; the last one imports what may be broken, too.
WARM = (
    "segsweep.sweep.cold",
    "torch",
    "torch.utils.tensorboard",
    "tensorboard.plugins.hparams.api_pb2",
    "pytorch_lightning",
    "safetensors.torch",
    "hydra._internal.logging_config",  # Hydra imports it where it is used
    "sklearn.datasets",
    "segsweep.callbacks",
    "segsweep.inspection",
    "segsweep.checkpoints",
    "segsweep.cost",
    "segsweep.data.datamodule",
    "segsweep.data.digits",
    "segsweep.data.folder",
    "segsweep.floors",
    "segsweep.hardware",
    "segsweep.label_panels",
    "segsweep.launcher",
    "segsweep.losses",
    "segsweep.models",
    "segsweep.panels",
    "segsweep.projector",
    "segsweep.schedulers",
    "segsweep.task",
    "segsweep.sweep.warm",
)
_UNKNOWN = 255  # exit code that ``multiprocessing`` reports when the server has died; a process may have it, too
_context = multiprocessing.get_context("forkserver")


def warm_up(preload: Sequence[str] = WARM) -> None:
    """Starts the server, unless it runs, and does not wait for its imports: they go on beside the caller."""
    _context.set_forkserver_preload(list(preload))
    resource_tracker.ensure_running()  # now, because its start unblocks signals
    with _deaf():
        forkserver.ensure_running()


def pipe() -> tuple[Connection, Connection]:
    """A receiving and a sending end; the latter may be an argument of ``start``."""
    return _context.Pipe(duplex=False)


def start(
    function: Callable[..., None],
    *args: Any,
    environment: Mapping[str, str] | None = None,
    preload: Sequence[str] = WARM,
) -> ForkServerProcess:
    """Starts a warm child; the first one waits for the server's imports.

    The child has this process's environment and working folder of now, not of the server's start. It ignores Ctrl-C,
    which reaches the whole process group: what to do about it is for this process to decide. SIGTERM ends it.

    Args:
        function: importable by name, like its arguments' types.
        *args: its arguments.
        environment: variables added to those of this process.
        preload: modules that the server imports, if it does not run yet.

    Raises:
        RuntimeError: the server ended at its imports.
    """
    warm_up(preload)
    everything = {**os.environ, **(environment or {})}
    # Not daemonic: a job may have processes of its own.
    process = _context.Process(target=_enter, args=(everything, function, args), daemon=False)
    try:
        process.start()
    except (EOFError, ConnectionError) as error:
        modules = ", ".join(name for name in preload if not name.startswith("segsweep"))
        raise RuntimeError(
            f"the process that jobs are forked from ended while it imported {modules}; its own message stands above. "
            f"Try: {sys.executable} -c 'import {modules}'"
        ) from error
    return process


def call(function: Callable[..., T], *args: Any, preload: Sequence[str] = WARM) -> T:
    """Runs a function in a warm child and returns what it returns.

    Args:
        function: importable by name; arguments and result can be pickled.
        *args: its arguments.
        preload: as in ``start``.

    Raises:
        BaseException: what the function raised, with the child's traceback as a note.
        RuntimeError: the child was killed.
    """
    receiver, sender = pipe()
    process = start(_answer, sender, function, args, preload=preload)
    sender.close()
    try:
        is_error, value = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__qualname__}: its process {how_it_ended(process.exitcode)}") from None
    finally:
        receiver.close()
        if process.is_alive():
            process.kill()  # it has answered, or nobody wants its answer
        process.join()
        process.close()
    if is_error:
        raise value
    return value  # type: ignore[no-any-return]


def exit_code(process: ForkServerProcess, itself: tree.Process | None) -> int | None:
    """How a process that ``start`` has started ended; negative for a signal.

    Args:
        process: its sentinel is ready.
        itself: as it was identified at its start; None where that cannot be.

    Returns:
        None if the server has died, which alone could tell. Then the process may live: it is ended here.
    """
    process.join()
    if process.exitcode != _UNKNOWN or process.pid is None:
        return 1 if process.exitcode is None else process.exitcode
    if itself is None:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return _UNKNOWN
    elif not tree.is_running(itself):
        return _UNKNOWN
    else:
        tree.kill({itself, *tree.descendants(itself.pid)})
    return None


def how_it_ended(exit_code: int | None) -> str:
    """Words for an exit code of ``multiprocessing``.

    >>> how_it_ended(-9), how_it_ended(3)
    ('was killed by SIGKILL', 'ended with exit code 3')
    """
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal_name(-exit_code)}"
    return f"ended with exit code {exit_code}"


def signal_name(number: int) -> str:
    """``SIGKILL`` and the like."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What is started in the block is not ended by a signal to the whole process group, nor are its children at first.

    A server that dies cannot say any more how its children end. SIGTERM is blocked rather than ignored, so that one
    that reaches a child in its first moment is not lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with _ignoring_ctrl_c():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _enter(environment: Mapping[str, str], function: Callable[..., None], args: Sequence[Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if function is not _answer:  # whoever waits for an answer decides what a signal to the group means
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    function(*args)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what libraries do at a normal exit is no use here, and some complain of the fork


def _end_with_parent() -> None:
    """A killed parent leaves its children alone: they end themselves."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    connection.wait([parent.sentinel])
    tree.kill(tree.descendants(os.getpid()))
    os._exit(1)  # sys.exit would end this thread only


def _answer(sender: Connection, function: Callable[..., Any], args: Sequence[Any]) -> None:
    try:
        answer = pickle.dumps((False, function(*args)))
    except BaseException as error:  # whatever it is, the caller wants it
        answer = _pickled(error)
    sys.stdout.flush()
    sys.stderr.flush()
    sender.send_bytes(answer)


def _pickled(error: BaseException) -> bytes:
    lines = "".join(traceback.format_exception(error))
    error.add_note(lines)
    try:
        answer = pickle.dumps((True, error))
        pickle.loads(answer)  # not every exception that can be pickled can be read again
        return answer
    except Exception:
        return pickle.dumps((True, RuntimeError(f"{type(error).__name__}: {error}\n{lines}")))
