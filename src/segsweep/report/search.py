"""A search: how it went, which trials are best, which keys matter, and what it has cost.

A folder joins if it holds the journal of a study. Optuna is imported if there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segsweep import journal
from segsweep.report.curve import Line, Panel
from segsweep.report.intervals import Interval
from segsweep.report.section import Part, Section
from segsweep.report.table import Table, number
from segsweep.run import read_record

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_NUM_TOP = 10
_CSV_HEADER = ("search", "trial", "state", "values", "epochs", "params", "folder")


def search(folders: Iterable[Path]) -> Section | None:
    """The section, or None if there is no search in or below the folders.

    Raises:
        ValueError: a journal is damaged.
    """
    files = sorted({file for folder in folders for file in folder.rglob(journal.FILE)})
    parts = [part for file in files if (part := _part(file)) is not None]
    return Section("search", "Search", _CSV_HEADER, parts, columns=1) if parts else None


def _part(file: Path) -> Part | None:
    from segsweep.study import open_study

    about = journal.about(file)
    if about is None:
        return None
    study = open_study(file)
    trials = study.get_trials(deepcopy=False)
    records = [_record(file.parent, trial) for trial in trials]
    spent = [int(record.get("epochs") or max(trial.intermediate_values, default=0))
             for trial, record in zip(trials, records, strict=True)]  # fmt: skip
    name = file.parent.name
    return Part(
        name,
        [_top(trials, spent, about), *_importances(study, trials)],
        [_states(trials, about), _epochs(trials, spent, about), *_best(study, about)],
        [
            "pruned trials are scored by the last epoch that they reached; they are not tested",
            "importances: PED-ANOVA of the completed trials (arXiv 2304.10255), shares of 1",
        ],
        _history(name, trials, about),
        [_csv(name, trial, epochs) for trial, epochs in zip(trials, spent, strict=True)],
    )


def _record(folder: Path, trial: FrozenTrial) -> dict[str, Any]:
    """The record of a trial's run; empty for one that has none, or that was the same run as another."""
    name = str((trial.user_attrs.get("run") or {}).get("folder") or "")
    if not name or "/" in name or name in (".", "..") or "same_as" in trial.user_attrs:
        return {}
    return read_record(folder / name) or {}


def _top(trials: Sequence[FrozenTrial], spent: Sequence[int], about: dict[str, Any]) -> Table:
    keys = list(about["space"])
    ranked = _ranked(trials, about)[:_NUM_TOP]
    rows = [
        (
            str(trial.number),
            *(number(value, ".4f" if abs(value) < 10 else ",.0f") for value in trial.values or ()),
            str(spent[trial.number]),
            *(_shown(trial.params.get(key)) for key in keys),
        )
        for trial in ranked
    ]
    goals = tuple(about["objectives"])
    title = "The best trials" if len(goals) == 1 else "The trials that no other one beats in everything come first"
    return Table(title, ("trial", *goals, "epochs", *keys), rows, ("trial", *keys))


def _ranked(trials: Sequence[FrozenTrial], about: dict[str, Any]) -> list[FrozenTrial]:
    """Completed trials, best first; with several objectives by how many others beat them in all."""
    completed = [trial for trial in trials if trial.state.name == "COMPLETE"]
    signs = [-1 if way == "maximize" else 1 for way in about["directions"]]
    costs = {t.number: [sign * value for sign, value in zip(signs, t.values, strict=True)] for t in completed}

    def beaten(trial: FrozenTrial) -> int:
        own = costs[trial.number]
        return sum(cost != own and all(a <= b for a, b in zip(cost, own, strict=True)) for cost in costs.values())

    return sorted(completed, key=lambda trial: (beaten(trial), costs[trial.number], trial.number))


def _importances(study: Study, trials: Sequence[FrozenTrial]) -> list[Table]:
    from optuna.importance import get_param_importances

    completed = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if len(completed) < 4 or len(study.directions) > 1:
        return []
    try:
        found = get_param_importances(study)
    except (ValueError, RuntimeError, ZeroDivisionError):  # e.g. all trials have one value
        return []
    rows: list[tuple[str, ...]] = [(key, number(float(share), ".2f")) for key, share in found.items()]
    return [Table("What matters", ("key", "importance"), rows, ("key",))] if rows else []


def _states(trials: Sequence[FrozenTrial], about: dict[str, Any]) -> str:
    counts = {name: sum(trial.state.name == name for trial in trials) for name in ("COMPLETE", "PRUNED", "FAIL")}
    same = sum("same_as" in trial.user_attrs for trial in trials)
    repeated = f"; {same} were the same run as an earlier one" if same else ""
    return (
        f"{sum(counts.values())} of {about['n_trials']} trials are over: {counts['COMPLETE']} completed, "
        f"{counts['PRUNED']} pruned, {counts['FAIL']} failed{repeated}"
    )


def _epochs(trials: Sequence[FrozenTrial], spent: Sequence[int], about: dict[str, Any]) -> str:
    full = sum("same_as" not in trial.user_attrs for trial in trials) * int(about["epochs"])
    share = f", {sum(spent) / full:.0%} of the {full:,} without pruning" if full else ""
    return f"{sum(spent):,} epochs were trained{share}"


def _best(study: Study, about: dict[str, Any]) -> list[str]:
    ranked = _ranked(study.get_trials(deepcopy=False), about)
    if not ranked or len(about["objectives"]) > 1:
        return []
    best = ranked[0]
    point = ", ".join(f"{key}={_shown(value)}" for key, value in best.params.items())
    return [f"best: trial {best.number} with {about['objectives'][0]} {best.values[0]:.4f}, {point}"]


def _history(name: str, trials: Sequence[FrozenTrial], about: dict[str, Any]) -> list[Panel]:
    """The best value so far, by trial; none with several objectives."""
    if len(about["objectives"]) > 1:
        return []
    better = max if about["directions"][0] == "maximize" else min
    points: list[tuple[float, Interval]] = []
    best: float | None = None
    for trial in trials:
        if trial.state.name == "COMPLETE":
            best = trial.values[0] if best is None else better(best, trial.values[0])
            points.append((trial.number + 1, Interval(best, None, None, 1)))
    if len(points) < 2:
        return []
    limits = (min(0.0, points[0][1].mean), max(1.0, points[0][1].mean))
    goal = about["objectives"][0]
    return [Panel(name, "trial", goal, lambda x: f"{x:.0f}", [Line("best so far", points)], limits)]


def _csv(name: str, trial: FrozenTrial, epochs: int) -> tuple[str, ...]:
    params = " ".join(f"{key}={value}" for key, value in trial.params.items())
    values = " ".join(map(str, trial.values or ()))
    folder = str((trial.user_attrs.get("run") or {}).get("folder") or "")
    return (name, str(trial.number), trial.state.name.lower(), values, str(epochs), params, folder)


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
