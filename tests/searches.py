"""A search without training: jobs write the record of a run whose score follows from its learning rate.

``python -m tests.searches FOLDER TRIALS SECONDS`` runs one of 30 trials; it is killed by the tests of searches.
"""

import functools
import json
import math
import sys
import time
from collections import deque
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segsweep import CONF_DIR, journal
from segsweep.composer import Composer
from segsweep.config import fingerprint
from segsweep.halving import UNTIL, SuccessiveHalving, has_reached
from segsweep.inspection import Verdict
from segsweep.run import lock, open_run, read_record
from segsweep.search.plan import make_plan
from segsweep.search.settings import Finding
from segsweep.search.trials import Trials
from segsweep.study import open_study
from segsweep.sweep import Outcome
from segsweep.sweep.ending import outcome_of

SPACE = ("optimizer.lr=tag(log,interval(1e-4,1e-1))", "data.batch_size=4,8,16", "trainer=cpu")
COMPOSER = Composer()  # remembers what it has composed
NUM_EPOCHS = 8


def settings(sampler="random", pruner="none", arguments=None, **changes):
    """The node ``hydra.sweeper``, as the command line would compose it; ``arguments`` are the pruner's."""
    node = _settings(sampler, pruner)
    return node | ({"pruner": node["pruner"] | arguments} if arguments else {}) | changes


@functools.cache
def _settings(sampler, pruner):
    choices = ["hydra/sweeper=optuna", f"hydra/sweeper/sampler={sampler}", f"hydra/sweeper/pruner={pruner}"]
    node = OmegaConf.to_container(compose("train", choices, return_hydra_config=True).hydra.sweeper, resolve=True)
    return {key: value for key, value in node.items() if key not in ("_target_", "_recursive_", "params")}


def inspect(jobs):
    """Identities alone; nothing is checked, so torch is not imported."""
    return [Verdict([], fingerprint(job.resolved), fingerprint(job.resolved, with_seed=False), {}) for job in jobs]


def plan_of(folder, *overrides, check=None, inspect=inspect, **changes):
    """A plan of a search."""

    def find(node, space, objectives, class_names):
        return Finding([], ("maximize",) * len(objectives))

    return make_plan(folder, overrides or SPACE, settings(**changes), COMPOSER, inspect, check or find)


def score(config):
    """The best learning rate is 0.01."""
    lr = config["optimizer"]["lr"]
    return round(1 / (1 + math.log10(lr / 0.01) ** 2), 6)


class Workers:
    """Has jobs done one by one, ``seconds`` each; ``results`` says by number what becomes of special ones."""

    def __init__(self, at_once=1, results=None, seconds=0.0):
        self.at_once, self.results, self.seconds = at_once, results or {}, seconds
        self.waiting, self.ran, self.most, self.epochs = deque(), [], 0, 0

    @property
    def free(self):
        return self.at_once - len(self.waiting)

    def submit(self, job):
        self.waiting.append(job)
        self.most = max(self.most, len(self.waiting))

    def outcome(self):
        job = self.waiting.popleft()
        self.ran.append(job)
        result = self.results.get(job.index, score(job.config))
        if isinstance(result, Outcome | str):
            return Outcome(job, result, {"class": "oom", "message": "no memory"} if result == "failed" else None)
        job.folder.mkdir(exist_ok=True)
        with open_run(job.folder, {"fingerprint": job.fingerprint, "config": {}, "monitor": "val/miou"}) as run:
            run.ends_as, epochs = self._train(job, result, first=1 + run.before.get("epochs", 0))
            run.save(metrics={"val/miou": result}, parameters=100, epochs=epochs)
        return outcome_of(job)

    def _train(self, job, result, first):
        """Reports as ``pruning.Pruning`` does, if the search has a pruner; how it ended, and after how many epochs."""
        file = job.folder.parent / journal.FILE
        pruner = journal.about(file)["pruner"]
        for step in range(max(1, first - 1), NUM_EPOCHS + 1):  # a checkpoint knows the score that it was written with
            time.sleep(self.seconds / NUM_EPOCHS * (step >= first))
            self.epochs += step >= first
            if pruner and self._reports(file, pruner, job.index, step, result * step / NUM_EPOCHS):
                return "paused" if SuccessiveHalving.of(pruner) else "pruned", step
        return "completed", NUM_EPOCHS

    def _reports(self, file, pruner, number, step, value):
        """Whether the run has to end."""
        study = open_study(file, pruner)
        trial = study.get_trials(deepcopy=False)[number]
        if step not in trial.intermediate_values:
            study._storage.set_trial_intermediate_value(trial._trial_id, step, value)
        trial = study._storage.get_trial(trial._trial_id)
        if step == NUM_EPOCHS:
            return False
        if SuccessiveHalving.of(pruner):
            return has_reached(trial.user_attrs.get(UNTIL), trial.intermediate_values)
        return study.pruner.prune(study, trial)


def states(folder):
    """State of each trial."""
    return [trial.state.name for trial in open_study(folder / journal.FILE).get_trials()]


def params(folder):
    """Parameters of each trial."""
    return [trial.params for trial in open_study(folder / journal.FILE).get_trials()]


def run(folder, *overrides, workers=None, **changes):
    """Plans and runs a search; returns its trials and workers."""
    workers = workers or Workers()
    folder.mkdir(parents=True, exist_ok=True)
    trials = Trials(plan_of(folder, *overrides, **changes), inspect)
    trials.run(workers)
    return trials, workers


def statuses(folder):
    """Status of each run by its folder."""
    return {file.parent.name: read_record(file.parent)["status"] for file in sorted(folder.glob("*/record.json"))}


if __name__ == "__main__":
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        place = Path(sys.argv[1])
        place.mkdir(exist_ok=True)
        with lock(place):
            made, _ = run(
                place,
                workers=Workers(seconds=float(sys.argv[3])),
                n_trials=int(sys.argv[2]),
                sampler="tpe",
                pruner="asha",
            )
        print(json.dumps([trial.state.name for trial in made.study.get_trials()]))
