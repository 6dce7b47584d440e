"""The local launcher of sweeps: each job in a process of its own, forked from one that has imported everything."""

import contextlib
import functools
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from segsweep.command import typed
from segsweep.config import job_part, overrides_of
from segsweep.inspection import JobConfig, inspect_jobs, resolved
from segsweep.run import FINISHED, ConfigError
from segsweep.sweep import Job, Outcome, SweepOptions
from segsweep.sweep.failures import FILE, one_line, write_failures
from segsweep.sweep.groups import grouped, num_groups
from segsweep.sweep.machine import find_machine
from segsweep.sweep.pool import Event, Pool
from segsweep.sweep.processes import call, warm_up
from segsweep.sweep.progress import Progress
from segsweep.sweep.slots import Slots, uses_gpu
from segsweep.together import Member, train_together
from segsweep.train import origin_of, run_job

log = logging.getLogger(__name__)

EXIT_SOME_FAILED = 3


class JobFailedError(RuntimeError):
    """A job that failed, for sweepers that look at the value of each; the launcher has said why."""

    is_reported = True


class LocalLauncher(Launcher):
    """Hydra's launcher for this machine; options are the node ``sweep``."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's: takes the composed config of the sweep, and lets the imports begin."""
        self.hydra_context, self.config = hydra_context, config
        warm_up()

    @property
    def options(self) -> SweepOptions:
        """How jobs are run."""
        return sweep_options(self.config)

    def num_at_once(self, jobs: Sequence[Job]) -> int:
        """How many jobs of a sweep would run side by side."""
        use_gpus = any(uses_gpu(job.config.get("trainer")) for job in jobs)
        return Slots(self.options, num_groups(jobs), find_machine(use_gpus)).at_once

    def run(self, jobs: Sequence[Job], every: Sequence[Job] | None = None) -> list[Outcome]:
        """Runs jobs, and writes down which of them failed.

        Args:
            jobs: left to run.
            every: job of the whole sweep, finished ones included; None: these are all.

        Returns:
            What became of each, as they ended.

        Raises:
            SystemExit: Ctrl-C (130) or SIGTERM (143).
        """
        outcomes: list[Outcome] = []
        every = jobs if every is None else every
        use_gpus = any(uses_gpu(job.config.get("trainer")) for job in jobs)
        try:
            with self._pool(len(every), len(every) - len(jobs), use_gpus, num_groups(every)) as pool:
                for job in grouped(every, jobs):
                    pool.submit(job)
                while not pool.is_idle:
                    outcomes.append(pool.outcome())
        finally:
            write_failures(self._folder, outcomes)
        return outcomes

    def pool(self, num_jobs: int, num_done: int = 0) -> contextlib.AbstractContextManager[Pool]:
        """Processes for jobs that are not known yet.

        Args:
            num_jobs: of the whole sweep.
            num_done: of them that have finished before.
        """
        return self._pool(num_jobs, num_done, uses_gpu(self.config.trainer))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's, for sweepers that know nothing of jobs: composes, checks and runs them.

        Args:
            job_overrides: of each job.
            initial_job_idx: number of the first.

        Raises:
            ConfigError: the mistakes of all jobs; none was started.
        """
        composed = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        jobs = _jobs(composed, initial_job_idx)
        outcomes = {outcome.job.index: outcome for outcome in self.run(jobs)}
        return [_job_return(cfg, outcomes[job.index]) for cfg, job in zip(composed, jobs, strict=True)]

    @property
    def _folder(self) -> Path:
        return Path(self.config.hydra.sweep.dir)

    @contextlib.contextmanager
    def _pool(self, num_jobs: int, num_done: int, use_gpus: bool, num_places: int | None = None) -> Iterator[Pool]:
        hydra = self.config.hydra
        logging_config = OmegaConf.to_container(hydra.job_logging, resolve=False)
        target = functools.partial(
            train_job, sweep=self.config.name, logging_config=logging_config, name=hydra.job.name, verbose=hydra.verbose
        )
        pool = Pool(
            self.options, num_places or num_jobs, target, sweep=self.config.name, machine=find_machine(use_gpus)
        )
        with Progress(num_jobs, num_done, pool.slots.at_once) as progress:
            pool.on_event = functools.partial(self._hear, progress, [])
            with pool:
                yield pool

    def _hear(self, progress: Progress, outcomes: list[Outcome], event: Event) -> None:
        """Shows what happens, and lists failures as they happen: a sweep that is killed has the list, too."""
        if event.outcome is not None:
            outcomes.append(event.outcome)
            if event.outcome.status == "failed":
                write_failures(self._folder, outcomes)
        progress(event)

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        cfg: DictConfig = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
        return cfg


def sweep_options(config: DictConfig) -> SweepOptions:
    """The node ``sweep`` of a composed config."""
    node: dict[str, Any] = OmegaConf.to_container(config.sweep, resolve=True)  # type: ignore[assignment]
    return SweepOptions(**{key: value for key, value in node.items() if key != "_target_"})


def finish(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Says how a sweep ended.

    Args:
        folder: of the sweep.
        outcomes: of the jobs that were run.

    Raises:
        SystemExit: some are not complete (3).
    """
    count: Counter[str] = Counter(outcome.status for outcome in outcomes)
    num_done = sum(count[status] for status in FINISHED)
    shown = os.path.relpath(folder)
    log.info("sweep: %d of %d jobs completed. Who wins: segsweep-report %s", num_done, len(outcomes), shown)
    if count["failed"]:
        listed = f", listed in {shown}/{FILE}" if (folder / FILE).exists() else ""
        log.error("%d failed%s. To run only them again: %s", count["failed"], listed, _command())
    if num_open := len(outcomes) - num_done - count["failed"]:
        log.error("%d interrupted; the same command continues: %s", num_open, _command())
    full = [outcome.error["message"] for outcome in outcomes if outcome.error and outcome.error.get("class") == "disk"]
    if full:
        log.error("disk full: %s. Free space; the same command continues", one_line(full[0]))
    if num_done < len(outcomes):
        raise SystemExit(EXIT_SOME_FAILED)


