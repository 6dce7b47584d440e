"""``segsweep`` with something changed: a protection off, for the controls, or a stop at an exact place.

    python scripts/storm/altered.py no_skip,no_lock -m model=unet seed=0,1

Each change is a function below with its name; what follows ``:`` is its argument.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segsweep import command, run
from segsweep.__main__ import main


def no_skip() -> None:
    """Takes every run for a new one, as Hydra's template does."""
    run.read_record = lambda folder: None


def no_lock() -> None:
    """Lets any number of processes into a run."""

    @contextlib.contextmanager
    def lock(folder: Path) -> Iterator[None]:
        yield

    run.lock = lock


def no_reseeding() -> None:
    """Lets the global random numbers go on from epoch to epoch, as torch and Lightning do."""
    import torch

    from segsweep.task import Task

    original = Task.on_train_epoch_start

    def start(self: Task) -> None:
        state = torch.get_rng_state()
        original(self)
        torch.set_rng_state(state)

    Task.on_train_epoch_start = start  # type: ignore[method-assign]


def shared_folder() -> None:
    """Names a run by the second of its start alone, as Hydra does."""

    def new_folder(parent: Path, stem: str) -> Path:
        folder = parent / stem
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    command.new_folder = new_folder


def stop_before_epoch(number: str) -> None:
    """Ends the run by Ctrl-C when an epoch (from 0) is about to begin."""
    from segsweep.task import Task

    original = Task.on_train_epoch_start

    def start(self: Task) -> None:
        if self.current_epoch == int(number):
            os.kill(os.getpid(), signal.SIGINT)
        original(self)

    Task.on_train_epoch_start = start  # type: ignore[method-assign]


def start_at_gate(gate: str) -> None:
    """Holds the run, imported and checked, until the file ``go`` in a folder says at what time to choose its folder."""
    original = command._refuse

    def refuse(*arguments: Any) -> None:
        original(*arguments)
        (Path(gate) / str(os.getpid())).touch()
        go = Path(gate) / "go"
        while not go.exists():
            time.sleep(0.02)
        time.sleep(max(0.0, float(go.read_text()) - time.time()))

    command._refuse = refuse


def apply(changes: str | None) -> None:
    """Changes what is named, e.g. ``no_skip,stop_before_epoch:3``."""
    for change in changes.split(",") if changes else []:
        name, colon, argument = change.partition(":")
        globals()[name](*([argument] if colon else []))


if __name__ == "__main__":
    apply(sys.argv.pop(1))
    main()
