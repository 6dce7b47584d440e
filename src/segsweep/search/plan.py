"""From the overrides and settings of a search to what it will do: checked, and held against what its folder holds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segsweep import journal
from segsweep.composer import Composer
from segsweep.config import is_silent
from segsweep.halving import SuccessiveHalving
from segsweep.hints import written
from segsweep.inspection import JobConfig, Verdict
from segsweep.redaction import redact_overrides
from segsweep.run import ConfigError, flatten
from segsweep.search.proposal import Proposals
from segsweep.search.settings import Finding
from segsweep.search.space import Space, space_of

Inspect = Callable[[list[JobConfig]], list[Verdict]]
Check = Callable[[dict[str, Any], Space, list[str], list[str]], Finding]


@dataclass(frozen=True)
class SearchPlan:
    """What a search does.

    Attributes:
        folder: of the search.
        proposals: composes its points.
        settings: plain values of ``hydra.sweeper``.
        about: what the journal says about the search; a command that says otherwise is refused.
    """

    folder: Path
    proposals: Proposals
    settings: dict[str, Any]
    about: dict[str, Any]

    @property
    def file(self) -> Path:
        """The journal."""
        return self.folder / journal.FILE

    @property
    def num_trials(self) -> int:
        """Trials that the search is to have in the end."""
        return int(self.about["n_trials"])

    @property
    def objectives(self) -> list[str]:
        """What is optimised."""
        return list(self.about["objectives"])


def make_plan(
    folder: Path, overrides: Sequence[str], settings: dict[str, Any], composer: Composer, inspect: Inspect, check: Check
) -> SearchPlan:
    """Plans a search.

    Args:
        folder: of the search; need not exist.
        overrides: of the task, in Hydra's grammar.
        settings: plain values of ``hydra.sweeper``.
        composer: knows the config folder.
        inspect: checks composed jobs.
        check: of the settings, ``settings.check_settings``.

    Raises:
        ConfigError: all mistakes, a line each; or the folder holds another search.
    """
    space = space_of(overrides, composer.parse)
    proposals = Proposals(space, composer)
    probes = proposals.probes()
    verdicts = inspect([probe.job for probe in probes])
    resolved = [probe.job.resolved for probe in probes if probe.job.resolved is not None]
    lines = [line for verdict in verdicts for line in verdict.lines]
    given = settings.get("objectives")
    if given is not None and not (isinstance(given, list) and all(isinstance(name, str) for name in given)):
        lines.append(
            f"hydra.sweeper.objectives={written(given)} is no list of names. Write e.g. hydra.sweeper.objectives="
            f"{written([given] if isinstance(given, str) else ['val/miou'])}"
        )
        settings, given = {**settings, "objectives": None}, None
    if resolved:
        objectives = _objectives(given, resolved)
        settings = _settle(settings, resolved)
        finding = check(settings, space, objectives, list(resolved[0]["data"].get("class_names") or []))
        lines += finding.lines
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))
    about = {
        "space": {dimension.name: str(dimension) for dimension in space.dimensions},
        "fixed": {key: redact_overrides([text])[0] for key, text in space.fixed.items() if not is_silent(key)},
        "objectives": objectives,
        "directions": list(finding.directions),
        **{key: settings.get(key) for key in ("sampler", "pruner", "seed")},
        "config": verdicts[0].config,
        "n_trials": _num_trials(settings, space),
        "epochs": max(plain["trainer"]["max_epochs"] for plain in resolved),
    }
    _refuse_no_selection(about)
    _refuse_other_search(folder, about)
    return SearchPlan(folder, proposals, settings, about)


def _objectives(given: Sequence[str] | None, configs: Sequence[Mapping[str, Any]]) -> list[str]:
    if given:
        return list(given)
    monitors = sorted({config["monitor"] for config in configs})
    if len(monitors) > 1:
        raise ConfigError(
            f"the runs monitor different metrics ({', '.join(monitors)}), which cannot be compared. Say what to search "
            "for, e.g. hydra.sweeper.objectives=[val/miou]"
        )
    return monitors


def _settle(settings: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the epochs of a run where the pruner says ``auto``: Optuna would wait for a run to finish to learn them."""
    pruner = settings.get("pruner")
    if not isinstance(pruner, dict) or pruner.get("max_resource") != "auto":
        return dict(settings)
    epochs = max(config["trainer"]["max_epochs"] for config in configs)
    return {**settings, "pruner": {**pruner, "max_resource": epochs}}


