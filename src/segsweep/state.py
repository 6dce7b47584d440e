"""What the folder of a run says about what would become of it if it was started now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from segsweep.run import FINISHED, is_running, refuse_other_config

State = Literal["done", "continue", "retry", "running", "new"]
STATES: tuple[State, ...] = get_args(State)


def state_of(folder: Path, record: dict[str, Any] | None, identity: Mapping[str, Any]) -> State:
    """``done``, to ``continue`` (interrupted), to ``retry`` (failed), ``running`` elsewhere, or ``new``.

    Args:
        folder: of the run; need not exist.
        record: its record, None if it has none, empty if it is damaged.
        identity: ``fingerprint`` and ``config`` of what would be started.

    Raises:
        ConfigError: the folder holds a run with another config.
    """
    if record is None:
        return "running" if is_running(folder) else "new"
    if not record:  # put aside before the run starts
        return "running" if is_running(folder) else "retry"
    refuse_other_config(folder, record, identity)
    if record["status"] in FINISHED:
        return "done"
    if is_running(folder):
        return "running"
    return "retry" if record["status"] == "failed" else "continue"
