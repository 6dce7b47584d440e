"""The axes of a sweep: which keys take which values, crossed or zipped."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import IntervalSweep, Override

from segsweep.hints import did_you_mean, written
from segsweep.run import ConfigError


@dataclass(frozen=True)
class Axis:
    """A key and the overrides that give it each of its values, e.g. ``model=unet`` and ``model=reseg``."""

    key: str
    overrides: tuple[str, ...]

    @property
    def varies(self) -> bool:
        """Whether jobs differ in it."""
        return len(self.overrides) > 1


def axes_of(overrides: Sequence[str], parse: Callable[[str], Override]) -> list[Axis]:
    """One axis a key in order of appearance; a later override of the same key replaces an earlier one.

    Raises:
        ConfigError: values that a grid cannot enumerate, such as ``interval(0,1)``, or ``glob(x*)`` without any.
    """
    axes: dict[str, Axis] = {}
    for text in overrides:
        override = parse(text)
        key = override.key_or_group
        axes[key] = Axis(key, tuple(_values(text, override)))
    return list(axes.values())


def _values(text: str, override: Override) -> Iterator[str]:
    if not override.is_sweep_override():
        yield text
        return
    if isinstance(override.value(), IntervalSweep):
        raise ConfigError(f"{text}: a grid needs single values. List them (key=a,b), or search: hydra/sweeper=optuna")
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{text}: no option is called like that. segsweep --help lists them")
    for value in values:
        yield f"{override.get_key_element()}={value}"


def product(axes: Sequence[Axis], zipped: Sequence[Sequence[str]]) -> Iterator[dict[str, str]]:
    """Every job of the grid: key -> override; the last axis moves fastest.

    Args:
        axes: of the sweep.
        zipped: groups of keys whose values are taken together, first with first.

    Raises:
        ConfigError: ``zipped`` is no list of lists of keys; a zipped key is not swept, is in two groups, or has another
            number of values than its partners.
    """
    by_key = {axis.key: axis for axis in axes}
    group_of = _zip_groups(by_key, zipped)
    factors: list[list[dict[str, str]]] = []
    for axis in axes:
        group = group_of.get(axis.key, [axis.key])
        if group[0] != axis.key:
            continue  # taken with the first key of its group
        rows = zip(*(by_key[key].overrides for key in group), strict=True)
        factors.append([dict(zip(group, row, strict=True)) for row in rows])
    for parts in itertools.product(*factors):
        merged = {key: override for part in parts for key, override in part.items()}
        yield {axis.key: merged[axis.key] for axis in axes}


def _zip_groups(by_key: dict[str, Axis], zipped: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    _check_shape(zipped)
    group_of: dict[str, list[str]] = {}
    for group in zipped:
        swept = [key for key, axis in by_key.items() if axis.varies]
        for key in group:
            if key not in swept:
                raise ConfigError(f"sweep.zip: {key} is not swept. {did_you_mean(key, swept)}")
            if key in group_of:
                raise ConfigError(f"sweep.zip: {key} stands in it twice. Put all keys that go together into one group")
        lengths = {key: len(by_key[key].overrides) for key in group}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{key} has {num}" for key, num in lengths.items())
            raise ConfigError(f"sweep.zip: zipped keys need equally many values: {said}")
        ordered = [key for key in by_key if key in group]
        group_of |= dict.fromkeys(ordered, ordered)
    return group_of


def _check_shape(zipped: object) -> None:
    """What was typed may be anything."""
    if isinstance(zipped, list | tuple):
        if all(isinstance(group, list | tuple) and all(isinstance(key, str) for key in group) for group in zipped):
            return
        if all(isinstance(key, str) for key in zipped):
            raise ConfigError(f"sweep.zip={written(zipped)} has no groups. Write sweep.zip=[{written(zipped)}]")
    raise ConfigError(
        f"sweep.zip={written(zipped)} is no list of groups of keys. Write sweep.zip=[[a,b]], e.g. "
        "sweep.zip=[[model,optimizer.lr]]"
    )
