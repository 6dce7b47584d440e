"""What was swept: the effect of each key on its own, and all of them together in parallel coordinates."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import mean
from typing import Any

from segsweep.report.charts.figure import Figure
from segsweep.report.charts.parallel import Setting, Way, parallel
from segsweep.report.charts.plot import Axis, Mark, Plot
from segsweep.report.charts.svg import clipped
from segsweep.report.records import Record
from segsweep.report.runs import RANK_BY, Comparison, Configuration
from segsweep.run import flatten

_MOST_KEYS = 8
_MOST_VALUES = 12  # of a key in one chart
_MOST_WAYS = 100
_ALL = Mark("all runs", "all runs", "all runs", 0)
_EACH = Mark("one run", "one run", "one run", 10**6)


def swept(comparison: Comparison) -> dict[str, list[Any]]:
    """Keys that were set to more than one value in completed runs -> these values in order."""
    runs = [run for row in comparison.configurations for run in row.completed]
    typed = {str(each).partition("=")[0].lstrip("+~") for run in runs for each in run.get("overrides") or ()}
    choices = {key for run in runs for key in run.get("choices", {}) if key != "experiment"}
    flat = [flatten(run["config"]) for run in runs]
    keys = sorted(choices | {key for key in typed if key != "seed" and any(key in each for each in flat)})
    found: dict[str, dict[str, Any]] = {key: {} for key in keys}
    for run, config in zip(runs, flat, strict=True):
        for key in keys:
            value = _value(run, config, key)
            found[key].setdefault(str(value), value)
    return {key: sorted(values.values(), key=_order) for key, values in found.items() if len(values) > 1}


def sweep_axes(comparison: Comparison, marks: Mapping[str, Mark]) -> list[Figure]:
    """A chart for each swept key and, with two or more of them, parallel coordinates.

    Nothing for one key of names, e.g. ``model``: that would be the leaderboard again.
    """
    axes = swept(comparison)
    if not axes or (len(axes) == 1 and not any(_is_number(v) for v in next(iter(axes.values())))):
        return []
    scored = [row for row in comparison.configurations if row.average(RANK_BY) is not None]
    figures = [_together(scored, axes, marks)] if len(axes) > 1 else []
    return figures + [_effect(scored, key, values, len(axes)) for key, values in list(axes.items())[:_MOST_KEYS]]


def _effect(rows: list[Configuration], key: str, values: list[Any], num_keys: int) -> Figure:
    scores: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        for run in row.completed:
            if RANK_BY in run["metrics"]:
                value = str(_value(run, flatten(run["config"]), key))
                scores[value].append((f"{row.name}, seed {run['seed']}", run["metrics"][RANK_BY]))
    shown = [str(value) for value in values if scores[str(value)]][:_MOST_VALUES]
    ticks = tuple((float(i), clipped(value, 12)) for i, value in enumerate(shown))
    everything = [score for value in shown for _, score in scores[value]]
    x = Axis(key if len(key) < 48 else clipped(key, 48), [-0.3, len(shown) - 0.7], ticks=ticks)
    plot = Plot(x, Axis("test mIoU", everything, limits=(0, 1)))
    means = [(float(i), mean(score for _, score in scores[value])) for i, value in enumerate(shown)]
    for i, value in enumerate(shown):
        stride = max(1, len(scores[value]) // 60)
        for name, score in scores[value][::stride]:
            plot.point(_EACH, float(i), score, f"{name}: {score:.4f}", kind="dot")
    plot.line(_ALL, means, f"means by {key}", is_named=False)
    for (x_value, score), value in zip(means, shown, strict=True):
        plot.point(_ALL, x_value, score, f"{key}={value}: mean {score:.4f} of {len(scores[value])} runs")
    counts = sorted({len(scores[value]) for value in shown})
    each = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    others = " over all values of the other keys" if num_keys > 1 else ""
    few = f" The first {len(shown)} of {len(values)} values." if len(shown) < len(values) else ""
    return Figure(
        key,
        plot.render(f"test mIoU by {key}, mean of {each} runs for each value"),
        f"Small: runs, {each} for each value; large: their mean{others}.{few}",
    )


def _together(rows: list[Configuration], axes: Mapping[str, list[Any]], marks: Mapping[str, Mark]) -> Figure:
    keys = list(axes)[:_MOST_KEYS]
    settings = [Setting(key, tuple(str(value) for value in axes[key])) for key in keys]
    ways = []
    for row in rows[:_MOST_WAYS]:
        run = row.completed[0]
        config = flatten(run["config"])
        places = tuple(setting.choices.index(str(_value(run, config, setting.name))) for setting in settings)
        score = row.average(RANK_BY)
        if score is not None:
            ways.append(Way(marks[row.name], places, score))
    few = f" The best {len(ways)} of {len(rows)}." if len(ways) < len(rows) else ""
    dropped = f" {len(axes) - len(keys)} more keys were swept." if len(axes) > len(keys) else ""
    return Figure(
        "All keys together",
        parallel(settings, "test mIoU", ways, f"{len(ways)} configurations through {len(keys)} swept keys"),
        f"One line for each of {len(ways)} configurations (mean over seeds), the stronger the better; the best three "
        f"in their own colours. Values of a key are evenly spaced.{few}{dropped}",
        is_wide=True,
    )


def _value(run: Record, config: Mapping[str, Any], key: str) -> Any:
    return run["choices"][key] if key in run.get("choices", {}) else config.get(key)


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