def _num_trials(settings: Mapping[str, Any], space: Space) -> int:
    number: int | None = settings.get("n_trials")
    if not str(settings["sampler"].get("_target_")).endswith(".GridSampler") or space.size is None:
        return number or 0
    return space.size if number is None else min(number, space.size)


def _refuse_no_selection(about: Mapping[str, Any]) -> None:
    halving = SuccessiveHalving.of(about["pruner"])
    epochs = about["epochs"]
    if halving is not None and epochs > 1 and not halving.rungs(epochs):
        raise ConfigError(
            f"hydra.sweeper.pruner: runs of {epochs} epochs (trainer.max_epochs) end before the first selection. Set "
            f"hydra.sweeper.pruner.reduction_factor={halving.reduction_factor}, or min_epochs, lower"
        )


def _refuse_other_search(folder: Path, about: Mapping[str, Any]) -> None:
    before = journal.about(folder / journal.FILE)
    if before is None:
        return
    old, new = (flatten({k: v for k, v in one.items() if k not in ("n_trials", "epochs")}) for one in (before, about))
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    # A space or a choice that is another changes the config of the first point, too: that says nothing more.
    keys = [key for key in keys if not key.startswith("config.")] or keys
    if keys:
        changes = ", ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys[:8])
        raise ConfigError(
            f"{folder} holds another search ({changes}). Choose another name=, or remove that folder to start over. "
            "hydra.sweeper.n_trials alone may change"
        )


def describe(plan: SearchPlan, states: Mapping[str, int]) -> str:
    """What a dry run prints: the space, how it is searched, and what is left.

    Args:
        plan: of the search.
        states: number of trials by state of the study.
    """
    about = plan.about
    width = max(map(len, about["space"]))
    lines = [f"{key:<{width}}  {text}" for key, text in about["space"].items()]
    size = plan.proposals.space.size
    lines += [f"{'points':<{width}}  {size}"] if size is not None else []
    lines += [f"fixed: {' '.join(about['fixed'].values())}"] if about["fixed"] else []
    goals = [f"{way} {name}" for way, name in zip(about["directions"], about["objectives"], strict=True)]
    lines.append(", ".join(goals))
    for part in ("sampler", "pruner"):
        lines.append(f"{part}: {_called(about[part])}")
    if halving := SuccessiveHalving.of(about["pruner"]):
        rungs = ", ".join(map(str, halving.rungs(about["epochs"])))
        lines[-1] += f" after {rungs} epochs" if rungs else ", which ends nothing: runs of 1 epoch have no half"
    counts = Counter(states)
    done = counts["COMPLETE"] + counts["PRUNED"] + counts["FAIL"]
    said = f"{counts['COMPLETE']} completed, {counts['PRUNED']} pruned, {counts['FAIL']} failed"
    left = max(0, plan.num_trials - done)
    running = f", {counts['RUNNING']} of them begun" if counts["RUNNING"] else ""
    lines.append(f"{plan.num_trials} trials of at most {about['epochs']} epochs: {said}, {left} left{running}")
    return "\n".join(lines)


def _called(node: Mapping[str, Any] | None) -> str:
    if not node:
        return "none"
    arguments = ", ".join(f"{k}={v}" for k, v in node.items() if not k.startswith("_") and v is not None)
    return f"{str(node['_target_']).rpartition('.')[2]}({arguments})"
