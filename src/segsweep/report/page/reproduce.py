"""How to make the same runs again: commands, versions, commit and device."""

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segsweep.report.reproduce import command, key_of
from segsweep.report.runs import Comparison, Configuration

MOST = 20


@dataclass(frozen=True)
class Fact:
    """A name and what the records say about it."""

    name: str
    text: str


def commands(comparison: Comparison) -> list[str]:
    """One command for each of the best configurations; its seeds are swept where nothing else differs."""
    found: list[str] = []
    for row in comparison.configurations[:MOST]:
        found += [line for line in _commands(row) if line not in found]
    return found


def facts(comparison: Comparison) -> list[Fact]:
    """What made the runs; where they differ, each value with its number of runs."""
    runs = comparison.runs
    found = [
        Fact("commit", _counted([_commit(run.get("git")) for run in runs])),
        Fact("sweep", _counted([str(run.get("sweep") or "none: single runs") for run in runs])),
        Fact("device", _counted([str(run.get("device") or "unknown") for run in runs])),
        Fact("precision", _counted([str(run.get("precision") or "unknown") for run in runs])),
        Fact("threads", _counted([str(run.get("threads") or "unknown") for run in runs])),
    ]
    versions: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for name, version in (run.get("versions") or {}).items():
            versions[str(name)].append(str(version))
    found += [Fact(name, _counted(values)) for name, values in versions.items()]
    started = sorted(str(run["started"]) for run in runs if run.get("started"))
    finished = sorted(str(run["finished"]) for run in runs if run.get("finished"))
    if started:
        found.append(Fact("runs", f"{len(runs)}, from {started[0]}" + (f" to {finished[-1]}" if finished else "")))
    if comparison.data:
        found.append(Fact("data fingerprint", str(comparison.data.get("fingerprint"))))
    found.append(Fact("metric definition", "version " + _counted([str(run.get("metric_version")) for run in runs])))
    return found


def dirty_runs(comparison: Comparison) -> int:
    """Runs made from a checkout with changes that no commit has: nobody can make exactly these again."""
    return sum(bool((run.get("git") or {}).get("dirty")) for run in comparison.runs)


def _commands(row: Configuration) -> list[str]:
    by_rest: dict[tuple[str, ...], list[str]] = {}
    for run in row.runs:
        words = shlex.split(command(run))
        rest = tuple(word for word in words[1:] if key_of(word) != "seed")
        seeds = by_rest.setdefault(rest, [])
        if str(run["seed"]) not in seeds:
            seeds.append(str(run["seed"]))
    return [
        shlex.join(["segsweep", *(["-m"] if len(seeds) > 1 else []), *rest, f"seed={','.join(seeds)}"])
        for rest, seeds in by_rest.items()
    ]


def _commit(git: dict[str, Any] | None) -> str:
    if not git:
        return "no checkout"
    return f"{str(git.get('commit'))[:12]}{' with uncommitted changes' if git.get('dirty') else ''}"


def _counted(values: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    shown = [f"{value} ({values.count(value)} runs)" for value in distinct[:6]]
    return "; ".join(shown) + (f"; {len(distinct) - 6} more" if len(distinct) > 6 else "")
