"""Runs that are no result: failed, interrupted, pruned, or still going."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segsweep.report.charts.plot import Mark
from segsweep.report.page.learning import read_history
from segsweep.report.records import Record
from segsweep.report.runs import Comparison, run_state

MOST = 60
_ORDER = ("failed", "interrupted", "running", "paused", "pruned")


@dataclass(frozen=True)
class Failure:
    """One run that is no result."""

    name: str
    label: str
    seed: str
    state: str
    message: str
    reached: str
    folder: str


def failures(comparison: Comparison, marks: Mapping[str, Mark]) -> tuple[list[Failure], str]:
    """The runs, failed ones first, and how many of each kind there are in all."""
    found = [(row, run) for row in comparison.configurations for run in row.runs if run["status"] != "completed"]
    found.sort(key=lambda pair: _ORDER.index(pair[1]["status"]) if pair[1]["status"] in _ORDER else len(_ORDER))
    states = [run_state(run) for _, run in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return [_failure(run, marks[row.name]) for row, run in found[:MOST]], counts


def _failure(run: Record, mark: Mark) -> Failure:
    error = run.get("error") or {}
    reached = [f"{what} {run[key]:,}" for key, what in (("epochs", "epoch"), ("steps", "step")) if run.get(key)]
    if not reached and (history := read_history(Path(run["folder"]))):  # a run that goes on has no such fields yet
        reached = [f"epoch {max(history)}"]
    return Failure(
        mark.name,
        mark.label,
        str(run.get("seed")),
        run_state(run),
        str(error.get("message") or ""),
        ", ".join(reached) or "-",
        "/".join(Path(run["folder"]).parts[-2:]),
    )
