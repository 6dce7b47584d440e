"""The failed trials of a search, of earlier commands too: they are not tried again, so ``failed.csv`` keeps them."""

from collections.abc import Iterator
from typing import Any

from segsweep.run import read_record
from segsweep.search.plan import SearchPlan
from segsweep.search.proposal import trial_name
from segsweep.search.trials import ERROR, RUN, Trials
from segsweep.sweep import Job, Outcome


def failures(trials: Trials) -> list[Outcome]:
    """What became of each trial that failed, also of those that never had a run.

    Args:
        trials: of the search.
    """
    return list(_failures(trials.plan, trials.study.get_trials(deepcopy=False)))


def _failures(plan: SearchPlan, trials: list[Any]) -> Iterator[Outcome]:
    for trial in trials:
        if trial.state.name != "FAIL":
            continue
        run = trial.user_attrs.get(RUN) or {}
        folder = plan.folder / (run.get("folder") or trial_name(trial.number, trial.params, ""))
        error = trial.user_attrs.get(ERROR) or {"class": "unknown", "message": "the journal does not say why"}
        asked = [f"{key}={value}" for key, value in trial.params.items()]
        fixed = list(plan.proposals.space.fixed.values())
        job = Job(trial.number, folder, tuple(_overrides(folder) or [*fixed, *asked]), {}, {}, "", "")
        yield Outcome(job, "failed", error)


def _overrides(folder: Any) -> list[str]:
    """Those that the run was started with; none if it was not."""
    try:
        return list((read_record(folder) or {}).get("overrides") or [])
    except ValueError:
        return []
