"""The sweeper that Hydra sees."""

import logging
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from segsweep import journal
from segsweep.command import stop
from segsweep.composer import Composer
from segsweep.endings import disk_advice
from segsweep.inspection import inspect_jobs
from segsweep.launcher import EXIT_SOME_FAILED, LocalLauncher, sweep_options
from segsweep.run import ConfigError, lock
from segsweep.sweep import SweepOptions
from segsweep.sweep.failures import FILE, write_failures
from segsweep.sweep.processes import WARM, call, warm_up
from segsweep.sweep.records import put_damaged_aside

if TYPE_CHECKING:
    from segsweep.search.plan import SearchPlan

log = logging.getLogger(__name__)

_WARM = (*WARM, "optuna", "optuna.storages.journal")  # each trial opens the study


class OptunaSweeper(Sweeper):
    """A search of the space that the overrides span, driven by Optuna.

    The same command continues the search: trials that are over stay, interrupted ones are continued.

    Args:
        params: key -> values, e.g. from an experiment file; the command line replaces them.
        **settings: those of ``settings.Settings``.
    """

    def __init__(self, params: dict[str, Any] | None = None, **settings: Any) -> None:
        self.params, self.settings = dict(params or {}), plain(settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's: takes the composed config of the search and makes the launcher."""
        self.config: DictConfig = config
        warm_up(_WARM)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> float | None:
        """Hydra's: runs the search.

        Args:
            arguments: overrides of the task.

        Returns:
            The best value of the first objective; None if there is none.

        Raises:
            SystemExit: the search gave up or nothing has completed (3), or it was interrupted.
        """
        from segsweep.search.plan import describe, make_plan
        from segsweep.search.settings import check_settings

        options = sweep_options(self.config)
        folder = Path(self.config.hydra.sweep.dir)
        overrides = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        composer = Composer.of(self.config)

        def check(*settings: Any) -> Any:
            return call(check_settings, *settings)

        try:
            if options.zip:
                raise ConfigError("sweep.zip: a search chooses keys one by one. Leave it out, or sweep a grid")
            plan = make_plan(folder, overrides, self.settings, composer, _inspect, check)
            if options.dry_run:
                print(describe(plan, _states(plan)))
                return None
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder):
                put_damaged_aside(folder)
                return self._search(plan, options)
        except ConfigError as error:
            stop(str(error).splitlines())
        except OSError as error:
            if (advice := disk_advice(error, folder)) is None:
                raise
            stop([advice])

    def _search(self, plan: "SearchPlan", options: SweepOptions) -> float | None:
        from segsweep.search.batches import Batches
        from segsweep.search.failed import failures
        from segsweep.search.trials import Trials, summary

        trials = Trials(plan, _inspect)
        log.info("%s: %d trials, %d done already", os.path.relpath(plan.folder), plan.num_trials, trials.num_done)
        try:
            if isinstance(self.launcher, LocalLauncher):
                with self.launcher.pool(plan.num_trials, trials.num_done) as pool:
                    trials.run(pool)
            else:
                trials.run(Batches(self.launcher, options.jobs if isinstance(options.jobs, int) else 1))
        finally:
            failed = failures(trials)
            write_failures(plan.folder, failed)
            log.info("%s: %s", os.path.relpath(plan.folder), summary(trials.study))
        best = trials.study.best_trials
        end(plan.folder, len(failed), bool(best), trials.num_failures if trials.has_given_up else 0)
        return best[0].values[0] if best else None


def end(folder: Path, num_failed: int, has_completed: bool, num_last_failed: int) -> None:
    """Says how a search ended. A failed trial that it got over is no failure of the search.

    Args:
        folder: of the search.
        num_failed: trials that failed, of all commands.
        has_completed: whether any trial has.
        num_last_failed: trials in a row because of which the search has given up, 0: it has not.

    Raises:
        SystemExit: nothing has completed, or the search gave up (3).
    """
    listed = f"{num_failed} trials failed, listed in {os.path.relpath(folder / FILE)}."
    if num_last_failed:
        log.error(
            "the last %d trials failed: the search has given up. %s The same command goes on, "
            "hydra.sweeper.max_consecutive_failures=null never gives up",
            num_last_failed,
            listed,
        )
    elif not has_completed:
        log.error(
            "no trial has completed. %sFailed trials are not tried again: mend the cause and choose another name=, or "
            "ask for more trials with hydra.sweeper.n_trials",
            f"{listed} " * bool(num_failed),
        )
    elif num_failed:
        log.warning("%s The search got over them; they are not tried again", listed)
    if num_last_failed or not has_completed:
        raise SystemExit(EXIT_SOME_FAILED)


def plain(node: Any) -> Any:
    """Plain values of a config node, interpolations resolved."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _inspect(jobs: Any) -> Any:
    return call(inspect_jobs, jobs)


def _states(plan: "SearchPlan") -> Counter[str]:
    """Number of trials by state, from what the folder holds."""
    if journal.about(plan.file) is None:
        return Counter()
    from segsweep.study import open_study

    return Counter(trial.state.name for trial in open_study(plan.file).get_trials(deepcopy=False))
