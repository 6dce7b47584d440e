"""How runs on the same data and metric still differ: what a reader must know before believing a ranking."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from segsweep.report.records import Record
from segsweep.report.runs import Comparison, dig

_MATCHED = 0.05  # of the smaller number of parameters
_MAX_NAMES = 3


@dataclass(frozen=True)
class Difference:
    """One respect in which the ranked runs were not treated alike.

    Attributes:
        what: e.g. ``precision``.
        text: the values and which configurations have them, one line.
        is_unfair: it can by itself decide who wins; ``--strict`` refuses. Otherwise it concerns speed or provenance.
    """

    what: str
    text: str
    is_unfair: bool


def differences(comparison: Comparison) -> list[Difference]:
    """All of them, the unfair ones first; an empty list if the completed runs were treated alike.

    Data, split, classes, resolution and metric definition need no line: runs that differ there are in different
    comparisons, since all of these are part of the data's fingerprint or of the metric's version.
    """
    found = [
        difference
        for what, value_of, is_unfair in _RESPECTS
        if (difference := _difference(comparison, what, value_of, is_unfair))
    ]
    sizes = _sizes(comparison)
    return sorted([*found, *([sizes] if sizes else [])], key=lambda difference: not difference.is_unfair)


def refuse(comparisons: Iterable[Comparison]) -> None:
    """For ``--strict``.

    Raises:
        ValueError: runs that are ranked together differ in what may decide who wins; a line for each respect.
    """
    unfair = [
        f"{comparison.name}: {difference.what}: {difference.text}"
        for comparison in comparisons
        for difference in differences(comparison)
        if difference.is_unfair
    ]
    if unfair:
        raise ValueError(
            "--strict: the runs are not comparable. Leave some out, repeat them alike, or rank without --strict:\n  "
            + "\n  ".join(unfair)
        )


def _difference(
    comparison: Comparison, what: str, value_of: Callable[[Record], str | None], is_unfair: bool
) -> Difference | None:
    """None if all completed runs that know the value agree."""
    owners: dict[str, list[str]] = {}
    for row in comparison.configurations:
        for run in row.completed:
            value = value_of(run)
            if value is not None and row.name not in owners.setdefault(value, []):
                owners[value].append(row.name)
    if len(owners) < 2:
        return None
    return Difference(what, "; ".join(f"{value} ({_listed(names)})" for value, names in owners.items()), is_unfair)


def _sizes(comparison: Comparison) -> Difference | None:
    """Sizes of models, if the largest has over 5 % more parameters than the smallest: size may be what wins."""
    sizes = {row.name: size for row in comparison.configurations if (size := row.average("parameters"))}
    if len(sizes) < 2:
        return None
    small, large = min(sizes, key=lambda name: sizes[name]), max(sizes, key=lambda name: sizes[name])
    if sizes[large] - sizes[small] <= _MATCHED * sizes[small]:
        return None
    excess = sizes[large] / sizes[small] - 1
    return Difference("parameters", f"{large} has {excess:.0%} more than {small}", is_unfair=True)


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _field(path: str) -> Callable[[Record], str | None]:
    def value(run: Record) -> str | None:
        found: Any = dig(run, path)
        return None if found is None else f"{found:,}" if isinstance(found, int) else str(found)

    return value


def _weights(run: Record) -> str:
    return str(run.get("pretrained") or dig(run, "config.init_from") or "none")


def _code(run: Record) -> str | None:
    commit = dig(run, "git.commit")
    return None if commit is None else str(commit)[:9] + (" with uncommitted changes" if dig(run, "git.dirty") else "")


_RESPECTS: tuple[tuple[str, Callable[[Record], str | None], bool], ...] = (
    ("precision", _field("precision"), True),
    ("optimisation steps", _field("steps"), True),
    ("epochs", _field("epochs"), True),
    ("images seen", _field("images_seen"), True),
    ("labelled fraction", _field("data.labelled_fraction"), True),
    ("pretrained weights", _weights, True),
    ("tuning trials", _field("tuning_trials"), True),
    ("device", _field("device"), False),
    ("devices of a run", _field("devices"), False),
    ("threads", _field("threads"), False),
    ("code", _code, False),
    ("torch", _field("versions.torch"), False),
)