def train_job(job: Job, sweep: str | None, logging_config: Any, name: str, verbose: Any) -> None:
    """Trains a job in its own process, which prints into the log file.

    Args:
        job: to train; one that stands for a group, with all of them.
        sweep: its name.
        logging_config: Hydra's ``job_logging``, interpolations kept.
        name: of the app, which a log file may be named after.
        verbose: Hydra's flag.
    """
    hydra = {"runtime": {"output_dir": str(job.folder)}, "job": {"name": name}, "job_logging": logging_config}
    with _forgetting_once():
        configure_log(_without_console(OmegaConf.create({"hydra": hydra}).hydra.job_logging), verbose)
    if job.others is None:
        run_job(_config_of(job), job.folder, origin_of(job.choices, job.overrides, sweep))
        return
    _log_for(job.others)
    train_together(
        [Member(_config_of(one), one.folder, origin_of(one.choices, one.overrides, sweep)) for one in job.all]
    )


@contextlib.contextmanager
def _forgetting_once() -> Iterator[None]:
    """Has logging forget which levels are on when the block ends, and not for each logger in it.

    Of those there are hundreds, and forgetting looks at thousands: a third of the time between two jobs.
    """
    manager: Any = logging.root.manager
    manager._clear_cache = lambda: None
    try:
        yield
    finally:
        del manager._clear_cache
        manager._clear_cache()


def _config_of(job: Job) -> DictConfig:
    cfg = OmegaConf.create(job.config)
    OmegaConf.set_struct(cfg, True)
    return cfg


def _log_for(others: Sequence[Job]) -> None:
    """Has each of the jobs that are trained as one keep the whole log; what goes past it is in that of the first."""
    for handler in list(logging.root.handlers):
        if isinstance(handler, logging.FileHandler):
            for job in others:
                copy = logging.FileHandler(job.folder / Path(handler.baseFilename).name, encoding=handler.encoding)
                copy.setFormatter(handler.formatter)
                copy.setLevel(handler.level)
                logging.root.addHandler(copy)


def _jobs(composed: Sequence[DictConfig], first: int) -> list[Job]:
    """Jobs of a sweeper that is not ours, checked.

    Raises:
        ConfigError: their mistakes.
    """
    parts = [_parts(cfg) for cfg in composed]
    verdicts = call(inspect_jobs, parts)
    if lines := dict.fromkeys(line for verdict in verdicts for line in verdict.lines):
        raise ConfigError("\n".join(lines))
    return [
        Job(
            index=first + i,
            folder=Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir,
            overrides=tuple(overrides_of(cfg, "task")),
            config=part.config,
            choices=part.choices,
            fingerprint=verdict.fingerprint,
            kind=verdict.kind,
        )
        for i, (cfg, part, verdict) in enumerate(zip(composed, parts, verdicts, strict=True))
    ]


def _parts(cfg: DictConfig) -> JobConfig:
    own = job_part(cfg)
    choices = {k: v for k, v in cfg.hydra.runtime.choices.items() if v is not None}
    return JobConfig(_plain(own), resolved(own), choices)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    return plain


def _job_return(cfg: DictConfig, outcome: Outcome) -> JobReturn:
    job = outcome.job
    done = JobReturn(overrides=list(job.overrides), working_dir=str(job.folder), task_name=cfg.hydra.job.name)
    done.cfg, done.hydra_cfg = OmegaConf.create(job.config), OmegaConf.masked_copy(cfg, "hydra")
    failed = outcome.status in ("failed", "interrupted")
    done.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    error = outcome.error or {}
    done.return_value = (
        JobFailedError(f"{job.name}: {error.get('class')}: {error.get('message')}") if failed else outcome.value
    )
    return done


def _without_console(config: DictConfig) -> DictConfig:
    """Logging without what goes to the terminal: the job's terminal is the log file already."""
    console = [
        key for key, handler in config.get("handlers", {}).items() if handler.get("class") == "logging.StreamHandler"
    ]
    if len(console) == len(config.get("handlers", {})):
        return config  # there is no file: what is printed reaches it
    for node in (config.get("root", {}), *config.get("loggers", {}).values()):
        if "handlers" in node:
            node.handlers = [name for name in node.handlers if name not in console]
    for key in console:
        del config.handlers[key]
    return config


def _command() -> str:
    """What was typed."""
    program = Path(sys.argv[0])
    words = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*words, *typed()])
