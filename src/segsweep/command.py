"""Around the Hydra app: mistakes become one line each, and folders are chosen before anything is written."""

import contextlib
import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from segsweep.allocator import keep_memory_between_steps
from segsweep.config import fingerprint, is_silent, job_part, overrides_of, semantic_part, settle
from segsweep.hints import written
from segsweep.redaction import redact
from segsweep.refused import all_mistakes, in_a_line
from segsweep.run import ConfigError, new_folder, read_record, refuse_links
from segsweep.startup import importing
from segsweep.state import State, state_of

_OWN = "hydra_plugins.segsweep."  # where Hydra finds our sweepers and launcher
_SUBDIR = "${hydra.job.override_dirname}"  # of a job, in conf/train.yaml
_is_short = False  # whether run_app turns errors into lines
_typed: list[str] | None = None  # the arguments of run_app


def run_app(app: Callable[[], None], arguments: list[str]) -> None:
    """Runs a command; exits with 1 and one line a mistake, or with the traceback if ``HYDRA_FULL_ERROR=1`` is set.

    Args:
        app: the command, which composes a config from the arguments.
        arguments: of the command line.
    """
    global _is_short, _typed
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        return app()
    _is_short, _typed = True, arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would otherwise print itself
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if getattr(error, "is_reported", False):  # the run has logged it already
            sys.exit(1)
        if isinstance(error, HydraException | OmegaConfBaseException):
            stop(all_mistakes(arguments) or [in_a_line(error)])
        if isinstance(lines := getattr(error, "lines", None), list):  # data that cannot be used: it says everything
            stop(lines)
        stop(str(error).splitlines() if isinstance(error, ConfigError) else [f"{type(error).__name__}: {error}"])
    finally:
        _is_short, _typed = False, None
        del os.environ["HYDRA_FULL_ERROR"]


def typed() -> list[str]:
    """The arguments of the command line as they were typed; Hydra gets those of ``as_axes``."""
    return sys.argv[1:] if _typed is None else _typed


def shows_traceback() -> bool:
    """Whether errors end the program with a traceback: not below ``run_app``, unless the user asked for it."""
    return not _is_short


