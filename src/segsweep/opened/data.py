"""The data that a run was trained on, opened again: from facts in its record, and a root that the user types."""

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from segsweep.augment import Augment
from segsweep.data.datamodule import DataModule
from segsweep.objectives import Segment
from segsweep.opened.run import OpenedRun
from segsweep.opened.table import SOURCES
from segsweep.regime import Regime, Stage
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.signatures import Defaults, check_node

# Set here, whatever a record says: a stranger's may not fetch, follow links or take more memory than usual.
_OURS = {
    "max_pixels": 64e6,
    "follow_links": False,
    "allow_leak": True,  # what is looked at now was trained on already
    "download": False,
    "downloader": None,
    "obtain": None,
    "storage": "memory",
    "num_workers": 2,
}
_MOST = 1_000_000  # images that a source is asked to make up


def open_data(run: OpenedRun, root: Path | None = None, **changes: Any) -> DataModule:
    """Builds the DataModule of a run's data: same splits, sizes and statistics, without augmentation.

    Args:
        run: as ``open_finished`` returns it.
        root: folder of the dataset on this machine; None for data that needs none.
        changes: arguments of the DataModule or the source to use instead, e.g. ``batch_size=1``.

    Raises:
        ConfigError: a root is needed or too much, the source is not segsweep's own, or a value is none that it takes;
            a line each.
    """
    node = {**run.data_node, **_OURS, **changes}
    shown = os.path.relpath(run.folder / "record.json")
    make = _source_class(node, root, shown)
    node |= {} if root is None else {"root": str(root)}
    stage = Stage(share=None, images="labelled", encoder="trained", objective=Segment())
    built = {"augment": Augment.none(), "regime": Regime({"all": stage}), "seed": 0}
    make_data: Any = DataModule  # its arguments have just been held against its signature
    source, module = (_arguments(target, node, built.keys() | {"source"}, shown) for target in (make, DataModule))
    try:
        data: DataModule = make_data(source=make(**source), **module, **built)
    except ValueError as error:
        raise ConfigError("\n".join(f"{shown}: {line}" for line in printable_lines(error))) from None
    return data


def _source_class(node: Mapping[str, Any], root: Path | None, shown: str) -> Any:
    target = str(node.get("_target_"))
    if target not in SOURCES:
        raise ConfigError(
            f"{shown}: config.data._target_={printable(target)[:200]} is not one of segsweep's own sources. "
            "Name data of yours instead: --data NAME --root DIR"
        )
    module, name = SOURCES[target]
    make = getattr(importlib.import_module(module), name)
    if ("root" in inspect.signature(make).parameters) != (root is not None):
        what = "lies on disk: say where, with --root DIR" if root is None else "needs no --root: leave it out"
        raise ConfigError(f"the data of this run ({name}) {what}")
    return make


def _arguments(make: type, node: Mapping[str, Any], built: Set[str], shown: str) -> dict[str, Any]:
    """What of the node a class takes, each value held against its annotation."""
    taken = inspect.signature(make).parameters.keys() - built
    given = {key: value for key, value in node.items() if key in taken}
    # Nothing but the class itself may be looked up by its name.
    problems = [f"config.data.{path} holds a node, which is never built" for path in _nodes_in(given)]
    problems += [f"config.data.{key} has more than {_MOST} images" for key in given if _is_too_many(key, given[key])]
    if not problems:
        checked = {**given, "_target_": f"{make.__module__}.{make.__name__}"}
        problems = list(check_node("config.data", checked, set(built), Defaults("data", {})))
    if problems:
        raise ConfigError("\n".join(f"{shown}: {printable(line)}" for line in problems))
    return given


def _is_too_many(key: str, value: Any) -> bool:
    return key.startswith("num_") and isinstance(value, int | float) and not value <= _MOST


def _nodes_in(value: Any, path: str = "") -> Iterator[str]:
    """Where keys of Hydra stand in plain values."""
    if isinstance(value, dict):
        for key, child in value.items():
            if str(key).startswith("_"):
                yield f"{path}{key}"
            yield from _nodes_in(child, f"{path}{key}.")
    elif isinstance(value, list):
        for child in value:
            yield from _nodes_in(child, path)


def printable_lines(error: Exception) -> list[str]:
    """What an error says, fit to be printed."""
    return [printable(line) for line in str(error).splitlines()] or [type(error).__name__]
