"""Arguments of the command line in Hydra's grammar, and what we read between its lines."""

import re
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException

from segsweep.config import GROUPS
from segsweep.hints import written


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


def single_values(argument: str, loader: ConfigLoader | None = None) -> list[str]:
    """``model=unet,reseg`` -> ``model=unet`` and ``model=reseg``; what is not swept is itself."""
    override = OverridesParser.create().parse_override(argument)
    override.config_loader = loader  # glob(...) asks it for the options
    if not override.is_sweep_override():
        return [argument]
    interval = override.value()
    if isinstance(interval, IntervalSweep):  # of a search: its ends
        return [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