class Preflight(Callback):
    """Before a run or a sweep: refuses mistakes and chooses the folder.

    Hydra turns exceptions of callbacks into warnings and goes on; here every exception ends the program.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the config; an unnamed run gets a folder that no other process has."""
        keep_memory_between_steps()  # before torch starts threads
        with _no_warning_instead(), importing():
            self._prepare_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Names the sweep, by its folder if that was typed, else by its overrides; the sweeper checks its jobs."""
        with _no_warning_instead():
            self._name_sweep(config)

    def _prepare_run(self, config: DictConfig) -> None:
        _refuse(job_part(config), config.hydra.runtime.choices)
        if config.name is None and not _is_typed(config, "hydra.run.dir"):
            choices = config.hydra.runtime.choices
            stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{choices.data}_{choices.model}"
            if config.sweep.dry_run:
                _stop_dry(f"{Path(config.hydra.run.dir).parent / stem}_<4 hex digits>", "new")
            with read_write(config):
                config.hydra.run.dir = str(new_folder(Path(config.hydra.run.dir).parent, stem))
            return
        folder = Path(config.hydra.run.dir)
        if config.sweep.dry_run:
            _stop_dry(str(folder), _state(folder, job_part(config)))
        try:
            refuse_links(folder)  # before Hydra opens the log
        except ConfigError as error:
            stop([str(error)])

    def _name_sweep(self, config: DictConfig) -> None:
        if lines := list(_ignored(config)):
            stop(lines)
        if config.name is not None:
            return
        if name := _name_of_typed_folder(config):
            with read_write(config):
                config.name = name
                config.hydra.overrides.task.append(f"name={written(name)}")
            return
        read = [text for text in _overrides_of_jobs(config) if not is_silent(text.partition("=")[0].lstrip("+~"))]
        read += [text for text in overrides_of(config, "hydra") if _chooses_jobs(text)]
        digest = hashlib.sha256("\n".join(sorted(read)).encode()).hexdigest()
        with read_write(config):
            config.name = f"s{digest[:8]}"  # the letter keeps YAML from reading 12345e67 as a number
            config.hydra.overrides.task.append(f"name={config.name}")


def _ignored(config: DictConfig) -> Iterator[str]:
    """A line for each setting that would make no difference to a sweep."""
    for text in _overrides_of_jobs(config):
        if text.startswith("name=") and OverridesParser.create().parse_override(text).is_sweep_override():
            yield f"{text}: a sweep has one name, and its jobs are named by what is swept. Give one, or leave it out"
    hydra: dict[str, Any] = OmegaConf.to_container(config.hydra, resolve=False)  # type: ignore[assignment]
    sweeper, launcher = (str((hydra.get(plugin) or {}).get("_target_")) for plugin in ("sweeper", "launcher"))
    subdir = hydra["sweep"].get("subdir", _SUBDIR)
    if sweeper.startswith(_OWN) and subdir != _SUBDIR:
        yield f"hydra.sweep.subdir={subdir}: this sweeper names jobs itself, by what is swept. Leave it out"
    if launcher.startswith(_OWN) and (hydra.get("job") or {}).get("chdir"):
        yield "hydra.job.chdir=true: jobs stay in the folder where the command was typed. Leave it out"


def _state(folder: Path, config: DictConfig) -> State:
    """Whether a run would begin, go on or be refused."""
    plain = settle(config)
    try:
        identity = {"fingerprint": fingerprint(plain), "config": redact(semantic_part(plain))}
        return state_of(folder, read_record(folder), identity)
    except ValueError as error:  # another config, or a damaged record
        stop(str(error).splitlines())


def _stop_dry(folder: str, state: State) -> NoReturn:
    """Prints what would run, as a sweep does, and stops."""
    print(f"{folder}  {state}\n1 job: 1 {state}")
    sys.exit(0)


def _overrides_of_jobs(config: DictConfig) -> list[str]:
    """What the jobs of a sweep are made of, as typed: texts that are equal for the sweep need not be for its jobs."""
    params = OmegaConf.to_container(config.hydra.sweeper, resolve=False).get("params") or {}  # type: ignore[union-attr]
    return [*(f"{key}={value}" for key, value in params.items()), *overrides_of(config, "task")]


def _name_of_typed_folder(config: DictConfig) -> str:
    """The last part of a folder that was typed, which serves as a name; empty if none was, or if it asks for one."""
    folders = [text for text in overrides_of(config, "hydra") if text.startswith("hydra.sweep.dir=")]
    return Path(config.hydra.sweep.dir).absolute().name if folders and "${name}" not in folders[-1] else ""


def _chooses_jobs(override: str) -> bool:
    """Whether an override of Hydra's own node makes another sweep of one; more trials continue a search."""
    key = override.partition("=")[0].lstrip("+~")
    return key.startswith(("hydra/sweeper", "hydra.sweeper.")) and key != "hydra.sweeper.n_trials"


@contextlib.contextmanager
def _no_warning_instead() -> Iterator[None]:
    try:
        yield
    except OmegaConfBaseException as error:
        stop(all_mistakes(sys.argv[1:]) or [in_a_line(error)])
    except HydraException:
        stop(all_mistakes(sys.argv[1:]) or [traceback.format_exc()])
    except Exception:
        stop(["the config cannot be checked, which is a defect of segsweep: " + traceback.format_exc()])


def _is_typed(config: DictConfig, key: str) -> bool:
    return any(override.startswith(f"{key}=") for override in overrides_of(config, "hydra"))


def _refuse(config: DictConfig, choices: DictConfig) -> None:
    from segsweep.check import mistakes

    if lines := mistakes(config, choices):
        stop(lines)


def stop(lines: list[str]) -> NoReturn:
    """Prints mistakes, a line each, and exits with 1."""
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)
