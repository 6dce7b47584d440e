"""Masks of other data in the classes of a run: mapped by name, never by number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segsweep.data.labels import IGNORE
from segsweep.hints import did_you_mean
from segsweep.report.printable import printable
from segsweep.run import ConfigError
from segsweep.types import DataSpec


@dataclass(frozen=True)
class ClassMap:
    """From the values of masks to the classes of a run.

    Attributes:
        table: (256,) int64.
        absent: classes of the run that the data does not have.
        ignored: classes of the data whose pixels are not scored.
    """

    table: Tensor
    absent: list[str]
    ignored: list[str]

    def __call__(self, mask: Tensor) -> Tensor:
        """Masks (N, H, W) int64 of the data in classes of the run."""
        return self.table.to(mask.device)[mask]


def map_classes(data: DataSpec, run: DataSpec, renamed: Mapping[str, str]) -> ClassMap:
    """Maps classes by name.

    Args:
        data: of the images that are scored.
        run: that the model was trained on.
        renamed: class of the data -> class of the run or ``ignore``, for those whose names differ.

    Raises:
        ConfigError: a class of the data has no counterpart, or a name does not exist; a line each.
    """
    table = torch.full((256,), run.ignore_index, dtype=torch.int64)
    lines = [
        f"--map {name}={target}: the data has no class '{name}'. {did_you_mean(name, data.class_names)}"
        for name, target in renamed.items()
        if name not in data.class_names
    ]
    ignored, met = [], set()
    for value, name in enumerate(data.class_names):
        target = renamed.get(name, name)
        if target == IGNORE:
            ignored.append(name)
        elif target in run.class_names:
            table[value] = run.class_names.index(target)
            met.add(target)
        elif name in renamed:
            lines.append(f"--map {name}={target}: the run has no class '{target}'. {_there_is(target, run)}")
        else:
            lines.append(
                f"the data has a class '{name}' that the run does not know. {_there_is(name, run)} "
                f"Say which it is: --map '{name}=CLASS', or leave its pixels out: --map '{name}={IGNORE}'"
            )
    if lines:
        raise ConfigError("\n".join(map(printable, lines)))
    return ClassMap(table, [name for name in run.class_names if name not in met], ignored)


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """``["sky=ignore"]`` -> ``{"sky": "ignore"}``.

    Raises:
        ConfigError: a pair has no ``=``.
    """
    found = {}
    for pair in pairs:
        name, equals, target = pair.partition("=")
        if not equals or not name or not target:
            raise ConfigError(f"--map {pair}: write the data's class, =, and the run's: --map car=vehicle")
        found[name] = target
    return found


def _there_is(name: str, run: DataSpec) -> str:
    names: Sequence[str] = run.class_names
    return did_you_mean(name, names)
