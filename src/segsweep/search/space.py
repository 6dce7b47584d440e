"""The space of a search, written in Hydra's own grammar: which keys vary, over what, and which are fixed."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from segsweep.run import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = str | int | float


@dataclass(frozen=True)
class Dimension:
    """A key that the search varies.

    Attributes:
        key: as an override names it, e.g. ``optimizer.lr`` or ``+model.widths``.
        kind: how its values lie to each other.
        choices: of a categorical one, as overrides write them.
        low: smallest value of the others.
        high: their largest value, itself included.
        step: between neighbours; None: any float.
        log: whether equal factors count as equal distances.
    """

    key: str
    kind: Literal["categorical", "int", "float"]
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    @property
    def name(self) -> str:
        """The key without the marks of an override that adds it."""
        return self.key.lstrip("+")

    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "categorical":
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def override(self, value: object) -> str:
        """The override that gives the key a value."""
        return f"{self.key}={value!r}" if isinstance(value, float) else f"{self.key}={value}"

    def values(self) -> list[Value] | None:
        """All values in order; None if there is no end of them."""
        if self.kind == "categorical":
            return list(self.choices)
        if self.step is None:
            return None
        number = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        values = [self.low + i * self.step for i in range(number)]
        return [round(value) for value in values] if self.kind == "int" else [round(value, 12) for value in values]

    def ends(self) -> list[Value]:
        """Values whose check says something about all of them: every choice, else the smallest and the largest."""
        if self.kind == "categorical":
            return list(self.choices)
        return [round(self.low), round(self.high)] if self.kind == "int" else [self.low, self.high]

    def __str__(self) -> str:
        if self.kind == "categorical":
            return f"categorical  {', '.join(self.choices)}"
        step = f" in steps of {self.step:g}" if self.step is not None and (self.kind, self.step) != ("int", 1) else ""
        return f"{self.kind:<11}  {self.low:g} to {self.high:g}{step}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """What a search varies, and what all of its trials share.

    Attributes:
        dimensions: keys that vary, in the order in which they were given.
        fixed: key -> override.
    """

    dimensions: tuple[Dimension, ...]
    fixed: dict[str, str]

    @property
    def size(self) -> int | None:
        """Number of points; None if there is no end of them."""
        numbers = [dimension.values() for dimension in self.dimensions]
        return None if None in numbers else math.prod(len(values or ()) for values in numbers)


def space_of(overrides: Sequence[str], parse: Callable[[str], Override]) -> Space:
    """Reads a space; a later override of the same key replaces an earlier one.

    Args:
        overrides: of the task: ``a,b``, ``choice(a,b)``, ``glob(a*)``, ``range(1,9,2)``, ``interval(0,1)``,
            ``int(interval(1,9))``, any of them in ``tag(log,...)``; all others are fixed.
        parse: reads one override.

    Raises:
        ConfigError: each override that is no dimension, a line each; or there is nothing to search.
    """
    found: dict[str, Dimension | str] = {}
    lines: list[str] = []
    for text in overrides:
        override = parse(text)
        try:
            found[override.key_or_group] = _dimension(text, override)
        except ConfigError as error:
            lines.append(str(error))
    dimensions = tuple(value for value in found.values() if isinstance(value, Dimension))
    if not dimensions and not lines:
        lines.append("there is nothing to search: give at least one key a range, e.g. optimizer.lr=interval(1e-4,1e-1)")
    if lines:
        raise ConfigError("\n".join(lines))
    return Space(dimensions, {key: value for key, value in found.items() if isinstance(value, str)})


def _dimension(text: str, override: Override) -> Dimension | str:
    if not override.is_sweep_override():
        return text
    key, value = override.get_key_element(), override._value
    if isinstance(value, IntervalSweep):
        return _numbers(text, key, value.start, value.end, None, value.tags)
    if isinstance(value, RangeSweep):
        values = list(_floats(value))
        if len(values) > 1:
            return _numbers(text, key, values[0], values[-1], values[1] - values[0], value.tags)
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ConfigError(f"{text}: no option is called like that. segsweep --help lists them")
    return Dimension(key, "categorical", choices) if len(choices) > 1 else f"{key}={choices[0]}"


def _numbers(text: str, key: str, low: object, high: object, step: float | None, tags: set[str]) -> Dimension:
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise ConfigError(f"{text}: an interval needs two numbers")
    kind: Literal["int", "float"] = "int" if isinstance(low, int) and isinstance(high, int) else "float"
    log = "log" in tags
    if not low < high:
        raise ConfigError(f"{text}: the first number has to be smaller than the second")
    if log and low <= 0:
        raise ConfigError(f"{text}: a range with tag(log,...) has to begin above 0")
    if log and step is not None and (kind, step) != ("int", 1):
        raise ConfigError(f"{text}: steps and tag(log,...) do not go together. Use interval(...), or list the values")
    if kind == "int" and step is None:
        step = 1
    return Dimension(key, kind, (), low, high, step, log)


def _floats(sweep: RangeSweep) -> Iterator[int | float]:
    """The values of a range, its end excluded as in Hydra's grid, by rising value."""
    values = [float(text) if isinstance(sweep.start, float) else int(text) for text in map(str, sweep.range())]
    yield from sorted(values)
