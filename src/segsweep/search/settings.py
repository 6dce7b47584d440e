"""How a search searches: sampler, pruner, objectives, and the check of all of them."""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt

from segsweep.halving import SuccessiveHalving
from segsweep.hints import did_you_mean
from segsweep.search.space import Space
from segsweep.study import make_pruner

# What a record says of a finished run beside its metrics, and whether more of it is better.
COSTS = {
    "parameters": False,
    "flops": False,
    "images_per_s/train": True,
    "images_per_s/inference": True,
    "peak_memory_mb/host": False,
    "peak_memory_mb/device": False,
    "wall_s": False,
}
_NODE = "hydra.sweeper"


@dataclass(frozen=True)
class Settings:
    """The values of the node ``hydra.sweeper``.

    Attributes:
        n_trials: of the search: finished, pruned and failed ones; None: every point, for ``sampler=grid``.
        objectives: what to optimise, metrics of validation or costs; None: the metric that ``monitor`` names.
        sampler: ``_target_`` of a sampler and its arguments.
        pruner: ``_target_`` of ``SuccessiveHalving`` or of one of Optuna's pruners and its arguments; None: no trial
            is ended early.
        seed: of the search itself; the trials' is the key ``seed``.
        max_consecutive_failures: after as many failed trials in a row the search gives up; None: never.
    """

    sampler: dict[str, Any]
    pruner: dict[str, Any] | None = None
    n_trials: Annotated[int, Gt(0)] | None = 20
    objectives: tuple[str, ...] | None = None
    seed: Annotated[int, Ge(0)] = 0
    max_consecutive_failures: Annotated[int, Gt(0)] | None = 5


@dataclass(frozen=True)
class Finding:
    """What the check of a search finds.

    Attributes:
        lines: mistakes.
        directions: ``maximize`` or ``minimize``, one for each objective.
    """

    lines: list[str]
    directions: tuple[str, ...] = ()


def check_settings(
    node: dict[str, Any], space: Space, objectives: Sequence[str], class_names: Sequence[str]
) -> Finding:
    """Checks the node ``hydra.sweeper``; imports what it names, torch included.

    Args:
        node: plain values of ``Settings``.
        space: of the search.
        objectives: of the search.
        class_names: of the data, which metrics are named after.
    """
    from segsweep.signatures import Defaults, check_node

    parts = {"sampler", "pruner"}
    simple = {key: value for key, value in node.items() if key not in parts}
    lines = list(check_node(_NODE, {"_target_": f"{__name__}.Settings", **simple}, parts, Defaults("hydra", {})))
    for part in ("sampler", "pruner"):
        lines += _check_part(part, node[part], space) if node.get(part) else []
    lines += _check_sampler(node, space, len(objectives))
    lines += _check_pruner(node, objectives)
    directions, wrong = _directions(objectives, class_names)
    return Finding([*lines, *wrong], directions)


def values_of(record: Mapping[str, Any], objectives: Sequence[str]) -> list[float] | None:
    """What a run has reached in each objective; None if one is missing or no number."""
    values = [_value(record, name) for name in objectives]
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return numbers if len(numbers) == len(objectives) else None


def _value(record: Mapping[str, Any], name: str) -> object:
    if name not in COSTS:
        return (record.get("metrics") or {}).get(name)
    first, _, second = name.partition("/")
    value = record.get(first)
    return (value or {}).get(second) if second else value


def _check_part(name: str, node: object, space: Space) -> Iterator[str]:
    """Mistakes of the sampler's or the pruner's node, its own complaint when it is built included."""
    import optuna

    from segsweep.search.samplers import make_sampler
    from segsweep.signatures import Defaults, check_node

    path = f"{_NODE}.{name}"
    if not isinstance(node, dict):
        yield f"{path}={node}: choose one by hydra/sweeper/{name}=, e.g. hydra/sweeper/{name}=median"
        return
    lines = list(check_node(path, node, {"search_space"}, Defaults("hydra", {})))
    yield from lines
    if lines or (name == "pruner" and SuccessiveHalving.of(node) is not None):
        return
    base, build = (
        (optuna.samplers.BaseSampler, lambda: make_sampler(node, space, 0, 0))
        if name == "sampler"
        else (optuna.pruners.BasePruner, lambda: make_pruner(node))
    )
    try:
        if not isinstance(build(), base):
            yield f"{path}._target_={node['_target_']} is no {base.__name__} of Optuna"
    except Exception as error:
        cause = error.__cause__ or error
        yield f"{path}: {str(cause).splitlines()[0]}"


def _check_sampler(node: Mapping[str, Any], space: Space, num_objectives: int) -> Iterator[str]:
    target = str((node.get("sampler") or {}).get("_target_"))
    if target.endswith(".GridSampler"):
        for dimension in space.dimensions:
            if dimension.values() is None:
                yield f"{dimension.key}: a grid has no end of values in an interval. Use range(...) or a list of values"
    elif node.get("n_trials") is None:
        yield f"{_NODE}.n_trials is not set. Give a number; null means every point, for hydra/sweeper/sampler=grid"
    if target.endswith(".CmaEsSampler"):
        if importlib.util.find_spec("cmaes") is None:
            yield f"{_NODE}.sampler: CMA-ES needs a package that is not installed: pip install cmaes"
        if num_objectives > 1:
            yield f"{_NODE}.sampler: CMA-ES knows one objective only. Use hydra/sweeper/sampler=tpe or gp"


def _check_pruner(node: Mapping[str, Any], objectives: Sequence[str]) -> Iterator[str]:
    none = "Set hydra/sweeper/pruner=none"
    if not node.get("pruner"):
        return
    if len(objectives) > 1:
        yield f"{_NODE}.pruner: a pruner compares by one objective, and there are {len(objectives)}. {none}"
    elif objectives[0] in COSTS:
        yield f"{_NODE}.pruner: {objectives[0]} is not known before a run is over. {none}, or search for a metric"


def _directions(objectives: Sequence[str], class_names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Which end of each objective is the better one, and a line for each that is none."""
    from segsweep import metrics

    known = {f"val/{name}" for name in (*metrics.names(class_names), "loss")} | set(COSTS)
    directions, lines = [], []
    for name in objectives:
        if name.startswith("test/"):
            lines.append(f"{_NODE}.objectives: {name}: a search that sees the test split spoils it. Use val/...")
        elif name not in known and not name.startswith("val/loss/"):
            lines.append(f"{_NODE}.objectives: there is no {name}. {did_you_mean(name, known)}")
        else:
            more_is_better = COSTS[name] if name in COSTS else metrics.best_is(name) == "max"
            directions.append("maximize" if more_is_better else "minimize")
    return tuple(directions), lines
