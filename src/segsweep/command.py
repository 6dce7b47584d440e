"""Around the Hydra app: mistakes become one line each, and folders are chosen before anything is written."""

import contextlib
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from segsweep import CONF_DIR
from segsweep.allocator import keep_memory_between_steps
from segsweep.config import GROUPS, TOP_LEVEL, fingerprint, is_silent, job_part, overrides_of, semantic_part, settle
from segsweep.hints import did_you_mean, written
from segsweep.run import ConfigError, new_folder, read_record, redact, refuse_links
from segsweep.state import State, state_of

VERSION_BASE = "1.3"
_EXTRAS = {"ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}  # launchers of other packages
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
            stop(_all_mistakes(arguments) or [_in_a_line(error)])
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
        with _no_warning_instead():
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
        stop(_all_mistakes(sys.argv[1:]) or [_in_a_line(error)])
    except HydraException:
        stop(_all_mistakes(sys.argv[1:]) or [traceback.format_exc()])
    except Exception:
        stop(["the config cannot be checked, which is a defect of segsweep: " + traceback.format_exc()])


def as_folders(arguments: list[str]) -> list[str]:
    """Quotes a folder of ``init_from`` as Hydra wants it: those of jobs have commas in their names."""
    parts = [argument.partition("=") for argument in arguments]
    return [
        f"{key}={written(value)}" if _is_folder(key, value) else key + equals + value for key, equals, value in parts
    ]


def _is_folder(key: str, value: str) -> bool:
    """Whether a value is one folder as it stands, or one for each seed: ``sweeps/a/model=unet,seed=${seed}``."""
    start, dollar, rest = value.partition("${")
    known = Path(start).parent if dollar and "," not in rest else Path(value)
    return key == "init_from" and not value.startswith(("'", '"')) and known.is_dir() and value != ""


def as_axes(arguments: list[str]) -> list[str]:
    """Makes a sweep's overrides of single values axes of one value: ``model.heads=2`` -> ``model.heads=choice(2)``.

    Hydra puts single values into the config of the sweep itself, where a key that only some of the swept models have is
    a mistake. As axes they reach the jobs, which know what they have.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return arguments
    return [_as_axis(argument) for argument in arguments]


def _as_axis(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key.partition(".")[0] not in GROUPS or "." not in key or not value or re.match(r"\w+\(", value):
        return argument
    axis, parser = f"{key}{equals}choice({value})", OverridesParser.create()
    try:
        is_single = not parser.parse_override(argument).is_sweep_override()
        parser.parse_override(axis)  # no choice can be null
    except HydraException:
        return argument
    return axis if is_single else argument


def compose_job(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """Composes the config of one job outside Hydra's own app: the config and the option of each group."""
    with initialize_config_dir(str(CONF_DIR), version_base=VERSION_BASE):
        cfg = compose("train", overrides, return_hydra_config=True)
    return job_part(cfg), dict(cfg.hydra.runtime.choices)


def _in_a_line(error: Exception) -> str:
    key, first = getattr(error, "full_key", None), str(error).splitlines()[0]
    return f"{key}: {first}" if key else first


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


def _all_mistakes(arguments: list[str]) -> list[str]:
    """Names every mistake of a command line that Hydra refuses; Hydra itself stops at the first.

    Overrides are composed one after another: one that fails is explained and left out, what remains is checked by
    value.
    """
    if any(argument.startswith(("--config", "-c")) and argument != "--cfg" for argument in arguments):
        return []  # another config folder: what is known here does not hold there
    GlobalHydra.instance().clear()
    is_sweep = bool({"-m", "--multirun"} & set(arguments))
    lines: list[str] = []
    accepted: list[str] = []
    has_wrong_plugin = False
    with initialize_config_dir(str(CONF_DIR), version_base=VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        for argument in arguments:
            if argument.startswith("-"):
                continue
            is_hydras = argument.startswith("hydra.")
            if is_hydras and has_wrong_plugin:
                continue  # its keys are not known
            try:
                values = _single_values(argument, loader)
                if len(values) > 1 and is_hydras:
                    lines.append(
                        f"{argument}: jobs share the keys of hydra. Give one value; a list is written key=[a,b]"
                    )
                elif len(values) > 1 and not is_sweep:
                    lines.append(f"{argument}: several values need -m, for a sweep; a list is written key=[a,b]")
                for override in values:
                    compose("train", [*accepted, override])
                accepted += values[:1]
            except (HydraException, OmegaConfBaseException) as error:
                lines.append(explain(argument, error, accepted))
                has_wrong_plugin |= argument.startswith("hydra/")
        if lines:
            from segsweep.check import mistakes

            cfg = compose("train", accepted, return_hydra_config=True)
            lines += mistakes(job_part(cfg), cfg.hydra.runtime.choices)
    return lines


def _single_values(argument: str, loader: ConfigLoader | None = None) -> list[str]:
    """``model=unet,reseg`` -> ``model=unet`` and ``model=reseg``; what is not swept is itself."""
    override = OverridesParser.create().parse_override(argument)
    override.config_loader = loader  # glob(...) asks it for the options
    if not override.is_sweep_override():
        return [argument]
    interval = override.value()
    if isinstance(interval, IntervalSweep):  # of a search: its ends
        return [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def explain(argument: str, error: Exception, accepted: list[str], config_name: str = "train") -> str:
    """Why Hydra refuses an override, in one line that says how to write it.

    Args:
        argument: the override.
        error: what Hydra raised.
        accepted: overrides that are fine, to say what else there is.
        config_name: of the file that is composed.
    """
    if isinstance(error, OverrideParseException) or type(error) is HydraException:  # the grammar raises either
        detail = str(error).splitlines()[0]
        if re.search(r"[{,]\s*[\"'][^\"']*[\"']\s*:", argument):
            keys = "write {60 16 152:road}; keys with other characters than letters, digits and spaces go into a file"
            return f"{argument}: no override. On the command line keys in braces have no quotes: {keys}"
        return f"{argument}: no override ({detail}). Write key=value, and quote values with special characters"
    if isinstance(error, MissingConfigException):
        option = (error.missing_cfg_file or argument).rpartition("/")[2]
        if option in _EXTRAS:
            return f'{argument}: needs a package that is not installed here: pip install "segsweep[{_EXTRAS[option]}]"'
        if error.options is not None:
            group = argument.partition("=")[0].lstrip("+")
            return f"{group}={option}: there is no such option. {did_you_mean(option, error.options)}"
    key = argument.partition("=")[0].lstrip("+~")
    parent, _, leaf = key.rpartition(".")
    cfg = compose(config_name, accepted, return_hydra_config=key.startswith("hydra."))
    node = OmegaConf.select(cfg, parent) if parent else dict.fromkeys([*TOP_LEVEL, "experiment"])
    if node is None:
        return f"{key}: unknown key. {_nearest_parent(parent, cfg)}"
    reason = str(error.__cause__ or error)
    inside = node.get(leaf) if OmegaConf.is_dict(node) else None
    if isinstance(inside, DictConfig) and (unknown := re.search(r"Key '(.*)' is not in struct", reason)):
        hint = did_you_mean(unknown[1], map(str, inside))
        new = "" if hint.startswith("Did") else f", or write ++{key}.{unknown[1]}=... for a new one"
        return f"{key}.{unknown[1]}: unknown key. {hint}{new}"
    if leaf in node:
        return f"{argument}: {reason.splitlines()[0]}"
    known = [f"{parent}.{name}" if parent else str(name) for name in node]
    return f"{key}: unknown key. {did_you_mean(key, known)}"


def _nearest_parent(path: str, cfg: DictConfig) -> str:
    """Advice about the first part of a path that does not exist."""
    node: Any = cfg
    above: list[str] = []
    for part in path.split("."):
        if not (OmegaConf.is_dict(node) and part in node):
            break
        node, above = node[part], [*above, part]
    known = [".".join([*above, str(name)]) for name in node] if OmegaConf.is_dict(node) else [".".join(above)]
    return did_you_mean(".".join(path.split(".")[: len(above) + 1]), known)
